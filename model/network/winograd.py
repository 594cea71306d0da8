"""3x3 convolutions of 4x4 maps with a quarter of the multiplications: minimal filtering.

Four values in a row, zeros beside them, and three taps: the four outputs are coefficients of the
product of two polynomials, of degrees 3 and 2. Its values at six points tell it, so that six
multiplications do instead of twelve (Toom 1963; Winograd 1980; Lavin and Gray 2015, "Fast
Algorithms for Convolutional Neural Networks"). Along rows and columns at once that makes 36
products of matrices instead of 144, maps by input channels times input by output channels:

    maps_from_points(torch.bmm(maps_at_points(maps), kernels_at_points(kernels)))

In float32 the result differs from the exact one by 1.3e-6 of its norm, that of a direct convolution
by 0.5e-6; other points, such as 0, 1, -1, 2, -2 and infinity, lose twice as much. Under autocast
the products alone are in the lower precision, in which the terms of the transforms do not cancel:
`maps_from_points` wants them back in float32.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GRID = 4
"""G, the side of the maps."""
KERNEL = 3
"""Side of the convolutions' kernels; the maps keep their size."""
POINTS = (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
"""Where the polynomials are evaluated; the sixth point is infinity."""
NUM_POINTS = (len(POINTS) + 1) ** 2
"""P, of rows and columns."""


class Transforms(NamedTuple):
    """The three matrices."""

    of_maps: Tensor
    """(P, G * G)."""
    of_kernels: Tensor
    """(P, 9)."""
    of_products: Tensor
    """(G * G, P)."""


def kernels_at_points(kernels: Tensor) -> Tensor:
    """Return the values (P, C, O) of kernels (O, C, 3, 3)."""
    taps = kernels.flatten(2).permute(2, 1, 0)  # (9, C, O)
    return _apply(transforms(kernels.dtype, kernels.device).of_kernels, taps)


def maps_at_points(maps: Tensor) -> Tensor:
    """Return the values (P, ...) of maps (G * G, ...), a pixel after the other."""
    return _apply(transforms(maps.dtype, maps.device).of_maps, maps)


def maps_from_points(products: Tensor) -> Tensor:
    """Return the convolution (G * G, ...) whose values at the points are (P, ...)."""
    return _apply(transforms(products.dtype, products.device).of_products, products)


@functools.cache
def transforms(dtype: torch.dtype, device: torch.device) -> Transforms:
    """Return the matrices."""
    along_maps, along_kernels = _evaluate(GRID), _evaluate(KERNEL)[:, ::-1]
    # coefficients 1 to 4 of 0 to 5: the others belong to pixels outside
    interpolate = np.linalg.inv(_evaluate(GRID + KERNEL - 1))[1 : GRID + 1]
    # kept for later trainings too, which a tensor made in inference mode would end
    with torch.inference_mode(False):
        return Transforms(
            *(
                torch.from_numpy(np.kron(matrix, matrix)).to(device, dtype)
                for matrix in (along_maps, along_kernels, interpolate)
            )
        )


def _evaluate(count: int) -> NDArray[np.float64]:
    """Return (6, count): what a polynomial's coefficients, the constant first, are multiplied by.

    At infinity its value is the coefficient of the highest degree.
    """
    at_infinity = np.eye(count)[-1:]
    return np.concatenate([np.vander(POINTS, count, increasing=True), at_infinity])


def _apply(matrix: Tensor, values: Tensor) -> Tensor:
    """Return the product of (P, Q) with the first axis of (Q, ...)."""
    with torch.autocast(values.device.type, enabled=False):
        return (matrix @ values.flatten(1)).view(-1, *values.shape[1:])
