"""Whether to compute with compiled kernels: `FEAT_KERNELS=0` turns all of them off."""

import importlib.util
import os
from typing import TYPE_CHECKING

from data.errors import ConfigError

if TYPE_CHECKING:
    import torch


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
    """Whether kernels are wanted and `device` is a GPU that Triton compiles them for.

    Triton comes with PyTorch for NVIDIA on Linux. Its other platforms and GPUs older than Ampere
    were not tried: there, as without it, PyTorch's own operators compute.

    Raises:
        ConfigError: FEAT_KERNELS is neither 0 nor 1.
    """
    if not kernels_wanted() or device.type != "cuda" or not importlib.util.find_spec("triton"):
        return False
    import torch

    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)
