# mypy: disable-error-code="no-untyped-def"
"""TV-L1's data term: bicubic warp of the second frame by the flow, and what the sweeps need of it.

The arithmetic is cv2.remap's (INTER_CUBIC of OpenCV 5, float coordinates, zeros outside): the same
weights, but summed down the rows first, four taps of three channels a vector. OpenCV 4 rounds the
coordinates to 1/32 pixel.
"""

import numpy as np
from numba import njit

from extract.flow.pyramid import BORDER, image_start, level_stride
from extract.flow.sweep import CHANNELS, GX, GY, LIMIT, RHO, V, num_vectors, row_stride
from extract.kernels.simd import (
    LANES,
    floor,
    fma,
    load,
    load1,
    load4,
    load16,
    load_every4,
    load_place,
    maximum,
    minimum,
    places,
    repeat_each,
    splat,
    splat16,
    sqrt,
    store,
    store_every4,
    sum_of_quads,
)

SCRATCH_ROWS = 13  # places; weights down; weights across and results, interleaved
DOWN, ACROSS, VALUES = 1, 5, 9
_ZERO, _ONE = np.float32(0), np.float32(1)
_A = np.float32(-0.75)  # the cubic's parameter
_A2, _A3 = np.float32(1.25), np.float32(-2.25)  # a + 2, -(a + 3)
_NO_GRADIENT = np.float32(
    1e-12
)  # |gradient|^2; keeps 1 / |gradient| finite; the gradient there is 0 anyway


@njit(error_model="numpy")
def _weights(t):
    """The four cubic weights of the fractions `t`."""
    one = splat(_ONE)
    a = splat(_A)
    rest = one - t
    first = a * (t * (rest * rest))
    last = a * (rest * (t * t))
    second = fma(fma(splat(_A2), t, splat(_A3)), t * t, one)
    return first, second, ((one - first) - second) - last, last


@njit(error_model="numpy")
def _position(flow, first, size):
    """The whole part of first + flow, at most 3 outside 0..size - 1, and the weights."""
    # Beyond the clamp all four taps are zeros, so neither the place nor the weights matter.
    low, high = splat(np.float32(-3)), splat(np.float32(size + 1))
    position = minimum(maximum(first + flow, low), high)
    whole = floor(position)
    return whole, _weights(position - whole)


@njit(error_model="numpy")
def _interpolate_row(level, width, scratch, stride):
    """Bicubic values of one row, interleaved, at scratch[VALUES * stride:].

    A row of four taps, each image and both gradients, is one vector.
    """
    level_row = level_stride(width)
    corner = (BORDER - 1) * (level_row + 4)
    down, across, values = DOWN * stride, ACROSS * stride, VALUES * stride
    for x in range(width):
        at = load_place(scratch, x) + corner
        rows = splat16(load1(scratch, down + x)) * load16(level, at)
        for j in range(1, 4):
            weight = splat16(load1(scratch, down + j * stride + x))
            rows = fma(weight, load16(level, at + j * level_row), rows)
        weights = repeat_each(load4(scratch, across + 4 * x))
        store(scratch, values + 4 * x, sum_of_quads(weights * rows))


@njit(error_model="numpy")
def warp(state, frame0, frame1, height, width, limit, columns, scratch):
    """Fill the state's data term: frame 1 warped by the state's flow, against frame 0.

    Args:
        state: The level's state (see sweep).
        frame0: The level of the first frame (see pyramid).
        frame1: The level of the second frame.
        height: Of the level, pixels.
        width: Of the level, pixels.
        limit: lambda * theta, what a step may move the flow by, over the gradient's length.
        columns: The numbers 0, 1, 2, ... as float32, then (from row_stride) 1 up to `width`
            and 0 after.
        scratch: SCRATCH_ROWS * row_stride(width) floats, zeros at first.
    """
    stride = row_stride(width)
    level_row = level_stride(width)
    nothing = splat(_NO_GRADIENT)
    scale = splat(limit)
    for y in range(height):
        row = (y + 1) * CHANNELS * stride
        for x in range(0, num_vectors(width) * LANES, LANES):
            u = load(state, row + x)
            v = load(state, row + V * stride + x)
            left, weights = _position(u, load(columns, x), width)
            store_every4(scratch, ACROSS * stride + 4 * x, *weights)
            top, weights = _position(v, splat(np.float32(y)), height)
            for j in range(4):
                store(scratch, (DOWN + j) * stride + x, weights[j])
            store(scratch, x, places(top, left, level_row))
        _interpolate_row(frame1, width, scratch, stride)
        image = image_start(height, width) + y * width
        for x in range(0, num_vectors(width) * LANES, LANES):
            at = row + x
            inside = load(columns, stride + x)
            u = load(state, at)
            v = load(state, at + V * stride)
            ix = load_every4(scratch, VALUES * stride + 4 * x + 1) * inside
            iy = load_every4(scratch, VALUES * stride + 4 * x + 2) * inside
            rho = load_every4(scratch, VALUES * stride + 4 * x) - ix * u - iy * v
            rho = (rho - load(frame0, image + x)) * inside
            length = sqrt(maximum(ix * ix + iy * iy, nothing))
            inverse = splat(_ONE) / length
            store(state, at + GX * stride, ix * inverse)
            store(state, at + GY * stride, iy * inverse)
            store(state, at + RHO * stride, rho * inverse)
            store(state, at + LIMIT * stride, scale * length * inside)
