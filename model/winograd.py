"""3x3 convolutions of 4x4 maps with a quarter of the multiplications: Winograd's F(4x4, 3x3).

The matrices are those of Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks",
section 4.3: `cells_of(points_of(map) * points_of(kernel))`. A 4x4 map with its border of zeros is
exactly one of their 6x6 tiles, so nothing overlaps, and the columns of B^T that meet the border
can be left out. The transforms are linear and these functions know nothing of autograd: a
gradient goes back through the transposed matrix.

Maps come with their 16 cells first, transforms with their 36 points.
"""

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

GRID, KERNEL, POINTS = 4, 3, 36
_INPUT = (
    (0, -5, 0, 1),
    (-4, -4, 1, 1),
    (4, -4, -1, 1),
    (-2, -1, 2, 1),
    (2, -1, -2, 1),
    (4, 0, -5, 0),
)
_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))

SUM_POINT = 7
"""The point that every cell of the output holds once: what is added there is added to all cells,
and its gradient is the sum over the cells. (Row and column 1 of six; column 1 of A^T is all 1.)"""


class Matrices(NamedTuple):
    """The two-dimensional transforms."""

    points_of_map: Tensor
    """(36, 16)."""
    points_of_kernel: Tensor
    """(36, 9)."""
    cells_of_points: Tensor
    """(16, 36)."""


@cache
def matrices(device: torch.device, dtype: torch.dtype) -> Matrices:
    """Return the transforms, made once for a device and a type."""
    # A training must be able to use what an evaluation in inference mode made first.
    with torch.inference_mode(False):
        one = [torch.tensor(rows, dtype=torch.float64) for rows in (_INPUT, _KERNEL, _OUTPUT)]
        return Matrices(*(torch.kron(matrix, matrix).to(device, dtype) for matrix in one))


def points_of_kernel(weight: Tensor) -> Tensor:
    """Return (36, ...) of kernels (..., 3, 3), once for all the maps they meet."""
    matrix = matrices(weight.device, weight.dtype).points_of_kernel
    return (matrix @ weight.reshape(-1, KERNEL**2).T).view(POINTS, *weight.shape[:-2])


def kernel_gradient(points: Tensor, *, out: Tensor) -> None:
    """Fill `out`, (..., 3, 3), with the gradient of kernels, given that of their points."""
    matrix = matrices(points.device, points.dtype).points_of_kernel
    torch.mm(points.flatten(1).T, matrix, out=out.view(-1, KERNEL**2))
