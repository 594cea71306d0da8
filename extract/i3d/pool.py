# mypy: disable-error-code="no-untyped-def"
"""Max pools of channels-last maps on a CPU, every map read once.

PyTorch's pools also find where each maximum was; the fastest made of its other operators (a 2-D
pool, maxima of shifted views) write several maps in between. Here a row of the result is the
maximum of up to nine rows, kept in the first cache, and then of up to three columns of that.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from extract.i3d.layers import Triple
from extract.i3d.same import same_padding
from extract.kernels.compiling import compiled


def max_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Return `max_pool_same` of nonnegative maps (B, C, T, H, W), channels last.

    Nonnegative, for then the numbers are ordered as their bits are as integers, which numpy has
    for bfloat16 too and LLVM compares in vectors.
    `kernel`: at most 3 along each axis.
    """
    sizes = [-(-size // step) for size, step in zip(x.shape[2:], stride, strict=True)]
    first = [
        -same_padding(size, k, step)[0]
        for size, k, step in zip(x.shape[2:], kernel, stride, strict=True)
    ]
    out = torch.empty((x.shape[0], *sizes, x.shape[1]), dtype=x.dtype)
    source, target = (
        t.view(torch.int32 if t.dtype == torch.float32 else torch.int16).flatten(3).numpy()
        for t in (x.permute(0, 2, 3, 4, 1), out)
    )
    pool_rows(source, target, x.shape[1], tuple(kernel), tuple(stride), tuple(first))
    return out.permute(0, 4, 1, 2, 3)


@njit
def _largest(a, b, c, out):
    for n in range(len(out)):
        larger = a[n] if a[n] > b[n] else b[n]
        out[n] = larger if larger > c[n] else c[n]


@njit
def _keep_largest(a, b, c, out):
    for n in range(len(out)):
        larger = a[n] if a[n] > b[n] else b[n]
        larger = larger if larger > c[n] else c[n]
        out[n] = larger if larger > out[n] else out[n]


@njit
def _taps(start, kernel, size):
    """Three places of a window; those it lacks or that lie outside repeat others of it."""
    last = min(start + kernel, size) - 1
    return max(start, 0), min(max(start + 1, 0), last), last


@compiled(nogil=True)
def pool_rows(x, out, channels, kernel, stride, first):
    """Fill `out` (B, T', H', W' * C) with the pool of `x` (B, T, H, W * C).

    Args:
        x: Integers.
        out: Of the same type.
        channels: C.
        kernel: Of the axes T, H and W, each at most 3.
        stride: Of the same axes.
        first: Where the first window begins, at most 0.
    """
    num_columns = x.shape[3] // channels
    rows = np.empty(x.shape[3], x.dtype)
    for b in range(out.shape[0]):
        for t in range(out.shape[1]):
            start = first[0] + t * stride[0]
            begin, end = max(start, 0), min(start + kernel[0], x.shape[1])
            for y in range(out.shape[2]):
                y0, y1, y2 = _taps(first[1] + y * stride[1], kernel[1], x.shape[2])
                _largest(x[b, begin, y0], x[b, begin, y1], x[b, begin, y2], rows)
                for s in range(begin + 1, end):
                    _keep_largest(x[b, s, y0], x[b, s, y1], x[b, s, y2], rows)
                for column in range(out.shape[3] // channels):
                    x0, x1, x2 = _taps(first[2] + column * stride[2], kernel[2], num_columns)
                    _largest(
                        rows[x0 * channels : (x0 + 1) * channels],
                        rows[x1 * channels : (x1 + 1) * channels],
                        rows[x2 * channels : (x2 + 1) * channels],
                        out[b, t, y, column * channels : (column + 1) * channels],
                    )
