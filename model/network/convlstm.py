"""Convolutional LSTM over maps of clip features.

Gates: Wan et al. 2021, equations 1 to 5 (peepholes included), after Shi et al. 2015.
"""

import torch
from torch import Tensor, nn

GRID = 4
"""G, the side of the square maps that feature vectors are reshaped to (Wan et al. 2021)."""
KERNEL = 3
"""Side of the convolutions' kernels; the maps keep their size."""


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
        # The inputs' share of the gates does not depend on the states: one call for all steps.
        of_inputs = self.input_to_gates(inputs.flatten(0, 1))  # (B * K, 4 * hidden, G, G)
        of_inputs = of_inputs.unflatten(0, inputs.shape[:2])  # (B, K, 4 * hidden, G, G)
        hidden = cell = torch.zeros_like(of_inputs[:, 0].chunk(4, dim=1)[0])  # (B, hidden, G, G)
        states = []
        for t, gates in enumerate(of_inputs.unbind(dim=1)):
            if t > 0:  # before the first step the hidden state is zero
                gates = gates + self.hidden_to_gates(hidden)
            i, f, o, g = gates.chunk(4, dim=1)  # (B, hidden, G, G) each
            if self.peepholes is not None:
                i, f = i + self.peepholes[0] * cell, f + self.peepholes[1] * cell
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            if self.peepholes is not None:
                o = o + self.peepholes[2] * cell
            hidden = o.sigmoid() * cell.tanh()
            states.append(hidden)
        return torch.stack(states, dim=1)


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
