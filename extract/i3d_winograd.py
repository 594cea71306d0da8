# mypy: disable-error-code="no-untyped-def"
"""3x3x3 convolutions with half the multiplications: Winograd's minimal filtering along time.

Four neighbouring outputs of a 3-tap filter need six products, not twelve (Winograd 1980; Lavin and
Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4.1). Along time this turns
a 3x3x3 convolution of four frames into six 3x3 convolutions of one image each. Those are oneDNN's;
what is added and subtracted before and after goes through kernels that read and write every value
once, and takes a tenth of the time. Along rows or columns too, the products would no longer stay
in the cache: fewer multiplications, but slower.

In float32 the result differs from the direct convolution's by 1e-6 of its norm.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from extract.image_convs import ImageConvs

TILE = 4  # outputs along time
POINTS = 6
# Multiplications of one image below which the six calls cost more than they save
MIN_MULTIPLICATIONS = 15_000_000

# Lavin and Gray's G: a filter's three taps at the points 0, 1, -1, 2, -2 and infinity
_FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_CONTRACT = {"contract", "nsz"}  # fused multiply-adds; sums keep their order


def suits_winograd(weight: Tensor, x: Tensor) -> bool:
    """Whether a convolution of `x` (B, in, T, H, W) by `weight` gains, on a CPU in float32."""
    height, width = x.shape[-2:]
    return (
        weight.shape[2:] == (3, 3, 3)
        and weight.dtype == torch.float32
        and x.shape[2] % TILE == 0
        and weight[:, :, 0].numel() * height * width >= MIN_MULTIPLICATIONS
    )


class WinogradConv:
    """One 3x3x3 convolution with bias and ReLU, for clips whose length `TILE` divides."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Transform the filters.

        Args:
            weight: (out, in, 3, 3, 3) float32.
            bias: (out,) float32.
        """
        points = torch.einsum(
            "pt,oithw->poihw", torch.tensor(_FILTER, dtype=torch.float64), weight.double()
        )
        biases = [torch.zeros_like(bias)] * POINTS
        self.convolve = ImageConvs(list(points), biases, stride=1, padding=1)
        self.bias = bias.numpy()

    def __call__(self, x: Tensor) -> Tensor:
        """Return (B, out, T, H, W) of `x` (B, in, T, H, W) float32, both channels last."""
        batch, _, num_frames, height, width = x.shape
        frames = x.permute(0, 2, 3, 4, 1).flatten(0, 1)  # (B * T, H, W, in)
        points = torch.empty((POINTS, len(frames) // TILE, *frames.shape[1:]))
        to_points(frames.flatten(1).numpy(), num_frames, points.flatten(2).numpy())
        products = [product.flatten(1, 2).numpy() for product in self.convolve(points)]
        out = torch.empty((len(frames), height * width, len(self.bias)))
        from_points(tuple(products), self.bias, out.numpy())
        return out.view(batch, num_frames, height, width, -1).permute(0, 4, 1, 2, 3)


@njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def to_points(x, num_frames, out):
    """Transform frames: Lavin and Gray's B^T along time.

    Args:
        x: (clips * T, N) float32; frames outside of their clip count as zeros.
        num_frames: T, a multiple of 4.
        out: (6, tiles, N) float32, filled.
    """
    two, four, five = np.float32(2), np.float32(4), np.float32(5)
    for tile in range(out.shape[1]):
        first = tile * TILE
        before = np.float32(0 if first % num_frames == 0 else 1)
        after = np.float32(0 if (first + TILE) % num_frames == 0 else 1)
        x0, x5 = x[max(first - 1, 0)], x[min(first + TILE, len(x) - 1)]
        x1, x2, x3, x4 = x[first], x[first + 1], x[first + 2], x[first + 3]
        o0, o1, o2, o3 = out[0, tile], out[1, tile], out[2, tile], out[3, tile]
        o4, o5 = out[4, tile], out[5, tile]
        for n in range(x.shape[1]):
            even, odd = x4[n] - four * x2[n], x3[n] - four * x1[n]
            near, far = x4[n] - x2[n], two * (x3[n] - x1[n])
            o0[n] = four * (before * x0[n]) - five * x2[n] + x4[n]
            o1[n] = even + odd
            o2[n] = even - odd
            o3[n] = near + far
            o4[n] = near - far
            o5[n] = four * x1[n] - five * x3[n] + after * x5[n]


@njit(nogil=True, cache=True, fastmath=_CONTRACT, error_model="numpy")
def from_points(products, bias, out):
    """Transform the products back, Lavin and Gray's A^T; add the bias and cut at zero.

    Args:
        products: 6 arrays (tiles, P, O) float32.
        bias: (O,) float32.
        out: (clips * T, P, O) float32, filled.
    """
    zero, two, four, eight = np.float32(0), np.float32(2), np.float32(4), np.float32(8)
    for tile in range(len(out) // TILE):
        for place in range(out.shape[1]):
            m0, m1 = products[0][tile, place], products[1][tile, place]
            m2, m3 = products[2][tile, place], products[3][tile, place]
            m4, m5 = products[4][tile, place], products[5][tile, place]
            y0, y1 = out[TILE * tile, place], out[TILE * tile + 1, place]
            y2, y3 = out[TILE * tile + 2, place], out[TILE * tile + 3, place]
            for n in range(out.shape[2]):
                sum1, difference1 = m1[n] + m2[n] + bias[n], m1[n] - m2[n] + bias[n]
                sum2, difference2 = m3[n] + m4[n], m3[n] - m4[n]
                y0[n] = max(m0[n] + sum1 + sum2, zero)
                y1[n] = max(difference1 + two * difference2, zero)
                y2[n] = max(sum1 + four * sum2, zero)
                y3[n] = max(difference1 + eight * difference2 + m5[n], zero)
