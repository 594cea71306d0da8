# mypy: disable-error-code="no-untyped-def"
"""3-D convolutions with an eighth of the multiplications: Winograd's minimal filtering.

Four neighbouring outputs of a 3-tap filter need six products, not twelve (Winograd 1980; Lavin and
Gray 2015, "Fast Algorithms for Convolutional Neural Networks", section 4), those of a 4-tap filter
seven, not sixteen. Along time, rows and columns at once, a tile of 4x4x4 outputs needs 216 products
of each input with each output channel instead of 1728 (343 instead of 4096). What is multiplied are
matrices, one for each of these points: tiles by input channels times input by output channels.

So few multiplications are soon done; what decides is that everything else stays in the caches. Some
tiles are in hand at a time, gathered and transformed along time first; the products of one point of
the time are transformed back along rows and columns, and added up, before the next one's are made.

In float32 the result differs from the direct convolution's by less than 1e-5 of its norm.
"""

import itertools

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

from extract.kernels import filtering, simd
from extract.kernels.compiling import compiled, stamp
from extract.kernels.filtering import load6, outputs6, store4, store6
from extract.kernels.products import multiply_batch
from extract.kernels.simd import LANES, fma, load, maximum, splat, store

STAMP = stamp(simd, filtering)
TILE = 4  # outputs along each axis
POINTS = {3: (0, 1, -1, 2, -2), 4: (0, 1, -1, 2, -2, 0.5)}  # of that many taps; and infinity
MIN_TILES = 12  # with fewer, reading the transformed filters takes longer than multiplying
_TILES_IN_HAND = 49  # half of those of a 28x28 map of 8 frames

_ZERO, _HALF, _QUARTER, _EIGHTH = (np.float32(x) for x in (0, 1 / 2, 1 / 4, 1 / 8))
_MINUS_HALF, _MINUS_FOUR, _MINUS_FIVE = (np.float32(x) for x in (-1 / 2, -4, -5))
_TWO, _FOUR = np.float32(2), np.float32(4)


def suits_winograd(weight: Tensor, x: Tensor) -> bool:
    """Whether a convolution of `x` (B, in, T, H, W) by `weight` gains, on a CPU in float32."""
    return (
        weight.shape[2:] == (3, 3, 3)
        and weight.dtype == torch.float32
        and min(weight.shape[:2]) >= LANES
        and count_tiles(x.shape[0], *x.shape[2:]) >= MIN_TILES
    )


def count_tiles(batch: int, *sizes: int) -> int:
    """Return the number of tiles of `batch` maps of these sizes (T, H, W)."""
    num_frames, height, width = (-(-size // TILE) for size in sizes)
    return batch * num_frames * height * width


def toom_cook(taps: int) -> tuple[Tensor, npt.NDArray[np.float32]]:
    """Return the transforms of filter (P, taps) float64 and products (4, P) float32.

    Toom and Cook's algorithm: with the values x of the inputs at the points (as below), output i is
    at[i] @ ((g @ filter) * x).
    """
    finite = np.array(POINTS[taps], float)
    scales = [np.prod(p - np.delete(finite, i)) for i, p in enumerate(finite)]
    powers = finite[:, None] ** np.arange(TILE)
    g = np.vstack([powers[:, :taps] / np.array(scales)[:, None], np.eye(taps)[-1:]])
    at = np.vstack([powers, np.eye(TILE)[-1:]]).T
    return torch.from_numpy(g), at.astype(np.float32)


class WinogradConv:
    """One convolution of stride 1 with bias and ReLU."""

    def __init__(self, weight: Tensor, bias: Tensor, *, padding: int) -> None:
        """Transform the filters.

        Args:
            weight: (out, in, taps, taps, taps) float32; 3 or 4 taps, at least `LANES` channels.
            bias: (out,) float32.
            padding: cells of zeros that lie around each clip.
        """
        self.taps, self.padding = weight.shape[-1], padding
        g, self.at = toom_cook(self.taps)
        along_all = torch.kron(g, torch.kron(g, g)).view(
            len(g), len(g) ** 2, -1
        )  # (P, P^2, taps^3)
        filters = weight.permute(2, 3, 4, 1, 0).flatten(0, 2).flatten(1).double()
        # one point of the time after the other: all at once would be hundreds of megabytes
        points = torch.stack([(rows @ filters).float() for rows in along_all])
        self.filters = points.view(*points.shape[:2], *weight.shape[1::-1])  # (P, P^2, in, out)
        self.bias = bias.numpy()

    def __call__(self, x: Tensor) -> Tensor:
        """Return (B, out, T', H', W') of `x` (B, in, T, H, W) float32, both channels last."""
        side, plane, in_channels, out_channels = self.filters.shape
        maps = x.permute(0, 2, 3, 4, 1).contiguous()
        sizes = [size + 2 * self.padding - self.taps + 1 for size in maps.shape[1:4]]
        out = torch.empty((len(maps), *sizes, out_channels))
        shape, out_shape = tuple(maps.shape), tuple(out.shape)
        num_tiles = count_tiles(len(maps), *sizes)
        blocks = -(-num_tiles // _TILES_IN_HAND)
        per_tile = (
            side * plane * whole_vectors(in_channels),
            plane * in_channels,
            plane * out_channels,
            TILE**3 * whole_vectors(out_channels),
        )
        memory = [torch.empty(-(-num_tiles // blocks), size) for size in per_tile]
        flat_maps, flat_out = maps.view(-1).numpy(), out.view(-1).numpy()
        for begin, end in itertools.pairwise(num_tiles * i // blocks for i in range(blocks + 1)):
            parts = [part[: end - begin] for part in memory]
            times, points, products, sums = (part.view(-1).numpy() for part in parts)
            to_times(flat_maps, shape, out_shape, self.padding, begin, end, side, times)
            for p in range(side):
                to_points(p, times, side, in_channels, points)
                filters = self.filters[p].view(-1).numpy()
                multiply_batch(points, filters, products, end - begin, in_channels, out_channels)
                from_points(p, self.at, products, out_channels, sums)
            write_tiles(sums, self.bias, out_shape, begin, end, flat_out)
        return out.permute(0, 4, 1, 2, 3)


def whole_vectors(channels: int) -> int:
    """Return `channels` rounded up to a multiple of `LANES`."""
    return -(-channels // LANES) * LANES


@njit
def _corner(tile, shape):
    """The clip, frame, row and column of the first output of a tile."""
    _, num_frames, height, width, _ = shape
    times, rows = (num_frames + TILE - 1) // TILE, (height + TILE - 1) // TILE
    columns = (width + TILE - 1) // TILE
    above = tile // columns
    before = above // rows
    return before // times, before % times * TILE, above % rows * TILE, tile % columns * TILE


@njit
def _values6(x0, x1, x2, x3, x4, x5):
    minus_four, minus_five = splat(_MINUS_FOUR), splat(_MINUS_FIVE)
    four, two = splat(_FOUR), splat(_TWO)
    even, odd = fma(minus_four, x2, x4), fma(minus_four, x1, x3)
    near, far = x4 - x2, two * (x3 - x1)
    first = fma(four, x0, fma(minus_five, x2, x4))
    last = fma(four, x1, fma(minus_five, x3, x5))
    return first, even + odd, even - odd, near + far, near - far, last


@njit
def _analyse6(source, at, step, target, to, to_step):
    """Lavin and Gray's B^T: six inputs of a 3-tap filter at its six points."""
    x0, x1, x2, x3, x4, x5 = load6(source, at, step)
    v0, v1, v2, v3, v4, v5 = _values6(x0, x1, x2, x3, x4, x5)
    store6(target, to, to_step, v0, v1, v2, v3, v4, v5)


@njit
def _analyse7(source, at, step, target, to, to_step):
    """Seven inputs of a 4-tap filter: the same of their differences, and the point 1/2."""
    minus_half = splat(_MINUS_HALF)
    x0, x1, x2, x3, x4, x5 = load6(source, at, step)
    d0, d1, d2 = fma(minus_half, x0, x1), fma(minus_half, x1, x2), fma(minus_half, x2, x3)
    d3, d4 = fma(minus_half, x3, x4), fma(minus_half, x4, x5)
    d5 = fma(minus_half, x5, load(source, at + 6 * step))
    v0, v1, v2, v3, v4, v6 = _values6(d0, d1, d2, d3, d4, d5)
    v5 = fma(splat(_FOUR), x1, fma(splat(_MINUS_FIVE), x3, x5))
    store6(target, to, to_step, v0, v1, v2, v3, v4, v5)
    store(target, to + 6 * to_step, v6)


@njit
def _synthesise6(source, at, step):
    """Lavin and Gray's A^T: four outputs of the products at six points."""
    m0, m1, m2, m3, m4, m5 = load6(source, at, step)
    return outputs6(m0, m1, m2, m3, m4, m5)


@njit
def _synthesise7(source, at, step):
    m0, m1, m2, m3, m4, m5 = load6(source, at, step)
    y0, y1, y2, y3 = outputs6(m0, m1, m2, m3, m4, load(source, at + 6 * step))
    return (
        y0 + m5,
        fma(splat(_HALF), m5, y1),
        fma(splat(_QUARTER), m5, y2),
        fma(splat(_EIGHTH), m5, y3),
    )


@njit
def _analyse(side, source, at, step, target, to, to_step):
    if side == 6:
        _analyse6(source, at, step, target, to, to_step)
    else:
        _analyse7(source, at, step, target, to, to_step)


@njit
def _synthesise(side, source, at, step):
    if side == 6:
        return _synthesise6(source, at, step)
    return _synthesise7(source, at, step)


@compiled(nogil=True)
def to_times(maps, shape, out_shape, padding, begin, end, side, times, stamp=STAMP):
    """Gather the inputs of tiles and transform them along time.

    Args:
        maps: flat float32.
        shape: theirs, (B, T, H, W, in).
        out_shape: of the result, (B, T', H', W', out).
        padding: cells of zeros around each clip.
        begin: the first tile; columns count fastest, then rows, times and clips.
        end: the tile after the last one.
        side: P.
        times: flat float32, (P, end - begin, vectors, P, P, LANES), filled.
        stamp: part of the compiled code's key; leave it.
    """
    _, num_frames, height, width, channels = shape
    row, frame = width * channels, height * width * channels
    point = len(times) // side
    zero = splat(_ZERO)
    inputs = np.empty(side * LANES, np.float32)
    to = 0
    for tile in range(begin, end):
        clip, t, y, x = _corner(tile, out_shape)
        t, y, x = t - padding, y - padding, x - padding
        corner = ((clip * num_frames + t) * height + y) * row + x * channels
        whole = t >= 0 and t + side <= num_frames
        for start in range(0, channels, LANES):
            channel = min(start, channels - LANES)  # the last vector may overlap the one before
            for j in range(side):
                for i in range(side):
                    at = corner + j * row + i * channels + channel
                    inside = 0 <= y + j < height and 0 <= x + i < width
                    if inside and whole:
                        _analyse(side, maps, at, frame, times, to, point)
                    else:
                        for s in range(side):
                            inner = inside and 0 <= t + s < num_frames
                            store(inputs, s * LANES, load(maps, at + s * frame) if inner else zero)
                        _analyse(side, inputs, 0, LANES, times, to, point)
                    to += LANES


@compiled(nogil=True)
def to_points(p, times, side, channels, points, stamp=STAMP):
    """Transform the inputs of tiles along rows and columns.

    Args:
        p: which point of the time.
        times: flat float32, (P, tiles, vectors, P, P, LANES).
        side: P.
        channels: in.
        points: flat float32, (P^2, tiles, in), filled.
        stamp: part of the compiled code's key; leave it.
    """
    point = len(points) // (side * side)
    at = p * len(times) // side
    scratch = np.empty(side * side * LANES, np.float32)
    for tile in range(point // channels):
        for start in range(0, channels, LANES):
            to = tile * channels + min(start, channels - LANES)
            for j in range(side):
                _analyse(side, times, at, LANES, scratch, j * side * LANES, LANES)
                at += side * LANES
            for i in range(side):
                step = side * LANES
                _analyse(side, scratch, i * LANES, step, points, to + i * point, side * point)


@njit
def _add4(factor, add, sums, at, x0, x1, x2, x3):
    if add:
        x0 = fma(factor, x0, load(sums, at))
        x1 = fma(factor, x1, load(sums, at + LANES))
        x2 = fma(factor, x2, load(sums, at + 2 * LANES))
        x3 = fma(factor, x3, load(sums, at + 3 * LANES))
    else:
        x0, x1, x2, x3 = factor * x0, factor * x1, factor * x2, factor * x3
    store4(sums, at, LANES, x0, x1, x2, x3)


@compiled(nogil=True)
def from_points(p, factors, products, channels, sums, stamp=STAMP):
    """Transform the products of tiles back along rows and columns and add them up along time.

    Args:
        p: which point of the time; what was in `sums` before the first does not count.
        factors: (4, P) float32, of the points of the time for the four outputs.
        products: flat float32, (P^2, tiles, out).
        channels: out.
        sums: flat float32, (tiles, vectors, 4, 4, 4, LANES), filled or added to.
        stamp: part of the compiled code's key; leave it.
    """
    side = factors.shape[1]
    point = len(products) // (side * side)
    frame = TILE * TILE * LANES
    scratch = np.empty(side * side * LANES, np.float32)
    to = 0
    for tile in range(point // channels):
        for start in range(0, channels, LANES):
            at = tile * channels + min(start, channels - LANES)
            for i in range(side):
                y0, y1, y2, y3 = _synthesise(side, products, at + i * point, side * point)
                store4(scratch, i * LANES, side * LANES, y0, y1, y2, y3)
            for j in range(TILE):
                x0, x1, x2, x3 = _synthesise(side, scratch, j * side * LANES, LANES)
                for s in range(TILE):
                    _add4(splat(factors[s, p]), p > 0, sums, to + s * frame, x0, x1, x2, x3)
                to += TILE * LANES
            to += (TILE - 1) * frame


@compiled(nogil=True)
def write_tiles(sums, bias, shape, begin, end, out, stamp=STAMP):
    """Add the bias, cut at zero and put the tiles into their places.

    Args:
        sums: flat float32, (end - begin, vectors, 4, 4, 4, LANES).
        bias: (out,) float32.
        shape: of the result, (B, T', H', W', out).
        begin: the first tile.
        end: the tile after the last one.
        out: flat float32, of this shape, filled where the tiles are.
        stamp: part of the compiled code's key; leave it.
    """
    _, num_frames, height, width, channels = shape
    zero = splat(_ZERO)
    vector = 0
    for tile in range(begin, end):
        clip, t, y, x = _corner(tile, shape)
        for start in range(0, channels, LANES):
            channel = min(start, channels - LANES)
            offset = load(bias, channel)
            for s in range(min(TILE, num_frames - t)):
                for j in range(min(TILE, height - y)):
                    at = (((vector * TILE + s) * TILE) + j) * TILE * LANES
                    to = (((clip * num_frames + t + s) * height + y + j) * width + x) * channels
                    for i in range(min(TILE, width - x)):
                        value = load(sums, at + i * LANES) + offset
                        store(out, to + i * channels + channel, maximum(value, zero))
            vector += 1
