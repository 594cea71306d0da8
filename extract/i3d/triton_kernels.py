# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The kernels of I3D on a GPU, in Triton: convolution, max pool, and the first map's cells.

A map is a tensor (parts, B, T, H, W, C). In half precision it has one part. For float32 it has two
of float16, `high` and `low`, and the value is high + low / 2048, to 22 bits: tensor cores multiply
float16 exactly and add up in float32, twice as fast as they multiply TF32 and many times as fast as
the float32 units. Of the four products of two such numbers the smallest, low by low, is left out.

Sizes are plain arguments, so that one compiled kernel serves all batches and frame sizes. Channels
are counted in `groups` of 8, by which the compiler knows that 16 bytes can be moved at a time.
"""

import triton
import triton.language as tl

LOW_SCALE = tl.constexpr(2048.0)  # 2 ** 11: brings what float16 leaves of a number into its range

_SIZES = ["num_rows", "times", "height", "width", "in_times", "in_height", "in_width"]
_SIZES += ["in_groups", "out_groups", "x_groups", "depth_groups", "weight_groups"]
_SIZES += ["out_stride_groups"]
_SIZES += ["pad_t", "pad_y", "pad_x", "stride_t", "stride_y", "stride_x"]


@triton.jit
def _places(rows, times, height, width):
    """Return (clip, time, y, x) of the cells `rows` of a map."""
    above = rows // width
    clip_time = above // height
    return clip_time // times, clip_time % times, above % height, rows % width


@triton.jit
def _store_map(high, low, at, value, mask, PARTS: tl.constexpr):
    """Store float32 values in the parts of a map."""
    rounded = value.to(high.dtype.element_ty)
    tl.store(high + at, rounded, mask=mask)
    if PARTS == 2:
        rest = (value - rounded.to(tl.float32)) * LOW_SCALE
        tl.store(low + at, rest.to(low.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_SIZES)
def convolve(
    x_high, x_low, weight_high, weight_low, scale, bias, out_high, out_low,
    num_rows, times, height, width, in_height, in_width,
    x_groups, depth_groups, weight_groups, out_groups, out_stride_groups,
    KT: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr, PAD: tl.constexpr, PARTS: tl.constexpr,
    X_PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """relu(convolution * scale + bias) of a map, without stride, as products of matrices.

    A program makes BLOCK_M cells by BLOCK_N channels. Its sums run over the KT * KY * KX taps and
    over `depth_groups` groups from each tap's cell on, BLOCK_K channels at a time. Cells of `x` are
    `x_groups` apart, rows of the weights `weight_groups`, cells of `out` `out_stride_groups`.
    `x` has X_PARTS parts, weights and `out` PARTS.
    """
    column_blocks = (out_groups * 8 + BLOCK_N - 1) // BLOCK_N
    rows = tl.program_id(0) // column_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(0) % column_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    cells = rows
    # of each axis the taps that lie in the map, as bits
    in_t = (rows < num_rows).to(tl.int32)
    in_y, in_x = in_t, in_t
    if KT * KY * KX > 1:
        clip, t, y, x = _places(rows, times, height, width)
        cells = ((clip * times + t - PAD) * in_height + y - PAD) * in_width + x - PAD
        in_t, in_y, in_x = rows * 0, rows * 0, rows * 0
        for k in tl.static_range(KT):
            in_t |= ((t + k >= PAD) & (t + k < times + PAD) & (rows < num_rows)).to(tl.int32) << k
        for k in tl.static_range(KY):
            in_y |= ((y + k >= PAD) & (y + k < in_height + PAD)).to(tl.int32) << k
        for k in tl.static_range(KX):
            in_x |= ((x + k >= PAD) & (x + k < in_width + PAD)).to(tl.int32) << k

    x_at = cells.to(tl.int64)[:, None] * (x_groups * 8) + depth[None, :]
    weight_at = depth[:, None] * (weight_groups * 8) + columns[None, :]
    total = tl.full((BLOCK_M, BLOCK_N), 0.0, tl.float32)
    blocks = depth_groups * 8 // BLOCK_K
    for step in range(KT * KY * KX * blocks):
        tap = step // blocks
        kt, ky, kx = tap // (KY * KX), tap // KX % KY, tap % KX
        inside = (((in_t >> kt) & (in_y >> ky) & (in_x >> kx) & 1) != 0)[:, None]
        tap_at = ((kt * in_height + ky) * in_width + kx) * (x_groups * 8)
        at = x_at + (tap_at + (step - tap * blocks) * BLOCK_K)
        w_at = weight_at + step * BLOCK_K * (weight_groups * 8)
        x_part = tl.load(x_high + at, mask=inside, other=0.0)
        w_part = tl.load(weight_high + w_at)
        if PARTS == 1:
            total = tl.dot(x_part, w_part, total)
        else:
            small = tl.dot(x_part, tl.load(weight_low + w_at))
            if X_PARTS == 2:
                small = tl.dot(tl.load(x_low + at, mask=inside, other=0.0), w_part, small)
            # Tensor cores cut off what they add: they get a short sum, and `total` is rounded
            total += tl.dot(x_part, w_part, small * (1 / LOW_SCALE))
    in_columns = columns < out_groups * 8
    factor = tl.load(scale + columns, mask=in_columns, other=0.0)
    value = total * factor[None, :] + tl.load(bias + columns, mask=in_columns, other=0.0)[None, :]
    value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    out_at = rows.to(tl.int64)[:, None] * (out_stride_groups * 8) + columns[None, :]
    mask = (rows < num_rows)[:, None] & in_columns[None, :]
    _store_map(out_high, out_low, out_at, value, mask, PARTS)


@triton.jit(do_not_specialize=_SIZES)
def max_pool(
    x_high, x_low, out_high, out_low,
    num_rows, times, height, width, in_times, in_height, in_width, in_groups, pad_t, pad_y, pad_x,
    stride_t, stride_y, stride_x,
    KT: tl.constexpr, KY: tl.constexpr, KX: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Max pool of a nonnegative map with whole cells; padding is 0, which never wins."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    channels = in_groups * 8
    in_columns = (columns < channels)[None, :]
    clip, t, y, x = _places(rows, times, height, width)
    t, y, x = t * stride_t - pad_t, y * stride_y - pad_y, x * stride_x - pad_x
    largest = tl.full((BLOCK_M, BLOCK_N), 0.0, tl.float32)
    for kt in tl.static_range(KT):
        in_t = (rows < num_rows) & (t + kt >= 0) & (t + kt < in_times)
        for ky in tl.static_range(KY):
            in_y = in_t & (y + ky >= 0) & (y + ky < in_height)
            for kx in tl.static_range(KX):
                inside = in_y & (x + kx >= 0) & (x + kx < in_width)
                cell = ((clip * in_times + t + kt) * in_height + y + ky) * in_width + x + kx
                at = cell.to(tl.int64)[:, None] * channels + columns[None, :]
                mask = inside[:, None] & in_columns
                value = tl.load(x_high + at, mask=mask, other=0.0).to(tl.float32)
                if PARTS == 2:
                    low = tl.load(x_low + at, mask=mask, other=0.0).to(tl.float32)
                    value += low * (1 / LOW_SCALE)
                largest = tl.maximum(largest, value, propagate_nan=tl.PropagateNan.ALL)
    at = rows.to(tl.int64)[:, None] * channels + columns[None, :]
    _store_map(out_high, out_low, at, largest, (rows < num_rows)[:, None] & in_columns, PARTS)


@triton.jit(do_not_specialize=[*_SIZES, "stride_b", "stride_c", "factor", "shift"])
def gather_cells(
    clips, out_high, out_low,
    num_rows, times, height, width, in_times, in_height, in_width, pad_t, pad_y, pad_x,
    stride_b, stride_c, stride_t, stride_y, stride_x, factor, shift,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, CELL: tl.constexpr, PARTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Make the pixels of TAPS frames by 2 rows by 2 columns the CELL channels of a cell.

    They are sorted by frame, row, column and CHANNELS; cells are 2 frames, rows and columns apart.
    """
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.arange(0, BLOCK_N)
    clip, t, y, x = _places(rows, times, height, width)
    pixel, channel = columns // CHANNELS, columns % CHANNELS
    frame = (2 * t - pad_t)[:, None] + (pixel // 4)[None, :]
    row = (2 * y - pad_y)[:, None] + (pixel // 2 % 2)[None, :]
    column = (2 * x - pad_x)[:, None] + (pixel % 2)[None, :]
    inside = (rows < num_rows)[:, None] & (pixel < 4 * TAPS)[None, :]
    inside &= (frame >= 0) & (frame < in_times) & (row >= 0) & (row < in_height)
    inside &= (column >= 0) & (column < in_width)
    # 64 bits: a long clip of large frames has more pixels than 32 bits count
    first = clip.to(tl.int64) * stride_b + (2 * t - pad_t).to(tl.int64) * stride_t
    first += (2 * y - pad_y).to(tl.int64) * stride_y + (2 * x - pad_x).to(tl.int64) * stride_x
    beyond = channel.to(tl.int64) * stride_c + (pixel // 4).to(tl.int64) * stride_t
    beyond += (pixel // 2 % 2).to(tl.int64) * stride_y + (pixel % 2).to(tl.int64) * stride_x
    at = first[:, None] + beyond[None, :]
    value = tl.load(clips + at, mask=inside, other=0).to(tl.float32) * factor + shift
    at = rows.to(tl.int64)[:, None] * CELL + columns[None, :]
    mask = (rows < num_rows)[:, None] & (columns < CELL)[None, :]
    _store_map(out_high, out_low, at, tl.where(inside, value, 0.0), mask, PARTS)
