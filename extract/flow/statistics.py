"""What the flow of a clip looks like in six numbers, kept beside its features."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.records import FLOW_STATS

CELL = 16  # pixels, of `max_cell_magnitude`


def flow_statistics(flow: Tensor, num_real: Sequence[int]) -> Tensor:
    """Return (B, 6) float32, the columns of `cache.FLOW_STATS`, over each clip's real frames.

    They let `feat cache verify` see a flow whose x equals its y, and tell a model what the average
    over the whole frame buries: how fast the fastest small thing moves. `p99_magnitude` is the
    99th percentile (nearest rank) of the flow's length over all pixels and frames,
    `max_cell_magnitude` the largest mean over one of the frame's 16x16 pixel cells and all frames.

    Args:
        flow: (B, T, H, W, 2) float32, pixels per frame, before clamping.
        num_real: how many of the T frames of each clip are real.
    """
    if flow.device.type != "cpu":
        return statistics_of_batch(flow, num_real)
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
        rows.append(_row(columns))
    return torch.stack(rows)


def _row(columns: dict[str, Tensor]) -> Tensor:
    return torch.stack([columns[name] for name in FLOW_STATS], dim=-1)


def statistics_of_batch(flow: Tensor, num_real: Sequence[int]) -> Tensor:
    """Return the statistics of all clips at once: clip by clip, a GPU takes 25 times as long."""
    real = torch.tensor(num_real, device=flow.device)
    is_real = (torch.arange(flow.shape[1], device=flow.device) < real[:, None])[..., None, None]
    # zeros, which no maximum and no percentile of lengths takes note of
    x, y = (flow * is_real[..., None]).unbind(-1)
    count = real * x[0, 0].numel()
    magnitude = torch.hypot(x, y)
    # of the nearest rank, counted from above: n - ceil(0.99 n) = n // 100
    largest = magnitude.flatten(1).topk(x[0].numel() // 100 + 1).values
    means = (magnitude.sum(1) / real[:, None, None])[:, None]
    return _row(
        {
            "mean_abs_x": x.abs().sum((1, 2, 3)) / count,
            "mean_abs_y": y.abs().sum((1, 2, 3)) / count,
            "max_abs": torch.maximum(x.abs(), y.abs()).amax((1, 2, 3)),
            "equal_fraction": ((x == y) & is_real).sum((1, 2, 3)) / count,
            "p99_magnitude": largest.gather(1, (count // 100)[:, None])[:, 0],
            "max_cell_magnitude": F.avg_pool2d(means, CELL).amax((1, 2, 3)),
        }
    )


def percentile(values: Tensor, percent: int) -> Tensor:
    """Return the nearest-rank percentile of all `values` on the CPU, one of them."""
    flat = values.flatten()
    rank = -(-flat.numel() * percent // 100)
    # NumPy's partition takes a seventh of the time of PyTorch's kthvalue
    return flat.new_tensor(np.partition(flat.numpy(), rank - 1)[rank - 1])
