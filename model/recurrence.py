"""Equations 1 to 5 over all steps, on 4x4 maps of a CPU, with their gradient written out.

Input and hidden state of a step lie side by side and meet one kernel of all gates, at Winograd's
points. Autograd would bring gates and kernels there and back for every product, and add up a
kernel's gradient step by step; here each is brought once, and a kernel's gradient is one product
over all steps.
"""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from extract.kernels.compiling import flat, use_threads_of_torch
from extract.kernels.simd import LANES
from model.gates import BLOCKS, take_step, take_step_back
from model.recurrence_kernels import (
    GATES,
    kernel_gradient_points,
    multiply_points,
    pack_kernel,
    packed_size,
    point_size,
    to_kernel,
    to_points,
)
from model.winograd import CELLS, GRID, KERNEL, POINTS, TAPS

_AT_FIRST, _LATER = (0, 1, 0, 0), (1, 1, 1, 1)
"""The first step that counts, of each gate: at the first there is nothing to forget, and no hidden
state before it."""
_SUM_POINT = 7
"""The point that every cell of a result holds once: its gradient is the sum over the cells. (Row
and column 1 of six; column 1 of A^T is all 1.)"""


def suits_kernels(
    inputs: Tensor, input_kernel: Tensor, hidden_kernel: Tensor, peepholes: Tensor | None
) -> bool:
    """Whether `hidden_states` takes these; the kernels write where shapes say, and check nothing.

    It takes float32 on a CPU, 4x4 maps and 3x3 kernels, as many channels as a vector has lanes (16
    with AVX-512, 8 with AVX, else 4) and hidden states in whole vectors.
    """
    channels, hidden = inputs.shape[2], hidden_kernel.shape[1]
    stacked = GATES * hidden
    return (
        all(
            tensor.device.type == "cpu" and tensor.dtype == torch.float32
            for tensor in (inputs, input_kernel, hidden_kernel, peepholes)
            if tensor is not None
        )
        and inputs.shape[3:] == (GRID, GRID)
        and input_kernel.shape == (stacked, channels, KERNEL, KERNEL)
        and hidden_kernel.shape == (stacked, hidden, KERNEL, KERNEL)
        and (peepholes is None or peepholes.shape == (3, hidden, GRID, GRID))
        and inputs.numel() > 0
        and channels >= LANES
        and hidden % LANES == 0
    )


def hidden_states(
    inputs: Tensor,
    input_kernel: Tensor,
    bias: Tensor,
    hidden_kernel: Tensor,
    peepholes: Tensor | None,
) -> Tensor:
    """Return the hidden states of all steps; the gates are stacked in the order i, f, o, g.

    Args:
        inputs: (B, K, C, 4, 4), of which `suits_kernels` is true.
        input_kernel: (4 * hidden, C, 3, 3).
        bias: (4 * hidden,).
        hidden_kernel: (4 * hidden, hidden, 3, 3).
        peepholes: (3, hidden, 4, 4) of i, f and o, or None.

    Returns:
        (B, K, hidden, 4, 4), a view of states that have their cells first, as the layer above
        wants them: nothing is copied between two layers.
    """
    peepholes = (
        inputs.new_empty(0, CELLS, hidden_kernel.shape[1])
        if peepholes is None
        else peepholes.flatten(2).transpose(1, 2)  # (3, 16, hidden)
    )
    cells_first = inputs.permute(3, 4, 1, 0, 2).flatten(0, 1)  # (16, K, B, C)
    weights = input_kernel, bias, hidden_kernel, peepholes
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (cells_first, *weights))
    states: Tensor = _Recurrence.apply(cells_first, *weights, keep)  # type: ignore[no-untyped-call]
    return states.view(GRID, GRID, *states.shape[1:]).permute(3, 2, 4, 0, 1)


_empty = functools.partial(torch.empty, dtype=torch.float32)
_zeros = functools.partial(torch.zeros, dtype=torch.float32)


class _Shape(NamedTuple):
    """Of a layer's arrays. A row is one window at one step."""

    steps: int
    batch: int
    channels: int
    hidden: int

    @property
    def rows(self) -> int:
        return self.steps * self.batch

    @property
    def depth(self) -> int:
        """Of what the gates' kernel meets: input and hidden state."""
        return self.channels + self.hidden

    @property
    def stacked(self) -> int:
        return GATES * self.hidden


class _Recurrence(torch.autograd.Function):
    """(16, K, B, C) -> (16, K, B, hidden)."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        input_kernel: Tensor,
        bias: Tensor,
        hidden_kernel: Tensor,
        peepholes: Tensor,
        keep: bool,
    ) -> Tensor:
        threads = use_threads_of_torch()
        steps, batch, channels = inputs.shape[1:]
        hidden = hidden_kernel.shape[1]
        shape = _Shape(steps, batch, channels, hidden)
        rows, depth, stacked = shape.rows, shape.depth, shape.stacked
        packed = _empty(packed_size(depth, stacked)).numpy()
        for kernel, first in ((input_kernel, 0), (hidden_kernel, channels)):
            row, column = TAPS, kernel.shape[1] * TAPS
            pack_kernel(flat(kernel), row, kernel.shape[1], column, stacked, first, depth, packed)
        point = point_size(rows, depth)
        slots = steps if keep else 1  # without a gradient a step's gates are those of the next
        kept = (
            _empty(POINTS * point),
            _empty(slots, CELLS, batch, stacked),
            _empty(slots, CELLS, batch, hidden),
            _empty(slots, CELLS, batch, hidden),
        )
        states = _empty(CELLS, steps, batch, hidden)
        maps, gates, cells, tanh_cells = (flat(array) for array in kept)
        of_states, of_bias, of_peepholes = (flat(array) for array in (states, bias, peepholes))
        to_points(flat(inputs), rows * channels, rows, channels, maps, depth, point)
        for t in range(steps):
            slot = t if keep else 0
            # fmt: off
            multiply_points(
                maps, t * batch * depth, depth, point, batch, depth if t else channels,
                packed, depth, stacked, (0, 0) if t else (hidden, 2 * hidden),
                of_bias, 0, 0, 0,
                gates, slot * CELLS * batch * stacked, batch * stacked, False, threads,
            )
            take_step(
                t, slot, steps, batch, hidden, gates, of_peepholes, cells, tanh_cells, of_states,
                maps, (t + 1) * batch * depth + channels, depth, point,
            )
            # fmt: on
        ctx.shape = shape
        if keep:
            ctx.save_for_backward(input_kernel, hidden_kernel, peepholes, *kept)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        threads = use_threads_of_torch()
        input_kernel, hidden_kernel, *kept = ctx.saved_tensors
        peepholes, maps, gates, cells, tanh_cells = (flat(array) for array in kept)
        shape: _Shape = ctx.shape
        steps, batch, channels, hidden = shape
        rows, depth, stacked = shape.rows, shape.depth, shape.stacked
        point, d_point = point_size(rows, depth), point_size(rows, stacked)
        d_gates = _empty(POINTS * d_point)
        d_points, of_states = flat(d_gates), flat(grad)
        to_hidden = _packed_back(hidden_kernel)
        d_hidden = _empty(CELLS * batch * hidden).numpy()
        d_cells = _zeros(batch * CELLS * hidden).numpy()
        d_peepholes = _zeros(BLOCKS, *kept[0].shape)
        of_peepholes = flat(d_peepholes)
        for t in reversed(range(steps)):
            of_step = (of_states, t * batch * hidden, rows * hidden)
            # fmt: off
            if t + 1 < steps:
                multiply_points(
                    d_points, (t + 1) * batch * stacked, stacked, d_point, batch, stacked,
                    to_hidden, stacked, hidden, (0, 0),
                    of_states, t * batch * hidden, hidden, rows * hidden,
                    d_hidden, 0, batch * hidden, True, threads,
                )
                of_step = (d_hidden, 0, batch * hidden)
            take_step_back(
                t, batch, hidden, gates, peepholes, cells, tanh_cells, *of_step,
                d_cells, of_peepholes, d_points, t * batch * stacked, d_point,
            )
            # fmt: on
        d_kernels: list[Tensor | None] = []
        parts = ((0, input_kernel, _AT_FIRST, 1), (channels, hidden_kernel, _LATER, 3))
        for first, kernel, since, argument in parts:
            if not ctx.needs_input_grad[argument]:
                d_kernels.append(None)
                continue
            columns = kernel.shape[1]
            sums = _empty(POINTS * point_size(stacked, columns)).numpy()
            # fmt: off
            kernel_gradient_points(
                d_points, stacked, d_point, maps, first, depth, point, batch, steps,
                columns, since, sums,
            )
            # fmt: on
            d_kernel = _empty(*kernel.shape)  # in order, whatever the order of the kernel
            to_kernel(sums, stacked, columns, flat(d_kernel))
            d_kernels.append(d_kernel)
        at_sum = d_gates[_SUM_POINT * d_point :][: rows * stacked]
        d_bias = at_sum.view(rows, stacked).sum(0)
        d_inputs = None
        if ctx.needs_input_grad[0]:
            d_inputs = _empty(CELLS, steps, batch, channels)
            # fmt: off
            multiply_points(
                d_points, 0, stacked, d_point, rows, stacked,
                _packed_back(input_kernel), stacked, channels, (0, 0),
                _zeros(channels).numpy(), 0, 0, 0,
                flat(d_inputs), 0, rows * channels, True, threads,
            )
            # fmt: on
        return d_inputs, d_kernels[0], d_bias, d_kernels[1], d_peepholes.sum(0), None


def _packed_back(kernel: Tensor) -> Any:
    """Return the points of a kernel, packed to be multiplied by gradients of all gates."""
    stacked, channels = kernel.shape[:2]
    packed = _empty(packed_size(stacked, channels)).numpy()
    row, column = channels * TAPS, TAPS
    pack_kernel(flat(kernel), row, stacked, column, channels, 0, stacked, packed)
    return packed
