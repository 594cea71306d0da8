"""Compiling kernels with numba, and keeping what was compiled for the next process."""

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numba
from numba import njit

if TYPE_CHECKING:
    from torch import Tensor

# PyTorch's own threads, where both find one OpenMP library: others would have to share the cores
# with PyTorch's, which wait for their next operator by spinning.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return numba's `njit` with its disk cache, and without it where no folder can be written.

    A container's user may own neither the package's folder nor a home: there every process
    compiles for itself, some seconds, instead of failing.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        kernel: Callable[..., Any]
        try:
            kernel = njit(cache=True, **options)(function)
        except RuntimeError:  # "cannot cache function: no locator available"
            kernel = njit(**options)(function)
        return kernel

    return decorate


def stamp(*parts: ModuleType) -> str:
    """Return a digest of the source of modules.

    Numba's disk cache asks only whether the compiled function's own file has changed. The value of
    a default argument is part of its key: a kernel that has its stamp as one is compiled anew when
    a module whose functions it calls has changed.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(inspect.getsource(part).encode())
    return digest.hexdigest()


def flat(tensor: "Tensor") -> Any:
    """Return a tensor's values as a numpy array of one axis.

    It shares the memory of a contiguous tensor, so that a kernel can fill it; of another, which
    can only be read, it is a copy.
    """
    return tensor.detach().contiguous().view(-1).numpy()


def use_threads_of_torch() -> int:
    """Let numba take as many threads as PyTorch does, leave PyTorch's number as it is; return it.

    A process that was forked afterwards cannot compute: OpenMP ends it. Spawn it instead.

    The first time numba sets OpenMP's own number, which is PyTorch's, to all cores.
    """
    import torch  # here: extraction's kernels compile without it

    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)
    return threads
