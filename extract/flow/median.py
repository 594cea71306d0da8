# mypy: ignore-errors
# A code generator: llvmlite and numba's intrinsics have no types to check.
"""5x5 median of the flow with minimum and maximum instructions only, LANES pixels at a time."""

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic, register_jitable

from extract.flow.median_network import MEDIAN_OF_SORTED_COLUMNS, MEDIAN_WIRE, SORT5
from extract.flow.sweep import CHANNELS, num_vectors, row_stride
from extract.kernels.simd import (
    LANES,
    WIDE,
    larger,
    load,
    read_vector,
    smaller,
    store,
    write_vector,
)

MARGIN = 16  # floats left of a scratch row, so that two columns fit there and it stays aligned
SCRATCH_ROWS = 10  # a ring of five source rows, then five rows of sorted columns


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
        _run_network(builder, wires, SORT5)
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
        _run_network(builder, wires, MEDIAN_OF_SORTED_COLUMNS)
        return wires[MEDIAN_WIRE]

    return WIDE(scratch, types.intp, types.intp), codegen


@register_jitable
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
