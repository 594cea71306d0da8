"""Products of matrices against numpy's in float64, in any shape."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.kernels import products
from extract.kernels.simd import LANES

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
def test_batch_of_products_is_numpys_and_nothing_beside_it_is_written(rows, depth, columns, count):
    a, b = random(count, rows, depth), random(count, depth, columns)
    around = np.full((count + 2, rows, columns), np.nan, np.float32)
    c = around[1:-1]
    products.multiply_batch(a.ravel(), b.ravel(), c.reshape(-1), rows, depth, columns)
    assert_close(c, a, b)
    assert np.isfinite(around).sum() == c.size


@pytest.mark.slow
@pytest.mark.parametrize(
    "features", ["+avx", pytest.param("+avx,+avx2,+fma", marks=pytest.mark.slow)]
)
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
