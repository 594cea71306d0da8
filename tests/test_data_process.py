"""What the entry points set up for a whole process, and what imports leave as it is."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import ctypes, sys
from pathlib import Path
from data.process import release_freed_memory, set_up_process

if sys.argv[1] != "let go":
    set_up_process()
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


def share_kept(mode: str, *, before: str = "") -> float:
    """Return the share of a block's pages that a process still has after freeing it."""
    done = subprocess.run(
        [sys.executable, "-c", before + SCRIPT, mode],
        cwd=ROOT,
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
from feat import main
if sys.argv[1:]:
    sys.argv += ["--cache", "/nowhere", "--labels", "/nowhere"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 1, end.code
import torch
kept = torch.ones(16_000_000)
huge = re.search(r"AnonHugePages: +([0-9]+) kB", Path("/proc/self/smaps_rollup").read_text())
print(int(huge[1]) * 1024 / (kept.numel() * 4))
"""
PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def share_in_huge_pages(*command: str, **environment: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", HUGE, *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    return float(done.stdout.splitlines()[-1])


@pytest.mark.skipif(
    not PAGES.exists() or "[madvise]" not in PAGES.read_text(),
    reason="the kernel gives huge pages to all or to none",
)
def test_what_trains_takes_its_memory_in_huge_pages() -> None:
    if share_in_huge_pages(THP_MEM_ALLOC_ENABLE="1") < 0.5:
        pytest.skip("the kernel has no huge pages left")
    for command in ("train", "ablate", "compare"):
        assert share_in_huge_pages(command) > 0.5, command
    assert share_in_huge_pages("train", THP_MEM_ALLOC_ENABLE="0") < 0.5


@pytest.mark.skipif(sys.platform != "linux", reason="how OpenMP shows its settings differs")
@pytest.mark.parametrize(
    ("chosen", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")]
)
def test_threads_of_a_command_sleep_while_they_wait_unless_the_user_chose(chosen, policy) -> None:
    """As PyTorch's OpenMP library itself says when it is loaded."""
    without = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", HUGE, "train"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**without, **chosen, "OMP_DISPLAY_ENV": "true"},
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


IMPORTS = """
import importlib, os, pkgutil
from data.process import ENVIRONMENT
before = [os.environ.get(name) for name in ENVIRONMENT]
import torch
threads = torch.get_num_threads()
import cache, data, extract, model, feat, predict
for package in (cache, data, extract, model):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
assert [os.environ.get(name) for name in ENVIRONMENT] == before
assert torch.get_num_threads() == threads
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_imports_leave_the_process_as_it_is() -> None:
    assert share_kept("let go", before=IMPORTS) < 0.05
