"""AR-Net: the centre-guided discriminative learning of Wan, Fang, Xia, Mei 2020.

After the paper (Weakly Supervised Video Anomaly Detection via Center-guided Discriminative
Learning) and the authors' code (wanboyang/Anomaly_AR_Net_ICME_2020).

As published: every clip is an instance; one fully connected layer, ReLU, dropout 0.7 and one
output; the k = ceil(t / 4) highest scores of a video of t clips all get its label (dynamic MIL
loss), and the scores of a normal video are drawn to their mean (centre loss, weight 20); 30
abnormal and 30 normal videos a step; Adam with learning rate 1e-4 and weight decay 5e-4; at most
300 clips of a video, spread over it (abnormal) or in a row (normal). The last weights are kept.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from data.splits.protocols import Protocol as Supervision
from model.methods.base import Clips, Material, Parameters
from model.methods.mil import Bags, Score, bags_of, draw_bags, parameters_of, score_instances


@dataclass(frozen=True, kw_only=True)
class ARNet:
    """Scores clips so that a quarter of an abnormal video's are high, a normal one's alike."""

    name: ClassVar[str] = "ar-net"
    supervision: ClassVar[Supervision] = "weakly"
    is_random: ClassVar[bool] = True
    uses_flow_stats: ClassVar[bool] = False

    hidden: int = 512
    """Width of the layer; 0 for as many as the features have, as published."""
    steps: int = 500
    bags: int = 30
    """Abnormal videos a step, and as many normal ones."""
    divisor: int = 4
    """Of the clips of a video, one in so many counts."""
    center_weight: float = 20.0
    learning_rate: float = 1e-4
    weight_decay: float = 5e-4
    dropout: float = 0.7
    max_clips: int = 300
    """Clips of a video that enter a step, at most."""

    def fit(self, material: Material, seed: int) -> Parameters:
        """Train on whether each video is abnormal; which frames are is not looked at."""
        data = material.train.data
        inputs = torch.from_numpy(data.features)
        all_bags = bags_of(data.first_clip)
        rng = np.random.default_rng((seed, 5))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network(inputs.shape[1])
            optimizer = torch.optim.Adam(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            for abnormal, normal in draw_bags(
                data.labels, each=self.bags, steps=self.steps, seed=seed
            ):
                bags = _sample(all_bags, abnormal, normal, self.max_clips, rng)
                mask = torch.from_numpy(bags.mask)
                scores = network(inputs[torch.from_numpy(bags.rows)])
                is_abnormal = torch.arange(len(mask)) < len(abnormal)
                loss = dynamic_mil_loss(
                    scores, mask, is_abnormal, divisor=self.divisor
                ) + self.center_weight * center_loss(scores[~is_abnormal], mask[~is_abnormal])
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
        return parameters_of(network)

    def score(self, parameters: Parameters, clips: Clips) -> NDArray[np.float64]:
        """Return the network's score of each clip."""
        features = clips.data.features
        return score_instances(self._network(features.shape[1]), parameters, features)

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
    chosen = torch.arange(scores.shape[1]) < counts[:, None]
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
