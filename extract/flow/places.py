"""Where linear interpolation takes its pixels from, on torch devices."""

import torch
from torch import Tensor


def linear_places(size: int, new_size: int, step: float) -> tuple[Tensor, Tensor]:
    """First of the two source pixels of each target pixel, and the weight of the second.

    As pyramid._neighbours; (new_size,) int32 and float32.
    """
    position = (torch.arange(new_size, dtype=torch.float64) + 0.5) * step - 0.5
    first = position.floor()
    outside = (first < 0) | (first >= size - 1)
    weight = torch.where(outside, 0, position - first).float()
    return first.clamp(0, size - 1).int(), weight
