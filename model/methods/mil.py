"""Multiple-instance learning: bags of clips with one label each. Shared by DeepMIL and AR-Net."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

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
class BagMethod(Method):
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "steps", "bags")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require_share("dropout")

    @abstractmethod
    def network(self, dim: int) -> Score:
        """Return a fresh network for `dim` features."""

    @abstractmethod
    def optimizer(self, network: Score) -> torch.optim.Optimizer:
        """Return the optimiser of its weights."""

    @abstractmethod
    def losses(self, network: Score, data: FeatureSet, session: FitSession) -> Iterator[Tensor]:
        """Yield the loss of each step, computed with the weights as they are then."""

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
        weights = network.state_dict()
        return Fitted(
            parameters={name: value.detach().cpu().numpy() for name, value in weights.items()},
            result={"steps": self.steps},
        )

    @torch.inference_mode()
    def score_instances(
        self, fitted: Fitted, inputs: NDArray[np.float32], device: torch.device
    ) -> NDArray[np.float64]:
        """Return (N,) scores in [0, 1] of (N, D) instances."""
        network = self.network(inputs.shape[1])
        weights = {k: torch.from_numpy(np.array(v)) for k, v in fitted.parameters.items()}
        network.load_state_dict(weights)
        network.to(device).eval()
        rows = torch.split(torch.from_numpy(inputs), BATCH)
        return torch.cat([network(part.to(device)).double().cpu() for part in rows]).numpy()
