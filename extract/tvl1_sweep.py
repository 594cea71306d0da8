# mypy: disable-error-code="no-untyped-def"
"""TV-L1's inner iteration on one pyramid level, and the memory it works in.

State: one float32 block a row, ten channels of `stride` columns each, so that an iteration reads
and writes one stretch of memory. Row y is block y + 1; block 0 stays zero (the dual variables above
the first row). The flow is kept times taut = tau / theta: then a dual step needs no product with
taut, and theta times a divergence becomes tau times it.

Channels: U, V; dual variables P11, P12 (of U), P21, P22 (of V); the data term's constants GX, GY
(warped gradient / taut), RHO (residual at zero flow) and NEG_INV (-taut^2 / |gradient|^2). Column
`width` of U and V repeats the last one, which makes the forward difference there zero.

An iteration is "U, V from the dual variables" and then "dual variables from U, V". The dual step of
one iteration and the flow step of the next go through the rows in one pass (`dual_then_flow`):
each needs of the other only the row below and the row above.
"""

import numpy as np
from numba import njit

from extract.simd import LANES, fma, load, maximum, minimum, shift_in, splat, sqrt, store, total

CHANNELS = 10
U, V, P11, P12, P21, P22, GX, GY, RHO, NEG_INV = range(CHANNELS)

_ZERO, _ONE = np.float32(0), np.float32(1)


@njit
def num_vectors(width):
    """Vectors a row; at least two, which the software pipeline needs."""
    return max(2, (width + LANES - 1) // LANES)


@njit
def row_stride(width):
    """Floats a channel takes in a row: whole vectors, and room for column `width`."""
    vectors = num_vectors(width) * LANES
    return vectors if vectors > width else vectors + LANES


@njit
def repeat_last_column(state, row, stride, width):
    """Let column `width` of both flow components equal the last one."""
    state[row + width] = state[row + width - 1]
    state[row + stride + width] = state[row + stride + width - 1]


@njit(error_model="numpy")
def _gradient(state, at, below, stride):
    """Forward differences of U and V, and 1 + their length: what the dual step needs."""
    one = splat(_ONE)
    u = load(state, at)
    v = load(state, at + stride)
    ux = load(state, at + 1) - u
    uy = load(state, below) - u
    vx = load(state, at + stride + 1) - v
    vy = load(state, below + stride) - v
    length_u = one + sqrt(fma(ux, ux, uy * uy))
    length_v = one + sqrt(fma(vx, vx, vy * vy))
    return ux, uy, vx, vy, length_u, length_v


@njit(error_model="numpy")
def _dual_step(state, at, stride, ux, uy, vx, vy, length_u, length_v):
    """P = (P + gradient) / (1 + |gradient|) for both components, with one division for two."""
    inverse = splat(_ONE) / (length_u * length_v)
    inverse_u = inverse * length_v
    inverse_v = inverse * length_u
    p11 = (load(state, at + P11 * stride) + ux) * inverse_u
    p12 = (load(state, at + P12 * stride) + uy) * inverse_u
    p21 = (load(state, at + P21 * stride) + vx) * inverse_v
    p22 = (load(state, at + P22 * stride) + vy) * inverse_v
    store(state, at + P11 * stride, p11)
    store(state, at + P12 * stride, p12)
    store(state, at + P21 * stride, p21)
    store(state, at + P22 * stride, p22)
    return p11, p12, p21, p22


@njit(error_model="numpy")
def _flow_step(state, at, above, stride, tau, limit, left11, left21, p11, p12, p21, p22, change):
    """Thresholding and flow step of one vector; return `change` plus the squared changes.

    OpenCV's three cases are one clamp: -rho / |gradient|^2, cut at +-lambda * theta.
    `left11`, `left21`: P11 and P21 of the vector to the left.
    """
    div_u = (p11 - shift_in(left11, p11)) + (p12 - load(state, above + P12 * stride))
    div_v = (p21 - shift_in(left21, p21)) + (p22 - load(state, above + P22 * stride))
    u = load(state, at)
    v = load(state, at + stride)
    gx = load(state, at + GX * stride)
    gy = load(state, at + GY * stride)
    rho = fma(gy, v, fma(gx, u, load(state, at + RHO * stride)))
    step = rho * load(state, at + NEG_INV * stride)
    step = minimum(maximum(step, splat(-limit)), splat(limit))
    new_u = fma(tau, div_u, fma(step, gx, u))
    new_v = fma(tau, div_v, fma(step, gy, v))
    store(state, at, new_u)
    store(state, at + stride, new_v)
    change_u = new_u - u
    change_v = new_v - v
    return fma(change_u, change_u, fma(change_v, change_v, change))


@njit(error_model="numpy")
def _dual_then_flow_row(state, row, below, above, stride, vectors, taus, limit):
    """Dual step and next flow step of one row; return the sum of squared changes of the flow.

    Software pipeline: the gradient of vector k + 2, the dual step of k + 1 and the flow step of k
    stand side by side, for their chains of dependent instructions are long.
    """
    left11 = splat(_ZERO)
    left21 = splat(_ZERO)
    change = splat(_ZERO)
    ux, uy, vx, vy, length_u, length_v = _gradient(state, row, below, stride)
    p11, p12, p21, p22 = _dual_step(state, row, stride, ux, uy, vx, vy, length_u, length_v)
    ux, uy, vx, vy, length_u, length_v = _gradient(state, row + LANES, below + LANES, stride)
    at = row
    for k in range(vectors - 2):
        tau = load(taus, k * LANES)
        change = _flow_step(
            state,
            at,
            at - row + above,
            stride,
            tau,
            limit,
            left11,
            left21,
            p11,
            p12,
            p21,
            p22,
            change,
        )
        left11 = p11
        left21 = p21
        at += LANES
        p11, p12, p21, p22 = _dual_step(state, at, stride, ux, uy, vx, vy, length_u, length_v)
        ux, uy, vx, vy, length_u, length_v = _gradient(
            state, at + LANES, at - row + below + LANES, stride
        )
    tau = load(taus, at - row)
    change = _flow_step(
        state, at, at - row + above, stride, tau, limit, left11, left21, p11, p12, p21, p22, change
    )
    left11 = p11
    left21 = p21
    at += LANES
    p11, p12, p21, p22 = _dual_step(state, at, stride, ux, uy, vx, vy, length_u, length_v)
    tau = load(taus, at - row)
    change = _flow_step(
        state, at, at - row + above, stride, tau, limit, left11, left21, p11, p12, p21, p22, change
    )
    return total(change)


@njit(error_model="numpy")
def _flow_row(state, row, above, stride, vectors, taus, limit):
    """Flow step of one row from the dual variables as they are."""
    left11 = splat(_ZERO)
    left21 = splat(_ZERO)
    change = splat(_ZERO)
    for k in range(vectors):
        at = row + k * LANES
        p11 = load(state, at + P11 * stride)
        p12 = load(state, at + P12 * stride)
        p21 = load(state, at + P21 * stride)
        p22 = load(state, at + P22 * stride)
        tau = load(taus, k * LANES)
        change = _flow_step(
            state,
            at,
            at - row + above,
            stride,
            tau,
            limit,
            left11,
            left21,
            p11,
            p12,
            p21,
            p22,
            change,
        )
        left11 = p11
        left21 = p21
    return total(change)


@njit(error_model="numpy")
def flow_only(state, height, width, taus, limit):
    """First half of an iteration on the whole level; return the sum of squared changes."""
    stride = row_stride(width)
    block = CHANNELS * stride
    vectors = num_vectors(width)
    changed = 0.0
    for y in range(height):
        row = (y + 1) * block
        changed += _flow_row(state, row, row - block, stride, vectors, taus, limit)
        repeat_last_column(state, row, stride, width)
    return changed


@njit(error_model="numpy")
def dual_only(state, height, width):
    """Second half of an iteration on the whole level."""
    stride = row_stride(width)
    block = CHANNELS * stride
    for y in range(height):
        row = (y + 1) * block
        below = row + block if y < height - 1 else row
        for k in range(num_vectors(width)):
            x = k * LANES
            ux, uy, vx, vy, length_u, length_v = _gradient(state, row + x, below + x, stride)
            _dual_step(state, row + x, stride, ux, uy, vx, vy, length_u, length_v)


@njit(error_model="numpy")
def dual_then_flow(state, height, width, taus, limit):
    """Second half of an iteration and first half of the next, in one pass over the rows.

    Returns the sum of squared changes of the flow, in the state's units.
    """
    stride = row_stride(width)
    block = CHANNELS * stride
    vectors = num_vectors(width)
    changed = 0.0
    for y in range(height):
        row = (y + 1) * block
        below = row + block if y < height - 1 else row
        changed += _dual_then_flow_row(state, row, below, row - block, stride, vectors, taus, limit)
        repeat_last_column(state, row, stride, width)
    return changed
