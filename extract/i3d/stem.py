# mypy: disable-error-code="no-untyped-def"
"""The first convolution of I3D (7x7x7, stride 2) by minimal filtering, on a CPU in float32.

With stride 2, an output sees the even inputs of an axis through the taps 0, 2, 4, 6 and the odd
ones through 1, 3, 5: a filter of four taps without stride on pairs of inputs. Along all three axes
that is a 4x4x4 convolution of cells of 2x2x2 pixels, which are eight times the channels, and goes
through extract/i3d/winograd.py.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from extract.i3d.same import same_padding
from extract.i3d.winograd import WinogradConv
from extract.kernels import simd
from extract.kernels.compiling import compiled, stamp
from extract.kernels.simd import LANES, load, splat, store

STAMP = stamp(simd)
TAPS = 4


def suits_stem(weight: Tensor) -> bool:
    """Whether the first convolution can go this way."""
    return weight.dtype == torch.float32 and min(8 * weight.shape[1], weight.shape[0]) >= LANES


class StemConv:
    """The first convolution with bias and ReLU."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        """Sort the filters' taps into cells.

        Args:
            weight: (out, C, 7, 7, 7) float32.
            bias: (out,) float32.
        """
        taps = F.pad(weight, (0, 1) * 3).view(*weight.shape[:2], *(TAPS, 2) * 3)
        cells = taps.permute(0, 3, 5, 7, 1, 2, 4, 6).flatten(1, 4)  # (out, 8 * C, 4, 4, 4)
        self.convolve = WinogradConv(cells, bias, padding=0)

    def __call__(self, clips: Tensor) -> Tensor:
        """Return (B, out, T / 2, H / 2, W / 2), channels last, of `clips` (B, C, T, H, W)."""
        return self.convolve(cells_of(clips))


def cells_of(clips: Tensor) -> Tensor:
    """Return `clips` (B, C, T, H, W), padded for the first convolution, in cells of 2x2x2 pixels.

    (B, 8 * C, T', H', W'), channels last; they are sorted by frame, row, column and C.
    """
    batch, channels, *sizes = clips.shape
    frames = clips.permute(0, 2, 3, 4, 1).contiguous()
    padding = tuple(same_padding(size, 7, 2)[0] for size in sizes)
    cells = torch.empty((batch, *(-(-size // 2) + TAPS - 1 for size in sizes), 8 * channels))
    flat_frames, flat_cells = frames.view(-1).numpy(), cells.view(-1).numpy()
    sort_pixels(flat_frames, tuple(frames.shape), padding, flat_cells, tuple(cells.shape))
    return cells.permute(0, 4, 1, 2, 3)


@njit
def _copy_pair(frames, row, width, column, channels, cells, to):
    """Copy two pixels of a row (its place in `frames`, or -1 for zeros), a float at a time."""
    for n in range(2 * channels):
        at = column * channels + n
        inside = row >= 0 and 0 <= at < width * channels
        cells[to + n] = frames[row + at] if inside else np.float32(0)


@compiled(nogil=True)
def sort_pixels(frames, shape, padding, cells, cells_shape, stamp=STAMP):
    """Fill `cells` from `frames`.

    Args:
        frames: flat float32.
        shape: theirs, (B, T, H, W, C).
        padding: zeros before the first frame, row and column.
        cells: flat float32.
        cells_shape: theirs, (B, T', H', W', 8 * C).
        stamp: part of the compiled code's key; leave it.
    """
    batch, num_frames, height, width, channels = shape
    _, cell_frames, cell_rows, columns, _ = cells_shape
    pair = 2 * channels
    reach = (pair + LANES - 1) // LANES * LANES
    rows = np.empty(4, np.int64)
    zero = splat(np.float32(0))
    to = 0
    for line in range(batch * cell_frames * cell_rows):
        above, row = divmod(line, cell_rows)
        clip, frame = divmod(above, cell_frames)
        for k in range(4):
            t, y = 2 * frame + k // 2 - padding[0], 2 * row + k % 2 - padding[1]
            inside = 0 <= t < num_frames and 0 <= y < height
            rows[k] = ((clip * num_frames + t) * height + y) * width * channels if inside else -1
        for column in range(columns):
            x = 2 * column - padding[2]
            # Whole vectors reach beyond two pixels. What they write too much belongs to those that
            # come next, so that only the very last ones have no room for it.
            whole = x >= 0 and x + 2 <= width and to + 3 * pair + reach <= len(cells)
            for k in range(4):
                at = rows[k] + x * channels
                if whole and rows[k] < 0:
                    for n in range(0, reach, LANES):
                        store(cells, to + n, zero)
                elif whole and at + reach <= len(frames):
                    for n in range(0, reach, LANES):
                        store(cells, to + n, load(frames, at + n))
                else:
                    _copy_pair(frames, rows[k], width, x, channels, cells, to)
                to += pair
