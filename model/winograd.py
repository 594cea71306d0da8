"""3x3 convolutions of 4x4 maps with a quarter of the multiplications: Winograd's F(4x4, 3x3).

The matrices are those of Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks",
section 4.3. A 4x4 map with its border of zeros is exactly one of their 6x6 tiles, so nothing
overlaps, and the columns of B^T that meet the border can be left out.
"""

from functools import cache

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


@cache
def _matrices(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two-dimensional transforms: (36, 16), (36, 9) and (16, 36)."""
    # A training must be able to use what an evaluation in inference mode made first.
    with torch.inference_mode(False):
        one = [torch.tensor(rows, dtype=torch.float64) for rows in (_INPUT, _KERNEL, _OUTPUT)]
        both = [torch.kron(matrix, matrix).to(device, dtype) for matrix in one]
    return both[0], both[1], both[2]


def transform_kernel(weight: Tensor) -> Tensor:
    """Return (36, C, O) of a kernel (O, C, 3, 3): once for all the maps it is applied to."""
    matrix = _matrices(weight.device, weight.dtype)[1]
    flat = weight.permute(2, 3, 1, 0).reshape(KERNEL**2, -1)
    return (matrix @ flat).view(POINTS, weight.shape[1], weight.shape[0])


def convolve(maps: Tensor, kernel: Tensor) -> Tensor:
    """Return the convolution, zeros outside, of maps whose cells come first.

    Args:
        maps: (16, B, C).
        kernel: (36, C, O), from `transform_kernel`.

    Returns:
        (16, B, O).
    """
    to_points, _, to_cells = _matrices(maps.device, maps.dtype)
    points = (to_points @ maps.flatten(1)).view(POINTS, *maps.shape[1:])
    product = torch.bmm(points, kernel)  # (36, B, O)
    return (to_cells @ product.flatten(1)).view(GRID**2, maps.shape[1], -1)
