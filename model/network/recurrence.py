"""The recurrence of a ConvLSTM layer: Wan et al. 2021, equations 1 to 5, step after step."""

import torch
from torch import Tensor

from model.network.winograd import maps_at_points, maps_from_points


def hidden_states(
    of_inputs: Tensor, bias: Tensor, kernels: Tensor, peepholes: Tensor | None
) -> Tensor:
    """Return the hidden states of all steps, (G * G, K, B, hidden).

    Args:
        of_inputs: (P, K, B, 4 * hidden) the inputs' share of the gates, which are stacked in the
            order i, f, o, g, at the points of `winograd`.
        bias: (4 * hidden,).
        kernels: (P, hidden, 4 * hidden) of `kernels_at_points`, from hidden state to gates.
        peepholes: (3, G * G, hidden) W_ci, W_cf, W_co.
    """
    hidden = cell = of_inputs.new_zeros(())
    states = []
    for t, products in enumerate(of_inputs.unbind(dim=1)):
        if t > 0:  # before the first step the hidden state is zero
            products = products + torch.bmm(maps_at_points(hidden), kernels)
        i, f, o, g = (maps_from_points(products) + bias).chunk(4, dim=2)  # (G * G, B, hidden) each
        if peepholes is not None:
            i, f = i + peepholes[0, :, None] * cell, f + peepholes[1, :, None] * cell
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        if peepholes is not None:
            o = o + peepholes[2, :, None] * cell
        hidden = o.sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states, dim=1)
