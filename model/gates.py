# mypy: disable-error-code="no-untyped-def"
"""Where the gates of equations 1 to 5 meet the cell state, one step, there and back.

Each map is read once, what follows is computed in registers, and what the next product wants is
brought to Winograd's points while it is in the caches. All arrays are flat float32, contiguous, in
the shapes given; hidden is a multiple of `LANES`.
"""

import numpy as np
from numba import njit, prange

from arithmetic import activations
from arithmetic.activations import sigmoid, tanh
from extract.kernels import filtering, simd
from extract.kernels.compiling import compiled, stamp
from extract.kernels.simd import LANES, fma, load, splat, store, subtract_product
from model import winograd
from model.winograd import CELLS, SCRATCH, map_points, result_cells_back

STAMP = stamp(simd, activations, filtering, winograd)
BLOCKS = 16  # of windows: so many threads can take a step back
_ZERO = np.float32(0)


@compiled(parallel=True)
def take_step(
    t,
    slot,
    steps,
    batch,
    hidden,
    gates,
    peepholes,
    cells,
    tanh_cells,
    states,
    maps,
    to,
    row,
    point,
    stamp=STAMP,
):
    """Turn gates before their activations into what follows them, cell and hidden state, in place.

    At the first step C_{t-1} is zero: what it enters vanishes, the forget gate with it.

    Args:
        t: the step.
        slot: where its gates and cell state are, t, or 0 if each step's take the place of the last.
        steps: K.
        batch: B.
        hidden: channels of the states.
        gates: (slots, 16, B, 4 * hidden), i, f, o and g as they come from the convolutions.
        peepholes: (3, 16, hidden) of i, f and o, or empty.
        cells: (slots, 16, B, hidden), C of the steps before; C_t is filled in.
        tanh_cells: likewise, its tanh.
        states: (16, K, B, hidden), H_t is filled in.
        maps: the points of H_t go there if another step follows, the first window's begin at `to`.
        to: see there.
        row: floats between two windows there.
        point: floats between two points.
        stamp: part of the compiled code's key; leave it.
    """
    size = batch * hidden
    for b in prange(batch):
        for place in range(CELLS):
            at = ((slot * CELLS + place) * batch + b) * hidden
            of_before = at - CELLS * size if slot else at
            of_state = ((place * steps + t) * batch + b) * hidden
            of_i, of_f = 4 * at, 4 * at + hidden
            of_o, of_g = of_f + hidden, of_f + 2 * hidden
            peep_i = place * hidden
            peep_f, peep_o = peep_i + CELLS * hidden, peep_i + 2 * CELLS * hidden
            for n in range(0, hidden, LANES):
                i, o = load(gates, of_i + n), load(gates, of_o + n)
                g = tanh(load(gates, of_g + n))
                if t:
                    before = load(cells, of_before + n)
                    f = load(gates, of_f + n)
                    if len(peepholes):
                        i = fma(load(peepholes, peep_i + n), before, i)
                        f = fma(load(peepholes, peep_f + n), before, f)
                    i, f = sigmoid(i), sigmoid(f)
                    store(gates, of_f + n, f)
                    cell = fma(f, before, i * g)
                else:
                    i = sigmoid(i)
                    cell = i * g
                if len(peepholes):
                    o = fma(load(peepholes, peep_o + n), cell, o)
                o, tanh_cell = sigmoid(o), tanh(cell)
                store(gates, of_i + n, i)
                store(gates, of_o + n, o)
                store(gates, of_g + n, g)
                store(cells, at + n, cell)
                store(tanh_cells, at + n, tanh_cell)
                store(states, of_state + n, o * tanh_cell)
        if t + 1 < steps:
            scratch = np.empty(SCRATCH, np.float32)
            for n in range(0, hidden, LANES):
                source = (t * batch + b) * hidden + n
                map_points(states, source, steps * size, maps, to + b * row + n, point, scratch)


@compiled(parallel=True)
def take_step_back(
    t,
    batch,
    hidden,
    gates,
    peepholes,
    cells,
    tanh_cells,
    d_hidden,
    at,
    d_cell_size,
    d_cells,
    d_peepholes,
    d_points,
    to,
    point,
    stamp=STAMP,
):
    """Take the gradient of `take_step` and bring that of the gates to their points.

    Args:
        t: the step; the last comes first.
        batch: B.
        hidden: channels of the states.
        gates: (K, 16, B, 4 * hidden), as `take_step` left them.
        peepholes: as there.
        cells: as there.
        tanh_cells: as there.
        d_hidden: the gradient of H_t, (16, B, hidden), the first value at `at`.
        at: see there.
        d_cell_size: floats between two cells there.
        d_cells: (B, 16, hidden), that of C_t from the step after; becomes that of C_{t-1}.
        d_peepholes: (`BLOCKS`, 3, 16, hidden), to be summed over the first axis; added to.
        d_points: (36, ..., 4 * hidden): the gradients of the gates before their activations are
            filled in, the first step's forget gate's with zeros; the first window's begin at `to`.
        to: see there.
        point: floats between two points.
        stamp: part of the compiled code's key; leave it.
    """
    stacked = 4 * hidden
    for block in prange(BLOCKS):
        d_gates = np.empty(CELLS * stacked, np.float32)
        scratch = np.empty(SCRATCH, np.float32)
        for b in range(block * batch // BLOCKS, (block + 1) * batch // BLOCKS):
            for place in range(CELLS):
                of_cell = ((t * CELLS + place) * batch + b) * hidden
                of_before = of_cell - CELLS * batch * hidden
                of_d_cell, of_d_hidden = (
                    (b * CELLS + place) * hidden,
                    at + place * d_cell_size + b * hidden,
                )
                of_i, of_f = 4 * of_cell, 4 * of_cell + hidden
                of_o, of_g = of_f + hidden, of_f + 2 * hidden
                to_i, to_f = place * stacked, place * stacked + hidden
                to_o, to_g = to_f + hidden, to_f + 2 * hidden
                peep_i = place * hidden
                peep_f, peep_o = peep_i + CELLS * hidden, peep_i + 2 * CELLS * hidden
                sums = block * 3 * CELLS * hidden
                for n in range(0, hidden, LANES):
                    i, o, g = load(gates, of_i + n), load(gates, of_o + n), load(gates, of_g + n)
                    tanh_cell, d_h = load(tanh_cells, of_cell + n), load(d_hidden, of_d_hidden + n)
                    d_o = _sigmoid_back(d_h * tanh_cell, o)
                    d_c = load(d_cells, of_d_cell + n) + _tanh_back(d_h * o, tanh_cell)
                    if len(peepholes):
                        d_c = fma(load(peepholes, peep_o + n), d_o, d_c)
                        _add_product(d_peepholes, sums + peep_o + n, d_o, load(cells, of_cell + n))
                    d_i, d_g = _sigmoid_back(d_c * g, i), _tanh_back(d_c * i, g)
                    store(d_gates, to_i + n, d_i)
                    store(d_gates, to_o + n, d_o)
                    store(d_gates, to_g + n, d_g)
                    if t == 0:
                        store(d_gates, to_f + n, splat(_ZERO))
                        continue
                    f, before = load(gates, of_f + n), load(cells, of_before + n)
                    d_f = _sigmoid_back(d_c * before, f)
                    d_before = d_c * f
                    if len(peepholes):
                        d_before = fma(load(peepholes, peep_i + n), d_i, d_before)
                        d_before = fma(load(peepholes, peep_f + n), d_f, d_before)
                        _add_product(d_peepholes, sums + peep_i + n, d_i, before)
                        _add_product(d_peepholes, sums + peep_f + n, d_f, before)
                    store(d_gates, to_f + n, d_f)
                    store(d_cells, of_d_cell + n, d_before)
            for n in range(0, stacked, LANES):
                target = to + b * stacked + n
                result_cells_back(d_gates, n, stacked, d_points, target, point, scratch)


@njit
def _sigmoid_back(grad, value):
    """The gradient through a sigmoid of this value."""
    return subtract_product(grad * value, value, grad * value)


@njit
def _tanh_back(grad, value):
    return subtract_product(grad * value, value, grad)


@njit
def _add_product(sums, at, a, b):
    store(sums, at, fma(a, b, load(sums, at)))
