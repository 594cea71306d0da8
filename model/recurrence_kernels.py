# mypy: disable-error-code="no-untyped-def"
"""What `recurrence` computes between the gates, on PyTorch's threads.

What is at Winograd's points lies point by point: (36, rows, channels) with a cache line between two
points, because processors confuse addresses that differ by a multiple of 4096 bytes. A row is one
window at one step. Products go from the points to the cells some rows and channels at a time, so
that nothing but results leaves the caches. All arrays are flat float32.
"""

import numpy as np
from numba import njit, prange

from extract.kernels import filtering, products, simd
from extract.kernels.compiling import compiled, stamp
from extract.kernels.products import PAIR, multiply, multiply_pair, multiply_vector
from extract.kernels.simd import LANES, load, store
from model import winograd
from model.winograd import (
    CELLS,
    POINTS,
    SCRATCH,
    TAPS,
    kernel_points,
    kernel_points_back,
    map_points,
    map_points_back,
    result_cells,
)

STAMP = stamp(simd, products, filtering, winograd)
GATES = 4
_GAP = 16
# Rows and pairs of vectors in hand: the points of 60 rows and two pairs fill half of a second cache
# of 1 MB, and the rows are read from there for the second pair.
_MOST_ROWS, _LEAST_ROWS, _PAIRS = 60, 12, 2


@njit
def point_size(rows, channels):
    """Return how many floats lie between two points of (36, rows, channels)."""
    return rows * channels + _GAP


def packed_size(rows: int, columns: int) -> int:
    """Return how many floats `pack_kernel` fills, all rows of the matrix at a point counted."""
    pairs, single = divmod(-(-columns // LANES), 2)
    return POINTS * int(pairs * point_size(rows, PAIR) + single * point_size(rows, LANES))


@compiled(parallel=True)
def pack_kernel(kernel, row, rows, column, columns, first, depth, packed, stamp=STAMP):
    """Bring a kernel to its points, in the order in which products read it.

    Args:
        kernel: its 9 taps for a row and a column of the matrices follow one another.
        row: floats between two rows.
        rows: what is multiplied.
        column: floats between two columns.
        columns: what comes of it; at least `LANES`.
        first: the rows lie behind so many others.
        depth: rows of all kernels that are multiplied together.
        packed: filled: two vectors of columns at a time, 36 points of `depth` rows each; the last
            vector may repeat some of the columns before.
        stamp: part of the compiled code's key; leave it.
    """
    vectors = (columns + LANES - 1) // LANES
    for vector in prange(vectors):
        scratch, taps = np.empty(SCRATCH, np.float32), np.empty(TAPS * LANES, np.float32)
        begin, pair = min(vector * LANES, columns - LANES), vector // 2
        width = PAIR if 2 * pair + 1 < vectors else LANES
        to = pair * POINTS * point_size(depth, PAIR) + first * width + vector % 2 * LANES
        for i in range(rows):
            for lane in range(LANES):
                source = i * row + (begin + lane) * column
                for tap in range(TAPS):
                    taps[tap * LANES + lane] = kernel[source + tap]
            point = point_size(depth, width)
            kernel_points(taps, 0, LANES, packed, to + i * width, point, scratch)


@compiled(parallel=True)
def to_points(cells, cell, rows, columns, points, row, point, stamp=STAMP):
    """Bring maps to their points.

    Args:
        cells: (16, rows, columns), rows of one cell together.
        cell: floats between two cells.
        rows: how many.
        columns: channels, at least `LANES`.
        points: the first `columns` of each row are filled.
        row: floats between two rows there.
        point: floats between two points.
        stamp: part of the compiled code's key; leave it.
    """
    for i in prange(rows):
        scratch = np.empty(SCRATCH, np.float32)
        done = 0
        while done < columns:
            n = min(done, columns - LANES)
            map_points(cells, i * columns + n, cell, points, i * row + n, point, scratch)
            done += LANES


# fmt: off
@compiled(parallel=True)
def multiply_points(
    points, at, row, point, rows, depth, packed, packed_depth, columns, skip,
    added, added_at, added_row, added_cell, out, to, cell, back, threads, stamp=STAMP,
):
    # fmt: on
    """Multiply maps by kernels at the points and bring the sums to the cells.

    Args:
        points: the first row of the first point begins at `at`.
        at: see there.
        row: floats between two rows.
        point: floats between two points.
        rows: how many.
        depth: channels of a row that count.
        packed: as of `pack_kernel`.
        packed_depth: its `depth`.
        columns: its `columns`.
        skip: (from, to): columns that need not be computed.
        added: what is added to the result; not `out`.
        added_at: where the first is.
        added_row: floats between two rows, or 0.
        added_cell: floats between two cells, or 0.
        out: (16, rows, columns), filled.
        to: where the first is.
        cell: floats between two cells.
        back: whether the rows are gradients of a result, and what is wanted that of the maps.
        threads: that will share the work.
        stamp: part of the compiled code's key; leave it.
    """
    vectors = (columns + LANES - 1) // LANES
    pairs = (vectors + 1) // 2
    groups = (pairs + _PAIRS - 1) // _PAIRS
    # Fewer rows where there would be less to do than threads.
    blocks = min(-(-threads // groups), rows // _LEAST_ROWS)
    blocks = max(blocks, -(-rows // _MOST_ROWS))
    for task in prange(groups * blocks):
        group, block = task // blocks, task % blocks
        first = block * rows // blocks
        count = (block + 1) * rows // blocks - first
        begin, end = group * pairs // groups, (group + 1) * pairs // groups
        step = point_size(count, PAIR)
        sums = np.empty(_PAIRS * POINTS * step, np.float32)
        scratch, cells = np.empty(SCRATCH, np.float32), np.empty(CELLS * LANES, np.float32)
        for p in range(POINTS):
            a = at + p * point + first * row
            for pair in range(begin, end):
                if skip[0] <= pair * PAIR and (pair + 1) * PAIR <= skip[1]:
                    continue
                c = ((pair - begin) * POINTS + p) * step
                b = pair * POINTS * point_size(packed_depth, PAIR)
                if 2 * pair + 1 < vectors:
                    then = point_size(packed_depth, PAIR)
                    b += p * then
                    multiply_pair(
                        points, a, row, 1, packed, b, PAIR, sums, c, PAIR, count, depth, 0, then
                    )
                else:
                    then = point_size(packed_depth, LANES)
                    b += p * then
                    multiply_vector(
                        points, a, row, 1, packed, b, LANES, sums, c, PAIR, count, depth, 0, then
                    )
        for vector in range(2 * begin, min(2 * end, vectors)):
            pair = vector // 2
            if skip[0] <= pair * PAIR and (pair + 1) * PAIR <= skip[1]:
                continue
            column = min(vector * LANES, columns - LANES)
            for i in range(count):
                source = (pair - begin) * POINTS * step + i * PAIR + vector % 2 * LANES
                if back:
                    map_points_back(sums, source, step, cells, 0, LANES, scratch)
                else:
                    result_cells(sums, source, step, cells, 0, LANES, scratch)
                other = added_at + (first + i) * added_row + column
                target = to + (first + i) * columns + column
                for n in range(CELLS):
                    value = load(cells, n * LANES) + load(added, other + n * added_cell)
                    store(out, target + n * cell, value)


# fmt: off
@compiled(parallel=True)
def kernel_gradient_points(
    d_points, d_row, d_point, maps, at, row, point, batch, steps, columns, since, sums,
    stamp=STAMP,
):
    # fmt: on
    """Multiply the gradient of the gates with what their kernel met, at each point over all rows.

    Args:
        d_points: (36, steps * batch, 4 * hidden): the gradient of the gates.
        d_row: 4 * hidden.
        d_point: floats between two points.
        maps: what the kernel met, the first row of the first point at `at`.
        at: see there.
        row: floats between two rows.
        point: floats between two points.
        batch: rows of a step.
        steps: how many.
        columns: channels of the maps, at least `LANES`.
        since: of each gate the first step that counts.
        sums: (36, 4 * hidden, columns), `point_size` apart, filled.
        stamp: part of the compiled code's key; leave it.
    """
    hidden = d_row // GATES
    for task in prange(POINTS * GATES):
        p, gate = task // GATES, task % GATES
        begin = since[gate] * batch
        depth = steps * batch - begin
        a = p * d_point + begin * d_row + gate * hidden
        b = at + p * point + begin * row
        c = p * point_size(d_row, columns) + gate * hidden * columns
        last = gate == GATES - 1
        next_a = d_point - gate * hidden if last else hidden
        next_b = point if last else 0
        if depth:
            # fmt: off
            multiply(
                d_points, a, 1, d_row, maps, b, row, sums, c, columns, hidden, depth, columns,
                next_a, next_b,
            )
            # fmt: on
        else:
            sums[c : c + hidden * columns] = 0


@compiled(parallel=True)
def to_kernel(sums, rows, columns, out, stamp=STAMP):
    """Bring the gradient of a kernel's points to that of the kernel.

    Args:
        sums: (36, rows, columns), `point_size` apart.
        rows: output channels.
        columns: input channels, at least `LANES`.
        out: (rows, columns, 9), filled.
        stamp: part of the compiled code's key; leave it.
    """
    for i in prange(rows):
        scratch, taps = np.empty(SCRATCH, np.float32), np.empty(TAPS * LANES, np.float32)
        done = 0
        while done < columns:
            column = min(done, columns - LANES)
            source, step = i * columns + column, point_size(rows, columns)
            kernel_points_back(sums, source, step, taps, 0, LANES, scratch)
            to = (i * columns + column) * TAPS
            for lane in range(LANES):
                for tap in range(TAPS):
                    out[to + lane * TAPS + tap] = taps[tap * LANES + lane]
            done += LANES
