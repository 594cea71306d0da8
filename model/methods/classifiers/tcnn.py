"""Tube-of-interest pooling over the clips of a video, then fully connected layers: Table 6's TCNN.

Sultani, Chen, Shah 2018 (section 5.5) use the Tube Convolutional Neural Network of Hou, Chen, Shah
2017 as a classifier of whole videos: in C3D tube-of-interest (ToI) pooling takes the place of the
fifth max pooling, aggregates all clips of a video into one feature vector, and the fully connected
layers behind it are trained with the rest.

As they describe it are the ToI pooling of whole frames, which is the maximum over a video's clips
(or over each of `bins` equal parts of it), C3D's fully connected layer with dropout, and an output
for each category, trained on whole videos by cross-entropy. Not as described: the cache holds fc6,
so the maximum is taken behind that layer instead of before it, and neither it nor the convolutions
are trained. Hou et al.'s tube proposals, which find where in the frame something happens, are left
out, as a classifier of whole videos has no boxes. The optimiser's settings are ours, for Sultani et
al. give none, and so is the score of a video: theirs only tells categories apart.
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
from model.device import training_seconds
from model.features.load import FeatureSet
from model.features.standardize import Standardizer
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method
from model.methods.classifiers.whole_video import video_targets, whole_video_scores
from model.methods.weak.mil import LOG_EVERY, segment_rows
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class TCNN(Method):
    """Pools a video's clips and tells its category by a small network."""

    name: ClassVar[str] = "tcnn"
    supervision: ClassVar[Supervision] = "weakly"
    learns_categories: ClassVar[bool] = True

    bins: int = 1
    """Equal parts of a video that are pooled each for itself; 1: one vector for all clips."""
    hidden: int = 512
    """Width of the fully connected layer (4,096 in C3D)."""
    dropout: float = 0.5
    """Share of values dropped behind it (C3D's)."""
    steps: int = 300
    """Optimiser steps."""
    batch: int = 30
    """Videos a step."""
    learning_rate: float = 1e-3
    """Of Adam."""
    weight_decay: float = 5e-4
    """L2 penalty."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "bins", "hidden", "steps", "batch")
        self._require_at_least(0, "weight_decay")
        self._require_share("dropout")
        self._require("learning_rate", self.learning_rate > 0, "above 0")

    def cpu_seconds(self, material: Material) -> float:
        """Return that of all steps."""
        with torch.device("meta"):
            network = self._network(
                self.bins * material.train.features.shape[1], len(material.categories)
            )
        return training_seconds(network, rows=self.batch, steps=self.steps)

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Train on whole videos; log the mean loss every 20 steps."""
        data, categories = material.train, material.categories
        pooled = self.pooled(data)
        standardizer = Standardizer.fit(pooled)
        inputs = torch.from_numpy(standardizer.apply(pooled)).to(session.device)
        abnormal, category = (
            torch.from_numpy(each).to(session.device)
            for each in video_targets(data.labels, categories)
        )
        # the seeds set below are not the caller's business
        with torch.random.fork_rng([session.device] if session.device.type == "cuda" else []):
            torch.manual_seed(session.seed)
            network = self._network(inputs.shape[1], len(categories)).to(session.device)
            optimizer = torch.optim.Adam(
                network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
            )
            recent: list[Tensor] = []
            for step, rows in enumerate(self._draws(len(inputs), session.seed), start=1):
                optimizer.zero_grad(set_to_none=True)
                loss = whole_video_loss(network(inputs[rows]), abnormal[rows], category[rows])
                torch.autograd.backward(loss)
                optimizer.step()
                recent.append(loss.detach())
                if step % LOG_EVERY == 0:
                    session.log({"step": step, "loss": float(torch.stack(recent).mean())})
                    recent = []
        weights = {name: each.detach().cpu().numpy() for name, each in network.state_dict().items()}
        return Fitted(
            parameters={**weights, "mean": standardizer.mean, "std": standardizer.std},
            categories=categories,
            result={"steps": self.steps},
        )

    @torch.inference_mode()
    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return a score and the categories' probabilities, the same for all clips of a video."""
        parameters = dict(fitted.parameters)
        standardizer = Standardizer(mean=parameters.pop("mean"), std=parameters.pop("std"))
        inputs = torch.from_numpy(standardizer.apply(self.pooled(data)))
        network = self._network(inputs.shape[1], len(fitted.categories))
        network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in parameters.items()})
        outputs = network.to(device).eval()(inputs.to(device)).double().cpu()
        return whole_video_scores(
            data,
            outputs[:, -1].sigmoid().numpy(),
            fitted.categories,
            outputs[:, :-1].softmax(dim=1).numpy(),
        )

    def pooled(self, data: FeatureSet) -> NDArray[np.float32]:
        """Return (V, bins * D) the largest value of each feature in each part of a video."""
        first, end = segment_rows(data.first_clip, self.bins)
        parts = [data.features[a:b].max(axis=0) for a, b in zip(first.flat, end.flat, strict=True)]
        return np.stack(parts).reshape(len(data.labels), -1)

    def _network(self, dim: int, num_categories: int) -> nn.Sequential:
        """Return the layers; the last output is the video's score, the others its categories."""
        return nn.Sequential(
            nn.Linear(dim, self.hidden),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(self.hidden, num_categories + 1),
        )

    def _draws(self, num_videos: int, seed: int) -> Iterator[NDArray[np.int64]]:
        """Yield the videos of each step; every one comes once before one comes again."""
        rng, queue = np.random.default_rng((seed, 8)), np.zeros(0, np.int64)
        size = min(self.batch, num_videos)
        for _ in range(self.steps):
            if len(queue) < size:
                queue = np.concatenate([queue, rng.permutation(num_videos)])
            yield queue[:size]
            queue = queue[size:]


def whole_video_loss(outputs: Tensor, abnormal: Tensor, category: Tensor) -> Tensor:
    """Return the cross-entropies of category and score, each a mean over the videos that have one.

    Args:
        outputs: (B, C + 1) logits, the last one of the score.
        abnormal: (B,) bool.
        category: (B,) place of the category, -1 for none.
    """
    score = functional.binary_cross_entropy_with_logits(outputs[:, -1], abnormal.float())
    known = category >= 0
    if not known.any():
        return score
    return score + functional.cross_entropy(outputs[known, :-1], category[known])
