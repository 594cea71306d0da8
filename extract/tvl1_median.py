# mypy: ignore-errors
# A code generator: llvmlite and numba's intrinsics have no types to check.
"""5x5 median of the flow with minimum and maximum instructions only, LANES pixels at a time.

The five pixels of each column are sorted once and shared by the five windows they are part of.
From five sorted columns the median follows by `_MEDIAN_NETWORK`. It was found by a random search:
start with a network that sorts each rank's row and then selects, leave out every comparison
without which all 7,776 possible inputs of zeros and ones still come out right (the 0-1 principle:
then all inputs do; tests/test_extract_tvl1_median.py repeats that proof).
"""

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from extract.simd import LANES, WIDE, larger, load, read_vector, smaller, store, write_vector
from extract.tvl1_sweep import CHANNELS, num_vectors, row_stride

MARGIN = 16  # floats left of a scratch row, so that two columns fit there and it stays aligned
SCRATCH_ROWS = 10  # a ring of five source rows, then five rows of sorted columns

# Wire 5 * rank + column holds that rank of that column; (i, j) leaves the smaller on i.
_SORT5 = ((0, 3), (1, 4), (0, 2), (1, 3), (0, 1), (2, 4), (1, 2), (3, 4), (2, 3))
_MEDIAN_NETWORK = (
    *((0, 4), (1, 3), (0, 2), (2, 4), (2, 3), (1, 4), (3, 4), (5, 6), (8, 9), (7, 9), (7, 8)),
    *((6, 9), (5, 8), (6, 8), (6, 7), (10, 13), (11, 14), (10, 12), (11, 13), (10, 11), (12, 14)),
    *((11, 12), (13, 14), (12, 13), (15, 19), (16, 18), (15, 17), (17, 19), (15, 16), (17, 18)),
    *((16, 19), (16, 17), (20, 24), (21, 23), (20, 22), (20, 21), (22, 23), (21, 24), (21, 22)),
    *((15, 11), (3, 7), (20, 16), (4, 8), (21, 9), (11, 7), (20, 4), (16, 8), (12, 21), (7, 16)),
    *((21, 17), (16, 4), (13, 21), (16, 13), (7, 16), (4, 12), (16, 4)),
)
_MEDIAN_WIRE = 4


def _run_network(builder, wires, network):
    for i, j in network:
        wires[i], wires[j] = (
            smaller(builder, wires[i], wires[j]),
            larger(builder, wires[i], wires[j]),
        )


def _at(builder, index, offset):
    return builder.add(index, ir.Constant(index.type, offset))


@intrinsic
def _sort_columns(typingctx, scratch, source, target, stride):
    """Sort five rows lane by lane: rows `stride` apart at `source` to rows at `target`."""

    def codegen(context, builder, sig, args):
        array, index, out, step = args
        wires = []
        for _ in range(5):
            wires.append(read_vector(context, builder, sig.args[0], array, index, WIDE))
            index = builder.add(index, step)
        _run_network(builder, wires, _SORT5)
        for wire in wires:
            write_vector(context, builder, sig.args[0], array, out, WIDE, wire)
            out = builder.add(out, step)
        return context.get_dummy_value()

    return types.void(scratch, types.intp, types.intp, types.intp), codegen


@intrinsic
def _median_of_columns(typingctx, scratch, index, stride):
    """The medians of the windows centred at `index`, from sorted columns `stride` apart by rank."""

    def codegen(context, builder, sig, args):
        array, place, step = args
        wires = []
        for _ in range(5):
            for column in range(-2, 3):
                at = _at(builder, place, column)
                wires.append(read_vector(context, builder, sig.args[0], array, at, WIDE))
            place = builder.add(place, step)
        _run_network(builder, wires, _MEDIAN_NETWORK)
        return wires[_MEDIAN_WIRE]

    return WIDE(scratch, types.intp, types.intp), codegen


@njit
def scratch_stride(width):
    """Floats between the scratch's rows."""
    return MARGIN + num_vectors(width) * LANES + MARGIN


@njit
def median5(state, height, width, channel, scratch):
    """Replace one channel of the state by its 5x5 median, the border repeated, as cv2.medianBlur.

    `scratch` has SCRATCH_ROWS * scratch_stride(width) floats. Its first five rows are a ring of
    source rows, so that row y of the state can be overwritten while others still need it.
    """
    stride = row_stride(width)
    vectors = num_vectors(width)
    step = scratch_stride(width)
    ranks = 5 * step + MARGIN
    for below in range(-2, height + 2):
        source = (min(max(below, 0), height - 1) + 1) * CHANNELS * stride + channel * stride
        slot = (below + 5) % 5 * step + MARGIN
        for x in range(0, vectors * LANES, LANES):
            store(scratch, slot + x, load(state, source + x))
        y = below - 2
        if y < 0:
            continue
        for x in range(0, vectors * LANES, LANES):
            _sort_columns(scratch, MARGIN + x, ranks + x, step)
        for rank in range(5):
            row = ranks + rank * step
            scratch[row - 2] = scratch[row - 1] = scratch[row]
            scratch[row + width] = scratch[row + width + 1] = scratch[row + width - 1]
        target = (y + 1) * CHANNELS * stride + channel * stride
        for x in range(0, vectors * LANES, LANES):
            store(state, target + x, _median_of_columns(scratch, ranks + x, step))
        state[target + width] = state[target + width - 1]
