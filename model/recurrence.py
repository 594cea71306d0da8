"""Equations 1 to 5 over all steps, on 4x4 maps, with their gradient written out.

Autograd would bring gates and kernels to Winograd's points and back for every product, and add up
a kernel's gradient step by step. Here the shares of input and hidden state meet at the points, each
transform is done once, and a kernel's gradient is one product over all steps.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model import winograd
from model.gates import take_step
from model.winograd import GRID, POINTS, SUM_POINT

CELLS, GATES = GRID**2, 4
FIRST_STEP = (0, 1, 0, 0)
"""Of each gate: at the first step there is no cell state to forget."""


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
        # Views are made once: with several threads the time that each takes counts.
        flat, point_of_bias = summed.flatten(1), summed[SUM_POINT]
        x_of, h_of, out_of = x.unbind(1), h.unbind(1), gates.flatten(3).unbind(1)
        parts = [*zip(kernels_x, kernels_h, bias.chunk(GATES), FIRST_STEP, strict=True)]
        for t in range(steps):
            for (kernel_x, kernel_h, gate_bias, first), out in zip(parts, out_of[t], strict=True):
                if t < first:
                    continue
                torch.bmm(x_of[t], kernel_x, out=summed)
                if t:
                    summed.baddbmm_(h_of[t - 1], kernel_h)
                point_of_bias.add_(gate_bias)
                torch.mm(to_cells, flat, out=out)
            take_step(
                gates[:, t],
                peepholes,
                cells[t - 1] if t else None,
                cell=cells[t],
                tanh_cell=tanh_cells[t],
                hidden=states[:, t],
            )
            torch.mm(to_points, states[:, t].flatten(1), out=h_of[t].flatten(1))
        ctx.save_for_backward(
            input_kernel, hidden_kernel, peepholes, x, h, gates, cells, tanh_cells
        )
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        from model.gates_back import StepsBack  # numba: only training needs it

        _, hidden_kernel, peepholes, x, _, gates, cells, tanh_cells = ctx.saved_tensors
        kernels_h = _kernels_back(hidden_kernel)
        to_points, _, to_cells = winograd.matrices(x.device, x.dtype)
        _, steps, _, batch, width = gates.shape
        # Of the gates before their activations, at the cells. Their points are twice as much and
        # are made twice, where they are wanted: one gate of one step, and one gate of all steps.
        d_gates = x.new_empty(GATES, CELLS, steps, batch, width)
        points = x.new_empty(POINTS, batch, width)
        d_h = torch.empty_like(points)
        back = StepsBack(gates, cells, tanh_cells, peepholes, d_gates=d_gates)
        for t in reversed(range(steps)):
            d_hidden = grad[:, t]
            if t + 1 < steps:
                d_hidden = torch.addmm(d_hidden.flatten(1), to_points.T, d_h.flatten(1))
            back.take_back(t, d_hidden.reshape(CELLS, batch, width))
            if not t:
                break  # no hidden state before it
            for index, (d_gate, kernel) in enumerate(zip(d_gates, kernels_h, strict=True)):
                torch.mm(to_cells.T, d_gate[:, t].flatten(1), out=points.flatten(1))
                _add_product(points, kernel, out=d_h, first=index == 0)
        return (*_gradients(ctx, d_gates), back.d_peepholes)


def _gradients(ctx: Any, d_gates: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Return the gradients of inputs, input kernel, bias and hidden kernel."""
    input_kernel, hidden_kernel, _, x, h, *_ = ctx.saved_tensors
    to_points, _, to_cells = winograd.matrices(x.device, x.dtype)
    kernels_x = _kernels_back(input_kernel) if ctx.needs_input_grad[0] else None
    d_input, d_hidden = torch.empty_like(input_kernel), torch.empty_like(hidden_kernel)
    d_bias = x.new_empty(len(input_kernel))
    all_points, d_x = torch.empty_like(h), torch.empty_like(x)
    parts = zip(d_gates, *(t.chunk(GATES) for t in (d_input, d_hidden, d_bias)), strict=True)
    for index, (d_gate, of_input, of_hidden, of_bias) in enumerate(parts):
        steps = slice(FIRST_STEP[index], None)
        points = all_points[:, steps]
        torch.mm(to_cells.T, d_gate[:, steps].flatten(1), out=points.flatten(1))
        _kernel_gradient(points, x[:, steps], out=of_input)
        _kernel_gradient(all_points[:, 1:], h[:, :-1], out=of_hidden)
        torch.sum(points[SUM_POINT], (0, 1), out=of_bias)
        if kernels_x is not None:
            _add_product(
                points.flatten(1, 2),
                kernels_x[index],
                out=d_x[:, steps].flatten(1, 2),
                first=index == 0,
            )
    d_inputs = None
    if kernels_x is not None:
        d_inputs = (to_points.T @ d_x.flatten(1)).view(CELLS, *x.shape[1:])
    return d_inputs, d_input, d_bias, d_hidden


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
