"""Multiple-instance learning: bags of clips with one label each. Shared by the weak methods."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import ModelError
from data.labels import VideoLabel
from data.splits.protocols import Supervision
from model.device import training_seconds
from model.features.load import FeatureSet
from model.methods.base import Fitted, Material, Method
from model.training.session import FitSession

LOG_EVERY = 20
BATCH = 1 << 14
"""Instances scored at once."""

Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Bags:
    """Videos as bags of instances, padded to a common length."""

    rows: NDArray[np.int64]
    """(V, T) rows of the array of instances; padding repeats the last."""
    mask: NDArray[np.bool_]
    """(V, T) False for padding."""


def bags_of(first: NDArray[np.int64]) -> Bags:
    """Return one bag for each video; `first` is (V + 1,) the first instance of each."""
    lengths = np.diff(first)
    places = np.arange(int(lengths.max()))
    return Bags(
        rows=first[:-1, None] + np.minimum(places, lengths[:, None] - 1),
        mask=places < lengths[:, None],
    )


def draw_bags(
    labels: Sequence[VideoLabel], *, each: int, steps: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield for each step the abnormal and the normal videos drawn, none twice in a step.

    Args:
        labels: of the V training videos.
        each: abnormal and normal videos a step; fewer where there are fewer of a kind.
        steps: how often.
        seed: of the draw.

    Raises:
        ModelError: one of the two kinds is absent.
    """
    is_abnormal = np.array([label.is_abnormal for label in labels])
    pools = np.flatnonzero(is_abnormal), np.flatnonzero(~is_abnormal)
    if not all(map(len, pools)):
        raise ModelError(
            f"{len(pools[0])} abnormal and {len(pools[1])} normal training videos are in the "
            "cache, some of both are needed; run `feat extract`, or add rows to the labels"
        )
    rng = np.random.default_rng((seed, 4))
    for _ in range(steps):
        abnormal, normal = (rng.permutation(pool)[:each] for pool in pools)
        yield abnormal, normal


class Score(nn.Module):
    """A sequence of layers whose single output becomes a score: (..., D) -> (...) in [0, 1]."""

    def __init__(self, *layers: nn.Module, initialize: Callable[[Tensor], Any]) -> None:
        """Take the layers, draw the weights of the linear ones and set their biases to 0."""
        super().__init__()
        self.layers = nn.Sequential(*layers)
        for layer in self.linear_layers():
            initialize(layer.weight)
            nn.init.zeros_(layer.bias)

    def linear_layers(self) -> list[nn.Linear]:
        """Return the layers that have weights."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.layers(x).squeeze(-1)
        return scores.sigmoid()


@dataclass(frozen=True, kw_only=True)
class BagMethod(Method, Generic[Net]):
    """A network that learns from whether each video is abnormal; which frames are is not seen."""

    supervision: ClassVar[Supervision] = "weakly"

    steps: int = 500
    """Optimiser steps."""
    bags: int = 30
    """Abnormal videos a step, and as many normal ones."""
    learning_rate: float = 0.01
    """Of the optimiser."""
    dropout: float = 0.6
    """Share of values dropped between the layers."""
    held_out: float = 0.0
    """Share of the training videos held out where the labels name no `val` ones: for choosing among
    snapshots."""
    snapshots: int = 0
    """Times, evenly spread, that the training is kept as it is then; `feat eval` compares them."""
    clicks: bool = True
    """Whether clicks (`@299`) are learnt from where labels have them."""
    click_weight: float = 1.0
    """Weight of their loss beside the method's own."""
    click_width: float = 0.1
    """Standard deviation of what a click stands for, as a share of the video's length."""
    click_warmup: int = 50
    """Steps before neighbours of a click that score nearly as high are taken as abnormal."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "steps", "bags")
        self._require_at_least(0, "click_weight", "click_warmup", "snapshots")
        self._require_share("held_out")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require("click_width", 0 < self.click_width <= 1, "above 0, 1 at most")
        self._require_share("dropout")

    @property
    def held_out_share(self) -> float:
        """As the setting `held_out` says."""
        return self.held_out

    @abstractmethod
    def network(self, dim: int) -> Net:
        """Return a fresh network for `dim` features."""

    @abstractmethod
    def optimizer(self, network: Net) -> torch.optim.Optimizer:
        """Return the optimiser of its weights."""

    @abstractmethod
    def losses(self, network: Net, data: FeatureSet, session: FitSession) -> Iterator[Tensor]:
        """Yield the loss of each step, computed with the weights as they are then."""

    def finish(self, network: Net, data: FeatureSet) -> None:
        """Do what is left before a network is kept, with the training videos."""

    def cpu_seconds(self, material: Material) -> float:
        """Return that of all steps, with bags of the mean length."""
        clips, dim = material.train.features.shape
        with torch.device("meta"):
            network = self.network(dim)
        rows = 2 * self.bags * clips / len(material.train.labels)
        return training_seconds(network, rows=rows, steps=self.steps)

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Take a step of the optimiser for each loss; log the mean loss every 20 steps."""
        # the seeds set below are not the caller's business
        with torch.random.fork_rng([session.device] if session.device.type == "cuda" else []):
            torch.manual_seed(session.seed)
            network = self.network(material.train.features.shape[1]).to(session.device)
            optimizer = self.optimizer(network)
            recent: list[Tensor] = []
            for step, loss in enumerate(self.losses(network, material.train, session), start=1):
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                recent.append(loss.detach())
                if step % LOG_EVERY == 0:
                    session.log({"step": step, "loss": float(torch.stack(recent).mean())})
                    recent = []
                session.keep_snapshot(step, partial(self._learnt, network, material.train))
            parameters = self._learnt(network, material.train)
        return Fitted(parameters=parameters, result={"steps": self.steps})

    def _learnt(self, network: Net, data: FeatureSet) -> dict[str, NDArray[Any]]:
        self.finish(network, data)
        network.train()
        # a copy: on a CPU the arrays would go on changing with the network
        weights = network.state_dict()
        return {name: value.detach().cpu().numpy().copy() for name, value in weights.items()}

    def load_network(self, fitted: Fitted, dim: int, device: torch.device) -> Net:
        """Return the network that `fit` trained, ready to score features of `dim` values."""
        network = self.network(dim)
        weights = {k: torch.from_numpy(np.array(v)) for k, v in fitted.parameters.items()}
        network.load_state_dict(weights)
        network.to(device).eval()
        return network


@torch.inference_mode()
def score_instances(
    network: Score, inputs: NDArray[np.float32], device: torch.device
) -> NDArray[np.float64]:
    """Return (N,) scores in [0, 1] of (N, D) instances."""
    rows = torch.split(torch.from_numpy(inputs), BATCH)
    return torch.cat([network(part.to(device)).double().cpu() for part in rows]).numpy()


def segment_clips(num_clips: int, num_segments: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return first clip and end of each segment; where clips are too few, segments share them.

    5 clips, 3 segments:   0:1 1:3 3:5
    2 clips, 4 segments:   0:1 0:1 1:2 1:2
    """
    bounds = np.arange(num_segments + 1) * num_clips // num_segments
    return bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1)


def segment_rows(
    first_clip: NDArray[np.int64], num_segments: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (V, S) the first row of each segment of each video, and the row after its last."""
    bounds = [segment_clips(int(count), num_segments) for count in np.diff(first_clip)]
    first, end = (np.array(edges) + first_clip[:-1, None] for edges in zip(*bounds, strict=True))
    return first, end


def middle_rows(first: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row of the clip in the middle of each segment of `segment_rows`."""
    return (first + end - 1) // 2


def segment_means(data: FeatureSet, num_segments: int) -> NDArray[np.float32]:
    """Return (V, S, D) the mean features of each segment."""
    segments = np.empty((len(data.labels), num_segments, data.features.shape[1]), np.float32)
    for video in range(len(data.labels)):
        features = data.features[data.rows(video)]
        before = np.concatenate(
            [np.zeros((1, features.shape[1])), np.cumsum(features, axis=0, dtype=np.float64)]
        )
        first, end = segment_clips(len(features), num_segments)
        segments[video] = (before[end] - before[first]) / (end - first)[:, None]
    return segments
