"""Which of the fast forms of I3D runs on a device."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from extract.i3d.folded import FoldedI3D
from extract.i3d.layers import Stream
from extract.kernels.choice import use_kernels


def prepare_network(
    state: Mapping[str, Tensor], stream: Stream, *, device: torch.device | str, precision: str
) -> Callable[[Tensor], Tensor]:
    """Return `extract_features` of the network with the weights `state`, made fast on `device`.

    The result takes clips (B, C, T, H, W) float32 in [-1, 1] on `device` and returns features
    (B, 1024) float32.

    Args:
        state: weights in our names.
        stream: which network.
        device: where it runs.
        precision: `float32`, `bfloat16` or `float16`; see `extract.i3d.precision.precision_for`.
    """
    device = torch.device(device)
    if device.type != "cpu" or not use_kernels():
        return FoldedI3D(state, stream, device=device, precision=precision)
    from extract.i3d.compiled import CompiledI3D

    return CompiledI3D(state, stream, device=device, precision=precision)
