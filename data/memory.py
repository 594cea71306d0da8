"""What the C library does with memory that was freed."""

import ctypes
import sys

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
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, _KEPT)
        mallopt(_ARENA_MAX, 1)
