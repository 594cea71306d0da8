# mypy: disable-error-code="no-untyped-def"
"""TV-L1's inner iteration on one pyramid level, and the memory it works in.

State: one float32 block a row, ten channels of `stride` columns each, so that an iteration reads
and writes one stretch of memory. Row y is block y + 1; block 0 stays zero (the dual variables above
the first row). The dual variables are kept times theta: then their divergence is what the flow
changes by, and the two products left, by tau and tau / theta, go into fused ones.

Channels: U, V (pixels); theta times the dual variables P11, P12 (of U), P21, P22 (of V); and the
data term's constants, |g| being the length of the warped gradient: GX, GY (g / |g|), RHO (residual
at zero flow / |g|) and LIMIT (lambda * theta * |g|), all zero from column `width` on. Column
`width` of U and V repeats the last one, which makes the forward difference there zero; what the
columns beyond hold reaches no column inside.

An iteration is "U, V from the dual variables" and then "dual variables from U, V". The dual step of
one iteration and the flow step of the next go through the rows in one pass (`dual_then_flow`):
each needs of the other only the row below and the row above.
"""

import numpy as np
from numba import njit
from numba.extending import register_jitable

from extract.kernels.simd import (
    LANES,
    add_to,
    clamp,
    fma,
    load,
    no_sum,
    reciprocal,
    shift_in,
    splat,
    sqrt,
    store,
    subtract_product,
    total,
)

CHANNELS = 10
U, V, P11, P12, P21, P22, GX, GY, RHO, LIMIT = range(CHANNELS)

_ZERO, _ONE = np.float32(0), np.float32(1)


@register_jitable
def num_vectors(width):
    """Vectors a row; at least two, which the software pipeline needs."""
    return max(2, (width + LANES - 1) // LANES)


@register_jitable
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
def _gradient(state, at, below, stride, taut):
    """Forward differences of U and V, and 1 + taut * their length: what the dual step needs."""
    one = splat(_ONE)
    u = load(state, at)
    v = load(state, at + stride)
    ux = load(state, at + 1) - u
    uy = load(state, below) - u
    vx = load(state, at + stride + 1) - v
    vy = load(state, below + stride) - v
    length_u = fma(taut, sqrt(fma(ux, ux, uy * uy)), one)
    length_v = fma(taut, sqrt(fma(vx, vx, vy * vy)), one)
    return ux, uy, vx, vy, length_u, length_v


@njit(error_model="numpy")
def _dual_step(state, at, stride, tau, ux, uy, vx, vy, length_u, length_v):
    """P = (P + tau * gradient) / (1 + taut * |gradient|), with one division for U and V."""
    inverse = reciprocal(length_u * length_v)
    inverse_u = inverse * length_v
    inverse_v = inverse * length_u
    p11 = fma(tau, ux, load(state, at + P11 * stride)) * inverse_u
    p12 = fma(tau, uy, load(state, at + P12 * stride)) * inverse_u
    p21 = fma(tau, vx, load(state, at + P21 * stride)) * inverse_v
    p22 = fma(tau, vy, load(state, at + P22 * stride)) * inverse_v
    store(state, at + P11 * stride, p11)
    store(state, at + P12 * stride, p12)
    store(state, at + P21 * stride, p21)
    store(state, at + P22 * stride, p22)
    return p11, p12, p21, p22


@njit(error_model="numpy")
def _flow_step(state, at, above, stride, left11, left21, p11, p12, p21, p22):
    """Thresholding and flow step of one vector; return the squared changes.

    OpenCV's three cases are one clamp: rho along the unit gradient, cut at LIMIT.
    `left11`, `left21`: P11 and P21 of the vector to the left.
    """
    div_u = (p11 - shift_in(left11, p11)) + (p12 - load(state, above + P12 * stride))
    div_v = (p21 - shift_in(left21, p21)) + (p22 - load(state, above + P22 * stride))
    u = load(state, at)
    v = load(state, at + stride)
    gx = load(state, at + GX * stride)
    gy = load(state, at + GY * stride)
    rho = fma(gy, v, fma(gx, u, load(state, at + RHO * stride)))
    step = clamp(rho, load(state, at + LIMIT * stride))
    change_u = subtract_product(step, gx, div_u)
    change_v = subtract_product(step, gy, div_v)
    store(state, at, u + change_u)
    store(state, at + stride, v + change_v)
    return fma(change_u, change_u, change_v * change_v)


@njit(error_model="numpy")
def _dual_then_flow_row(state, row, below, above, stride, vectors, inside, tau, taut):
    """Dual step and next flow step of one row; return the sum of squared changes of the flow.

    Software pipeline: the gradient of vector k + 2, the dual step of k + 1 and the flow step of k
    stand side by side, for their chains of dependent instructions are long.
    """
    left11 = splat(_ZERO)
    left21 = splat(_ZERO)
    change = no_sum()
    g = _gradient(state, row, below, stride, taut)
    p = _dual_step(state, row, stride, tau, *g)
    g = _gradient(state, row + LANES, below + LANES, stride, taut)
    at = row
    for _ in range(vectors - 2):
        squares = _flow_step(state, at, at - row + above, stride, left11, left21, *p)
        change = add_to(change, squares)
        left11, left21 = p[0], p[2]
        at += LANES
        p = _dual_step(state, at, stride, tau, *g)
        g = _gradient(state, at + LANES, at - row + below + LANES, stride, taut)
    # Only the last two vectors have columns outside the image: their changes do not count.
    last = _flow_step(state, at, at - row + above, stride, left11, left21, *p)
    change = add_to(change, last * load(inside, at - row))
    left11, left21 = p[0], p[2]
    at += LANES
    p = _dual_step(state, at, stride, tau, *g)
    last = _flow_step(state, at, at - row + above, stride, left11, left21, *p)
    return total(add_to(change, last * load(inside, at - row)))


@njit(error_model="numpy")
def _flow_row(state, row, above, stride, vectors, inside):
    """Flow step of one row from the dual variables as they are."""
    left11 = splat(_ZERO)
    left21 = splat(_ZERO)
    change = no_sum()
    for k in range(vectors):
        at = row + k * LANES
        p11 = load(state, at + P11 * stride)
        p12 = load(state, at + P12 * stride)
        p21 = load(state, at + P21 * stride)
        p22 = load(state, at + P22 * stride)
        p = p11, p12, p21, p22
        squares = _flow_step(state, at, at - row + above, stride, left11, left21, *p)
        change = add_to(change, squares * load(inside, k * LANES))
        left11, left21 = p11, p21
    return total(change)


@njit(error_model="numpy")
def flow_only(state, height, width, inside):
    """First half of an iteration on the whole level; return the sum of squared changes."""
    stride = row_stride(width)
    block = CHANNELS * stride
    vectors = num_vectors(width)
    changed = 0.0
    for y in range(height):
        row = (y + 1) * block
        changed += _flow_row(state, row, row - block, stride, vectors, inside)
        repeat_last_column(state, row, stride, width)
    return changed


@njit(error_model="numpy")
def dual_only(state, height, width, tau, taut):
    """Second half of an iteration on the whole level."""
    stride = row_stride(width)
    block = CHANNELS * stride
    for y in range(height):
        row = (y + 1) * block
        below = row + block if y < height - 1 else row
        for k in range(num_vectors(width)):
            x = k * LANES
            g = _gradient(state, row + x, below + x, stride, splat(taut))
            _dual_step(state, row + x, stride, splat(tau), *g)


@njit(error_model="numpy")
def dual_then_flow(state, height, width, inside, tau, taut):
    """Second half of an iteration and first half of the next, in one pass over the rows.

    Returns the sum of squared changes of the flow, pixels^2.
    """
    stride = row_stride(width)
    block = CHANNELS * stride
    vectors = num_vectors(width)
    changed = 0.0
    for y in range(height):
        row = (y + 1) * block
        below = row + block if y < height - 1 else row
        changed += _dual_then_flow_row(
            state, row, below, row - block, stride, vectors, inside, splat(tau), splat(taut)
        )
        repeat_last_column(state, row, stride, width)
    return changed
