"""Logistic regression on each clip's features alone: what a linear look at one clip can do."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data.splits.protocols import Protocol as Supervision
from model.methods.base import Clips, Material, Parameters, clip_targets
from model.methods.linear import fit_linear, score_linear

PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """Standardised features, C by validation or cross-validation over videos."""

    name: ClassVar[str] = "logistic"
    supervision: ClassVar[Supervision] = "fully"
    is_random: ClassVar[bool] = False
    uses_flow_stats: ClassVar[bool] = False

    penalties: tuple[float, ...] = PENALTIES
    """Candidates for C, ascending."""
    unit_length: bool = True
    """Divide each clip's features by their norm first, as DeepMIL does."""

    def fit(self, material: Material, seed: int) -> Parameters:
        """Fit to the share of abnormal frames of each clip; the seed does nothing."""
        train, val = material.train, material.val
        return fit_linear(
            self._inputs(train),
            clip_targets(train.data),
            train.video_of,
            penalties=self.penalties,
            val=(self._inputs(val), clip_targets(val.data)) if val else None,
        )

    def score(self, parameters: Parameters, clips: Clips) -> NDArray[np.float64]:
        """Return the probability that a frame of the clip is abnormal."""
        return score_linear(parameters, self._inputs(clips))

    def _inputs(self, clips: Clips) -> NDArray[np.float32]:
        return unit_rows(clips.data.features) if self.unit_length else clips.data.features


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, D) features with rows of length 1; rows of zeros stay."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), np.float32)
