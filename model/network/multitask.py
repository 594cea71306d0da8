"""The multi-task network: windows of clip features -> frame scores and a category.

Wan et al. 2021, section 4: two ConvLSTM layers over K clips, then fully connected layers to C
categories and m * K frame scores.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from model.network.config import NetworkConfig
from model.network.convlstm import ConvLSTM
from model.network.winograd import GRID


class Prediction(NamedTuple):
    """Raw outputs for a batch of windows."""

    scores: Tensor
    """(B, K, m): before the sigmoid, or the scores themselves if the activation is linear."""
    categories: Tensor | None
    """(B, C) logits; None for a model without categories."""


class AnomalyNetwork(nn.Module):
    """ConvLSTM with a score head and, for C > 0, a category head."""

    def __init__(self, config: NetworkConfig, *, feature_dim: int, num_categories: int) -> None:
        """Build the network.

        Args:
            config: its shape; `clip_slots` must have been resolved (not 0).
            feature_dim: D, the width of a clip's features, all streams together.
            num_categories: C; 0 leaves the category head out.
        """
        super().__init__()
        if config.clip_slots < 1:
            raise ValueError("clip_slots must be resolved before the network is built")
        self.config = config
        cells = GRID**2
        channels = -(-feature_dim // cells)
        # 1024 -> 64x4x4, 2048 -> 128x4x4, 4096 -> 256x4x4. A width that the grid does not divide
        # is first mapped linearly to the next one that it does.
        self.project = (
            nn.Identity() if feature_dim % cells == 0 else nn.Linear(feature_dim, channels * cells)
        )
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.to_grid = nn.Unflatten(-1, (channels, GRID, GRID))
        self.recurrent = ConvLSTM(
            channels,
            config.hidden,
            layers=config.layers,
            peepholes=config.peepholes,
            dropout=config.dropout,
        )
        steps = config.num_clips if config.readout == "last" else 1
        state_dim = config.hidden * cells
        widths = config.head_widths
        width = widths[-1] if widths else state_dim
        branched = config.heads == "branched"
        self.trunk = _fully_connected(state_dim, widths[:1] if branched else widths, config)
        self.score_branch = _branch(config) if branched else None
        self.score_output = nn.Linear(width, steps * config.clip_slots, bias=not branched)
        self.score_skip = nn.Linear(feature_dim, config.clip_slots) if config.skip else None
        separate = config.heads == "separate" and num_categories > 0
        self.category_trunk = _fully_connected(state_dim, widths, config) if separate else None
        self.category_branch = _branch(config) if branched and num_categories else None
        self.category_output = (
            nn.Linear(width, num_categories, bias=not branched) if num_categories else None
        )

    def forward(self, features: Tensor, mask: Tensor) -> Prediction:
        """Return the scores and category logits of a batch of windows.

        Args:
            features: (B, K, D) float, standardised if the model was trained so.
            mask: (B, K) bool, False where a short video's window was padded. Only the category
                of a model that reads out each step looks at it.
        """
        features = self.input_dropout(features)
        states = self.recurrent(self.to_grid(self.project(features)))  # (B, K, hidden, G, G)
        if self.config.readout == "last":
            states = states[:, -1:]
        states = states.flatten(2)  # (B, K or 1, hidden * G * G)
        shared = self.trunk(states)
        own = shared if self.score_branch is None else self.score_branch(shared)
        scores = self.score_output(own).reshape(*features.shape[:2], -1)  # (B, K, m)
        if self.score_skip is not None:
            scores = scores + self.score_skip(features)
        if self.category_output is None:
            return Prediction(scores, None)
        own = shared if self.category_trunk is None else self.category_trunk(states)
        own = own if self.category_branch is None else self.category_branch(own)
        logits = self.category_output(own)  # (B, K or 1, C)
        if self.config.readout == "last":
            return Prediction(scores, logits[:, 0])
        weights = mask.to(logits.dtype).unsqueeze(-1)
        return Prediction(scores, (logits * weights).sum(1) / weights.sum(1))


def _branch(config: NetworkConfig) -> nn.Sequential:
    """Return an output's own layers behind the shared one."""
    return _fully_connected(config.head_widths[0], config.head_widths[1:], config, bias=False)


def _fully_connected(
    width: int, widths: Sequence[int], config: NetworkConfig, *, bias: bool = True
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for next_width in widths:
        layers += [nn.Dropout(config.dropout), nn.Linear(width, next_width, bias=bias), nn.ReLU()]
        width = next_width
    return nn.Sequential(*layers)
