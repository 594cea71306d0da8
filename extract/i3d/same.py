"""TensorFlow's "SAME" padding: of n cells with a stride, ceil(n / stride) are left."""

import torch.nn.functional as F
from torch import Tensor

from extract.i3d.layers import Triple


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the cells TensorFlow's "SAME" adds (before, behind) one axis of `size` cells.

    224 cells, kernel 7, stride 2 give 112 outputs: they need 111 * 2 + 7 = 229 cells, so (2, 3).
    """
    outputs = -(-size // stride)
    missing = max((outputs - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


def pad_same(x: Tensor, kernel: Triple, stride: Triple, value: float) -> Tensor:
    """Return `x` (B, C, T, H, W) padded with `value` as "SAME" wants it."""
    pads: list[int] = []
    for axis in (2, 1, 0):  # F.pad counts from the last axis
        pads += same_padding(x.shape[2 + axis], kernel[axis], stride[axis])
    return F.pad(x, pads, value=value) if any(pads) else x


def max_pool_same(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Return the max pool of `x` (B, C, T, H, W); padding never wins, so it is -inf."""
    return F.max_pool3d(pad_same(x, kernel, stride, float("-inf")), kernel, stride)
