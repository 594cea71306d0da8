"""Convolutional LSTM: Wan et al. 2021, equations 1 to 5, after Shi et al. 2015."""

import torch
from torch import Tensor, nn

from model import winograd


class ConvLSTMLayer(nn.Module):
    """One layer of equations 1 to 5; the gates are stacked in the order i, f, o, g.

    The input's share of all gates is one convolution over all time steps at once: it does not
    depend on the recurrence, so only the hidden state's share is computed step by step.
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
        if self._suits_winograd(inputs):
            return self._forward_winograd(inputs)
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

    def _suits_winograd(self, inputs: Tensor) -> bool:
        # On a GPU cuDNN chooses for itself; bfloat16 is too coarse for the transforms.
        return (
            inputs.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and self.input_to_gates.kernel_size == (winograd.KERNEL, winograd.KERNEL)
            and inputs.shape[-2:] == (winograd.GRID, winograd.GRID)
        )

    def _forward_winograd(self, inputs: Tensor) -> Tensor:
        """Do what `forward` does, with the cells of the maps first: every product is a matrix's."""
        batch, steps, channels, side, _ = inputs.shape
        cells_first = inputs.permute(3, 4, 1, 0, 2).reshape(side**2, steps * batch, channels)
        kernel = winograd.transform_kernel(self.input_to_gates.weight)
        from_inputs = winograd.convolve(cells_first, kernel)
        if self.input_to_gates.bias is not None:
            from_inputs = from_inputs + self.input_to_gates.bias
        kernel = winograd.transform_kernel(self.hidden_to_gates.weight)
        peepholes: Tensor | None = self.peepholes
        if peepholes is not None:
            peepholes = peepholes.flatten(2).transpose(1, 2).unsqueeze(2)  # (3, 16, 1, hidden)
        hidden = cell = None
        states = []
        for gates in from_inputs.chunk(steps, dim=1):  # (16, B, 4 * hidden)
            if hidden is not None:
                gates = gates + winograd.convolve(hidden, kernel)
            hidden, cell = _next_state(gates.chunk(4, dim=2), cell, peepholes)
            states.append(hidden)
        stacked = torch.stack(states)  # (K, 16, B, hidden)
        return stacked.permute(2, 0, 3, 1).reshape(batch, steps, -1, side, side)


def _next_state(
    gates: tuple[Tensor, ...], cell: Tensor | None, peepholes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return H_t and C_t of equations 1 to 5, in whatever layout they come.

    Args:
        gates: i, f, o and g before their activations, without the peepholes' share.
        cell: C_{t-1}; None stands for the zeros of the first step, where every term it enters
            vanishes.
        peepholes: three weights that broadcast against a gate, or None.
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
            states = layer(self.dropout(states) if index else states)
        return states
