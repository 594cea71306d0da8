# mypy: disable-error-code="no-untyped-def"
"""What the minimal filterings of I3D share: vectors at the points 0, +-1, +-2.

The transforms are those of Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
Networks", section 4.3.
"""

import numpy as np
from numba import njit

from extract.kernels.simd import fma, load, splat, store

_TWO, _FOUR, _EIGHT = (np.float32(x) for x in (2, 4, 8))


@njit
def load4(source, at, step):
    """Four vectors, `step` floats apart."""
    first, second = load(source, at), load(source, at + step)
    return first, second, load(source, at + 2 * step), load(source, at + 3 * step)


@njit
def load6(source, at, step):
    """Six vectors, `step` floats apart."""
    x0, x1, x2, x3 = load4(source, at, step)
    return x0, x1, x2, x3, load(source, at + 4 * step), load(source, at + 5 * step)


@njit
def store4(target, at, step, x0, x1, x2, x3):
    """Write four vectors, `step` floats apart."""
    store(target, at, x0)
    store(target, at + step, x1)
    store(target, at + 2 * step, x2)
    store(target, at + 3 * step, x3)


@njit
def store6(target, at, step, x0, x1, x2, x3, x4, x5):
    """Write six vectors, `step` floats apart."""
    store4(target, at, step, x0, x1, x2, x3)
    store(target, at + 4 * step, x4)
    store(target, at + 5 * step, x5)


@njit
def outputs6(m0, m1, m2, m3, m4, m5):
    """A^T: four outputs of the products at six points."""
    sum1, difference1 = m1 + m2, m1 - m2
    sum2, difference2 = m3 + m4, m3 - m4
    return (
        m0 + sum1 + sum2,
        fma(splat(_TWO), difference2, difference1),
        fma(splat(_FOUR), sum2, sum1),
        fma(splat(_EIGHT), difference2, difference1) + m5,
    )
