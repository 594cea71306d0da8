"""Convolutional LSTM: Wan et al. 2021, equations 1 to 5, after Shi et al. 2015."""

import torch
from torch import Tensor, nn

from model.recurrence import hidden_states, suits_kernels


class ConvLSTMLayer(nn.Module):
    """One layer of equations 1 to 5; the gates are stacked in the order i, f, o, g.

    The input's share of all gates is one convolution over all time steps at once: it does not
    depend on the recurrence, so only the hidden state's share is computed step by step. What
    `recurrence.suits_kernels` (on a CPU, the usual shapes), `hidden_states` there does in less than
    a third of the time.
    """

    def __init__(
        self, in_channels: int, hidden: int, *, grid: int, kernel: int, peepholes: bool
    ) -> None:
        super().__init__()
        padding = kernel // 2
        self.input_to_gates = nn.Conv2d(in_channels, 4 * hidden, kernel, padding=padding)
        self.hidden_to_gates = nn.Conv2d(hidden, 4 * hidden, kernel, padding=padding, bias=False)
        # W_ci, W_cf, W_co: a weight for every channel and place (Hadamard product). They start
        # at zero, so that training starts from the layer without peepholes.
        self.peepholes = nn.Parameter(torch.zeros(3, hidden, grid, grid)) if peepholes else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the hidden states of all steps.

        Args:
            inputs: (B, K, C, G, G), any float type.

        Returns:
            (B, K, hidden, G, G).
        """
        if self._suits_kernels(inputs):
            bias = self.input_to_gates.bias
            assert bias is not None, "the gates' convolution is made with one"
            return hidden_states(
                inputs,
                self.input_to_gates.weight,
                bias,
                self.hidden_to_gates.weight,
                self.peepholes,
            )
        batch, steps = inputs.shape[:2]
        from_inputs: Tensor = self.input_to_gates(inputs.flatten(0, 1))
        from_inputs = from_inputs.view(batch, steps, *from_inputs.shape[1:])
        hidden = cell = None
        states = []
        for gates in from_inputs.unbind(dim=1):  # (B, 4 * hidden, G, G)
            if hidden is not None:
                gates = gates + self.hidden_to_gates(hidden)
            hidden, cell = _next_state(gates.chunk(4, dim=1), cell, self.peepholes)
            states.append(hidden)
        return torch.stack(states, dim=1)

    def _suits_kernels(self, inputs: Tensor) -> bool:
        # On a GPU cuDNN chooses for itself; bfloat16 is too coarse for the transforms.
        weights = self.input_to_gates.weight, self.hidden_to_gates.weight, self.peepholes
        return suits_kernels(inputs, *weights) and not torch.is_autocast_enabled("cpu")


def _next_state(
    gates: tuple[Tensor, ...], cell: Tensor | None, peepholes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return H_t and C_t of equations 1 to 5.

    Args:
        gates: i, f, o and g before their activations, without the peepholes' share, each
            (B, hidden, G, G).
        cell: C_{t-1}; None stands for the zeros of the first step, where every term it enters
            vanishes.
        peepholes: (3, hidden, G, G), or None.
    """
    i, f, o, g = gates
    peep_i, peep_f, peep_o = (None,) * 3 if peepholes is None else peepholes
    if cell is None:
        cell = i.sigmoid() * g.tanh()
    else:
        if peep_i is not None and peep_f is not None:
            i, f = i + peep_i * cell, f + peep_f * cell
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    if peep_o is not None:
        o = o + peep_o * cell
    return o.sigmoid() * cell.tanh(), cell


class ConvLSTM(nn.Module):
    """Layers of `ConvLSTMLayer`, each fed the hidden states of the one below."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        *,
        layers: int = 2,
        grid: int = 4,
        kernel: int = 3,
        peepholes: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvLSTMLayer(
                hidden if index else in_channels,
                hidden,
                grid=grid,
                kernel=kernel,
                peepholes=peepholes,
            )
            for index in range(layers)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the top layer's hidden states, (B, K, hidden, G, G), of (B, K, C, G, G)."""
        states = inputs
        for index, layer in enumerate(self.layers):
            if index and self.training and self.dropout.p:
                # What is dropped follows the order in memory: let a seed drop the same of all.
                states = self.dropout(states.contiguous())
            states = layer(states)
        return states
