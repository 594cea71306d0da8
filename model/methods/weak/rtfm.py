"""RTFM: robust temporal feature magnitude learning, Tian et al. 2021.

Written from the paper's formulas (Weakly-supervised Video Anomaly Detection with Robust Temporal
Feature Magnitude Learning). As published: the means of 32 segments of a video; a multi-scale
temporal network, dilated convolutions beside a non-local block, added to its input; layers of 512,
128 and 1 with dropout 0.7; the k = T / 10 instances with the longest features stand for a video; 32
abnormal and 32 normal videos a step; Adam, 0.001. Preset `paper` takes its 15,000 steps; by default
they are fewer, for time. The last weights are kept, nothing selects.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.methods.weak.sequence import AlongTime, NormOverAll, SequenceMethod, labels_of


class RTFMOutput(NamedTuple):
    """Of V videos of T instances."""

    scores: Tensor
    """(V, T) in [0, 1]."""
    features: Tensor
    """(V, T, D) after the temporal network."""


@dataclass(frozen=True, kw_only=True)
class RTFM(SequenceMethod[RTFMOutput]):
    """Learns features that are long where a video is abnormal, and scores from the longest."""

    name: ClassVar[str] = "rtfm"
    averages: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"steps": 15_000},
    }

    num_segments: int = 32
    """Segments of a video in training; no more than the longest training video has clips."""
    bags: int = 32
    """Abnormal videos a step, and as many normal ones."""
    learning_rate: float = 0.001
    """Of Adam."""
    dropout: float = 0.7
    """Share of values dropped before each layer of the scores, and of instances not selected."""
    margin: float = 100.0
    """Length that the mean of the longest features of an abnormal video is drawn to."""
    magnitude_weight: float = 1e-4
    """Weight of the lengths."""
    sparsity: float = 8e-3
    """Weight of the norm of the scores of abnormal videos."""
    smoothness: float = 8e-4
    """Weight of the squared differences of neighbouring scores of abnormal videos."""

    def network(self, dim: int) -> nn.Module:
        """Return the temporal network with the layers of the scores."""
        return _Network(dim, self.dropout)

    def loss(self, output: RTFMOutput, num_abnormal: int) -> Tensor:
        """Return the sum of the paper's terms: magnitude, classification, sparsity, smoothness."""
        scores, features = output
        count = max(1, scores.shape[1] // 10)
        lengths = features.norm(dim=2)
        # An instance that is left out now and then keeps the others learning.
        left_out = torch.rand_like(lengths) < self.dropout
        longest = lengths.masked_fill(left_out, 0.0).topk(count, dim=1).indices
        videos = scores.gather(1, longest).mean(dim=1)
        means = features.gather(1, longest[:, :, None].expand(-1, -1, features.shape[2])).mean(1)
        magnitude = means.norm(dim=1)
        total: Tensor = (
            functional.binary_cross_entropy(videos, labels_of(scores, num_abnormal))
            + self.magnitude_weight * self._magnitude_loss(magnitude, num_abnormal)
            + self.sparsity * scores[:num_abnormal].norm(dim=1).mean()
            + self.smoothness * scores[:num_abnormal].diff(dim=1).square().sum(dim=1).mean()
        )
        return total

    def _magnitude_loss(self, magnitude: Tensor, num_abnormal: int) -> Tensor:
        """Return the mean square of how far the lengths are from `margin` and from 0, in sum."""
        abnormal = (self.margin - magnitude[:num_abnormal]).abs()
        normal = magnitude[num_abnormal:]
        pairs = abnormal[:, None] + normal  # every abnormal video with every normal one
        return pairs.square().mean()


class _Network(nn.Module):
    """(V, T, D) to `RTFMOutput`."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.temporal = _MultiScale(dim)
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(dim, 512),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(128, 1),
        )

    def forward(self, x: Tensor) -> RTFMOutput:
        features = self.temporal(x)
        return RTFMOutput(self.layers(features).squeeze(-1).sigmoid(), features)


class _MultiScale(nn.Module):
    """x + ReLU of a convolution over three dilated convolutions and a non-local block."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        part = max(1, dim // 4)
        self.pyramid = nn.ModuleList(
            nn.Sequential(
                AlongTime(dim, part, kernel=3, dilation=dilation), nn.ReLU(), NormOverAll(part)
            )
            for dilation in (1, 2, 4)
        )
        self.reduce = AlongTime(dim, part, kernel=1)
        inner = max(1, part // 2)
        self.theta, self.phi, self.g = (nn.Linear(part, inner) for _ in range(3))
        self.out = nn.Linear(inner, part)
        self.norm = NormOverAll(part)
        self.join = AlongTime(4 * part, dim, kernel=3)
        self.join_norm = NormOverAll(dim)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x).relu()
        alike = self.theta(reduced) @ self.phi(reduced).transpose(1, 2) / x.shape[1]
        attended = reduced + self.norm(self.out(alike @ self.g(reduced)))
        parts = torch.cat([*(block(x) for block in self.pyramid), attended], dim=2)
        joined: Tensor = self.join_norm(self.join(parts).relu())
        return x + joined
