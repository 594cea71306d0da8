"""Which of the fast forms of I3D runs on a device."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from data.kernels import use_triton
from extract.i3d.folded import FoldedI3D
from extract.i3d.layers import Stream
from extract.i3d.network import pool_places
from extract.kernels.choice import use_kernels


def prepare_network(
    state: Mapping[str, Tensor],
    stream: Stream,
    *,
    device: torch.device | str,
    precision: str,
    feature_map: bool = False,
) -> Callable[[Tensor], Tensor]:
    """Return `extract_features` of the network with the weights `state`, made fast on `device`.

    The result takes clips (B, C, T, H, W) on `device`, float32 in [-1, 1] or frames as uint8, and
    returns features (B, 1024) float32.

    Args:
        state: weights in our names.
        stream: which network.
        device: where it runs.
        precision: `float32`, `bfloat16` or `float16`; see `extract.i3d.precision.precision_for`.
        feature_map: return a feature for each place of the last map, (B, P, 1024), row by row.
    """
    device = torch.device(device)
    kind = FoldedI3D
    if use_triton(device):
        from extract.i3d.cuda import TritonI3D as kind
    elif device.type == "cpu" and use_kernels():
        from extract.i3d.compiled import CompiledI3D as kind
    network = kind(state, stream, device=device, precision=precision)
    if feature_map:
        network.pool = pool_places
    return network
