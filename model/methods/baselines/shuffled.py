"""Logistic regression with shuffled labels: an evaluation that does not give it 0.5 is broken."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, clip_targets
from model.methods.baselines.linear import fit_linear, score_linear
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class Shuffled(Method):
    """The clips' targets change places over the whole training set before the fit.

    One seed's scores are a random direction in feature space, which may well score 0.4 or 0.6 on
    few videos; it is the mean over seeds that must be 0.5 within its interval.
    """

    name: ClassVar[str] = "shuffled"
    supervision: ClassVar[Supervision] = "fully"

    penalty: float = 1e-3
    """C; there is nothing to choose it by."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("penalty", self.penalty > 0, "above 0")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Fit to targets in an order drawn from the seed."""
        data = material.train
        targets = np.random.default_rng((session.seed, 2)).permutation(clip_targets(data))
        return Fitted(
            parameters=fit_linear(data.features, targets, data.video_of, penalties=(self.penalty,))
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return what means nothing."""
        return ClipScores(slots=score_linear(fitted.parameters, data.features))
