"""Products of matrices against numpy's in float64, in any shape and order in memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from extract.kernels import products
from extract.kernels.simd import LANES


@njit
def call_multiply(*arguments):
    products.multiply(*arguments)


rows, depths = st.integers(1, 40), st.integers(1, 50)
columns = st.integers(LANES, 5 * LANES)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def assert_close(found: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
    """Within what adding up in another order may change."""
    exact = a.astype(np.float64) @ b
    bound = np.abs(a).astype(np.float64) @ np.abs(b) * a.shape[-1] * 2.0**-24
    assert (np.abs(found - exact) <= bound + 1e-30).all()


@given(rows=rows, depth=depths, columns=columns, count=st.integers(1, 3))
@settings(deadline=None)
def test_batch_of_products_is_numpys(rows, depth, columns, count):
    a, b = random(count, rows, depth), random(count, depth, columns)
    c = np.full((count, rows, columns), np.nan, np.float32)
    products.multiply_batch(a.ravel(), b.ravel(), c.reshape(-1), rows, depth, columns)
    assert_close(c, a, b)


@given(rows=rows, depth=depths, columns=columns)
@settings(deadline=None)
def test_transposed_part_of_a_matrix_is_read_in_place_and_nothing_beside_the_result_written(
    rows, depth, columns
):
    a, b = random(depth + 2, rows + 3), random(depth + 1, columns + 7)
    c = np.full((rows + 2, columns + 5), np.nan, np.float32)
    places_a = (a.shape[1] + 2, 1, a.shape[1])  # from (1, 2), transposed
    places_b, places_c = (b.shape[1] + 3, b.shape[1]), (c.shape[1] + 4, c.shape[1])
    flat = c.reshape(-1)
    call_multiply(
        a.ravel(), *places_a, b.ravel(), *places_b, flat, *places_c, rows, depth, columns, 0, 0
    )
    inner = c[1 : rows + 1, 4 : columns + 4]
    part_a, part_b = a[1 : depth + 1, 2 : rows + 2].T, b[1:, 3 : columns + 3]
    assert_close(inner, part_a, part_b)
    assert np.isfinite(c).sum() == rows * columns


@pytest.mark.parametrize("features", ["+avx,+avx2,+fma", "+avx"])
def test_narrower_registers_give_the_same_products(features):
    """In a process of its own that compiles for a processor with half the registers."""
    environment = {
        **os.environ,
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": os.devnull,
    }
    program = (
        "import numpy as np\n"
        "from extract.kernels.products import multiply_batch\n"
        "from extract.kernels.simd import LANES\n"
        "assert LANES == 8\n"
        "shapes = ((21, 33), (33, 29))\n"
        "a, b = (np.random.default_rng(0).normal(size=s).astype('f') for s in shapes)\n"
        "c = np.full((21, 29), np.nan, np.float32)\n"
        "from numba import njit\n"
        "njit(multiply_batch.py_func)(a.ravel(), b.ravel(), c.reshape(-1), 21, 33, 29)\n"
        "assert np.abs(c - a.astype(np.float64) @ b).max() < 1e-4\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
