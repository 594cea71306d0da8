"""Compiling kernels with numba, and keeping what was compiled for the next process."""

import hashlib
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from numba import njit


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
