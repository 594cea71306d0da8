# mypy: disable-error-code="no-untyped-def"
"""The products of `linear`, shared out over PyTorch's threads."""

from numba import prange

from extract.kernels import products, simd
from extract.kernels.compiling import compiled, stamp
from extract.kernels.products import PAIR, multiply
from extract.kernels.simd import LANES

STAMP = stamp(simd, products)
_ROWS = 48  # a thread's share


@compiled(parallel=True)
def share_rows(a, row_a, step_a, b, c, rows, depth, columns, stamp=STAMP):
    """Fill `c` (rows, columns) with A @ `b` (depth, columns), some rows a thread; all flat float32.

    Args:
        a: A's element (i, k) lies at i * row_a + k * step_a.
        row_a: see there.
        step_a: see there.
        b: see above.
        c: see above.
        rows: of A and C.
        depth: 1 or more.
        columns: `LANES` or more.
        stamp: part of the compiled code's key; leave it.
    """
    blocks = (rows + _ROWS - 1) // _ROWS
    for block in prange(blocks):
        first, end = block * rows // blocks, (block + 1) * rows // blocks
        at_a, at_c = first * row_a, first * columns
        # fmt: off
        multiply(
            a, at_a, row_a, step_a, b, 0, columns, c, at_c, columns, end - first, depth, columns,
            0, 0,
        )
        # fmt: on


@compiled(parallel=True)
def share_columns(a, b, c, rows, depth, columns, stamp=STAMP):
    """Fill `c` (rows, columns) with `a` (rows, depth) @ `b` (depth, columns), as above."""
    for block in prange((columns + PAIR - 1) // PAIR):
        first = min(block * PAIR, columns - LANES)
        width = min(PAIR, columns - first)
        multiply(a, 0, depth, 1, b, first, columns, c, first, columns, rows, depth, width, 0, 0)
