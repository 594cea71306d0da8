# mypy: disable-error-code="no-untyped-def"
"""TV-L1 optical flow of one frame pair as one compiled function that does not hold the GIL.

The algorithm is that of OpenCV's `DualTVL1OpticalFlow` (opencv_contrib,
modules/optflow/src/tvl1flow.cpp), after Zach, Pock and Bischof 2007 and Sanchez Perez,
Meinhardt-Llopis and Facciolo, IPOL 2013: same parameters, same stopping rule, same borders.
"""

import numpy as np
import numpy.typing as npt
from numba import njit

from extract.flow import median, median_network, pyramid, sweep
from extract.flow import warp as warping
from extract.flow.median import median5, scratch_stride
from extract.flow.pyramid import fill_level, level_size, resize_linear
from extract.flow.sweep import (
    CHANNELS,
    U,
    V,
    dual_only,
    dual_then_flow,
    flow_only,
    repeat_last_column,
    row_stride,
)
from extract.flow.warp import warp
from extract.kernels import simd
from extract.kernels.compiling import compiled, stamp

_ONE = np.float32(1)
STAMP = stamp(simd, median_network, pyramid, median, sweep, warping)


def frame_size(shapes: npt.NDArray[np.int64]) -> int:
    """Floats of a frame's buffer with levels of these (height, width), see pyramid."""
    return sum(int(level_size(height, width)) for height, width in shapes)


def state_size(height: int, width: int) -> int:
    """Floats of the state of a level (see sweep) and of what vectors read past its end."""
    return int((height + 1) * CHANNELS * row_stride(width) + 64)


def scratch_size(width: int) -> int:
    """Floats of scratch memory: two rows of constants, then the warp's or the median's rows."""
    warp_rows = warping.SCRATCH_ROWS * row_stride(width)
    median_rows = median.SCRATCH_ROWS * scratch_stride(width)
    return int(2 * row_stride(width) + max(warp_rows, median_rows))


@njit
def _start_level(state, field, height, width):
    """Zero the state and put the flow `field` (2, height, width) in."""
    stride = row_stride(width)
    for i in range((height + 1) * CHANNELS * stride):
        state[i] = 0
    for y in range(height):
        row = (y + 1) * CHANNELS * stride
        for x in range(width):
            state[row + x] = field[U, y, x]
            state[row + stride + x] = field[V, y, x]
        repeat_last_column(state, row, stride, width)


@njit
def _flow_of(state, height, width):
    """The state's flow in pixels, (2, height, width)."""
    stride = row_stride(width)
    field = np.empty((2, height, width), np.float32)
    for y in range(height):
        row = (y + 1) * CHANNELS * stride
        for x in range(width):
            field[U, y, x] = state[row + x]
            field[V, y, x] = state[row + stride + x]
    return field


@njit
def _fill_constants(constants, width):
    """A row of column numbers and one of ones up to `width`, zeros after."""
    stride = row_stride(width)
    for x in range(stride):
        constants[x] = x
        constants[stride + x] = 1 if x < width else 0


@njit
def _solve_level(
    state, frame0, frame1, height, width, constants, scratch, numbers, counts, iterations
):
    """Run one level's warps; add the number of inner iterations of each to `iterations`."""
    tau, lam, theta, epsilon, _ = numbers
    num_warps, num_inner, num_outer, median_size = counts
    steps = np.float32(tau), np.float32(tau / theta)
    inside = constants[row_stride(width) :]
    threshold = epsilon * epsilon * height * width
    for number in range(num_warps):
        warp(state, frame0, frame1, height, width, np.float32(lam * theta), constants, scratch)
        error = np.inf
        for outer in range(num_outer):
            if median_size == 5:
                for channel in (U, V):
                    median5(state, height, width, channel, scratch)
            error = flow_only(state, height, width, inside)
            inner = 1
            while error > threshold and inner < num_inner:
                error = dual_then_flow(state, height, width, inside, *steps)
                inner += 1
            iterations[number] += inner
            finished = error <= threshold or outer == num_outer - 1
            if finished and number == num_warps - 1:
                break  # nobody reads the dual variables any more
            dual_only(state, height, width, *steps)
            if finished:
                break


@compiled(nogil=True, error_model="numpy")
def solve_pair(
    frame0, frame1, shapes, state, scratch, numbers, counts, flow, iterations, stamp=STAMP
):
    """Fill `flow` (H, W, 2) float32, frame 0 to frame 1.

    Args:
        frame0: The first frame's buffer, from fill_frame.
        frame1: The second frame's buffer.
        shapes: (num_levels, 2) int64, heights and widths, finest first.
        state: state_size(H, W) float32.
        scratch: scratch_size(W) float32; zeros, or as an earlier pair left it.
        numbers: tau, lambda, theta, epsilon, scale step.
        counts: Warps, inner iterations, outer iterations, median size.
        flow: The result.
        iterations: (num_levels, num_warps) int64, zeros: the inner iterations done are added.
        stamp: Part of the compiled code's key; leave it.
    """
    scale_step = numbers[4]
    stop = 0
    for s in range(shapes.shape[0]):
        stop += level_size(shapes[s, 0], shapes[s, 1])
    last = shapes.shape[0] - 1
    field = np.zeros((2, shapes[last, 0], shapes[last, 1]), np.float32)
    for s in range(last, -1, -1):
        height, width = shapes[s, 0], shapes[s, 1]
        start = stop - level_size(height, width)
        if s < last:
            coarse = field
            field = np.empty((2, height, width), np.float32)
            step_y, step_x = coarse.shape[1] / height, coarse.shape[2] / width
            for c in range(2):
                resize_linear(coarse[c], field[c], step_y, step_x, np.float32(1 / scale_step))
        constants, rest = scratch[: 2 * row_stride(width)], scratch[2 * row_stride(width) :]
        _start_level(state, field, height, width)
        _fill_constants(constants, width)
        _solve_level(
            *(state, frame0[start:stop], frame1[start:stop], height, width),
            *(constants, rest, numbers, counts, iterations[s]),
        )
        field = _flow_of(state, height, width)
        stop = start
    for y in range(flow.shape[0]):
        for x in range(flow.shape[1]):
            flow[y, x, 0] = field[0, y, x]
            flow[y, x, 1] = field[1, y, x]


@compiled(nogil=True)
def fill_frame(gray, frame, shapes, scale_step, stamp=STAMP):
    """Fill one frame's buffer (zeros at first) from its `gray` (H, W) uint8 image."""
    image = np.empty(gray.shape, np.float32)
    for y in range(gray.shape[0]):
        for x in range(gray.shape[1]):
            image[y, x] = gray[y, x]
    start = 0
    for s in range(shapes.shape[0]):
        height, width = shapes[s, 0], shapes[s, 1]
        if s > 0:
            larger = image
            image = np.empty((height, width), np.float32)
            resize_linear(larger, image, 1 / scale_step, 1 / scale_step, _ONE)
        fill_level(image, frame[start : start + level_size(height, width)])
        start += level_size(height, width)


@compiled(nogil=True)
def to_gray(rgb, gray, stamp=STAMP):
    """Luma of (N, 3) uint8 in OpenCV's 15-bit fixed point (imgproc/src/color_rgb.simd.hpp)."""
    for i in range(gray.shape[0]):
        red, green, blue = np.uint32(rgb[i, 0]), np.uint32(rgb[i, 1]), np.uint32(rgb[i, 2])
        gray[i] = (red * 9798 + green * 19235 + blue * 3735 + 16384) >> 15
