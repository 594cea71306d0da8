# mypy: disable-error-code="no-untyped-def"
"""The first convolution of I3D (7x7x7, stride 2) by minimal filtering, on a CPU in float32.

With stride 2, an output sees the even inputs of an axis through the taps 0, 2, 4, 6 and the odd
ones through 1, 3, 5: a filter of four taps without stride on pairs of inputs. Along all three axes
that is a 4x4x4 convolution of cells of 2x2x2 pixels, which are eight times the channels, and goes
through extract/i3d_winograd.py.
"""

import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from extract.i3d import same_padding
from extract.i3d_winograd import WinogradConv
from extract.simd import LANES

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
    frames = clips.permute(0, 2, 3, 4, 1).flatten(3).contiguous()
    padding = tuple(same_padding(size, 7, 2)[0] for size in sizes)
    cells = torch.zeros((batch, *(-(-size // 2) + TAPS - 1 for size in sizes), 8 * channels))
    sort_pixels(frames.numpy(), padding, channels, cells.flatten(3).numpy())
    return cells.permute(0, 4, 1, 2, 3)


@njit(nogil=True, cache=True)
def sort_pixels(frames, padding, channels, cells):
    """Fill `cells` (B, T', H', W' * 8 * C) from `frames` (B, T, H, W * C), float32.

    `padding`: zeros before the first frame, row and column.
    """
    pair, cell = 2 * channels, 8 * channels
    before = padding[2] * channels
    columns = (frames.shape[3] + before + pair - 1) // pair
    for clip in range(frames.shape[0]):
        for t in range(frames.shape[1]):
            frame, dt = divmod(t + padding[0], 2)
            for y in range(frames.shape[2]):
                row, dy = divmod(y + padding[1], 2)
                source, target = frames[clip, t, y], cells[clip, frame, row]
                first = (2 * dt + dy) * pair
                for column in range(columns):
                    at, to = column * pair - before, column * cell + first
                    for n in range(max(0, -at), min(pair, len(source) - at)):
                        target[to + n] = source[at + n]
