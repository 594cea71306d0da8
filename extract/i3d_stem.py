# mypy: disable-error-code="no-untyped-def"
"""The first convolution of I3D (7x7x7, stride 2) with half the multiplications, on a CPU.

With stride 2, output t sees the even frames through the taps 0, 2, 4, 6 and the odd ones through
1, 3, 5: a filter of four taps without stride on pairs of frames, of twice the channels. Winograd's
minimal filtering (see extract/i3d_winograd.py) takes seven products for four neighbouring outputs
of it, not sixteen: seven 7x7 convolutions of one image of 6 channels each, which are oneDNN's.

In float32 the result differs from the direct convolution's by 1e-6 of its norm.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from extract.i3d import same_padding
from extract.image_convs import ImageConvs

TILE = 4  # outputs along time
_FINITE = np.array([0, 1, -1, 2, -2, 0.5])
POINTS = len(_FINITE) + 1  # and infinity
_BIASED = 1  # the point 1: what its product holds reaches all four outputs as it is
_CHUNK = 1024  # floats that are combined at once, so that the sources stay in the first cache


def suits_stem(weight: Tensor, clips: Tensor) -> bool:
    """Whether the first convolution of `clips` (B, C, T, H, W) can go this way."""
    return weight.dtype == torch.float32 and clips.shape[2] % (2 * TILE) == 0


def toom_cook() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the transforms of filter (7, 4), frames (7, 7) and products (4, 7), float64.

    Toom and Cook's: at[i] @ ((g @ filter) * (bt @ frames)) is sum_k filter[k] * frames[i + k].
    """
    powers = _FINITE[:, None] ** np.arange(TILE)
    at_infinity = np.eye(TILE)[-1:]
    scales = [np.prod(p - np.delete(_FINITE, i)) for i, p in enumerate(_FINITE)]
    bt = np.zeros((POINTS, POINTS))
    for i in range(len(_FINITE)):
        bt[i, :-1] = np.poly(np.delete(_FINITE, i))[::-1]
    bt[-1] = np.poly(_FINITE)[::-1]
    g = np.concatenate([powers / np.array(scales)[:, None], at_infinity])
    return g, bt, np.concatenate([powers, at_infinity]).T


class StemConv:
    """The first convolution with bias and ReLU."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Transform the filters.

        Args:
            weight: (out, C, 7, 7, 7) float32.
            bias: (out,) float32.
        """
        g, bt, at = toom_cook()
        taps = torch.cat([weight.double(), torch.zeros_like(weight[:, :, :1]).double()], dim=2)
        taps = taps.view(*taps.shape[:2], TILE, 2, 7, 7)  # (out, C, 4, even or odd, 7, 7)
        points = torch.einsum("pk,ockshw->poschw", torch.from_numpy(g), taps).flatten(2, 3)
        biases = [bias if i == _BIASED else torch.zeros_like(bias) for i in range(POINTS)]
        self.convolve = ImageConvs(list(points), biases, stride=2, padding=0)
        self.bt, self.at = bt.astype(np.float32), at.astype(np.float32)

    def __call__(self, clips: Tensor) -> Tensor:
        """Return (B, out, T / 2, H / 2, W / 2), channels last, of `clips` (B, C, T, H, W)."""
        pairs = pair_frames(clips)  # (B, T / 2 + 3, H', W', 2 * C)
        batch, _, height, width, channels = pairs.shape
        tiles = batch * (pairs.shape[1] - 3) // TILE
        points = torch.empty((POINTS, tiles, height, width, channels))
        to_points(pairs.flatten(3).numpy(), self.bt, points.flatten(3).numpy())
        products = self.convolve(points)
        out = torch.empty((TILE * tiles, *products[0].shape[1:]))
        from_points(tuple(p.flatten(1).numpy() for p in products), self.at, out.flatten(1).numpy())
        return out.view(batch, -1, *out.shape[1:]).permute(0, 4, 1, 2, 3)


def pair_frames(clips: Tensor) -> Tensor:
    """Return `clips` padded for the first convolution, (B, T / 2 + 3, H', W', 2 * C).

    The last axis holds an even frame's channels and then the next, odd one's.
    """
    batch, channels, num_frames, *sides = clips.shape
    pads = [same_padding(side, 7, 2) for side in sides]
    padded = [side + sum(pad) for side, pad in zip(sides, pads, strict=True)]
    pairs = torch.zeros((batch, num_frames // 2 + 3, *padded, 2 * channels))
    inner = pairs[:, 1:-2].narrow(2, pads[0][0], sides[0]).narrow(3, pads[1][0], sides[1])
    frames = clips.permute(0, 2, 3, 4, 1).reshape(batch, -1, 2, sides[0], sides[1] * channels)
    interleave(frames.numpy(), inner.flatten(3).numpy(), channels)
    return pairs


@njit(nogil=True, cache=True)
def interleave(frames, pairs, channels):
    """Fill `pairs` (B, P, H, W * 2 * C) from `frames` (B, P, 2, H, W * C), float32."""
    for clip in range(pairs.shape[0]):
        for pair in range(pairs.shape[1]):
            for y in range(pairs.shape[2]):
                even, odd = frames[clip, pair, 0, y], frames[clip, pair, 1, y]
                row = pairs[clip, pair, y]
                for x in range(0, len(even), channels):
                    for c in range(x, x + channels):
                        row[x + c] = even[c]
                        row[x + c + channels] = odd[c]


@njit(fastmath={"contract"})
def _combine(x0, x1, x2, x3, x4, x5, x6, factors, out):
    a, b, c, d, e, f, g = factors
    for n in range(len(out)):
        low = a * x0[n] + b * x1[n] + c * x2[n] + d * x3[n]
        out[n] = low + e * x4[n] + f * x5[n] + g * x6[n]


@njit(fastmath={"contract", "nsz"}, error_model="numpy")
def _combine_and_cut(x0, x1, x2, x3, x4, x5, x6, factors, out):
    a, b, c, d, e, f, g = factors
    for n in range(len(out)):
        low = a * x0[n] + b * x1[n] + c * x2[n] + d * x3[n]
        out[n] = max(low + e * x4[n] + f * x5[n] + g * x6[n], np.float32(0))


@njit
def _row(matrix, i):
    m = matrix[i]
    return m[0], m[1], m[2], m[3], m[4], m[5], m[6]


@njit(nogil=True, cache=True)
def to_points(pairs, bt, points):
    """Transform tiles of seven pairs of frames.

    Args:
        pairs: (B, 4 * n + 3, H, N) float32.
        bt: (7, 7) float32.
        points: (7, B * n, H, N) float32, filled.
    """
    a_clip = (pairs.shape[1] - 3) // TILE
    for tile in range(points.shape[1]):
        clip, first = pairs[tile // a_clip], tile % a_clip * TILE
        for y in range(points.shape[2]):
            x0, x1, x2 = clip[first, y], clip[first + 1, y], clip[first + 2, y]
            x3, x4 = clip[first + 3, y], clip[first + 4, y]
            x5, x6 = clip[first + 5, y], clip[first + 6, y]
            for p in range(POINTS):
                _combine(x0, x1, x2, x3, x4, x5, x6, _row(bt, p), points[p, tile, y])


@njit(nogil=True, cache=True)
def from_points(products, at, out):
    """Transform the products of tiles back and cut at zero.

    Args:
        products: 7 arrays (tiles, N) float32.
        at: (4, 7) float32.
        out: (4 * tiles, N) float32, filled.
    """
    m0, m1, m2, m3, m4, m5, m6 = products
    for tile in range(m0.shape[0]):
        for start in range(0, m0.shape[1], _CHUNK):
            part = slice(start, min(start + _CHUNK, m0.shape[1]))
            x0, x1, x2, x3 = m0[tile, part], m1[tile, part], m2[tile, part], m3[tile, part]
            x4, x5, x6 = m4[tile, part], m5[tile, part], m6[tile, part]
            for i in range(TILE):
                target = out[TILE * tile + i, part]
                _combine_and_cut(x0, x1, x2, x3, x4, x5, x6, _row(at, i), target)
