"""AR-Net: the centre-guided discriminative learning of Wan, Fang, Xia, Mei 2020.

After the paper (Weakly Supervised Video Anomaly Detection via Center-guided Discriminative
Learning) and the authors' code (wanboyang/Anomaly_AR_Net_ICME_2020).

As published: every clip is an instance; one fully connected layer, ReLU, dropout 0.7 and one
output; the k = ceil(t / 4) highest scores of a video of t clips all get its label (dynamic MIL
loss), and the scores of a normal video are drawn to their mean (centre loss, weight 20); 30
abnormal and 30 normal videos a step; Adam with learning rate 1e-4 and weight decay 5e-4; at most
300 clips of a video, spread over it (abnormal) or in a row (normal). The last weights are kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method
from model.methods.mil import (
    Bags,
    Score,
    bags_of,
    draw_bags,
    fork_random_state,
    parameters_of,
    score_instances,
    train_steps,
)
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class ARNet(Method):
    """Scores clips so that a quarter of an abnormal video's are high, a normal one's alike."""

    name: ClassVar[str] = "ar-net"
    supervision: ClassVar[Supervision] = "weakly"

    hidden: int = 512
    """Width of the layer; 0 for as many as the features have, as published."""
    steps: int = 500
    """Optimiser steps."""
    bags: int = 30
    """Abnormal videos a step, and as many normal ones."""
    divisor: int = 4
    """Of the clips of a video, one in so many counts."""
    center_weight: float = 20.0
    """Weight of the centre loss."""
    learning_rate: float = 1e-4
    """Of Adam."""
    weight_decay: float = 5e-4
    """L2 penalty."""
    dropout: float = 0.7
    """Share of values dropped before the output."""
    max_clips: int = 300
    """Clips of a video that enter a step, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "steps", "bags", "divisor", "max_clips")
        self._require_at_least(0, "hidden", "center_weight", "weight_decay")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require_share("dropout")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Train on whether each video is abnormal; which frames are is not looked at."""
        data = material.train
        inputs = torch.from_numpy(data.features)
        with fork_random_state(session.device):
            torch.manual_seed(session.seed)
            network = self._network(inputs.shape[1]).to(session.device)
            optimizer = torch.optim.Adam(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            losses = self._losses(network, inputs, data, session)
            train_steps(network, optimizer, losses, session)
        return Fitted(parameters=parameters_of(network), result={"steps": self.steps})

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the network's score of each clip."""
        features = data.features
        network = self._network(features.shape[1])
        return ClipScores(slots=score_instances(network, fitted.parameters, features, device))

    def _losses(
        self, network: Score, inputs: Tensor, data: FeatureSet, session: FitSession
    ) -> Iterator[Tensor]:
        """Yield the loss of each step."""
        all_bags = bags_of(data.first_clip)
        rng = np.random.default_rng((session.seed, 5))
        draws = draw_bags(data.labels, each=self.bags, steps=self.steps, seed=session.seed)
        for abnormal, normal in draws:
            bags = _sample(all_bags, abnormal, normal, self.max_clips, rng)
            mask = torch.from_numpy(bags.mask).to(session.device)
            scores = network(inputs[torch.from_numpy(bags.rows)].to(session.device))
            is_abnormal = torch.arange(len(mask), device=session.device) < len(abnormal)
            mil = dynamic_mil_loss(scores, mask, is_abnormal, divisor=self.divisor)
            center = center_loss(scores[~is_abnormal], mask[~is_abnormal])
            yield mil + self.center_weight * center

    def _network(self, dim: int) -> Score:
        width = self.hidden or dim
        network = Score(
            nn.Linear(dim, width), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(width, 1)
        )
        for layer in network.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        return network


def dynamic_mil_loss(scores: Tensor, mask: Tensor, is_abnormal: Tensor, *, divisor: int) -> Tensor:
    """Return the cross entropy of each video's highest scores with the video's label.

    Args:
        scores: (V, T) in [0, 1].
        mask: (V, T) False for padding.
        is_abnormal: (V,) bool.
        divisor: the ceil(t / divisor) highest of t scores count; each counts the same, so that
            long videos count more, as in the authors' code.
    """
    counts = torch.div(mask.sum(dim=1) + divisor - 1, divisor, rounding_mode="floor")
    ranked = scores.masked_fill(~mask, -1.0).sort(dim=1, descending=True).values
    chosen = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    targets = is_abnormal.to(scores.dtype)[:, None].expand_as(scores)
    return functional.binary_cross_entropy(ranked[chosen], targets[chosen])


def center_loss(scores: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over (B, T) normal videos of the variance of their scores, padding aside."""
    present = mask.to(scores.dtype)
    counts = present.sum(dim=1)
    means = (scores * present).sum(dim=1) / counts
    squares = ((scores - means[:, None]) * present).square().sum(dim=1)
    return (squares / counts).mean()


def _sample(
    bags: Bags,
    abnormal: NDArray[np.int64],
    normal: NDArray[np.int64],
    max_clips: int,
    rng: np.random.Generator,
) -> Bags:
    """Return the bags of some videos, long ones cut to `max_clips` clips."""
    chosen = np.concatenate([abnormal, normal])
    rows, mask = bags.rows[chosen], bags.mask[chosen]
    width = min(int(mask.sum(axis=1).max()), max_clips)
    for place, length in enumerate(mask.sum(axis=1)):
        if length <= max_clips:
            continue
        if place < len(abnormal):  # one clip from each of `max_clips` equal parts
            edges = np.arange(max_clips + 1) * length // max_clips
            kept = rng.integers(edges[:-1], edges[1:])
        else:
            kept = rng.integers(length - max_clips + 1) + np.arange(max_clips)
        rows[place, :max_clips] = rows[place, kept]
    return Bags(rows=rows[:, :width], mask=mask[:, :width])
