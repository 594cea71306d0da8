# mypy: disable-error-code="no-untyped-def"
"""Sigmoid and hyperbolic tangent of vectors, to 3e-7 of the value.

The polynomials are those of Cephes (Moshier; single/expf.c, single/tanhf.c).
"""

import numpy as np
from numba import njit

from extract.kernels.simd import floor, fma, power_of_two, reciprocal, splat, where_less

_ONE, _TWO, _HALF = (np.float32(x) for x in (1, 2, 0.5))
_LIMIT = np.float32(87)  # e to more than this, or its reciprocal, is no normal number
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_E0, _E1, _E2 = (
    np.float32(1.9875691500e-4),
    np.float32(1.3981999507e-3),
    np.float32(8.3334519073e-3),
)
_E3, _E4, _E5 = (
    np.float32(4.1665795894e-2),
    np.float32(1.6666665459e-1),
    np.float32(5.0000001201e-1),
)
_T0, _T1 = np.float32(-5.70498872745e-3), np.float32(2.06390887954e-2)
_T2, _T3, _T4 = (
    np.float32(-5.37397155531e-2),
    np.float32(1.33314422036e-1),
    np.float32(-3.33332819422e-1),
)
_SMALL = np.float32(0.625**2)


@njit
def exp(x):
    """E to the power of x, which is cut at +-87; of NaN it is NaN."""
    x = where_less(splat(_LIMIT), x, splat(_LIMIT), x)
    x = where_less(x, splat(-_LIMIT), splat(-_LIMIT), x)
    n = floor(fma(x, splat(_LOG2_E), splat(_HALF)))
    r = fma(splat(-_LN2_LOW), n, fma(splat(-_LN2_HIGH), n, x))
    y = fma(splat(_E0), r, splat(_E1))
    y = fma(y, r, splat(_E2))
    y = fma(y, r, splat(_E3))
    y = fma(y, r, splat(_E4))
    y = fma(y, r, splat(_E5))
    return fma(y, r * r, r + splat(_ONE)) * power_of_two(n)


@njit
def sigmoid(x):
    """1 / (1 + exp(-x))."""
    return reciprocal(splat(_ONE) + exp(splat(-_ONE) * x))


@njit
def tanh(x):
    """The hyperbolic tangent."""
    z = x * x
    y = fma(splat(_T0), z, splat(_T1))
    y = fma(y, z, splat(_T2))
    y = fma(y, z, splat(_T3))
    y = fma(y, z, splat(_T4))
    near = fma(y, z * x, x)
    far = fma(splat(-_TWO), reciprocal(exp(splat(_TWO) * x) + splat(_ONE)), splat(_ONE))
    return where_less(z, splat(_SMALL), near, far)
