"""BN-WVAD: distance from the mean of batch normalisation, Zhou, Qu, Wang, Zhang, Zhang 2023.

Written from the paper's formulas (BatchNorm-based Weakly Supervised Video Anomaly Detection). As
published: UR-DMU's embedding; layers of 32, 16 and 1 with batch normalisation, in which a layer's
statistics stand for what is normal, and how far an instance is from them says how abnormal it is;
the score is the sum of both distances times the last layer's output; the fifth highest distances of
an abnormal video and two fifths of all of a batch are drawn apart from normal ones; Adam, 1e-4.
Preset `paper` takes its 1,000 steps of 64 abnormal and 64 normal videos; by default they are fewer,
for time. The last weights are kept.

The product has no upper bound. Here x becomes x / (x + m), m the value that 1 % of the normal
training clips go beyond, so that scores are in [0, 1] and the order is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from model.features.load import FeatureSet
from model.methods.weak.embedding import WIDTH, Embedding
from model.methods.weak.sequence import SequenceMethod, scored_parts

SHARE_OF_VIDEO = 0.2
SHARE_OF_BATCH = 0.4
QUANTILE = 0.99


class BNOutput(NamedTuple):
    """Of V videos of T instances."""

    scores: Tensor
    """(V, T) in [0, 1]."""
    raw: Tensor
    """(V, T) output of the last layer, in [0, 1]."""
    distances: tuple[Tensor, Tensor]
    """(V, T) from the statistics of either layer."""

    @property
    def product(self) -> Tensor:
        """(V, T) the score before its map to [0, 1]."""
        first, second = self.distances
        return (first + second) * self.raw


@dataclass(frozen=True, kw_only=True)
class BNWVAD(SequenceMethod[BNOutput]):
    """Scores how far an instance is from the statistics of batch normalisation."""

    name: ClassVar[str] = "bn-wvad"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "paper": {"steps": 1000, "bags": 64},
    }

    steps: int = 300
    """Optimiser steps."""
    bags: int = 16
    """Abnormal videos a step, and as many normal ones."""
    learning_rate: float = 1e-4
    """Of Adam."""
    weight_decay: float = 5e-5
    """L2 penalty."""
    dropout: float = 0.5
    """Share of values dropped behind attention."""
    first_weight: float = 5.0
    """Weight of the distances of the first layer."""
    second_weight: float = 20.0
    """Weight of those of the second."""

    def network(self, dim: int) -> nn.Module:
        """Return the network."""
        return _Network(dim, self.dropout)

    def loss(self, output: BNOutput, num_abnormal: int) -> Tensor:
        """Return the norm of the normal videos' outputs and a triplet for each layer."""
        first, second = output.distances
        total: Tensor = (
            output.raw[num_abnormal:].norm(dim=1).mean()
            + self.first_weight * _triplet(first, num_abnormal)
            + self.second_weight * _triplet(second, num_abnormal)
        )
        return total

    @torch.inference_mode()
    def finish(self, network: nn.Module, data: FeatureSet) -> None:
        """Measure the product on the normal training clips, for the map to [0, 1]."""
        assert isinstance(network, _Network)
        network.eval()
        device = next(network.parameters()).device
        products = [
            network(part[None].to(device)).product[0]
            for video, label in enumerate(data.labels)
            if not label.is_abnormal
            for part in scored_parts(torch.from_numpy(data.features[data.rows(video)]))
        ]
        network.middle.copy_(torch.cat(products).float().quantile(QUANTILE).clamp(min=1e-12))


def _triplet(distances: Tensor, num_abnormal: int) -> Tensor:
    """Return by how much selected abnormal distances fail to exceed the normal ones by 1.

    Args:
        distances: (V, T), abnormal videos first. Selected are the highest fifth of each abnormal
            video and, beside them, whatever of these videos is in the highest two fifths of all.
        num_abnormal: how many abnormal videos there are.
    """
    abnormal, normal = distances[:num_abnormal], distances[num_abnormal:]
    count = max(1, round(SHARE_OF_VIDEO * abnormal.shape[1]))
    of_video = abnormal >= abnormal.topk(count, dim=1).values[:, -1:]
    count = max(1, round(SHARE_OF_BATCH * abnormal.numel()))
    of_batch = abnormal >= abnormal.flatten().topk(count).values[-1]
    selected = (of_video | of_batch).to(distances.dtype)
    mean = (abnormal * selected).sum() / selected.sum()
    return (1.0 + normal - mean).relu().mean()


class _Normed(nn.Module):
    """A layer with batch normalisation: its output, and the distance from the statistics."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.linear(x)
        normed = self.norm(x.flatten(0, 1)).view_as(x).relu()
        mean, variance = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert variance is not None
        squares = (x - mean).square() / (variance + self.norm.eps)
        return normed, (squares.sum(dim=2) + 1e-12).sqrt()


class _Network(nn.Module):
    """(V, T, D) to `BNOutput`."""

    middle: Tensor

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.embedding = Embedding(dim, dropout)
        self.first, self.second = _Normed(WIDTH, 32), _Normed(32, 16)
        self.last = nn.Linear(16, 1)
        self.register_buffer("middle", torch.ones(()))

    def forward(self, x: Tensor) -> BNOutput:
        x, first = self.first(self.embedding(x))
        x, second = self.second(x)
        raw = self.last(x).squeeze(-1).sigmoid()
        output = BNOutput(raw, raw, (first, second))
        product = output.product
        return output._replace(scores=product / (product + self.middle))
