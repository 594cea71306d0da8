"""Methods that know normal videos only: how far is a clip from anything seen in them?

The steps they share: features standardised and reduced to their principal components on the normal
training clips, a distance from these, and its map to [0, 1].
"""

import logging
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from data.errors import ModelError
from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.features.standardize import Standardizer
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, Parameters, unbounded_scores
from model.training.names import part_of
from model.training.session import FitSession

logger = logging.getLogger(f"feat.{__name__}")

HELD_OUT = 0.2
ALARM_QUANTILE = 0.99


@dataclass(frozen=True, kw_only=True)
class NoveltyMethod(Method):
    """What the unsupervised methods share; a method adds `fit_model` and `distance`."""

    supervision: ClassVar[Supervision] = "unsupervised"

    num_components: int = 64
    """Principal components kept of the standardised features, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_components")

    @abstractmethod
    def fit_model(
        self, inputs: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> dict[str, NDArray[Any]]:
        """Learn from (n, d) reduced features of normal clips, and the (n,) videos they are of."""

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
        features = material.train.features
        if len(features) < 3:
            raise ModelError(f"{len(features)} clips of normal training videos, at least 3 needed")
        standardizer = Standardizer.fit(features)
        reduced, axes = _reduce(standardizer.apply(features), self.num_components, seed)
        videos = material.train.video_of
        center, scale = self._calibrate(reduced, videos, seed)
        model = self.fit_model(reduced, videos, seed)
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
        reduced = standardizer.apply(data.features) @ parameters["axes"]
        distance = self.distance(part_of("model", parameters), reduced, data.video_of)
        beyond = (distance - parameters["center"]) / parameters["scale"]
        return ClipScores(slots=unbounded_scores(beyond))

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
        model = self.fit_model(reduced[~left_out], videos[~left_out], seed)
        others = left_out if left_out.any() else ~left_out
        measured = self.distance(model, reduced[others], videos[others])
        center, median = np.quantile(measured, [ALARM_QUANTILE, 0.5])
        return float(center), max(float(center - median), 1e-9 * max(abs(float(center)), 1.0))


def _reduce(
    features: NDArray[np.float32], num_components: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return (N, d) reduced features and the (D, d) axes; standardised features have mean 0."""
    count = min(num_components, features.shape[1], len(features) - 1)
    pca = PCA(count, svd_solver="auto", random_state=seed).fit(features)
    axes = np.ascontiguousarray(pca.components_.T, np.float32)
    return features @ axes, axes
