# mypy: disable-error-code="no-untyped-def"
"""3x3 convolutions of 4x4 maps with a quarter of the multiplications: Winograd's F(4x4, 3x3).

The transforms are those of Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
Networks", section 4.3: a map and a kernel become 36 points each, these are multiplied, and the
products become the 16 cells of the result. A 4x4 map with its border of zeros is exactly one of
their 6x6 tiles, so nothing overlaps, and what meets the border is left out. All are linear: a
gradient goes back through the transposed matrix, `..._back`.

A transform takes a vector of channels at a time. Its arguments: flat float32 `source`, where the
first cell (point, tap) begins, how far apart they lie; the same of the `target`; `SCRATCH` floats.
"""

import numpy as np
from numba import njit

from extract.kernels.filtering import load4, load6, outputs6, store4, store6
from extract.kernels.simd import LANES, fma, load, splat, store

GRID, KERNEL = 4, 3
CELLS, POINTS, TAPS = GRID**2, 36, KERNEL**2
SCRATCH = POINTS * LANES

_ONE, _TWO, _FOUR, _FIVE = (np.float32(x) for x in (1, 2, 4, 5))
_QUARTER, _SIXTH, _TWELFTH, _24TH = (np.float32(1 / x) for x in (4, 6, 12, 24))


@njit
def _map(source, at, step, target, to, to_step):
    """The inner columns of B^T: 4 -> 6."""
    x0, x1, x2, x3 = load4(source, at, step)
    minus_four, minus_five = splat(-_FOUR), splat(-_FIVE)
    even, odd = fma(minus_four, x1, x3), fma(minus_four, x0, x2)
    near, far = x3 - x1, splat(_TWO) * (x2 - x0)
    first = fma(minus_five, x1, x3)
    last = fma(minus_five, x2, splat(_FOUR) * x0)
    store6(target, to, to_step, first, even + odd, even - odd, near + far, near - far, last)


@njit
def _map_back(source, at, step, target, to, to_step):
    """Its transpose: 6 -> 4."""
    x0, x1, x2, x3, x4, x5 = load6(source, at, step)
    four, minus_five, two = splat(_FOUR), splat(-_FIVE), splat(_TWO)
    sum1, difference1, sum2, difference2 = x1 + x2, x1 - x2, x3 + x4, x3 - x4
    twice = two * difference2
    store4(
        target,
        to,
        to_step,
        fma(four, x5 - difference1, splat(-_ONE) * twice),
        fma(minus_five, x0, fma(splat(-_FOUR), sum1, splat(-_ONE) * sum2)),
        fma(minus_five, x5, difference1 + twice),
        x0 + sum1 + sum2,
    )


@njit
def _result(source, at, step, target, to, to_step):
    """A^T: 6 -> 4."""
    x0, x1, x2, x3, x4, x5 = load6(source, at, step)
    y0, y1, y2, y3 = outputs6(x0, x1, x2, x3, x4, x5)
    store4(target, to, to_step, y0, y1, y2, y3)


@njit
def _result_back(source, at, step, target, to, to_step):
    """Its transpose: 4 -> 6."""
    x0, x1, x2, x3 = load4(source, at, step)
    even, odd = x0 + x2, x1 + x3
    even2, odd2 = fma(splat(_FOUR), x2, x0), splat(_TWO) * fma(splat(_FOUR), x3, x1)
    store6(target, to, to_step, x0, even + odd, even - odd, even2 + odd2, even2 - odd2, x3)


@njit
def _kernel(source, at, step, target, to, to_step):
    """G: 3 -> 6."""
    x0, x1, x2 = load(source, at), load(source, at + step), load(source, at + 2 * step)
    outer = splat(-_SIXTH) * (x0 + x2)
    inner = splat(-_SIXTH) * x1
    ends = fma(splat(_SIXTH), x2, splat(_24TH) * x0)
    middle = splat(_TWELFTH) * x1
    store6(
        target,
        to,
        to_step,
        splat(_QUARTER) * x0,
        outer + inner,
        outer - inner,
        ends + middle,
        ends - middle,
        x2,
    )


@njit
def _kernel_back(source, at, step, target, to, to_step):
    """Its transpose: 6 -> 3."""
    x0, x1, x2, x3, x4, x5 = load6(source, at, step)
    sixth = splat(-_SIXTH) * (x1 + x2)
    sum2 = x3 + x4
    store(target, to, fma(splat(_QUARTER), x0, fma(splat(_24TH), sum2, sixth)))
    middle = fma(splat(_TWELFTH), x3 - x4, splat(-_SIXTH) * (x1 - x2))
    store(target, to + to_step, middle)
    store(target, to + 2 * to_step, fma(splat(_SIXTH), sum2, sixth) + x5)


def _along_both(one, before: int, after: int):
    """Return the transform of `before` squared values to `after` squared ones, along both axes."""

    @njit
    def transform(source, at, step, target, to, to_step, scratch):
        for row in range(before):
            one(source, at + row * before * step, step, scratch, row * after * LANES, LANES)
        for column in range(after):
            start = to + column * to_step
            one(scratch, column * LANES, after * LANES, target, start, after * to_step)

    return transform


map_points = _along_both(_map, GRID, 6)
map_points_back = _along_both(_map_back, 6, GRID)
result_cells = _along_both(_result, 6, GRID)
result_cells_back = _along_both(_result_back, GRID, 6)
kernel_points = _along_both(_kernel, KERNEL, 6)
kernel_points_back = _along_both(_kernel_back, 6, KERNEL)
