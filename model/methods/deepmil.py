"""DeepMIL: multiple-instance ranking, Sultani, Chen, Shah 2018 (Real-world Anomaly Detection).

As published, in paper and code: 32 segments a video, each the mean of its clips' features brought
to length 1; fully connected layers of 512, 32 and 1 with dropout 0.6 and an L2 penalty of 0.001;
30 abnormal and 30 normal videos a step; Adagrad with learning rate 0.01. The published 20,000 steps
for 1610 videos are `steps` here, fewer by default, for time; the last weights are kept, nothing
selects.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method
from model.methods.logistic import unit_rows
from model.methods.mil import (
    Score,
    draw_bags,
    fork_random_state,
    parameters_of,
    score_instances,
    train_steps,
)
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class DeepMIL(Method):
    """Ranks the highest segment of abnormal videos above that of normal ones."""

    name: ClassVar[str] = "deepmil"
    supervision: ClassVar[Supervision] = "weakly"

    num_segments: int = 32
    """Segments of a video."""
    steps: int = 500
    """Optimiser steps."""
    bags: int = 30
    """Abnormal videos a step, and as many normal ones."""
    learning_rate: float = 0.01
    """Of Adagrad."""
    dropout: float = 0.6
    """Share of values dropped before the second and third layer."""
    weight_penalty: float = 0.001
    """L2 penalty of the layers' weights."""
    smoothness: float = 8e-5
    """Weight of the squared differences of neighbouring scores."""
    sparsity: float = 8e-5
    """Weight of the sum of the scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_segments", "steps", "bags")
        self._require_at_least(0, "weight_penalty", "smoothness", "sparsity")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require_share("dropout")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Train on whether each video is abnormal; which frames are is not looked at."""
        data = material.train
        segments = torch.from_numpy(_segment_features(data, self.num_segments)).to(session.device)
        with fork_random_state(session.device):
            torch.manual_seed(session.seed)
            network = self._network(segments.shape[2]).to(session.device)
            optimizer = torch.optim.Adagrad(network.parameters(), lr=self.learning_rate, eps=1e-8)
            draws = draw_bags(data.labels, each=self.bags, steps=self.steps, seed=session.seed)
            losses = (self._loss(network, segments, *drawn) for drawn in draws)
            train_steps(network, optimizer, losses, session)
        return Fitted(parameters=parameters_of(network), result={"steps": self.steps})

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return for each clip the mean score of the segments that it is in."""
        segments = _segment_features(data, self.num_segments)
        scores = score_instances(
            self._network(segments.shape[2]),
            fitted.parameters,
            segments.reshape(-1, segments.shape[2]),
            device,
        ).reshape(segments.shape[:2])
        parts = []
        for video, count in enumerate(np.diff(data.first_clip)):
            first, end = segment_clips(int(count), self.num_segments)
            member = (np.arange(count)[:, None] >= first) & (np.arange(count)[:, None] < end)
            parts.append((member @ scores[video]) / member.sum(axis=1))
        return ClipScores(slots=np.concatenate(parts))

    def _loss(
        self,
        network: Score,
        segments: Tensor,
        abnormal: NDArray[np.int64],
        normal: NDArray[np.int64],
    ) -> Tensor:
        scores = network(segments[np.concatenate([abnormal, normal])])
        ranking = ranking_loss(
            scores[: len(abnormal)],
            scores[len(abnormal) :],
            smoothness=self.smoothness,
            sparsity=self.sparsity,
        )
        return ranking + self.weight_penalty * _squares(network)

    def _network(self, dim: int) -> Score:
        network = Score(
            nn.Linear(dim, 512),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(512, 32),  # no activation behind it, as in the published code
            nn.Dropout(self.dropout),
            nn.Linear(32, 1),
        )
        for layer in _linear(network):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        return network


def ranking_loss(abnormal: Tensor, normal: Tensor, *, smoothness: float, sparsity: float) -> Tensor:
    """Return equation 7 of Sultani et al. for a batch, summed and averaged as in their code.

    Args:
        abnormal: (A, S) segment scores of abnormal videos.
        normal: (B, S) those of normal ones.
        smoothness: weight of the squared differences of neighbouring scores of abnormal videos.
        sparsity: weight of the sum of the scores of abnormal videos.
    """
    margins = 1.0 - abnormal.amax(dim=1)[:, None] + normal.amax(dim=1)  # (A, B) every pair
    ranking = margins.relu().sum(dim=0).mean()
    differences = abnormal.diff(dim=1)
    return ranking + smoothness * differences.square().sum() + sparsity * abnormal.sum()


def segment_clips(num_clips: int, num_segments: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first clip and end of each segment; where clips are too few, segments share them.

    5 clips, 3 segments:   0:1 1:3 3:5
    2 clips, 4 segments:   0:1 0:1 1:2 1:2
    """
    bounds = np.arange(num_segments + 1) * num_clips // num_segments
    return bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1)


def _segment_features(data: FeatureSet, num_segments: int) -> NDArray[np.float32]:
    """Return (V, S, D) mean features of each segment, of length 1."""
    segments = np.empty((len(data.labels), num_segments, data.features.shape[1]), np.float32)
    for video in range(len(data.labels)):
        features = data.features[data.rows(video)]
        before = np.concatenate(
            [np.zeros((1, features.shape[1])), np.cumsum(features, axis=0, dtype=np.float64)]
        )
        first, end = segment_clips(len(features), num_segments)
        mean = (before[end] - before[first]) / (end - first)[:, None]
        segments[video] = unit_rows(mean.astype(np.float32))
    return segments


def _linear(network: nn.Module) -> list[nn.Linear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear)]


def _squares(network: nn.Module) -> Tensor:
    return torch.stack([layer.weight.square().sum() for layer in _linear(network)]).sum()
