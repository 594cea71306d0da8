"""UR-DMU: dual memory units with uncertainty regulation, Zhou, Yu, Yang 2023.

Written from the paper's formulas (Dual Memory Units with Uncertainty Regulation for Weakly
Supervised Video Anomaly Detection). As published: a convolution to 512 values; two layers of four
heads, each with attention by content beside attention by distance in time; a memory of 60 normal
and one of 60 abnormal patterns; normal patterns as a distribution drawn to the standard normal one;
layers of 128 and 1; 200 instances; Adam, 1e-4. Preset `paper` takes its 3,000 steps of 64 abnormal
and 64 normal videos; by default they are fewer, for time. The last weights are kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.methods.weak.embedding import WIDTH, Embedding
from model.methods.weak.sequence import SequenceMethod, labels_of, top_mean

MEMORIES = 60


class UROutput(NamedTuple):
    """Of V videos of T instances."""

    scores: Tensor
    """(V, T) in [0, 1]."""
    embedded: Tensor
    """(V, T, 512) before the memories."""
    like_normal: Tensor
    """(V, T) in [0, 1] how much of the normal memory answers."""
    like_abnormal: Tensor
    """(V, T) the same of the abnormal one."""
    normal: Tensor
    """(V, T, 512) mean of the latent distribution of what the normal memory gives."""
    log_variance: Tensor
    """(V, T, 512) its logarithmic variance."""
    abnormal: Tensor
    """(V, T, 512) the latent form of what the abnormal memory gives."""


@dataclass(frozen=True, kw_only=True)
class URDMU(SequenceMethod[UROutput]):
    """Keeps what normal and what abnormal videos are made of in two memories."""

    name: ClassVar[str] = "ur-dmu"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"steps": 3000, "bags": 64},
    }

    steps: int = 300
    """Optimiser steps."""
    bags: int = 16
    """Abnormal videos a step, and as many normal ones."""
    learning_rate: float = 1e-4
    """Of Adam."""
    dropout: float = 0.5
    """Share of values dropped behind attention and before the score."""
    memory_weight: float = 0.1
    """Weight of what the memories answer to."""
    triplet_weight: float = 0.1
    """Weight of normal parts being alike, abnormal ones apart."""
    divergence_weight: float = 1e-3
    """Weight of the divergence of normal patterns from the standard normal distribution."""
    magnitude_weight: float = 1e-4
    """Weight of abnormal patterns being longer than normal ones."""
    margin: float = 100.0
    """By which they are to be longer."""

    def network(self, dim: int) -> nn.Module:
        """Return the network."""
        return _Network(dim, self.dropout)

    def loss(self, output: UROutput, num_abnormal: int) -> Tensor:
        """Return the sum of the paper's five terms.

        That of the memories is itself a sum of four cross entropies. On abnormal videos both
        memories are to answer, on normal ones the normal memory at each instance and the abnormal
        one nowhere. Where it is not each instance, it is the mean of the highest answers; for the
        abnormal memory on normal videos that is our choice.
        """
        count = output.scores.shape[1] // 16 + 1
        first, rest = slice(num_abnormal), slice(num_abnormal, None)
        videos = top_mean(output.scores, count)
        classified = functional.binary_cross_entropy(videos, labels_of(output.scores, num_abnormal))
        abnormal = top_mean(output.like_abnormal, count)
        memory = (
            _entropy(abnormal[first], 1.0)
            + _entropy(top_mean(output.like_normal[first], count), 1.0)
            + _entropy(output.like_normal[rest], 1.0)
            + _entropy(abnormal[rest], 0.0)
        )
        anchor = _highest(output.embedded[rest], output.like_normal[rest], count)
        alike = _highest(output.embedded[first], output.like_normal[first], count)
        apart = _highest(output.embedded[first], output.like_abnormal[first], count)
        pairs = min(len(anchor), len(alike))
        triplet = functional.triplet_margin_loss(
            functional.normalize(anchor[:pairs], dim=1),
            functional.normalize(alike[:pairs], dim=1),
            functional.normalize(apart[:pairs], dim=1),
        )
        mean, log_variance = output.normal[rest], output.log_variance[rest]
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(2).mean()
        long = _highest(output.abnormal[first], output.like_abnormal[first], count).norm(dim=1)
        short = _highest(output.normal[rest], output.like_normal[rest], count).norm(dim=1)
        magnitude = (self.margin - long[:pairs] + short[:pairs]).relu().mean()
        total: Tensor = (
            classified
            + self.memory_weight * memory
            + self.triplet_weight * triplet
            + self.divergence_weight * divergence
            + self.magnitude_weight * magnitude
        )
        return total


def _entropy(values: Tensor, target: float) -> Tensor:
    return functional.binary_cross_entropy(values, torch.full_like(values, target))


def _highest(values: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return (V, E) the mean of the (V, T, E) values with the highest (V, T) weights."""
    chosen = weights.topk(count, dim=1).indices
    return values.gather(1, chosen[:, :, None].expand(-1, -1, values.shape[2])).mean(dim=1)


class _Memory(nn.Module):
    """60 patterns: how strongly each answers to an instance, and their sum by that."""

    def __init__(self) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(WIDTH)
        self.patterns = nn.Parameter(torch.empty(MEMORIES, WIDTH).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        answers = (x @ self.patterns.T / math.sqrt(WIDTH)).sigmoid()
        strongest = answers.topk(MEMORIES // 16 + 1, dim=2).values.mean(dim=2)
        return strongest, answers @ self.patterns


class _Network(nn.Module):
    """(V, T, D) to `UROutput`."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding = Embedding(dim, dropout)
        self.normal_memory, self.abnormal_memory = _Memory(), _Memory()
        self.mean, self.log_variance = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layers = nn.Sequential(
            nn.Linear(2 * WIDTH, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 1)
        )

    def forward(self, x: Tensor) -> UROutput:
        x = self.embedding(x)
        like_normal, normal = self.normal_memory(x)
        like_abnormal, abnormal = self.abnormal_memory(x)
        mean, log_variance = self.mean(normal), self.log_variance(normal)
        latent = mean
        if self.training:  # drawn from the distribution, so that nearby patterns mean the same
            latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        far = self.mean(abnormal)
        scores = self.layers(torch.cat([x, latent + far], dim=2)).squeeze(-1).sigmoid()
        return UROutput(scores, x, like_normal, like_abnormal, mean, log_variance, far)
