"""Logistic regression on each clip's features alone: what a linear look at one clip can do."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from model.features.load import FeatureSet
from model.methods.baselines.linear import LinearMethod


@dataclass(frozen=True, kw_only=True)
class Logistic(LinearMethod):
    """Standardised features, C by validation or cross-validation over videos."""

    name: ClassVar[str] = "logistic"

    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    """Candidates for C, ascending."""
    unit_length: bool = True
    """Divide each clip's features by their norm first, as DeepMIL does."""

    def inputs(self, data: FeatureSet) -> NDArray[np.float32]:
        """Return the features."""
        return unit_rows(data.features) if self.unit_length else data.features


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (..., D) features with rows of length 1; rows of zeros stay."""
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return np.asarray(features / np.maximum(norms, 1e-12), np.float32)
