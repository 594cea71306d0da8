"""Convolutional LSTM over maps of clip features.

Gates: Wan et al. 2021, equations 1 to 5 (peepholes included), after Shi et al. 2015.
"""

import torch
from torch import Tensor, nn

from model.network.winograd import GRID, KERNEL, filter_maps, kernels_at_points


class ConvLSTMLayer(nn.Module):
    """One layer of equations 1 to 5; the gates are stacked in the order i, f, o, g."""

    def __init__(self, in_channels: int, hidden: int, *, peepholes: bool) -> None:
        super().__init__()
        self.input_to_gates = nn.Conv2d(in_channels, 4 * hidden, KERNEL, padding="same")
        self.hidden_to_gates = nn.Conv2d(hidden, 4 * hidden, KERNEL, padding="same", bias=False)
        # W_ci, W_cf, W_co: a weight for every channel and place (Hadamard product). They start
        # at zero, so that training starts from the layer without peepholes.
        self.peepholes = nn.Parameter(torch.zeros(3, hidden, GRID, GRID)) if peepholes else None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the hidden states of all steps.

        Args:
            inputs: (B, K, C, G, G), any float type.

        Returns:
            (B, K, hidden, G, G).
        """
        maps = inputs.flatten(3).permute(3, 1, 0, 2)  # (G * G, K, B, C)
        # The inputs' share of the gates does not depend on the states: one call for all steps.
        of_inputs = filter_maps(
            maps.flatten(1, 2),
            kernels_at_points(self.input_to_gates.weight),
            self.input_to_gates.bias,
        ).view(*maps.shape[:3], -1)  # (G * G, K, B, 4 * hidden)
        kernels = kernels_at_points(self.hidden_to_gates.weight)
        if self.peepholes is not None:
            peep_i, peep_f, peep_o = self.peepholes.flatten(2).mT.unsqueeze(2)  # (G * G, 1, hidden)
        hidden = cell = torch.zeros_like(of_inputs[:, 0].chunk(4, dim=2)[0])  # (G * G, B, hidden)
        states = []
        for t, gates in enumerate(of_inputs.unbind(dim=1)):
            if t > 0:  # before the first step the hidden state is zero
                gates = gates + filter_maps(hidden, kernels)
            i, f, o, g = gates.chunk(4, dim=2)  # (G * G, B, hidden) each
            if self.peepholes is not None:
                i, f = i + peep_i * cell, f + peep_f * cell
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            if self.peepholes is not None:
                o = o + peep_o * cell
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden)
        of_steps = torch.stack(states, dim=1)  # (G * G, K, B, hidden)
        return of_steps.permute(2, 1, 3, 0).view(*inputs.shape[:2], -1, GRID, GRID)


class ConvLSTM(nn.Module):
    """Layers of `ConvLSTMLayer`, each fed the hidden states of the one below."""

    def __init__(
        self,
        in_channels: int,
        hidden: int,
        *,
        layers: int = 2,
        peepholes: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            ConvLSTMLayer(hidden if index else in_channels, hidden, peepholes=peepholes)
            for index in range(layers)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the top layer's hidden states, (B, K, hidden, G, G), of (B, K, C, G, G)."""
        states = inputs
        for index, layer in enumerate(self.layers):
            states = layer(self.dropout(states) if index else states)
        return states
