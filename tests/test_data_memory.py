"""Freed memory stays with the process once it was told so."""

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
