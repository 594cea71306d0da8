"""The parts of TV-L1: vectors against numpy; median, warp and resizing against OpenCV."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numba import njit

from extract.flow.median import SCRATCH_ROWS, median5, scratch_stride
from extract.flow.median_network import MEDIAN_OF_SORTED_COLUMNS, MEDIAN_WIRE
from extract.flow.pair import fill_frame
from extract.flow.pyramid import BORDER, image_start, level_size, level_stride, resize_linear
from extract.flow.sweep import (
    CHANNELS,
    GX,
    GY,
    LIMIT,
    RHO,
    dual_only,
    dual_then_flow,
    flow_only,
    repeat_last_column,
    row_stride,
)
from extract.flow.warp import SCRATCH_ROWS as WARP_ROWS
from extract.flow.warp import warp
from extract.kernels import simd
from extract.kernels.simd import LANES, aligned_zeros

cv2 = pytest.importorskip("cv2", reason="opencv-contrib is the reference of these tests")

SIZES = [(16, 16), (17, 33), (31, 15), (48, 64), (5, 3), (50, 130)]


def new_state(height: int, width: int):
    """A zero state and its view (height + 1 blocks, channel, column); block 0 is above row 0."""
    stride = row_stride(width)
    flat = aligned_zeros((height + 1) * CHANNELS * stride + 64)
    return flat, flat[: (height + 1) * CHANNELS * stride].reshape(height + 1, CHANNELS, stride)


def constants(width: int):
    rows = aligned_zeros(2 * row_stride(width)).reshape(2, -1)
    rows[0] = np.arange(rows.shape[1])
    rows[1, :width] = 1
    return rows


def test_vectors_compute_lane_by_lane():
    @njit
    def run(a, b, c, out):
        x, y, z = simd.load(a, 0), simd.load(b, 0), simd.load(c, 0)
        simd.store(out, 0, x + y)
        simd.store(out, LANES, x - y)
        simd.store(out, 2 * LANES, x * y)
        simd.store(out, 3 * LANES, x / y)
        simd.store(out, 4 * LANES, simd.fma(x, y, z))
        simd.store(out, 5 * LANES, simd.minimum(x, y))
        simd.store(out, 6 * LANES, simd.maximum(x, y))
        simd.store(out, 7 * LANES, simd.sqrt(y))
        simd.store(out, 8 * LANES, simd.floor(x))
        simd.store(out, 9 * LANES, simd.shift_in(x, y))
        simd.store(out, 10 * LANES, simd.splat(a[1]))
        simd.store(out, 11 * LANES, simd.load_every4(a, 1))
        simd.store(out, 12 * LANES, simd.clamp(x, y))
        simd.store(out, 13 * LANES, simd.subtract_product(x, y, z))
        simd.store(out, 14 * LANES, simd.reciprocal(y))
        return simd.total(simd.add_to(simd.add_to(simd.no_sum(), x), y))

    rng = np.random.default_rng(0)
    a = rng.normal(0, 3, 4 * LANES + 4).astype(np.float32)
    b = rng.uniform(0.1, 3, LANES).astype(np.float32)
    c = rng.normal(0, 3, LANES).astype(np.float32)
    out = np.zeros(15 * LANES, np.float32)
    total = run(a, b, c, out)
    x = a[:LANES]
    exact = (x.astype(np.float64) * b + c).astype(np.float32)
    expected = [x + b, x - b, x * b, x / b, exact, np.minimum(x, b), np.maximum(x, b), np.sqrt(b)]
    expected += [np.floor(x), np.r_[x[-1], b[:-1]], np.full(LANES, a[1]), a[1:][: 4 * LANES : 4]]
    expected += [np.clip(x, -b, b), (c - x.astype(np.float64) * b).astype(np.float32)]
    expected += [1 / b]
    np.testing.assert_array_equal(out.reshape(15, LANES), expected)
    assert total == pytest.approx(x.sum(dtype=np.float64) + b.sum(dtype=np.float64), abs=1e-14)


def test_reciprocals_are_rounded_correctly():
    """GPU and CPU give one flow: also where Newton's step does not (all bits of a mantissa one)."""

    @njit
    def run(a, out):
        for i in range(0, a.shape[0], LANES):
            simd.store(out, i, simd.reciprocal(simd.load(a, i)))

    whole = np.arange(1 << 23, dtype=np.uint32)
    rng = np.random.default_rng(0)
    mantissas = np.concatenate([whole[-64:], whole[:64], rng.integers(0, 1 << 23, 1 << 18)])
    for exponent in (127, 128, 134, 150):
        a = (np.uint32(exponent << 23) | mantissas.astype(np.uint32)).view(np.float32)
        out = np.empty_like(a)
        run(a, out)
        np.testing.assert_array_equal(out, 1 / a)


def test_quads_are_interleaved_spread_and_summed():
    @njit
    def run(a, out):
        v, w = simd.load(a, 0), simd.load(a, LANES)
        x, y = simd.load(a, 2 * LANES), simd.load(a, 3 * LANES)
        simd.store_every4(out, 0, v, w, x, y)
        simd.store(out, 4 * LANES, simd.repeat_each(simd.load4(a, 1)))
        scaled = simd.splat16(a[2]) * simd.load16(a, 3)
        simd.store(out, 4 * LANES + 16, simd.sum_of_quads(scaled))

    a = np.arange(1, 4 * LANES + 17, dtype=np.float32)
    out = np.zeros(4 * LANES + 20, np.float32)
    run(a, out)
    np.testing.assert_array_equal(out[: 4 * LANES], a[: 4 * LANES].reshape(4, LANES).T.reshape(-1))
    np.testing.assert_array_equal(out[4 * LANES :][:16], np.repeat(a[1:5], 4))
    np.testing.assert_array_equal(out[-4:], 3 * a[3:19].reshape(4, 4).sum(axis=0))


def test_places_are_exact_beyond_what_a_float_can_count():
    @njit
    def run(y, x, row, scratch):
        simd.store(scratch, 0, simd.places(simd.load(y, 0), simd.load(x, 0), row))
        return [simd.load_place(scratch, i) for i in range(LANES)]

    rng = np.random.default_rng(7)
    y, x = rng.integers(-3, 4000, (2, LANES)).astype(np.float32)
    got = run(y, x, 16_003, aligned_zeros(LANES))
    np.testing.assert_array_equal(got, y.astype(np.int64) * 16_003 + 4 * x.astype(np.int64))


def test_median_network_is_right_for_every_input_of_zeros_and_ones():
    ones = np.array(list(product(range(6), repeat=5)))  # how many ones each sorted column has
    wires = [ones[:, column] >= 5 - rank for rank in range(5) for column in range(5)]
    for i, j in MEDIAN_OF_SORTED_COLUMNS:
        wires[i], wires[j] = wires[i] & wires[j], wires[i] | wires[j]
    np.testing.assert_array_equal(wires[MEDIAN_WIRE], ones.sum(axis=1) >= 13)


@pytest.mark.parametrize("size", SIZES)
def test_median_equals_opencvs_bit_for_bit(size):
    height, width = size
    state, view = new_state(height, width)
    scratch = aligned_zeros(SCRATCH_ROWS * scratch_stride(width))
    rng = np.random.default_rng(2)
    for channel in (0, 1, 0):  # the third time with the scratch dirty
        image = rng.normal(0, 5, size).astype(np.float32)
        image[rng.random(size) < 0.3] = 0  # ties
        view[1:, channel, :width] = image
        median5(state, height, width, channel, scratch)
        np.testing.assert_array_equal(view[1:, channel, :width], cv2.medianBlur(image, 5))
        np.testing.assert_array_equal(view[1:, channel, width], view[1:, channel, width - 1])


@settings(max_examples=30)
@given(
    image=hnp.arrays(np.float32, (6, 7), elements=st.floats(-(2.0**20), 2.0**20, width=32)),
)
def test_median_of_any_values_equals_opencvs(image):
    state, view = new_state(6, 7)
    view[1:, 0, :7] = image
    median5(state, 6, 7, 0, aligned_zeros(SCRATCH_ROWS * scratch_stride(7)))
    np.testing.assert_array_equal(view[1:, 0, :7], cv2.medianBlur(image, 5))


@pytest.mark.parametrize("size", [(16, 16), (224, 224), (224, 180), (57, 143)])
def test_resizing_equals_opencvs_to_the_last_bit_or_two(size):
    rng = np.random.default_rng(3)
    image = rng.uniform(0, 255, size).astype(np.float32)
    small = cv2.resize(image, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_LINEAR)
    ours = np.empty_like(small)
    resize_linear(image, ours, 1 / 0.8, 1 / 0.8, np.float32(1))
    np.testing.assert_allclose(ours, small, rtol=0, atol=2**-15)  # 2 units in the last place
    back = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    ours = np.empty_like(image)
    steps = small.shape[0] / size[0], small.shape[1] / size[1]
    resize_linear(small, ours, *steps, np.float32(1))
    np.testing.assert_allclose(ours, back, rtol=0, atol=2**-15)


def test_frame_holds_image_and_centred_gradient_inside_zeros():
    gray = np.random.default_rng(4).integers(0, 256, (20, 18), np.uint8)
    frame = aligned_zeros(level_size(20, 18))
    fill_frame(gray, frame, np.array([[20, 18]]), 0.8)
    level, image = np.split(frame[:-64], [image_start(20, 18)])
    np.testing.assert_array_equal(image, gray.reshape(-1))
    level = level.reshape(20 + 2 * BORDER, 18 + 2 * BORDER, 4)
    inner = level[BORDER:-BORDER, BORDER:-BORDER]
    padded = np.pad(gray.astype(np.float32), 1, mode="edge")
    np.testing.assert_array_equal(inner[..., 0], gray)
    np.testing.assert_array_equal(inner[..., 1], (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2)
    np.testing.assert_array_equal(inner[..., 2], (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2)
    inner[...] = 0
    assert not level.any()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", [0.0, 0.7, 40.0, 1e7])
def test_warp_equals_opencvs_remap(size, spread):
    """Inside, across the border and far outside."""
    height, width = size
    rng = np.random.default_rng(5)
    gray0, gray1 = rng.integers(0, 256, (2, *size), np.uint8)
    shapes = np.array([size])
    frames = [aligned_zeros(level_size(*size)) for _ in range(2)]
    fill_frame(gray0, frames[0], shapes, 0.8)
    fill_frame(gray1, frames[1], shapes, 0.8)
    state, view = new_state(*size)
    flow = rng.normal(0, spread, (2, *size)).astype(np.float32)
    view[1:, 0, :width], view[1:, 1, :width] = flow
    rows = constants(width)
    scratch = aligned_zeros(WARP_ROWS * row_stride(width))
    warp(state, *frames, height, width, np.float32(0.045), rows.reshape(-1), scratch)

    level = frames[1][: image_start(*size)].reshape(
        height + 2 * BORDER, level_stride(width) // 4, 4
    )
    planes = level[BORDER:-BORDER, BORDER:-BORDER]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    image, ix, iy = (
        cv2.remap(np.ascontiguousarray(planes[..., c]), x + flow[0], y + flow[1], cv2.INTER_CUBIC)
        for c in range(3)
    )
    length = np.sqrt(np.maximum(ix**2 + iy**2, 1e-12))
    rho = image - ix * flow[0] - iy * flow[1] - gray0
    expected = {GX: ix / length, GY: iy / length, RHO: rho / length, LIMIT: 0.045 * length}
    slack = {GX: 1 / length, GY: 1 / length, RHO: np.abs(rho).max() / length, LIMIT: 255}
    for channel, values in expected.items():
        ours = view[1:, channel, :width]
        error = np.abs(ours - values)
        assert (error <= 1e-5 * np.abs(values) + 1e-6 * 255 * slack[channel]).all()
        assert not view[1:, channel, width:].any()


def reference_iteration(u, dual, gx, gy, rho_c, lam, tau, theta):
    """One iteration in float64, from the paper's formulas; `u` (2, H, W), `dual` (4, H, W)."""

    def before(p, axis):
        return np.diff(p, axis=axis, prepend=0)

    def after(f, axis):
        last = np.take(f, [-1], axis=axis)
        return np.diff(f, axis=axis, append=last)

    rho, square = rho_c + gx * u[0] + gy * u[1], gx**2 + gy**2
    small = np.abs(rho) <= lam * theta * square
    step = np.where(small, -rho / square, -lam * theta * np.sign(rho))
    div = [before(dual[2 * c], 1) + before(dual[2 * c + 1], 0) for c in range(2)]
    new = np.stack([u[0] + step * gx + theta * div[0], u[1] + step * gy + theta * div[1]])
    new_dual = np.empty_like(dual)
    for c in range(2):
        fx, fy = after(new[c], 1), after(new[c], 0)
        length = 1 + tau / theta * np.hypot(fx, fy)
        for i, f in ((2 * c, fx), (2 * c + 1, fy)):
            new_dual[i] = (dual[i] + tau / theta * f) / length
    return new, new_dual, ((new - u) ** 2).sum()


@pytest.mark.parametrize("size", SIZES)
def test_sweeps_follow_the_formulas(size):
    height, width = size
    rng = np.random.default_rng(6)
    state, view = new_state(*size)
    lam, tau, theta = 0.15, 0.25, 0.3
    u = rng.normal(0, 0.4, (2, *size))
    dual = np.zeros((4, *size))
    gx, gy, rho = rng.normal(0, 0.4, (3, *size))
    length = np.hypot(gx, gy)
    terms = [*u, *dual, gx / length, gy / length, rho / length, lam * theta * length]
    view[1:, :, :width] = np.moveaxis(np.array(terms), 0, 1)
    for y in range(height):
        repeat_last_column(state, (y + 1) * CHANNELS * row_stride(width), row_stride(width), width)
    inside, steps = constants(width)[1], (np.float32(tau), np.float32(tau / theta))

    changes = [flow_only(state, height, width, inside)]
    changes += [dual_then_flow(state, height, width, inside, *steps) for _ in range(6)]
    dual_only(state, height, width, *steps)

    expected = []
    for _ in range(7):
        u, dual, change = reference_iteration(u, dual, gx, gy, rho, lam, tau, theta)
        expected.append(change)
    ours = np.moveaxis(view[1:, :, :width], 1, 0)
    np.testing.assert_allclose(ours[:2], u, atol=2e-5)
    np.testing.assert_allclose(ours[2:6], theta * dual, atol=2e-5)
    np.testing.assert_allclose(changes, expected, rtol=1e-4)
    assert not view[0].any(), "the zero block above the first row was written"
