"""Whether extraction computes with the compiled kernels or in plain PyTorch and NumPy.

`FEAT_KERNELS=0` turns the kernels off, for an installation without numba or to see whether they
are the cause of something. Features of both ways have the same key: they differ by rounding, as
those of two processors do (docs/CACHE.md, "With a team").
"""

import functools
import logging
import os
import subprocess
from typing import TYPE_CHECKING

from data.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(f"feat.{__name__}")


def use_kernels() -> bool:
    """Whether the kernels are wanted and can be imported.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    return _wanted() and not _import_failure()


def use_triton(device: "torch.device") -> bool:
    """Whether the kernels are wanted and Triton can compile them for `device`.

    Triton comes with PyTorch for NVIDIA's GPUs on Linux. Others, and those older than Ampere, were
    not tried: there PyTorch's own operators compute.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    if not _wanted() or device.type != "cuda" or _triton_failure():
        return False
    import torch

    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


@functools.cache
def _triton_failure() -> str:
    """Return why Triton cannot compile for a GPU, "" if it can; say so once."""
    try:
        from triton.runtime import driver

        driver.active.get_current_target()  # compiles what it talks to the driver by
    except (ImportError, OSError, RuntimeError, subprocess.CalledProcessError) as error:
        cause = str(error).partition("\n")[0]
        logger.warning(
            "warning: Triton cannot compile kernels for the GPU (%s): the networks take five times "
            "as long; it comes with PyTorch on Linux, and needs a C compiler and Python's headers",
            cause,
        )
        return cause
    return ""


def warn_without_kernels() -> None:
    """Log a warning if the kernels are wanted but cannot be imported.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    if _wanted() and (cause := _import_failure()):
        logger.warning(
            "warning: the compiled kernels cannot be imported (%s): extraction on a CPU takes "
            "tens of times as long; reinstall numba, or set FEAT_KERNELS=0 to go without it",
            cause,
        )


def _wanted() -> bool:
    value = os.environ.get("FEAT_KERNELS") or "1"
    if value not in ("0", "1"):
        raise ConfigError(
            f"FEAT_KERNELS: found {value}, expected 1 (compiled kernels) or 0 (plain PyTorch)"
        )
    return value == "1"


@functools.cache
def _import_failure() -> str:
    """Return why the kernels cannot be imported, "" if they can."""
    try:
        import extract.kernels.simd  # noqa: F401 - numba, llvmlite and what we use of their insides
    except (ImportError, AttributeError) as error:
        return str(error)
    return ""
