# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""`hidden_states` of `recurrence` on a GPU: all that lies between two products as one kernel.

A step of the recurrence in PyTorch's own operators is dozens of small kernels, each of which reads
and writes what the one before has just had in hand. Here a program takes some columns, a column
being a channel of a window, and what belongs to its 16 pixels and 36 points stays in registers.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.network.winograd import GRID, NUM_POINTS, transforms

COLUMNS = 32
"""Of a program."""
WARPS = 4
"""Of a program."""


def hidden_states(
    of_inputs: Tensor, bias: Tensor, kernels: Tensor, peepholes: Tensor | None
) -> Tensor:
    """Return what `recurrence.hidden_states` returns; all arguments are float32."""
    states: Tensor = _Recurrence.apply(of_inputs, bias, kernels, peepholes)
    return states


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, of_inputs: Tensor, bias: Tensor, kernels: Tensor, peepholes: Tensor | None
    ) -> Tensor:
        _, num_steps, batch, width = of_inputs.shape
        hidden = width // 4
        shape = (num_steps, batch, hidden)
        states, cells = (of_inputs.new_empty(GRID**2, *shape) for _ in range(2))
        gates = of_inputs.new_empty(GRID**2, num_steps, batch, width)  # after their activations
        at_points = of_inputs.new_empty(NUM_POINTS, *shape)  # of the states
        of_inputs, bias = of_inputs.contiguous(), bias.contiguous()
        weights = bias if peepholes is None else peepholes.contiguous()
        matrices = transforms(of_inputs.dtype, of_inputs.device)
        products = of_inputs[:, 0]  # not read in the first step
        with torch.cuda.device_of(of_inputs):
            for t in range(num_steps):
                if t > 0:
                    products = torch.bmm(at_points[:, t - 1], kernels)
                _step[_grid(batch * hidden)](
                    of_inputs, products, bias, weights, states, cells, gates, at_points,
                    matrices.of_maps, matrices.of_products, t, num_steps, batch, hidden,
                    PEEPHOLES=peepholes is not None, COLUMNS=COLUMNS, num_warps=WARPS,
                )  # fmt: skip
        ctx.save_for_backward(kernels, peepholes, cells, gates, at_points)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kernels, peepholes, cells, gates, at_points = ctx.saved_tensors
        _, num_steps, batch, hidden = cells.shape
        of_states = grads[0].contiguous()
        of_gates = torch.empty_like(gates)
        of_products = gates.new_empty(NUM_POINTS, *gates.shape[1:])
        of_cell = cells.new_empty(GRID**2, batch, hidden)
        weights = cells if peepholes is None else peepholes.contiguous()
        matrices = transforms(cells.dtype, cells.device)
        of_points = at_points  # not read in the last step, with which this begins
        for t in reversed(range(num_steps)):
            if t < num_steps - 1:
                of_points = torch.bmm(of_products[:, t + 1], kernels.mT)
            _step_back[_grid(batch * hidden)](
                of_states, of_points, of_cell, weights, cells, gates, of_gates, of_products,
                matrices.of_maps, matrices.of_products, t, num_steps, batch, hidden,
                PEEPHOLES=peepholes is not None, COLUMNS=COLUMNS, num_warps=WARPS,
            )  # fmt: skip
        of_kernels = torch.bmm(at_points[:, :-1].flatten(1, 2).mT, of_products[:, 1:].flatten(1, 2))
        of_peepholes = None
        if peepholes is not None:
            each = of_gates.view(*cells.shape[:3], 4, hidden)
            of_i_and_f = (each[:, 1:, :, :2] * cells[:, :-1, :, None]).sum((1, 2))
            of_o = (each[:, :, :, 2] * cells).sum((1, 2))
            of_peepholes = torch.stack([*of_i_and_f.unbind(1), of_o])
        return of_products, of_gates.sum((0, 1, 2)), of_kernels, of_peepholes


def _grid(columns: int) -> tuple[int]:
    return (triton.cdiv(columns, COLUMNS),)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _tanh(x):
    return 2.0 * _sigmoid(2.0 * x) - 1.0


@triton.jit
def _gate(of_inputs, products, bias, from_points, at, b, place, size, batch, width, there):
    """Return a gate before its activation, (16, COLUMNS)."""
    p = tl.arange(0, 64)[:, None]
    there = (p < 36) & there
    values = tl.load(of_inputs + (p * size + at) * width + place, there, 0.0)
    # before the first step the hidden state is zero
    values += tl.load(products + (p * batch + b) * width + place, there & (at >= batch), 0.0)
    return tl.dot(from_points, values, input_precision="ieee") + tl.load(bias + place)


@triton.jit(do_not_specialize=["t", "num_steps", "batch"])
def _step(
    of_inputs, products, bias, peepholes, states, cells, gates, at_points, of_maps, of_products,
    t, num_steps, batch, hidden, PEEPHOLES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Take step `t` of some columns: gates, cell, hidden state and its values at the points."""
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = column < batch * hidden
    b, c = column // hidden, column % hidden
    size, at, width = num_steps * batch, t * batch + b, 4 * hidden
    q, p = tl.arange(0, 16)[:, None], tl.arange(0, 64)[None, :]
    there_before = there & (at >= batch)
    m = tl.load(of_products + q * 36 + p, p < 36, 0.0)  # (16, 64)
    i = _gate(of_inputs, products, bias, m, at, b, c, size, batch, width, there)
    f = _gate(of_inputs, products, bias, m, at, b, c + hidden, size, batch, width, there)
    o = _gate(of_inputs, products, bias, m, at, b, c + 2 * hidden, size, batch, width, there)
    g = _gate(of_inputs, products, bias, m, at, b, c + 3 * hidden, size, batch, width, there)
    place = (q * size + at) * hidden + c
    cell = tl.load(cells + place - batch * hidden, there_before, 0.0)
    weight = peepholes + q * hidden + c
    if PEEPHOLES:
        i += tl.load(weight) * cell
        f += tl.load(weight + 16 * hidden) * cell
    i, f, g = _sigmoid(i), _sigmoid(f), _tanh(g)
    cell = f * cell + i * g
    if PEEPHOLES:
        o += tl.load(weight + 32 * hidden) * cell
    o = _sigmoid(o)
    state = o * _tanh(cell)
    tl.store(states + place, state, there)
    tl.store(cells + place, cell, there)
    place = gates + (q * size + at) * width + c
    tl.store(place, i, there)
    tl.store(place + hidden, f, there)
    tl.store(place + 2 * hidden, o, there)
    tl.store(place + 3 * hidden, g, there)
    q, p = tl.arange(0, 16)[None, :], tl.arange(0, 64)[:, None]
    m = tl.load(of_maps + p * 16 + q, p < 36, 0.0)  # (64, 16)
    values = tl.dot(m, state, input_precision="ieee")
    tl.store(at_points + (p * size + at) * hidden + c, values, (p < 36) & there)


@triton.jit(do_not_specialize=["t", "num_steps", "batch"])
def _step_back(
    of_states, of_points, of_cell, peepholes, cells, gates, of_gates, of_products, of_maps,
    from_points, t, num_steps, batch, hidden, PEEPHOLES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Turn the gradients of step `t`'s state and cell into those of its gates and products."""
    column = (tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    there = column < batch * hidden
    b, c = column // hidden, column % hidden
    size, at, width = num_steps * batch, t * batch + b, 4 * hidden
    there_before, there_after = there & (at >= batch), there & (at < size - batch)
    q, p = tl.arange(0, 16)[:, None], tl.arange(0, 64)
    m = tl.load(of_maps + p[None, :] * 16 + q, p[None, :] < 36, 0.0)  # (16, 64)
    p = p[:, None]
    values = tl.load(of_points + (p * batch + b) * hidden + c, (p < 36) & there_after, 0.0)
    place = (q * size + at) * hidden + c
    d_state = tl.load(of_states + place, there, 0.0) + tl.dot(m, values, input_precision="ieee")
    carried = of_cell + (q * batch + b) * hidden + c
    d_cell = tl.load(carried, there_after, 0.0)
    cell = _tanh(tl.load(cells + place, there, 0.0))
    before = tl.load(cells + place - batch * hidden, there_before, 0.0)
    place = (q * size + at) * width + c
    i = tl.load(gates + place, there, 0.0)
    f = tl.load(gates + place + hidden, there, 0.0)
    o = tl.load(gates + place + 2 * hidden, there, 0.0)
    g = tl.load(gates + place + 3 * hidden, there, 0.0)
    weight = peepholes + q * hidden + c
    d_o = d_state * cell * o * (1.0 - o)
    d_cell += d_state * o * (1.0 - cell * cell)
    if PEEPHOLES:
        d_cell += d_o * tl.load(weight + 32 * hidden)
    d_i = d_cell * g * i * (1.0 - i)
    d_f = d_cell * before * f * (1.0 - f)
    d_g = d_cell * i * (1.0 - g * g)
    d_cell *= f
    if PEEPHOLES:
        d_cell += d_i * tl.load(weight) + d_f * tl.load(weight + 16 * hidden)
    tl.store(carried, d_cell, there)
    tl.store(of_gates + place, d_i, there)
    tl.store(of_gates + place + hidden, d_f, there)
    tl.store(of_gates + place + 2 * hidden, d_o, there)
    tl.store(of_gates + place + 3 * hidden, d_g, there)
    m = tl.load(from_points + tl.arange(0, 16)[None, :] * 36 + p, p < 36, 0.0)  # (64, 16)
    there = (p < 36) & there
    place = of_products + (p * size + at) * width + c
    tl.store(place, tl.dot(m, d_i, input_precision="ieee"), there)
    tl.store(place + hidden, tl.dot(m, d_f, input_precision="ieee"), there)
    tl.store(place + 2 * hidden, tl.dot(m, d_o, input_precision="ieee"), there)
    tl.store(place + 3 * hidden, tl.dot(m, d_g, input_precision="ieee"), there)
