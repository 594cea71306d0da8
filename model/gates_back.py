# mypy: disable-error-code="no-untyped-def"
"""The gradient of `gates.take_step`: every map is read once and its gradients written.

PyTorch's functions would read and write forty maps a step, most of which have left the caches
since the step was taken.

A process that was forked after a gradient was computed cannot compute another: OpenMP ends it.
Spawn it instead.
"""

from collections.abc import Callable

import numba
import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

# PyTorch's own threads, where both find one OpenMP library: others would have to share the cores
# with PyTorch's, which wait for their next operator by spinning.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


class StepsBack:
    """The gradient of all steps of `take_step`, from the last to the first."""

    def __init__(
        self,
        gates: Tensor,
        cells: Tensor,
        tanh_cells: Tensor,
        peepholes: Tensor | None,
        *,
        d_gates: Tensor,
    ) -> None:
        """Begin behind the last step.

        Args:
            gates: (4, K, 16, B, hidden), contiguous, as `take_step` left them.
            cells: (K, 16, B, hidden), likewise.
            tanh_cells: likewise.
            peepholes: as there.
            d_gates: (4, 16, K, B, hidden), contiguous: where the gradients of the gates before
                their activations go. That of the first step's forget gate is not written.
        """
        _use_threads_of_torch()
        _, _, size, batch, width = gates.shape
        shape = (3, size, width) if peepholes is not None else (0, size, width)
        self._kept = tuple(tensor.numpy() for tensor in (gates, cells, tanh_cells))
        self._peepholes = np.zeros(shape, self._kept[0].dtype)
        if peepholes is not None:
            self._peepholes[:] = peepholes.view(shape).numpy()
        self._d_peepholes = np.zeros_like(self._peepholes)
        self._d_cell = np.zeros((size, batch, width), self._peepholes.dtype)
        self._d_gates = d_gates.numpy()

    @property
    def d_peepholes(self) -> Tensor | None:
        """(3, 16, 1, hidden), of the steps taken so far."""
        if not len(self._d_peepholes):
            return None
        return torch.from_numpy(self._d_peepholes).unsqueeze(2)

    def take_back(self, t: int, d_hidden: Tensor) -> None:
        """Fill step t of `d_gates`, given the gradient of H_t, (16, B, hidden); t must descend."""
        arrays = (
            *self._kept,
            self._peepholes,
            d_hidden.contiguous().numpy(),
            self._d_cell,
            self._d_gates,
            self._d_peepholes,
        )
        _take_back(t, *arrays)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Return the function compiled, and the code kept for the next process if there is a place."""
    compiled: Callable[..., None]
    try:
        compiled = njit(parallel=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written
        compiled = njit(parallel=True)(function)
    return compiled


def _use_threads_of_torch() -> None:
    """Let numba take as many threads as PyTorch does, and leave PyTorch's number as it is.

    The first time numba sets OpenMP's own number, which is PyTorch's, to all cores.
    """
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    torch.set_num_threads(threads)


@_compiled
def _take_back(t, gates, cells, tanh_cells, peepholes, d_hidden, d_cell, d_gates, d_peepholes):
    """Take all cells of a map back through step t; arrays as of `StepsBack`.

    A loop writes one array: LLVM makes vectors only where it has few pairs of arrays to tell apart.
    """
    for place in prange(len(d_cell)):
        d_c = np.empty(d_cell.shape[2], d_cell.dtype)
        for b in range(d_cell.shape[1]):
            i, f = gates[0, t, place, b], gates[1, t, place, b]
            o, g = gates[2, t, place, b], gates[3, t, place, b]
            d_i, d_f = d_gates[0, place, t, b], d_gates[1, place, t, b]
            d_o, d_g = d_gates[2, place, t, b], d_gates[3, place, t, b]
            tanh_c, d_h, d_before = tanh_cells[t, place, b], d_hidden[place, b], d_cell[place, b]
            _sigmoid_back(d_h, tanh_c, o, d_o)
            _through_tanh(d_before, d_h, o, tanh_c, d_c)
            if len(peepholes):
                _add_product(peepholes[2, place], d_o, d_c)
                _add_product(d_o, cells[t, place, b], d_peepholes[2, place])
            _sigmoid_back(d_c, g, i, d_i)
            _tanh_back(d_c, i, g, d_g)
            if t == 0:
                continue
            before = cells[t - 1, place, b]
            _sigmoid_back(d_c, before, f, d_f)
            _product(d_c, f, d_before)
            if len(peepholes):
                _add_product(peepholes[0, place], d_i, d_before)
                _add_product(peepholes[1, place], d_f, d_before)
                _add_product(d_i, before, d_peepholes[0, place])
                _add_product(d_f, before, d_peepholes[1, place])


@njit
def _sigmoid_back(grad, factor, value, out):
    for n in range(len(out)):
        whole = grad[n] * factor[n] * value[n]
        out[n] = whole - whole * value[n]  # a number 1 would make it float64


@njit
def _tanh_back(grad, factor, value, out):
    for n in range(len(out)):
        whole = grad[n] * factor[n]
        out[n] = whole - whole * value[n] * value[n]


@njit
def _through_tanh(grad, d_hidden, o, tanh_c, out):
    for n in range(len(out)):
        whole = d_hidden[n] * o[n]
        out[n] = grad[n] + whole - whole * tanh_c[n] * tanh_c[n]


@njit
def _product(a, b, out):
    for n in range(len(out)):
        out[n] = a[n] * b[n]


@njit
def _add_product(a, b, out):
    for n in range(len(out)):
        out[n] += a[n] * b[n]
