"""Logistic regression on each clip's features alone: what a linear look at one clip can do."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, clip_targets
from model.methods.linear import fit_linear, score_linear
from model.training.session import FitSession

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class Logistic(Method):
    """Standardised features, C by validation or cross-validation over videos."""

    name: ClassVar[str] = "logistic"
    supervision: ClassVar[Supervision] = "fully"
    is_random: ClassVar[bool] = False

    penalties: tuple[float, ...] = PENALTIES
    """Candidates for C, ascending."""
    unit_length: bool = True
    """Divide each clip's features by their norm first, as DeepMIL does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("penalties", all(c > 0 for c in self.penalties), "values above 0")
        self._require("penalties", bool(self.penalties), "at least one value")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Fit to the share of abnormal frames of each clip; the seed does nothing."""
        train, val = material.train, material.val
        return Fitted(
            parameters=fit_linear(
                self._inputs(train),
                clip_targets(train),
                train.video_of,
                penalties=self.penalties,
                val=(self._inputs(val), clip_targets(val)) if val else None,
            )
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the probability that a frame of the clip is abnormal."""
        return ClipScores(slots=score_linear(fitted.parameters, self._inputs(data)))

    def _inputs(self, data: FeatureSet) -> NDArray[np.float32]:
        return unit_rows(data.features) if self.unit_length else data.features


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, D) features with rows of length 1; rows of zeros stay."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), np.float32)
