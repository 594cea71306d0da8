"""What becomes of memory that was freed, and what pages memory comes in."""

import ctypes
import os
import sys
from collections.abc import Callable

# <malloc.h> of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_BLOCK = 32 << 20
_KEPT = 1 << 30


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB of freed memory; without glibc do nothing.

    glibc hands memory back to the kernel when much of it is free, and the kernel clears every page
    that is asked for again. A training step, like a clip that goes through I3D, frees and allocates
    the same couple of hundred megabytes each time: up to 19,000 page faults and a seventh of the
    time of a step. Blocks above 32 MiB, where glibc's own moving limit ends too, still come from
    the kernel and go back there.

    All threads share one heap: with one each, what a thread freed is lost to the others, and a long
    video would need more memory than a short one.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt:
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_ARENA_MAX, 1)


def release_freed_memory() -> None:
    """Hand what is freed back to the kernel, with `keep_freed_memory` or not; else do nothing.

    Where it lies between what is in use it is not always used again, so that a process which runs
    for hours grows unless it does this now and then. A call took 6 to 23 ms beside extraction;
    pages that are needed again are cleared anew.
    """
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


def ask_for_huge_pages() -> None:
    """Let this process's PyTorch, which must not be in use yet, take memory in pages of 2 MB.

    A training step walks through a couple of hundred megabytes; with pages of 4 kB the processor
    forgets where they are. The kernel gives what it has, Linux alone; PyTorch asks it for tensors
    of 2 MB and more. A user's own `THP_MEM_ALLOC_ENABLE` stays.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _of_glibc(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
