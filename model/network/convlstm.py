"""Convolutional LSTM over maps of clip features.

Gates: Wan et al. 2021, equations 1 to 5 (peepholes included), after Shi et al. 2015.
"""

import torch
from torch import Tensor, nn

from data.kernels import use_triton
from model.network.recurrence import hidden_states
from model.network.winograd import GRID, KERNEL, kernels_at_points, maps_at_points


class ConvLSTMLayer(nn.Module):
    """One layer of equations 1 to 5; the gates are stacked in the order i, f, o, g."""

    def __init__(self, in_channels: int, hidden: int, *, peepholes: bool) -> None:
        super().__init__()
        self.hidden = hidden
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
        inputs = inputs.to(self.input_to_gates.weight.dtype)
        maps = inputs.flatten(3).permute(3, 1, 0, 2)  # (G * G, K, B, C)
        # The inputs' share of the gates does not depend on the states: one call for all steps.
        of_inputs = torch.bmm(
            maps_at_points(maps).flatten(1, 2), kernels_at_points(self.input_to_gates.weight)
        ).view(-1, *maps.shape[1:3], 4 * self.hidden)  # (P, K, B, 4 * hidden)
        kernels = kernels_at_points(self.hidden_to_gates.weight)
        bias = self.input_to_gates.bias
        assert bias is not None
        peepholes = None if self.peepholes is None else self.peepholes.flatten(2).mT
        with torch.autocast(inputs.device.type, enabled=False):
            states = _hidden_states(of_inputs.to(kernels.dtype), bias, kernels, peepholes)
        return states.permute(2, 1, 3, 0).view(*inputs.shape[:2], -1, GRID, GRID)


def _hidden_states(
    of_inputs: Tensor, bias: Tensor, kernels: Tensor, peepholes: Tensor | None
) -> Tensor:
    """Return `recurrence.hidden_states`, on a GPU by kernels."""
    small = of_inputs.numel() < 2**31  # the kernels count in 32 bits
    if small and kernels.dtype == torch.float32 and use_triton(kernels.device):
        from model.network import fused  # Triton is not everywhere

        return fused.hidden_states(of_inputs, bias, kernels, peepholes)
    return hidden_states(of_inputs, bias, kernels, peepholes)


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
