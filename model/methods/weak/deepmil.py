"""DeepMIL: multiple-instance ranking, Sultani, Chen, Shah 2018 (Real-world Anomaly Detection).

As published, in paper and code: 32 segments a video, each the mean of its clips' features brought
to length 1; fully connected layers of 512, 32 and 1 with dropout 0.6 and an L2 penalty of 0.001;
30 abnormal and 30 normal videos a step; Adagrad with learning rate 0.01. The published 20,000 steps
for 1610 videos are `steps` here, fewer by default, for time; the last weights are kept, nothing
selects.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted
from model.methods.baselines.logistic import unit_rows
from model.methods.weak.clicks import ClickLoss
from model.methods.weak.mil import (
    BagMethod,
    Score,
    draw_bags,
    middle_rows,
    score_instances,
    segment_clips,
    segment_means,
    segment_rows,
)
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class DeepMIL(BagMethod[Score]):
    """Ranks the highest segment of abnormal videos above that of normal ones."""

    name: ClassVar[str] = "deepmil"

    num_segments: int = 32
    """Segments of a video."""
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
        self._require_at_least(1, "num_segments")
        self._require_at_least(0, "weight_penalty", "smoothness", "sparsity")

    def network(self, dim: int) -> Score:
        """Return the three layers."""
        return Score(
            nn.Linear(dim, 512),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(512, 32),  # no activation behind it, as in the published code
            nn.Dropout(self.dropout),
            nn.Linear(32, 1),
            initialize=nn.init.xavier_normal_,
        )

    def optimizer(self, network: Score) -> torch.optim.Optimizer:
        """Return Adagrad."""
        return torch.optim.Adagrad(network.parameters(), lr=self.learning_rate, eps=1e-8)

    def losses(self, network: Score, data: FeatureSet, session: FitSession) -> Iterator[Tensor]:
        """Yield the ranking loss with the L2 penalty of each step."""
        segments = torch.from_numpy(self._segments(data)).to(session.device)
        draws = draw_bags(data.labels, each=self.bags, steps=self.steps, seed=session.seed)
        clicks = ClickLoss(self, data)
        rows = middle_rows(*segment_rows(data.first_clip, self.num_segments))
        frames = clicks.middle_frames(rows)
        for abnormal, normal in draws:
            videos = np.concatenate([abnormal, normal])
            scores = network(segments[videos])
            ranking = ranking_loss(
                scores[: len(abnormal)],
                scores[len(abnormal) :],
                smoothness=self.smoothness,
                sparsity=self.sparsity,
            )
            squares = [layer.weight.square().sum() for layer in network.linear_layers()]
            penalty = self.weight_penalty * torch.stack(squares).sum()
            yield ranking + penalty + clicks(scores, videos, frames[videos])

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return for each clip the mean score of the segments that it is in."""
        segments = self._segments(data)
        rows = segments.reshape(-1, segments.shape[2])
        network = self.load_network(fitted, rows.shape[1], device)
        scores = score_instances(network, rows, device).reshape(segments.shape[:2])
        parts = []
        for video, count in enumerate(np.diff(data.first_clip)):
            first, end = segment_clips(int(count), self.num_segments)
            member = (np.arange(count)[:, None] >= first) & (np.arange(count)[:, None] < end)
            parts.append((member @ scores[video]) / member.sum(axis=1))
        return ClipScores(slots=np.concatenate(parts))

    def _segments(self, data: FeatureSet) -> NDArray[np.float32]:
        """Return (V, S, D) mean features of each segment, of length 1."""
        return unit_rows(segment_means(data, self.num_segments))


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
