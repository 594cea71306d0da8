"""Equations 1 to 5 over all steps, on 4x4 maps, with their gradient written out.

Autograd would bring gates and kernels to Winograd's points and back for every product, and add up
a kernel's gradient step by step. Here the shares of input and hidden state meet at the points, each
transform is done once, and a kernel's gradient is one product over all steps.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model import winograd
from model.winograd import GRID, POINTS, SUM_POINT

CELLS, GATES = GRID**2, 4
_sigmoid_back = torch.ops.aten.sigmoid_backward.grad_input
_tanh_back = torch.ops.aten.tanh_backward.grad_input


def hidden_states(
    inputs: Tensor,
    input_kernel: Tensor,
    bias: Tensor,
    hidden_kernel: Tensor,
    peepholes: Tensor | None,
) -> Tensor:
    """Return the hidden states of all steps; the gates are stacked in the order i, f, o, g.

    Args:
        inputs: (B, K, C, 4, 4), float32 or float64.
        input_kernel: (4 * hidden, C, 3, 3).
        bias: (4 * hidden,).
        hidden_kernel: (4 * hidden, hidden, 3, 3).
        peepholes: (3, hidden, 4, 4) of i, f and o, or None.

    Returns:
        (B, K, hidden, 4, 4), a view of states that have their cells first, as the layer above
        wants them: nothing is copied between two layers.
    """
    if peepholes is not None:
        peepholes = peepholes.flatten(2).transpose(1, 2).unsqueeze(2)  # (3, 16, 1, hidden)
    cells_first = inputs.permute(3, 4, 1, 0, 2).flatten(0, 1)  # (16, K, B, C)
    states: Tensor = _Recurrence.apply(  # type: ignore[no-untyped-call]
        cells_first, input_kernel, bias, hidden_kernel, peepholes
    )
    return states.view(GRID, GRID, *states.shape[1:]).permute(3, 2, 4, 0, 1)


class _Recurrence(torch.autograd.Function):
    """(16, K, B, C) -> (16, K, B, hidden)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        input_kernel: Tensor,
        bias: Tensor,
        hidden_kernel: Tensor,
        peepholes: Tensor | None,
    ) -> Tensor:
        _, steps, batch, channels = inputs.shape
        width = hidden_kernel.shape[1]
        to_points, _, to_cells = winograd.matrices(inputs.device, inputs.dtype)
        kernels_x, kernels_h = _kernels_forward(input_kernel), _kernels_forward(hidden_kernel)
        x = (to_points @ inputs.reshape(CELLS, -1)).view(POINTS, steps, batch, channels)
        h = x.new_empty(POINTS, steps, batch, width)
        summed = x.new_empty(POINTS, batch, width)
        gates = x.new_empty(GATES, steps, CELLS, batch, width)
        cells, tanh_cells = x.new_empty(2, steps, CELLS, batch, width)
        states = x.new_empty(CELLS, steps, batch, width)
        for t in range(steps):
            shares = zip(kernels_x, kernels_h, bias.chunk(GATES), gates[:, t], strict=True)
            for kernel_x, kernel_h, gate_bias, gate in shares:
                torch.bmm(x[:, t], kernel_x, out=summed)
                if t:
                    summed.baddbmm_(h[:, t - 1], kernel_h)
                summed[SUM_POINT] += gate_bias
                torch.mm(to_cells, summed.flatten(1), out=gate.view(CELLS, -1))
            step = _Step.at(t, gates, cells, tanh_cells)
            _take(step, peepholes, hidden=states[:, t])
            torch.mm(to_points, states[:, t].flatten(1), out=h[:, t].flatten(1))
        ctx.save_for_backward(
            input_kernel, hidden_kernel, peepholes, x, h, gates, cells, tanh_cells
        )
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        _, hidden_kernel, peepholes, x, _, gates, cells, tanh_cells = ctx.saved_tensors
        kernels_h = _kernels_back(hidden_kernel)
        to_points, _, to_cells = winograd.matrices(x.device, x.dtype)
        _, steps, _, batch, width = gates.shape
        # Of the gates before their activations, at the cells. Their points are twice as much and
        # are made twice, where they are wanted: one gate of one step, and one gate of all steps.
        d_gates = x.new_empty(GATES, CELLS, steps, batch, width)
        points = x.new_empty(POINTS, batch, width)
        d_h = torch.empty_like(points)
        d_cell = x.new_zeros(CELLS, batch, width)
        d_peepholes = None if peepholes is None else x.new_zeros(3, *d_cell.shape)
        for t in reversed(range(steps)):
            d_hidden = grad[:, t]
            if t + 1 < steps:
                d_hidden = torch.addmm(d_hidden.flatten(1), to_points.T, d_h.flatten(1))
            step = _Step.at(t, gates, cells, tanh_cells)
            d_cell = _take_back(
                step, peepholes, d_hidden.view_as(d_cell), d_cell, d_gates[:, :, t], d_peepholes
            )
            if not t:
                break  # no hidden state before it
            for index, (d_gate, kernel) in enumerate(zip(d_gates, kernels_h, strict=True)):
                torch.mm(to_cells.T, d_gate[:, t].flatten(1), out=points.flatten(1))
                _add_product(points, kernel, out=d_h, first=index == 0)
        if d_peepholes is not None:
            d_peepholes = d_peepholes.sum(dim=2, keepdim=True)
        return (*_gradients(ctx, d_gates), d_peepholes)


def _gradients(ctx: Any, d_gates: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Return the gradients of inputs, input kernel, bias and hidden kernel."""
    input_kernel, hidden_kernel, _, x, h, *_ = ctx.saved_tensors
    to_points, _, to_cells = winograd.matrices(x.device, x.dtype)
    kernels_x = _kernels_back(input_kernel) if ctx.needs_input_grad[0] else None
    d_input, d_hidden = torch.empty_like(input_kernel), torch.empty_like(hidden_kernel)
    d_bias = x.new_empty(len(input_kernel))
    points, d_x = torch.empty_like(h), torch.empty_like(x)
    parts = zip(d_gates, *(t.chunk(GATES) for t in (d_input, d_hidden, d_bias)), strict=True)
    for index, (d_gate, of_input, of_hidden, of_bias) in enumerate(parts):
        torch.mm(to_cells.T, d_gate.flatten(1), out=points.flatten(1))
        _kernel_gradient(points, x, out=of_input)
        _kernel_gradient(points[:, 1:], h[:, :-1], out=of_hidden)
        torch.sum(points[SUM_POINT], (0, 1), out=of_bias)
        if kernels_x is not None:
            _add_product(
                points.flatten(1, 2), kernels_x[index], out=d_x.flatten(1, 2), first=index == 0
            )
    d_inputs = None
    if kernels_x is not None:
        d_inputs = (to_points.T @ d_x.flatten(1)).view(CELLS, *x.shape[1:])
    return d_inputs, d_input, d_bias, d_hidden


class _Step(NamedTuple):
    """One step's values, (16, B, hidden) each."""

    i: Tensor
    f: Tensor
    o: Tensor
    g: Tensor
    cell: Tensor
    tanh_cell: Tensor
    before: Tensor | None
    """C_{t-1}; None stands for the zeros of the first step, where what it enters vanishes."""

    @classmethod
    def at(cls, t: int, gates: Tensor, cells: Tensor, tanh_cells: Tensor) -> "_Step":
        """Return views of step t of (4, K, 16, B, hidden) and twice (K, 16, B, hidden)."""
        i, f, o, g = gates[:, t]
        return cls(i, f, o, g, cells[t], tanh_cells[t], cells[t - 1] if t else None)


def _take(step: _Step, peepholes: Tensor | None, *, hidden: Tensor) -> None:
    """Turn gates before their activations into what follows them, cell and hidden state, in place.

    Args:
        step: i, f, o and g as they come from the convolutions; the rest yet to be filled.
        peepholes: three weights that broadcast against a gate, or None.
        hidden: where H_t goes, (16, B, hidden).
    """
    i, f, o, g, cell, tanh_cell, before = step
    if peepholes is not None and before is not None:
        i.addcmul_(peepholes[0], before)
        f.addcmul_(peepholes[1], before)
    torch.mul(i.sigmoid_(), g.tanh_(), out=cell)
    if before is not None:
        cell.addcmul_(f.sigmoid_(), before)
    if peepholes is not None:
        o.addcmul_(peepholes[2], cell)
    torch.tanh(cell, out=tanh_cell)
    torch.mul(o.sigmoid_(), tanh_cell, out=hidden)


def _take_back(
    step: _Step,
    peepholes: Tensor | None,
    d_hidden: Tensor,
    d_cell: Tensor,
    d_gates: Tensor,
    d_peepholes: Tensor | None,
) -> Tensor:
    """Return the gradient of C_{t-1}, given those of H_t and, from the step after, of C_t.

    Args:
        step: what `_take` left.
        peepholes: as there.
        d_hidden: (16, B, hidden).
        d_cell: likewise.
        d_gates: (4, 16, B, hidden), filled with the gradient before the gates' activations.
        d_peepholes: (3, 16, B, hidden), to which this step's share is added, window by window.
    """
    i, f, o, g, cell, tanh_cell, before = step
    d_i, d_f, d_o, d_g = d_gates
    _sigmoid_back(d_hidden * tanh_cell, o, grad_input=d_o)
    d_cell = d_cell + torch.ops.aten.tanh_backward(d_hidden * o, tanh_cell)
    if peepholes is not None and d_peepholes is not None:
        d_cell.addcmul_(peepholes[2], d_o)
        d_peepholes[2].addcmul_(d_o, cell)
    _sigmoid_back(d_cell * g, i, grad_input=d_i)
    _tanh_back(d_cell * i, g, grad_input=d_g)
    if before is None:
        d_f.zero_()
        return d_cell
    _sigmoid_back(d_cell * before, f, grad_input=d_f)
    d_before = d_cell * f
    if peepholes is not None and d_peepholes is not None:
        for index, d_gate in enumerate((d_i, d_f)):
            d_before.addcmul_(peepholes[index], d_gate)
            d_peepholes[index].addcmul_(d_gate, before)
    return d_before


def _kernels_forward(kernel: Tensor) -> Tensor:
    """Return a kernel's points as matrices from a map's channels to a gate, (4, 36, C, hidden).

    Their memory is laid out so, too: a product with a transposed matrix takes a third longer.
    """
    from_channels = kernel.view(GATES, -1, *kernel.shape[1:]).transpose(1, 2)
    return winograd.points_of_kernel(from_channels).transpose(0, 1)


def _kernels_back(kernel: Tensor) -> Tensor:
    """Return a kernel's points as matrices from a gate to a map's channels, (4, 36, hidden, C)."""
    return winograd.points_of_kernel(kernel.view(GATES, -1, *kernel.shape[1:])).transpose(0, 1)


def _add_product(maps: Tensor, kernel: Tensor, *, out: Tensor, first: bool) -> None:
    """Add (36, N, hidden) @ (36, hidden, C) to `out`, (36, N, C); overwrite it if `first`."""
    if first:
        torch.bmm(maps, kernel, out=out)
    else:
        out.baddbmm_(maps, kernel)


def _kernel_gradient(gate: Tensor, maps: Tensor, *, out: Tensor) -> None:
    """Fill `out`, (hidden, C, 3, 3), with the gradient of a gate's kernel.

    Args:
        gate: (36, steps, B, hidden), the gradient of the gate.
        maps: (36, steps, B, C), what the kernel met at these steps.
        out: contiguous.
    """
    points = torch.bmm(gate.flatten(1, 2).mT, maps.flatten(1, 2))
    winograd.kernel_gradient(points, out=out)
