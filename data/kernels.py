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
    not tried: there PyTorch's own operators compute.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    if not kernels_wanted() or device.type != "cuda" or _triton_failure():
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
            "warning: Triton cannot compile kernels for the GPU (%s): the flow takes a hundred, "
            "the networks five times as long; Triton comes with PyTorch on Linux, and needs a C "
            "compiler and Python's headers",
            cause,
        )
        return cause
    return ""
