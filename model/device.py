"""Where networks compute."""

import torch

from data.errors import ModelError


def resolve_device(device: str) -> str:
    """Return the device that `auto` stands for, or the one named.

    Raises:
        ModelError: it is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(f"device {device!r} is unknown, expected auto, cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device}: this machine has no CUDA device; use --device cpu")
    return device
