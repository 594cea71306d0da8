"""PEL4VAD's network without its prompts: Pu, Wu, Yang, Wang 2023.

Written from the paper's formulas (Learning Prompt-Enhanced Context Features for Weakly-Supervised
Video Anomaly Detection). As published: attention by content and by distance in time, over the whole
video and over a window of 9, mixed by a learnt share; layers to half the size and to 300; a causal
convolution over 9 instances scores; the highest instance of a normal video and the T / 16 + 1
highest of an abnormal one get its label; Adam, 5e-4. What it learns from the names of categories
needs a text encoder and is left out. Preset `paper` takes batches of 64 abnormal and 64 normal
videos for about its 50 epochs of UCF-Crime; by default they are fewer, for time. The last weights
are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.methods.weak.sequence import SequenceMethod, labels_of, top_mean

HIDDEN = 128
OUT = 300
WINDOW = 9
CAUSAL = 9


class PELOutput(NamedTuple):
    """Of V videos of T instances."""

    scores: Tensor
    """(V, T) in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class PEL4VAD(SequenceMethod[PELOutput]):
    """Small: attention near and far, then a causal classifier."""

    name: ClassVar[str] = "pel4vad"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"steps": 630, "bags": 64},
    }

    steps: int = 300
    """Optimiser steps."""
    learning_rate: float = 5e-4
    """Of Adam."""
    dropout: float = 0.1
    """Share of values dropped behind the layers."""

    def network(self, dim: int) -> nn.Module:
        """Return the network."""
        return _Network(dim, self.dropout)

    def loss(self, output: PELOutput, num_abnormal: int) -> Tensor:
        """Return the cross entropy of the videos' highest scores with their labels."""
        scores = output.scores
        abnormal = top_mean(scores[:num_abnormal], scores.shape[1] // 16 + 1)
        videos = torch.cat([abnormal, top_mean(scores[num_abnormal:], 1)])
        return functional.binary_cross_entropy(videos, labels_of(scores, num_abnormal))


class _Context(nn.Module):
    """The temporal context: x and what attention gathers, near and over all, normalised."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, HIDDEN), nn.Linear(dim, HIDDEN)
        self.value = nn.Linear(dim, HIDDEN)
        self.out = nn.Linear(HIDDEN, dim)
        self.norm = nn.LayerNorm(dim)
        self.share = nn.Parameter(torch.zeros(()))
        self.slope = nn.Parameter(torch.ones(()))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
        distance = (places[:, None] - places).abs()
        by_distance = (-(self.slope * distance.square() - self.offset).abs()).exp()
        logits = self.query(x) @ self.key(x).transpose(1, 2) / HIDDEN**0.5 + by_distance
        near = logits.masked_fill(distance > WINDOW // 2, -torch.inf)
        share = self.share.sigmoid()
        weights = share * logits.softmax(dim=2) + (1 - share) * near.softmax(dim=2)
        gathered = weights @ self.value(x)
        # A root that keeps the sign, with a slope that stays finite at 0.
        rooted = gathered.sign() * ((gathered.abs() + 1e-8).sqrt() - 1e-4)
        normed: Tensor = self.norm(x + self.out(functional.normalize(rooted, dim=2)))
        return normed


class _Network(nn.Module):
    """(V, T, D) to `PELOutput`."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        half = max(1, dim // 2)
        self.context = _Context(dim)
        self.layers = nn.Sequential(
            nn.Linear(dim, half),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(half, OUT),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.classify = nn.Conv1d(OUT, 1, CAUSAL)

    def forward(self, x: Tensor) -> PELOutput:
        x = self.layers(self.context(x)).transpose(1, 2)
        # No instance sees a later one here; the attention before does.
        scores = self.classify(functional.pad(x, (CAUSAL - 1, 0))).squeeze(1)
        return PELOutput(scores.sigmoid())
