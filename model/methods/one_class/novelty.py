"""Methods that know normal videos only: how far is a clip from anything seen in them?

The steps they share: features standardised and reduced to their principal components on the normal
training clips, a distance from these, and its map to [0, 1]. Where a cache holds several crops of a
clip or the places of its feature map, each may be a sample of its own; a clip is then as far from
normal as they are on average.
"""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from torch.nn import functional

from data.errors import ModelError
from data.splits.protocols import Supervision
from model.features.load import FeatureSet, WhichCrops
from model.features.standardize import Standardizer
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, Parameters, unbounded_scores
from model.training.names import part_of
from model.training.session import FitSession

logger = logging.getLogger(f"feat.{__name__}")

HELD_OUT = 0.2
ALARM_QUANTILE = 0.99
PYRAMID = (1, 2, 4)
"""Cells along each side of a feature map whose means are its patches (Luo et al. 2017)."""


@dataclass(frozen=True, kw_only=True)
class NoveltyMethod(Method):
    """What the unsupervised methods share; a method adds `fit_model` and `distance`."""

    supervision: ClassVar[Supervision] = "unsupervised"

    num_components: int = 64
    """Principal components kept of the standardised features, at most."""
    crops: Literal["mean", "all", "pyramid"] = "mean"
    """Of several crops of a clip or the places of its feature map: their `mean`, or `all`, each
    alone; `pyramid`: of a feature map, if all streams have one, the means of 1, 2x2 and 4x4 cells,
    else the mean. A clip's distance is the mean of theirs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_components")

    @property
    def which_crops(self) -> WhichCrops:
        """Which crops or places are looked at."""
        which: dict[str, WhichCrops] = {"mean": "none", "all": "all", "pyramid": "maps"}
        return which[self.crops]

    @abstractmethod
    def fit_model(
        self, inputs: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> dict[str, NDArray[Any]]:
        """Learn from (n, d) reduced features of normal clips, and the (n,) videos they are of.

        Where a clip has several parts, each is a clip, and the same part of a video's clips counts
        as a video.
        """

    @abstractmethod
    def distance(
        self, model: Parameters, inputs: NDArray[np.float32], videos: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return (n,) how far (n, d) reduced features are from normal; of any range.

        The clips of a video, (n,) `videos`, stand together and in order, here as in `fit_model`.
        """

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Learn what is normal and which distances are."""
        seed = session.seed
        parts = self._parts(material.train)
        num_parts, num_clips, dim = parts.shape
        if num_clips < 3:
            raise ModelError(f"{num_clips} clips of normal training videos, at least 3 needed")
        if self.crops != "mean":
            seen = "one vector" if num_parts == 1 else f"{num_parts} crops or places"
            logger.info("%s looks at %s of each clip", self.name, seen)
        features = parts.reshape(-1, dim)
        standardizer = Standardizer.fit(features)
        reduced, axes = _reduce(standardizer.apply(features), self.num_components, seed)
        reduced, videos = reduced.reshape(num_parts, num_clips, -1), material.train.video_of
        center, scale = self._calibrate(reduced, videos, seed)
        model = self.fit_model(*_as_clips(reduced, videos), seed)
        return Fitted(
            parameters={
                "mean": standardizer.mean,
                "std": standardizer.std,
                "axes": axes,
                "center": np.array([center]),
                "scale": np.array([scale]),
                **{f"model.{name}": array for name, array in model.items()},
            }
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return scores that are 0.5 where 1 % of unseen normal training clips are beyond."""
        parameters = fitted.parameters
        standardizer = Standardizer(mean=parameters["mean"], std=parameters["std"])
        reduced = standardizer.apply(self._parts(data)) @ parameters["axes"]
        distance = self._mean_distance(part_of("model", parameters), reduced, data.video_of)
        beyond = (distance - parameters["center"]) / parameters["scale"]
        return ClipScores(slots=unbounded_scores(beyond))

    def _parts(self, data: FeatureSet) -> NDArray[np.float32]:
        """Return (P, N, D): what is looked at of each clip."""
        parts = data.features[:, None] if self.crops == "mean" else data.each_crop
        if self.crops == "pyramid" and data.crops is not None:
            size = data.streams[0].config["feature_map"]
            parts = pyramid(parts, (size["height"], size["width"]))
        return np.moveaxis(parts, 1, 0)

    def _mean_distance(
        self, model: Parameters, reduced: NDArray[np.float32], videos: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the (N,) mean distances of the parts (P, N, d) of each clip."""
        distances = self.distance(model, *_as_clips(reduced, videos))
        mean: NDArray[np.float64] = distances.reshape(reduced.shape[:2]).mean(axis=0)
        return mean

    def _calibrate(
        self, reduced: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> tuple[float, float]:
        """Return centre and scale of the distances, measured on videos that were not fitted to."""
        known = np.unique(videos)
        count = round(HELD_OUT * len(known))
        held = np.random.default_rng((seed, 3)).permutation(known)[:count]
        left_out = np.isin(videos, held)
        if not count or (~left_out).sum() < 3:
            logger.warning("too few normal videos to measure the scale of the scores on others")
            left_out = np.zeros(len(videos), bool)
        model = self.fit_model(*_as_clips(reduced[:, ~left_out], videos[~left_out]), seed)
        others = left_out if left_out.any() else ~left_out
        measured = self._mean_distance(model, reduced[:, others], videos[others])
        center, median = np.quantile(measured, [ALARM_QUANTILE, 0.5])
        return float(center), max(float(center - median), 1e-9 * max(abs(float(center)), 1.0))


def pyramid(places: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return (N, 21, D): the means of 1, 2x2 and 4x4 cells of feature maps, row by row.

    Args:
        places: (N, height * width, D).
        size: height and width; where a cell's edge is within a place, the place is of both cells.
    """
    maps = torch.from_numpy(places).transpose(1, 2).reshape(len(places), -1, *size)
    cells = [functional.adaptive_avg_pool2d(maps, count).flatten(2) for count in PYRAMID]
    return np.ascontiguousarray(torch.cat(cells, dim=2).transpose(1, 2).numpy())


def _as_clips(
    parts: NDArray[np.float32], videos: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (P * N, d), the same part of all clips after each other, and the videos of these."""
    count = int(videos.max(initial=-1)) + 1
    of_parts = (np.arange(len(parts))[:, None] * count + videos).ravel()
    return parts.reshape(-1, parts.shape[-1]), of_parts


def _reduce(
    features: NDArray[np.float32], num_components: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (N, d) reduced features and the (D, d) axes; standardised features have mean 0."""
    count = min(num_components, features.shape[1], len(features) - 1)
    pca = PCA(count, svd_solver="auto", random_state=seed).fit(features)
    axes = np.ascontiguousarray(pca.components_.T, np.float32)
    return features @ axes, axes
