"""Sigmoid, tanh and exp of vectors against numpy in float64."""

import numpy as np
import pytest
from numba import njit

from arithmetic import activations
from extract.kernels.simd import LANES, load, store


def apply(function, values: np.ndarray) -> np.ndarray:
    """One of the functions of vectors on a flat array of any length."""

    @njit
    def over(source, target):
        for i in range(0, len(source), LANES):
            store(target, i, function(load(source, i)))

    padded = np.zeros(-(-len(values) // LANES) * LANES, np.float32)
    padded[: len(values)] = values
    target = np.empty_like(padded)
    over(padded, target)
    return target[: len(values)]


def everywhere(limit: float) -> np.ndarray:
    """Numbers of all sizes and signs up to a limit, zero among them."""
    sizes = np.geomspace(1e-38, limit, 20_000)
    return np.concatenate([-sizes, [0.0], sizes, np.linspace(-limit, limit, 20_000)]).astype("f")


@pytest.mark.parametrize(
    ("function", "exact", "limit"),
    [
        (activations.exp, np.exp, 87.0),
        (activations.sigmoid, lambda x: 1.0 / (1.0 + np.exp(-x)), 86.0),
        (activations.tanh, np.tanh, 1e4),
    ],
)
def test_values_are_within_three_units_of_the_seventh_digit(function, exact, limit):
    values = everywhere(limit)
    expected = exact(values.astype(np.float64))
    np.testing.assert_allclose(apply(function, values), expected, rtol=3e-7, atol=0)


def test_beyond_the_limits_they_stay_where_they_end():
    values = np.array([-1e30, -np.inf, 1e30, np.inf], np.float32)
    np.testing.assert_allclose(apply(activations.sigmoid, values), [0, 0, 1, 1], atol=1e-37)
    np.testing.assert_array_equal(apply(activations.tanh, values), [-1, -1, 1, 1])


@pytest.mark.parametrize("function", [activations.exp, activations.sigmoid, activations.tanh])
def test_nan_stays_nan(function):
    values = np.array([np.nan, 0.0, -np.nan], np.float32)
    assert np.isnan(apply(function, values)).tolist() == [True, False, True]
