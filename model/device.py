"""Where networks compute."""

import logging
import math

import torch
from torch import nn

from data.errors import ModelError

logger = logging.getLogger(f"feat.{__name__}")

# Measured on a machine with an H200 and 16 cores, to a factor of two or so.
GPU_START_SECONDS = 2.0
"""From the first call of CUDA to a training at full speed, its kernels compiled before."""
STEP_SECONDS = 0.01
"""Of a training step of next to no arithmetic on a CPU."""
OPERATIONS_A_SECOND = 3.3e10
"""Of one CPU thread; four do twice as much."""


def resolve_device(device: str, *, cpu_seconds: float = math.inf) -> str:
    """Return the device that `auto` stands for, or the one named.

    Args:
        device: `auto`, or a name of PyTorch's such as `cpu`, `cuda` or `cuda:1`. With `auto` a GPU
            is taken where there is one and the work is worth starting it.
        cpu_seconds: about what a CPU takes for the work; 0 if it computes elsewhere.

    Raises:
        ModelError: it is not there.
    """
    if device == "auto":
        if not cpu_seconds or not torch.cuda.is_available():
            return "cpu"
        taken = "cuda" if cpu_seconds > GPU_START_SECONDS else "cpu"
        if math.isfinite(cpu_seconds):
            logger.info(
                "device auto: %s, for a training of about %.2g s on this CPU", taken, cpu_seconds
            )
        return taken
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(f"device {device!r} is unknown, expected auto, cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device}: this machine has no CUDA device; use --device cpu")
    return device


def training_seconds(network: nn.Module, *, rows: float, steps: int) -> float:
    """Return about how many seconds a training takes with PyTorch's threads of this process.

    Each weight is multiplied and added once in the forward pass and twice in the backward one.

    Args:
        network: on any device, the meta device included.
        rows: clips that go through it in a step.
        steps: how many.
    """
    operations = 6.0 * rows * sum(weights.numel() for weights in network.parameters())
    rate = OPERATIONS_A_SECOND * math.sqrt(torch.get_num_threads())
    return steps * (STEP_SECONDS + operations / rate)
