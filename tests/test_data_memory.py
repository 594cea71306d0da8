"""Freed memory stays with the process once it was told so."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, sys
from pathlib import Path
from data.memory import keep_freed_memory, release_freed_memory

if sys.argv[1] != "let go":
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])  # pages

before = resident()
block = ctypes.c_void_p(libc.malloc(24_000_000))
ctypes.memset(block, 1, 24_000_000)
used = resident() - before
libc.free(block)
if sys.argv[1] == "keep, release":
    release_freed_memory()
print((resident() - before) / used)
"""


def share_kept(mode: str) -> float:
    """Return the share of a block's pages that a process still has after freeing it."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_kept():
    assert share_kept("keep") > 0.95
    assert share_kept("keep, release") < 0.05
    assert share_kept("let go") < 0.05  # or the test shows nothing


HUGE = """
import re, sys
from pathlib import Path
from feat import cli
if sys.argv[1]:
    try:
        cli([sys.argv[1], "--cache", "/nowhere", "--labels", "/nowhere"])
    except SystemExit as end:
        assert end.code == 1, end.code
import torch
kept = torch.ones(16_000_000)
huge = re.search(r"AnonHugePages: +([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())
print(int(huge[1]) * 1024 / (kept.numel() * 4))
"""
PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def share_in_huge_pages(command: str, **environment: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", HUGE, command],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, **environment},
    )
    return float(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
    not PAGES.exists() or "[madvise]" not in PAGES.read_text(),
    reason="the kernel gives huge pages to all or to none",
)
def test_what_trains_takes_its_memory_in_huge_pages() -> None:
    if share_in_huge_pages("", THP_MEM_ALLOC_ENABLE="1") < 0.5:
        pytest.skip("the kernel has no huge pages left")
    for command in ("train", "ablate", "compare"):
        assert share_in_huge_pages(command) > 0.5, command
    assert share_in_huge_pages("train", THP_MEM_ALLOC_ENABLE="0") < 0.5
