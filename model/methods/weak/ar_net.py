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

from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted
from model.methods.weak.clicks import ClickLoss
from model.methods.weak.mil import BagMethod, Bags, Score, bags_of, draw_bags, score_instances
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class ARNet(BagMethod[Score]):
    """Scores clips so that a quarter of an abnormal video's are high, a normal one's alike."""

    name: ClassVar[str] = "ar-net"

    hidden: int = 512
    """Width of the layer; 0 for as many as the features have, as published."""
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
        self._require_at_least(1, "divisor", "max_clips")
        self._require_at_least(0, "hidden", "center_weight", "weight_decay")

    def network(self, dim: int) -> Score:
        """Return the one hidden layer and the output."""
        width = self.hidden or dim
        layers = nn.Linear(dim, width), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(width, 1)
        return Score(*layers, initialize=nn.init.xavier_uniform_)

    def optimizer(self, network: Score) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(
            network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )

    def losses(self, network: Score, data: FeatureSet, session: FitSession) -> Iterator[Tensor]:
        """Yield the sum of both losses of each step."""
        inputs, all_bags = torch.from_numpy(data.features), bags_of(data.first_clip)
        clicks = ClickLoss(self, data)
        rng = np.random.default_rng((session.seed, 5))
        draws = draw_bags(data.labels, each=self.bags, steps=self.steps, seed=session.seed)
        for abnormal, normal in draws:
            bags = _sample(all_bags, abnormal, normal, self.max_clips, rng)
            mask = torch.from_numpy(bags.mask).to(session.device)
            scores = network(inputs[torch.from_numpy(bags.rows)].to(session.device))
            is_abnormal = torch.arange(len(mask), device=session.device) < len(abnormal)
            mil = dynamic_mil_loss(scores, mask, is_abnormal, divisor=self.divisor)
            center = center_loss(scores[~is_abnormal], mask[~is_abnormal])
            videos, frames = np.concatenate([abnormal, normal]), clicks.middle_frames(bags.rows)
            yield mil + self.center_weight * center + clicks(scores, videos, frames, mask)

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the network's score of each clip."""
        network = self.load_network(fitted, data.features.shape[1], device)
        return ClipScores(slots=score_instances(network, data.features, device))


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
