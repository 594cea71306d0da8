"""What concerns a whole process: how its threads wait, its memory, and how many threads it uses.

The entry points (`feat.main`, a worker process of `feat extract`, the benchmarks) call these
functions. No import and no constructor has such effects: a program that uses our packages as a
library stays as it set itself up.
"""

import ctypes
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from data.errors import ConfigError

ENVIRONMENT = {
    # OpenMP's threads sleep while they wait for the next parallel loop. By default they spin, each
    # on a core: on a machine with other work to do, two threads then take several times as long
    # as one. All OpenMP libraries that PyTorch is built with read this name when they are loaded:
    # GNU's (the wheels for Linux), LLVM's (macOS) and Intel's (Windows, conda).
    "OMP_WAIT_POLICY": "PASSIVE",
    # PyTorch takes memory for tensors of 2 MB and more in pages of 2 MB, where Linux has them. A
    # training step walks through a couple of hundred megabytes; with pages of 4 kB the processor
    # forgets where they are.
    "THP_MEM_ALLOC_ENABLE": "1",
}
"""What `set_up_process` puts into the environment, unless the user has set it."""

# <malloc.h> of glibc
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST_BLOCK = 32 << 20
_KEPT = 1 << 30


def set_up_process() -> None:
    """Set this process up for computing, and its future children's environment.

    PyTorch must not have been loaded yet, or `ENVIRONMENT` comes too late for this process.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # letters of a video's name that no font of matplotlib has are drawn as boxes
    warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
    _keep_freed_memory()


class CancelledError(KeyboardInterrupt):
    """This process was asked to end by SIGINT, as Ctrl-C does.

    Python itself dies of a plain KeyboardInterrupt, whatever exit code was asked for, if one went
    through code that an extension had it run, as PyTorch does while it is loaded.
    """


class TerminatedError(KeyboardInterrupt):
    """This process was asked to end by SIGTERM, as a batch system does: it ends as at Ctrl-C."""


def end_in_order_when_stopped() -> None:
    """Let SIGINT and SIGTERM end this process in order: claims, children, half-written files go."""

    def cancel(number: int, frame: object) -> None:
        raise CancelledError

    def terminate(number: int, frame: object) -> None:
        raise TerminatedError

    # a shell lets its background commands ignore Ctrl-C
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, cancel)
    signal.signal(signal.SIGTERM, terminate)


@contextmanager
def when_interrupted(advice: str) -> Iterator[None]:
    """Let a Ctrl-C or SIGTERM that passes through here carry how to go on; the outermost counts."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.args = (advice,)
        raise


def use_threads(threads: int | None) -> None:
    """Give PyTorch so many processor threads; None leaves its own choice, one a core."""
    if threads:
        import torch

        torch.set_num_threads(threads)


def stall_seconds() -> float:
    """Return how long what feat waits for, ffmpeg or a server, may do next to nothing.

    Raises:
        ConfigError: FEAT_STALL_SECONDS is no number of seconds.
    """
    text = os.environ.get("FEAT_STALL_SECONDS", "60")
    with suppress(ValueError):
        seconds = float(text)
        if 0 < seconds < math.inf:
            return seconds
    raise ConfigError(f"FEAT_STALL_SECONDS: found {text!r:.40}, expected seconds, more than 0")


def release_freed_memory() -> None:
    """Hand what is freed back to the kernel; without glibc do nothing.

    Where it lies between what is in use it is not always used again, so that a process which runs
    for hours grows unless it does this now and then. A call took 6 to 23 ms beside extraction;
    pages that are needed again are cleared anew.
    """
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim:
        malloc_trim(0)


def _keep_freed_memory() -> None:
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


def _of_glibc(name: str) -> Callable[..., int] | None:
    if sys.platform != "linux":
        return None
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    return function
