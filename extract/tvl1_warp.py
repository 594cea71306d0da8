# mypy: disable-error-code="no-untyped-def"
"""TV-L1's data term: bicubic warp of the second frame by the flow, and what the sweeps need of it.

The arithmetic is cv2.remap's (INTER_CUBIC of OpenCV 5, float coordinates, zeros outside), operation
by operation: the same weights, the same order of fused products, hence the same bits. OpenCV 4
rounds the coordinates to 1/32 pixel instead.
"""

import numpy as np
from numba import njit

from extract.simd import (
    LANES,
    floor,
    fma,
    load,
    load1,
    load4,
    load_every4,
    maximum,
    minimum,
    splat,
    splat4,
    store,
)
from extract.tvl1_frames import BORDER, image_start, level_stride
from extract.tvl1_sweep import CHANNELS, GX, GY, NEG_INV, RHO, V, num_vectors, row_stride

SCRATCH_ROWS = 14  # ten rows of coordinates and weights, four of interleaved results
_ZERO, _ONE = np.float32(0), np.float32(1)
_A = np.float32(-0.75)  # the cubic's parameter
_A2, _A3 = np.float32(1.25), np.float32(-2.25)  # a + 2, -(a + 3)
_NO_GRADIENT = np.float32(1e-12)  # keeps 1 / |gradient|^2 finite; the gradient there is 0 anyway


@njit(error_model="numpy")
def _weights(t, scratch, at, stride):
    """Store the four cubic weights of the fractions `t`, rows `stride` apart."""
    one = splat(_ONE)
    a = splat(_A)
    rest = one - t
    first = a * (t * (rest * rest))
    last = a * (rest * (t * t))
    second = fma(fma(splat(_A2), t, splat(_A3)), t * t, one)
    store(scratch, at, first)
    store(scratch, at + stride, second)
    store(scratch, at + 2 * stride, ((one - first) - second) - last)
    store(scratch, at + 3 * stride, last)


@njit(error_model="numpy")
def _coordinates(flow, first, size, scratch, place, weights, stride):
    """Store the whole part of first + flow (at most 3 outside 0..size - 1) and the weights."""
    # Beyond the clamp all four taps are zeros, so neither the place nor the weights matter.
    low, high = splat(np.float32(-3)), splat(np.float32(size + 1))
    position = minimum(maximum(first + flow, low), high)
    whole = floor(position)
    store(scratch, place, whole)
    _weights(position - whole, scratch, weights, stride)


@njit(error_model="numpy")
def _cubic_row(level, at, w0, w1, w2, w3):
    """Interpolate along four taps for image and both gradients at once."""
    value = w0 * load4(level, at)
    value = fma(w1, load4(level, at + 4), value)
    value = fma(w2, load4(level, at + 8), value)
    return fma(w3, load4(level, at + 12), value)


@njit(error_model="numpy")
def _interpolate_row(level, width, scratch, stride, target):
    """Bicubic values of one row, interleaved, at scratch[target:], from the scratch's rows."""
    level_row = level_stride(width)
    for x in range(width):
        at = (int(load1(scratch, stride + x)) + BORDER - 1) * level_row
        at += (int(load1(scratch, x)) + BORDER - 1) * 4
        w0 = splat4(load1(scratch, 2 * stride + x))
        w1 = splat4(load1(scratch, 3 * stride + x))
        w2 = splat4(load1(scratch, 4 * stride + x))
        w3 = splat4(load1(scratch, 5 * stride + x))
        value = splat4(load1(scratch, 6 * stride + x)) * _cubic_row(level, at, w0, w1, w2, w3)
        for j in range(1, 4):
            row = _cubic_row(level, at + j * level_row, w0, w1, w2, w3)
            value = fma(splat4(load1(scratch, (6 + j) * stride + x)), row, value)
        store(scratch, target + 4 * x, value)


@njit(error_model="numpy")
def warp(state, frame0, frame1, height, width, taut, columns, scratch):
    """Fill the state's data term: frame 1 warped by the state's flow, against frame 0.

    Args:
        state: The level's state (see tvl1_sweep).
        frame0: The level of the first frame (see tvl1_frames).
        frame1: The level of the second frame.
        height: Of the level, pixels.
        width: Of the level, pixels.
        taut: tau / theta, the unit of the state's flow.
        columns: The numbers 0, 1, 2, ... as float32, then (from row_stride) 1 up to `width`
            and 0 after.
        scratch: SCRATCH_ROWS * row_stride(width) floats, zeros at first.
    """
    stride = row_stride(width)
    values = 10 * stride
    to_pixels = splat(_ONE / taut)
    scale = splat(-taut * taut)
    nothing = splat(_NO_GRADIENT)
    for y in range(height):
        row = (y + 1) * CHANNELS * stride
        for x in range(0, num_vectors(width) * LANES, LANES):
            u = load(state, row + x) * to_pixels
            v = load(state, row + V * stride + x) * to_pixels
            _coordinates(u, load(columns, x), width, scratch, x, 2 * stride + x, stride)
            line = splat(np.float32(y))
            _coordinates(v, line, height, scratch, stride + x, 6 * stride + x, stride)
        _interpolate_row(frame1, width, scratch, stride, values)
        image = image_start(height, width) + y * width
        for x in range(0, num_vectors(width) * LANES, LANES):
            at = row + x
            inside = load(columns, stride + x)
            u = load(state, at) * to_pixels
            v = load(state, at + V * stride) * to_pixels
            ix = load_every4(scratch, values + 4 * x + 1) * inside
            iy = load_every4(scratch, values + 4 * x + 2) * inside
            rho = load_every4(scratch, values + 4 * x) - ix * u - iy * v
            rho = (rho - load(frame0, image + x)) * inside
            square = maximum(ix * ix + iy * iy, nothing)
            store(state, at + GX * stride, ix * to_pixels)
            store(state, at + GY * stride, iy * to_pixels)
            store(state, at + RHO * stride, rho)
            store(state, at + NEG_INV * stride, scale / square)
