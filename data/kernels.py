"""Whether to compute with compiled kernels: `FEAT_KERNELS=0` turns all of them off."""

import functools
import logging
import os
import subprocess
from typing import TYPE_CHECKING

from data.errors import ConfigError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(f"feat.{__name__}")


def kernels_wanted() -> bool:
    """Whether compiled kernels may be used, as they may unless FEAT_KERNELS=0.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    value = os.environ.get("FEAT_KERNELS") or "1"
    if value not in ("0", "1"):
        raise ConfigError(
            f"FEAT_KERNELS: found {value}, expected 1 (compiled kernels) or 0 (plain PyTorch)"
        )
    return value == "1"


def use_triton(device: "torch.device") -> bool:
    """Whether the kernels are wanted and Triton can compile them for `device`.

    Triton comes with PyTorch for NVIDIA's GPUs on Linux. Others, and those older than Ampere, were
    not tried: there PyTorch's own operators compute, and a warning says so.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    return kernels_wanted() and device.type == "cuda" and not _obstacle(device.index or 0)


@functools.cache
def _obstacle(index: int) -> str:
    """Return why Triton does not compile for this GPU, "" if it does; say so once."""
    import torch

    cause = ""
    if torch.version.hip is not None:
        cause = "ROCm was not tried"
    elif not torch.cuda.is_available():
        cause = "PyTorch finds none"
    elif (found := torch.cuda.get_device_capability(index)) < (8, 0):
        cause = f"it has compute capability {found[0]}.{found[1]}, 8.0 is needed"
    else:
        try:
            from triton.runtime import driver

            driver.active.get_current_target()  # compiles what it talks to the driver by
        except (
            AssertionError,  # without libcuda.so
            ImportError,
            OSError,
            RuntimeError,
            subprocess.CalledProcessError,
        ) as error:
            said = str(error).partition("\n")[0]
            cause = f"{said}; it needs PyTorch for Linux, gcc and python3-dev"
    if cause:
        logger.warning(
            "warning: no Triton kernels for the GPU (%s): flow takes about a hundred times as "
            "long, networks up to five times",
            cause,
        )
    return cause
