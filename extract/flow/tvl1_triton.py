# mypy: ignore-errors
# A language of its own: Triton compiles these functions, nothing in them has a type to check.
# ruff: noqa: RUF005
# Its tuples are added up; it does not know the star.
"""TV-L1's kernels for a GPU, in Triton: the arithmetic of extract/flow's CPU kernels, bit for bit.

The operations, their order and their roundings are those of pyramid.py, warp.py, median.py and
sweep.py: fused multiply-adds where they have them (and nowhere else: launch with EXACT), exact
roots and divisions. Only the stopping rule's sum, float64 on both sides, is added up in another
order.

Pairs do not wait for each other. Each has a phase of its own, and a launch of a kernel does its
part for the pairs whose phase it is: `enter` a pyramid level, `warp` the second frame, `median`,
`iterate`. A pair's programs count themselves; the last one to arrive writes what comes next. Hence
a round, these kernels one after the other, is the same launches with the same arguments whatever
the pairs are at, and brings each of them at least one block of iterations further.

Memory, each array flat and contiguous, float32 unless said otherwise; B pairs, F frames:

- `state` (NUM_FIELDS, B) int32: see the fields below.
- `levels` (L, 6) int64, finest first: height, width, where in `flow` and in `images` it begins,
  and in `places` and `weights` the rows of its pixels on the next coarser level, then the columns.
- `images`: of each level (F, 3, H, W): a frame's image, d/dx and d/dy.
- `flow`: of each level two sides (2, B, 2, H, W); FLOW_SIDE names the one that holds the state.
- `dual` (2, B, most_pixels * 4): of each pair, at the beginning, (4, H, W) of the level it is on;
  DUAL_SIDE names the side that holds the state.
- `data` (B, most_pixels * 4): likewise (4, H, W), gradient x and y over its length, residual,
  limit (see sweep.py).
"""

import triton
import triton.language as tl

from extract.flow.median_network import MEDIAN_OF_SORTED_COLUMNS, MEDIAN_WIRE, SORT5

EXACT = {"enable_fp_fusion": False}  # the compiler must not fuse what the CPU does not

NUM_FIELDS = 9
PHASE, LEVEL, WARP, OUTER, LEFT, AGAIN, FLOW_SIDE, DUAL_SIDE, ARRIVED = range(NUM_FIELDS)
DONE, ENTER, WARPING, MEDIAN, ITERATING = range(5)

_PHASE = tl.constexpr(PHASE)
_LEVEL = tl.constexpr(LEVEL)
_WARP = tl.constexpr(WARP)  # the level's warp, from 0
_OUTER = tl.constexpr(OUTER)  # the warp's outer iteration, from 0
_LEFT = tl.constexpr(LEFT)  # inner iterations left in it
_AGAIN = tl.constexpr(AGAIN)  # > 0: the rule was met after so many of a block: that often again
_FLOW_SIDE = tl.constexpr(FLOW_SIDE)
_DUAL_SIDE = tl.constexpr(DUAL_SIDE)
_ARRIVED = tl.constexpr(ARRIVED)  # programs of the pair that are through
_DONE = tl.constexpr(DONE)
_ENTER = tl.constexpr(ENTER)
_WARPING = tl.constexpr(WARPING)
_MEDIAN_PHASE = tl.constexpr(MEDIAN)
_ITERATING = tl.constexpr(ITERATING)
_SORT5 = tl.constexpr(SORT5)
_SORT5_LENGTH = tl.constexpr(len(SORT5))
_MEDIAN = tl.constexpr(MEDIAN_OF_SORTED_COLUMNS)
_MEDIAN_LENGTH = tl.constexpr(len(MEDIAN_OF_SORTED_COLUMNS))
_MEDIAN_WIRE = tl.constexpr(MEDIAN_WIRE)
_NUM_COLUMNS = tl.constexpr(6)  # of `levels`


@triton.jit
def _size(levels, level):
    """Height and width of a level."""
    row = levels + level * _NUM_COLUMNS
    return tl.load(row).to(tl.int32), tl.load(row + 1).to(tl.int32)


@triton.jit
def _last_to_arrive(state, num_pairs, pair, num_programs):
    """Whether all other programs of the pair are through; then the count begins anew."""
    tl.debug_barrier()  # all of this program has read the state that the last one changes
    count = state + _ARRIVED * num_pairs + pair
    last = tl.atomic_add(count, 1, sem="acq_rel") == num_programs - 1
    if last:
        tl.store(count, 0)
    return last


@triton.jit
def _interpolated(image, upper, left, weight_y, weight_x, height, width, inside):
    """Pixels of a plane between four others, as pyramid.resize_linear."""
    lower = tl.minimum(upper + 1, height - 1)
    right = tl.minimum(left + 1, width - 1)
    a = tl.load(image + upper * width + left, mask=inside, other=0.0)
    b = tl.load(image + upper * width + right, mask=inside, other=0.0)
    c = tl.load(image + lower * width + left, mask=inside, other=0.0)
    d = tl.load(image + lower * width + right, mask=inside, other=0.0)
    top = tl.fma(b - a, weight_x, a)
    bottom = tl.fma(d - c, weight_x, c)
    return tl.fma(bottom - top, weight_y, top)


@triton.jit(do_not_specialize=["level"])
def shrink(images, levels, places, weights, level, BLOCK: tl.constexpr):
    """Fill the image of a level from the next finer level's.

    `places`, `weights`: for these sizes, rows then columns.
    """
    frame = tl.program_id(1).to(tl.int64)
    height, width = _size(levels, level)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < height * width
    y, x = at // width, at % width
    upper = tl.load(places + y, mask=inside, other=0)
    left = tl.load(places + height + x, mask=inside, other=0)
    weight_y = tl.load(weights + y, mask=inside, other=0.0)
    weight_x = tl.load(weights + height + x, mask=inside, other=0.0)
    finer_height, finer_width = _size(levels, level - 1)
    finer = images + tl.load(levels + (level - 1) * _NUM_COLUMNS + 3)
    finer += frame * 3 * finer_height * finer_width
    value = _interpolated(finer, upper, left, weight_y, weight_x, finer_height, finer_width, inside)
    target = images + tl.load(levels + level * _NUM_COLUMNS + 3) + frame * 3 * height * width
    tl.store(target + at, value, mask=inside)


@triton.jit(do_not_specialize=["level"])
def gradient(images, levels, level, BLOCK: tl.constexpr):
    """Fill a level's d/dx and d/dy, as pyramid.fill_level."""
    frame = tl.program_id(1).to(tl.int64)
    height, width = _size(levels, level)
    area = height * width
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < area
    y, x = at // width, at % width
    image = images + tl.load(levels + level * _NUM_COLUMNS + 3) + frame * 3 * area
    row, column = image + y * width, image + x
    left = tl.load(row + tl.maximum(x - 1, 0), mask=inside, other=0.0)
    right = tl.load(row + tl.minimum(x + 1, width - 1), mask=inside, other=0.0)
    above = tl.load(column + tl.maximum(y - 1, 0) * width, mask=inside, other=0.0)
    below = tl.load(column + tl.minimum(y + 1, height - 1) * width, mask=inside, other=0.0)
    tl.store(image + area + at, 0.5 * (right - left), mask=inside)
    tl.store(image + 2 * area + at, 0.5 * (below - above), mask=inside)


@triton.jit(do_not_specialize=["num_pairs", "num_levels", "most_pixels"])
def enter(
    state, levels, places, weights, flow, dual, num_pairs, num_levels, most_pixels, gain,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Begin a level: the flow of the coarser one, resized, times `gain`; dual variables of zero."""
    pair = tl.program_id(1).to(tl.int64)
    if tl.load(state + _PHASE * num_pairs + pair) != _ENTER:
        return
    level = tl.load(state + _LEVEL * num_pairs + pair)
    height, width = _size(levels, level)
    area = height * width
    row = levels + level * _NUM_COLUMNS
    target = flow + tl.load(row + 2) + pair * 2 * area
    start_dual = dual + pair * 4 * most_pixels
    places_y, weights_y = places + tl.load(row + 4), weights + tl.load(row + 4)
    places_x, weights_x = places + tl.load(row + 5), weights + tl.load(row + 5)
    coarsest = level == num_levels - 1
    coarser = tl.where(coarsest, level, level + 1)
    coarse_height, coarse_width = _size(levels, coarser)
    coarse_area = coarse_height * coarse_width
    side = tl.load(state + _FLOW_SIDE * num_pairs + pair).to(tl.int64)
    source = flow + tl.load(levels + coarser * _NUM_COLUMNS + 2)
    source += (side * num_pairs + pair) * 2 * coarse_area
    for start in range(tl.program_id(0) * BLOCK, area, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < area
        y, x = at // width, at % width
        for channel in tl.static_range(4):
            tl.store(start_dual + channel * area + at, at * 0.0, mask=inside)
        if coarsest:
            tl.store(target + at, at * 0.0, mask=inside)
            tl.store(target + area + at, at * 0.0, mask=inside)
        else:
            upper = tl.load(places_y + y, mask=inside, other=0)
            left = tl.load(places_x + x, mask=inside, other=0)
            weight_y = tl.load(weights_y + y, mask=inside, other=0.0)
            weight_x = tl.load(weights_x + x, mask=inside, other=0.0)
            for channel in tl.static_range(2):
                value = _interpolated(
                    source + channel * coarse_area,
                    *(upper, left, weight_y, weight_x, coarse_height, coarse_width, inside),
                )
                tl.store(target + channel * area + at, value * gain, mask=inside)
    if _last_to_arrive(state, num_pairs, pair, tl.num_programs(0)):
        tl.store(state + _FLOW_SIDE * num_pairs + pair, 0)
        tl.store(state + _DUAL_SIDE * num_pairs + pair, 0)
        tl.store(state + _WARP * num_pairs + pair, 0)
        tl.store(state + _PHASE * num_pairs + pair, _WARPING)


@triton.jit
def _cubic_weights(t):
    """The four cubic weights of the fractions `t`, as warp._weights."""
    rest = 1.0 - t
    first = -0.75 * (t * (rest * rest))
    last = -0.75 * (rest * (t * t))
    second = tl.fma(tl.fma(t * 0 + 1.25, t, t * 0 - 2.25), t * t, t * 0 + 1.0)
    return first, second, ((1.0 - first) - second) - last, last


@triton.jit
def _column_of_taps(plane, y, x, height, width, inside, w0, w1, w2, w3):
    """Four taps one below the other, summed down; zeros outside the image."""
    here = inside & (x >= 0) & (x < width)
    at = plane + y * width + x
    t0 = tl.load(at, mask=here & (y >= 0) & (y < height), other=0.0)
    t1 = tl.load(at + width, mask=here & (y >= -1) & (y < height - 1), other=0.0)
    t2 = tl.load(at + 2 * width, mask=here & (y >= -2) & (y < height - 2), other=0.0)
    t3 = tl.load(at + 3 * width, mask=here & (y >= -3) & (y < height - 3), other=0.0)
    return tl.fma(w3, t3, tl.fma(w2, t2, tl.fma(w1, t1, w0 * t0)))


@triton.jit
def _warped(plane, y, x, height, width, inside, down, across):
    """One plane's bicubic value; `y`, `x`: of the first tap."""
    c0 = _column_of_taps(plane, y, x, height, width, inside, down[0], down[1], down[2], down[3])
    c1 = _column_of_taps(plane, y, x + 1, height, width, inside, down[0], down[1], down[2], down[3])
    c2 = _column_of_taps(plane, y, x + 2, height, width, inside, down[0], down[1], down[2], down[3])
    c3 = _column_of_taps(plane, y, x + 3, height, width, inside, down[0], down[1], down[2], down[3])
    return (across[0] * c0 + across[2] * c2) + (across[1] * c1 + across[3] * c3)


@triton.jit(do_not_specialize=["num_pairs", "most_pixels", "outer_phase", "inner"])
def warp(
    state, levels, images, first_frame, flow, data,
    num_pairs, most_pixels, scale, outer_phase, inner, BLOCK: tl.constexpr,
):  # fmt: skip
    """Fill the data term: the second frame warped by the flow against the first, as warp.warp.

    `first_frame` (B,) int32: a pair's first frame; the second one follows it. `scale`: lambda *
    theta. `outer_phase`: what comes next; `inner`: how many iterations if it is these.
    """
    pair = tl.program_id(1).to(tl.int64)
    if tl.load(state + _PHASE * num_pairs + pair) != _WARPING:
        return
    level = tl.load(state + _LEVEL * num_pairs + pair)
    height, width = _size(levels, level)
    area = height * width
    frame = tl.load(first_frame + pair).to(tl.int64)
    first = images + tl.load(levels + level * _NUM_COLUMNS + 3) + frame * 3 * area
    second = first + 3 * area
    side = tl.load(state + _FLOW_SIDE * num_pairs + pair).to(tl.int64)
    current = (
        flow + tl.load(levels + level * _NUM_COLUMNS + 2) + (side * num_pairs + pair) * 2 * area
    )
    for start in range(tl.program_id(0) * BLOCK, area, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < area
        y, x = at // width, at % width
        u = tl.load(current + at, mask=inside, other=0.0)
        v = tl.load(current + area + at, mask=inside, other=0.0)
        position_x = tl.minimum(tl.maximum(x.to(tl.float32) + u, -3.0), (width + 1).to(tl.float32))
        position_y = tl.minimum(tl.maximum(y.to(tl.float32) + v, -3.0), (height + 1).to(tl.float32))
        whole_x, whole_y = tl.floor(position_x), tl.floor(position_y)
        across = _cubic_weights(position_x - whole_x)
        down = _cubic_weights(position_y - whole_y)
        left, top = whole_x.to(tl.int32) - 1, whole_y.to(tl.int32) - 1
        image = _warped(second, top, left, height, width, inside, down, across)
        ix = _warped(second + area, top, left, height, width, inside, down, across)
        iy = _warped(second + 2 * area, top, left, height, width, inside, down, across)
        rho = (image - ix * u) - iy * v
        rho = rho - tl.load(first + at, mask=inside, other=0.0)
        length = tl.sqrt_rn(tl.maximum(ix * ix + iy * iy, 1e-12))
        inverse = tl.div_rn(1.0 + length * 0, length)
        to = data + pair * 4 * most_pixels + at
        tl.store(to, ix * inverse, mask=inside)
        tl.store(to + area, iy * inverse, mask=inside)
        tl.store(to + 2 * area, rho * inverse, mask=inside)
        tl.store(to + 3 * area, scale * length, mask=inside)
    if _last_to_arrive(state, num_pairs, pair, tl.num_programs(0)):
        tl.store(state + _OUTER * num_pairs + pair, 0)
        tl.store(state + _LEFT * num_pairs + pair, inner)
        tl.store(state + _PHASE * num_pairs + pair, outer_phase)


@triton.jit
def _exchange(wires, LOW: tl.constexpr, HIGH: tl.constexpr):
    """Leave the smaller of two wires' values on LOW."""
    low, high = tl.minimum(wires[LOW], wires[HIGH]), tl.maximum(wires[LOW], wires[HIGH])
    if LOW < HIGH:
        return wires[:LOW] + (low,) + wires[LOW + 1 : HIGH] + (high,) + wires[HIGH + 1 :]
    else:
        return wires[:HIGH] + (high,) + wires[HIGH + 1 : LOW] + (low,) + wires[LOW + 1 :]


@triton.jit
def _run_network(wires, NETWORK: tl.constexpr, LENGTH: tl.constexpr):
    """Compare and exchange the wires as median_network says."""
    for k in tl.static_range(LENGTH):
        wires = _exchange(wires, NETWORK[k][0], NETWORK[k][1])
    return wires


@triton.jit
def _sorted_column(plane, y, x, height, width, inside):
    """Five pixels one below the other, sorted; the border is repeated."""
    column = plane + tl.minimum(tl.maximum(x, 0), width - 1)
    t0 = tl.load(column + tl.maximum(y - 2, 0) * width, mask=inside, other=0.0)
    t1 = tl.load(column + tl.maximum(y - 1, 0) * width, mask=inside, other=0.0)
    t2 = tl.load(column + y * width, mask=inside, other=0.0)
    t3 = tl.load(column + tl.minimum(y + 1, height - 1) * width, mask=inside, other=0.0)
    t4 = tl.load(column + tl.minimum(y + 2, height - 1) * width, mask=inside, other=0.0)
    return _run_network((t0, t1, t2, t3, t4), _SORT5, _SORT5_LENGTH)


@triton.jit(do_not_specialize=["num_pairs"])
def median(state, levels, flow, num_pairs, BLOCK: tl.constexpr):
    """Write the 5x5 median of the flow to its other side, the border repeated; see median.py."""
    pair = tl.program_id(1).to(tl.int64)
    if tl.load(state + _PHASE * num_pairs + pair) != _MEDIAN_PHASE:
        return
    level = tl.load(state + _LEVEL * num_pairs + pair)
    height, width = _size(levels, level)
    area = height * width
    side = tl.load(state + _FLOW_SIDE * num_pairs + pair)
    both = flow + tl.load(levels + level * _NUM_COLUMNS + 2)
    source = both + (side.to(tl.int64) * num_pairs + pair) * 2 * area
    target = both + ((1 - side).to(tl.int64) * num_pairs + pair) * 2 * area
    for start in range(tl.program_id(0) * BLOCK, 2 * area, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < 2 * area
        plane = source + tl.where(at < area, 0, area)
        y, x = (at % area) // width, (at % area) % width
        c0 = _sorted_column(plane, y, x - 2, height, width, inside)
        c1 = _sorted_column(plane, y, x - 1, height, width, inside)
        c2 = _sorted_column(plane, y, x, height, width, inside)
        c3 = _sorted_column(plane, y, x + 1, height, width, inside)
        c4 = _sorted_column(plane, y, x + 2, height, width, inside)
        wires = (c0[0], c1[0], c2[0], c3[0], c4[0]) + (c0[1], c1[1], c2[1], c3[1], c4[1])
        wires = wires + (c0[2], c1[2], c2[2], c3[2], c4[2]) + (c0[3], c1[3], c2[3], c3[3], c4[3])
        wires = wires + (c0[4], c1[4], c2[4], c3[4], c4[4])
        result = _run_network(wires, _MEDIAN, _MEDIAN_LENGTH)[_MEDIAN_WIRE]
        tl.store(target + at, result, mask=inside)
    if _last_to_arrive(state, num_pairs, pair, tl.num_programs(0)):
        tl.store(state + _FLOW_SIDE * num_pairs + pair, 1 - side)
        tl.store(state + _PHASE * num_pairs + pair, _ITERATING)


@triton.jit
def _four(planes, area, at, inside):
    """The numbers of four planes, one behind the other."""
    return (
        tl.load(planes + at, mask=inside, other=0.0),
        tl.load(planes + area + at, mask=inside, other=0.0),
        tl.load(planes + 2 * area + at, mask=inside, other=0.0),
        tl.load(planes + 3 * area + at, mask=inside, other=0.0),
    )


@triton.jit
def _chosen(condition, row, other):
    """One of two rows of six."""
    return (
        tl.where(condition, row[0], other[0]),
        tl.where(condition, row[1], other[1]),
        tl.where(condition, row[2], other[2]),
        tl.where(condition, row[3], other[3]),
        tl.where(condition, row[4], other[4]),
        tl.where(condition, row[5], other[5]),
    )


@triton.jit
def _minus(x):
    """-x: `-x` itself would be a subtraction from 0, this becomes a sign that costs nothing."""
    return x * -1.0


# Both are exact and, unlike tl.sqrt_rn and tl.div_rn, have no branch for numbers that do not occur
# here: with it the compiler could not let one stage's chain of instructions overlap another's.


@triton.jit
def _root(x):
    """The root of 0 <= x < 1e30, rounded correctly; of x < 1e-30 that of 1e-30, lost beside 1."""
    x = tl.maximum(x, 1e-30)
    inverse = tl.rsqrt(x)
    root = x * inverse
    return tl.fma(tl.fma(_minus(root), root, x), 0.5 * inverse, root)


@triton.jit
def _reciprocal(x, ones):
    """1 / x for x >= 1, rounded correctly: as extract.kernels.simd.reciprocal."""
    inverse = tl.rsqrt(x)
    inverse = inverse * inverse
    for _ in tl.static_range(2):
        inverse = tl.fma(inverse, tl.fma(_minus(inverse), x, ones), inverse)
    missing = (x.to(tl.int32, bitcast=True) & 0x7FFFFF) == 0x7FFFFF
    return (inverse.to(tl.int32, bitcast=True) | missing.to(tl.int32)).to(tl.float32, bitcast=True)


@triton.jit
def _six(flow, dual, area, at, inside):
    """U, V and the four dual variables."""
    u = tl.load(flow + at, mask=inside, other=0.0)
    v = tl.load(flow + area + at, mask=inside, other=0.0)
    return (u, v) + _four(dual, area, at, inside)


@triton.jit(
    do_not_specialize=[
        "num_pairs",
        "most_pixels",
        "rows",
        "warps",
        "num_outer",
        "num_inner",
        "outer_phase",
    ]
)
def iterate(
    state, levels, flow, dual, data, changes, thresholds, iterations,
    num_pairs, most_pixels, rows, tau, taut, warps, num_outer, num_inner, outer_phase,
    NUM_STAGES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Do up to NUM_STAGES inner iterations, as sweep.dual_then_flow, and apply the stopping rule.

    A program, one warp of COLUMNS = 32 threads, owns a tile of a pair, `rows` rows of a strip of
    the image, and goes down its rows once. Stage s, two rows behind stage s - 1, does iteration s
    there: the flow of row y, then the dual variables of row y - 1, which that was waiting for; the
    stages of a step do not wait for each other. All neighbours are in registers, of this thread or
    of the one beside it. What a tile lacks of other tiles it computes itself: as many rows and
    columns around it as it does iterations.

    A pair that meets the rule before the block's end stays where it was and does the block again,
    up to there. `outer_phase`: what begins an outer iteration. `changes` (B, NUM_STAGES) float64,
    zeros; `thresholds` (L,) float64; `iterations` (L, warps, B) int32, counted up.
    """
    pair = tl.program_id(1).to(tl.int64)
    if tl.load(state + _PHASE * num_pairs + pair) != _ITERATING:
        return
    level = tl.load(state + _LEVEL * num_pairs + pair)
    height, width = _size(levels, level)
    span = COLUMNS - 2 * NUM_STAGES
    strips = (width + span - 1) // span
    again = tl.load(state + _AGAIN * num_pairs + pair)
    left = tl.load(state + _LEFT * num_pairs + pair)
    count = tl.where(again > 0, again, tl.minimum(left, NUM_STAGES))
    area = height * width
    from_flow = tl.load(state + _FLOW_SIDE * num_pairs + pair)
    from_dual = tl.load(state + _DUAL_SIDE * num_pairs + pair)
    both = flow + tl.load(levels + level * _NUM_COLUMNS + 2)
    u_in = both + (from_flow.to(tl.int64) * num_pairs + pair) * 2 * area
    u_out = both + ((1 - from_flow).to(tl.int64) * num_pairs + pair) * 2 * area
    p_in = dual + (from_dual.to(tl.int64) * num_pairs + pair) * 4 * most_pixels
    p_out = dual + ((1 - from_dual).to(tl.int64) * num_pairs + pair) * 4 * most_pixels
    constants = data + pair * 4 * most_pixels
    band, strip = tl.program_id(0) // strips, tl.program_id(0) % strips
    first, last = tl.minimum(band * rows, height), tl.minimum(band * rows + rows, height)
    top = tl.maximum(first - count, 0)
    end = tl.where(
        first < last, last + 2 * count - 1, top
    )  # a smaller level has no work for the last
    lane = tl.arange(0, COLUMNS)
    x = strip * span - NUM_STAGES + lane
    inside = (x >= 0) & (x < width)
    mine = inside & (x >= strip * span) & (x < strip * span + span)
    to_left, to_right = tl.maximum(lane - 1, 0), tl.minimum(lane + 1, COLUMNS - 1)
    has_right = x + 1 < width
    # Beside the image the dual variables stay zero: that is what its first column has to the left.
    tau_here, ones = tl.where(inside, tau, 0.0), tl.full((COLUMNS,), 1.0, tl.float32)

    zero = tl.full((COLUMNS,), 0.0, tl.float32)
    nothing = tl.full((COLUMNS,), 0.0, tl.float64)
    sums = (nothing,) * NUM_STAGES
    # Of each stage, what it made in the last step: the row that the next one takes now, and the
    # flow and old dual variables of the row below, which waits for its own next one.
    made = ((zero, zero, zero, zero, zero, zero),) * NUM_STAGES
    above = ((zero, zero, zero, zero, zero, zero),) * NUM_STAGES
    given = _six(u_in, p_in, area, top * width + x, inside)
    terms = (_four(constants, area, top * width + x, inside),) * (2 * NUM_STAGES - 1)
    for time in range(top, end):
        # read a step ahead: what comes from memory takes as long as a step
        at = tl.minimum(time + 1, height - 1) * width + x
        next_given = _six(u_in, p_in, area, at, inside)
        next_term = _four(constants, area, at, inside)
        for s in tl.static_range(NUM_STAGES - 1, -1, -1):
            y = time - 2 * s
            if s == 0:
                u, v, p11, p12, p21, p22 = given
            else:
                u, v, p11, p12, p21, p22 = made[s - 1]
            u_above, v_above, p11_above, p12_above, p21_above, p22_above = above[s]
            gx, gy, rho, limit = terms[2 * s]
            div_u = (p11 - tl.gather(p11, to_left, 0)) + (p12 - p12_above)
            div_v = (p21 - tl.gather(p21, to_left, 0)) + (p22 - p22_above)
            step = tl.fma(gy, v, tl.fma(gx, u, rho))
            step = _minus(tl.minimum(tl.maximum(step, _minus(limit)), limit))
            change_u = tl.fma(step, gx, div_u)
            change_v = tl.fma(step, gy, div_v)
            change = tl.fma(change_u, change_u, change_v * change_v)
            change = tl.where((y >= first) & (y < last), change, 0.0)
            sums = sums[:s] + (sums[s] + change.to(tl.float64),) + sums[s + 1 :]
            u, v = u + change_u, v + change_v
            ux = tl.where(has_right, tl.gather(u_above, to_right, 0) - u_above, 0.0)
            vx = tl.where(has_right, tl.gather(v_above, to_right, 0) - v_above, 0.0)
            # No row follows the image's last one. Row top - 1 was not read, and above the first
            # one the dual variables stay zero: that is what it has above.
            between = (y > top) & (y < height)
            uy = tl.where(between, u - u_above, 0.0)
            vy = tl.where(between, v - v_above, 0.0)
            length_u = tl.fma(taut * ones, _root(tl.fma(ux, ux, uy * uy)), ones)
            length_v = tl.fma(taut * ones, _root(tl.fma(vx, vx, vy * vy)), ones)
            inverse = _reciprocal(length_u * length_v, ones)
            inverse_u, inverse_v = inverse * length_v, inverse * length_u
            new11 = tl.fma(tau_here, ux, p11_above) * inverse_u
            new12 = tl.fma(tau_here, uy, p12_above) * inverse_u
            new21 = tl.fma(tau_here, vx, p21_above) * inverse_v
            new22 = tl.fma(tau_here, vy, p22_above) * inverse_v
            row = (u_above, v_above, new11, new12, new21, new22)
            made = made[:s] + (row,) + made[s + 1 :]
            above = above[:s] + ((u, v, p11, p12, p21, p22),) + above[s + 1 :]
        y = time - 2 * (count - 1)
        if (y > first) & (y <= last):
            row = made[0]
            for s in tl.static_range(1, NUM_STAGES):
                row = _chosen(count - 1 == s, made[s], row)
            at = (y - 1) * width + x
            tl.store(u_out + at, row[0], mask=mine)
            tl.store(u_out + area + at, row[1], mask=mine)
            for n in tl.static_range(4):
                tl.store(p_out + n * area + at, row[2 + n], mask=mine)
        given = next_given
        terms = (next_term,) + terms[: 2 * NUM_STAGES - 2]
    for s in tl.static_range(NUM_STAGES):
        tl.atomic_add(changes + pair * NUM_STAGES + s, tl.sum(tl.where(mine, sums[s], 0.0), 0))
    if _last_to_arrive(state, num_pairs, pair, tl.num_programs(0)):
        threshold = tl.load(thresholds + level)
        met = count * 0
        for s in tl.static_range(NUM_STAGES):
            change = tl.atomic_add(changes + pair * NUM_STAGES + s, 0.0)
            met = tl.where((met == 0) & (s < count) & (change <= threshold), s + 1, met)
            tl.store(changes + pair * NUM_STAGES + s, 0.0)
        if (again == 0) & (met > 0) & (met < count):
            tl.store(state + _AGAIN * num_pairs + pair, met)
        else:
            tl.store(state + _AGAIN * num_pairs + pair, 0)
            tl.store(state + _FLOW_SIDE * num_pairs + pair, 1 - from_flow)
            tl.store(state + _DUAL_SIDE * num_pairs + pair, 1 - from_dual)
            number = tl.load(state + _WARP * num_pairs + pair)
            done = iterations + (level * warps + number) * num_pairs + pair
            tl.store(done, tl.load(done) + count)
            outer = tl.load(state + _OUTER * num_pairs + pair)
            if (met == 0) & (again == 0) & (left > count):
                tl.store(state + _LEFT * num_pairs + pair, left - count)
            elif (met == 0) & (again == 0) & (outer + 1 < num_outer):
                tl.store(state + _LEFT * num_pairs + pair, num_inner)
                tl.store(state + _OUTER * num_pairs + pair, outer + 1)
                tl.store(state + _PHASE * num_pairs + pair, outer_phase)
            elif number + 1 < warps:
                tl.store(state + _WARP * num_pairs + pair, number + 1)
                tl.store(state + _PHASE * num_pairs + pair, _WARPING)
            else:
                tl.store(state + _LEVEL * num_pairs + pair, tl.maximum(level - 1, 0))
                tl.store(state + _PHASE * num_pairs + pair, tl.where(level > 0, _ENTER, _DONE))
