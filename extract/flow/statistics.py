"""What the flow of a clip looks like in six numbers, kept beside its features."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.records import FLOW_STATS

CELL = 16  # pixels, of `max_cell_magnitude`


def flow_statistics(flow: Tensor, num_real: Iterable[int]) -> Tensor:
    """Return (B, 6) float32, the columns of `cache.FLOW_STATS`, over each clip's real frames.

    They let `feat cache verify` see a flow whose x equals its y, and tell a model what the average
    over the whole frame buries: how fast the fastest small thing moves. `p99_magnitude` is the
    99th percentile (nearest rank) of the flow's length over all pixels and frames,
    `max_cell_magnitude` the largest mean over one of the frame's 16x16 pixel cells and all frames.

    Args:
        flow: (B, T, H, W, 2) float32, pixels per frame, before clamping.
        num_real: how many of the T frames of each clip are real.
    """
    rows = []
    for clip, real in zip(flow, num_real, strict=True):
        # each component in one piece of memory: what reads every second number takes three times
        # as long
        x, y = clip[:real].movedim(-1, 0).contiguous()
        magnitude = torch.hypot(x, y)
        cells = F.avg_pool2d(magnitude.mean(dim=0, keepdim=True), CELL)
        columns = {
            "mean_abs_x": x.abs().mean(),
            "mean_abs_y": y.abs().mean(),
            "max_abs": torch.maximum(x.abs().max(), y.abs().max()),
            "equal_fraction": (x == y).float().mean(),
            "p99_magnitude": percentile(magnitude, 99),
            "max_cell_magnitude": cells.max(),
        }
        rows.append(torch.stack([columns[name] for name in FLOW_STATS]))
    return torch.stack(rows)


def percentile(values: Tensor, percent: int) -> Tensor:
    """Return the nearest-rank percentile of all `values`, one of them."""
    flat = values.flatten()
    rank = -(-flat.numel() * percent // 100)
    if flat.device.type != "cpu":
        return flat.kthvalue(rank).values
    # NumPy's partition takes a seventh of the time of PyTorch's kthvalue
    return flat.new_tensor(np.partition(flat.numpy(), rank - 1)[rank - 1])
