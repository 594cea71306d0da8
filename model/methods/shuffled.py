"""Logistic regression with shuffled labels: an evaluation that does not give it 0.5 is broken."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data.splits.protocols import Protocol as Supervision
from model.methods.base import Clips, Material, Parameters, clip_targets
from model.methods.linear import fit_linear, score_linear


@dataclass(frozen=True, kw_only=True)
class Shuffled:
    """The clips' targets change places over the whole training set before the fit.

    One seed's scores are a random direction in feature space, which may well score 0.4 or 0.6 on
    few videos; it is the mean over seeds that must be 0.5 within its interval.
    """

    name: ClassVar[str] = "shuffled"
    supervision: ClassVar[Supervision] = "fully"
    is_random: ClassVar[bool] = True
    uses_flow_stats: ClassVar[bool] = False

    penalty: float = 1e-3
    """C; there is nothing to choose it by."""

    def fit(self, material: Material, seed: int) -> Parameters:
        """Fit to targets in an order drawn from the seed."""
        data = material.train.data
        targets = np.random.default_rng((seed, 2)).permutation(clip_targets(data))
        return fit_linear(
            data.features, targets, material.train.video_of, penalties=(self.penalty,)
        )

    def score(self, parameters: Parameters, clips: Clips) -> NDArray[np.float64]:
        """Return what means nothing."""
        return score_linear(parameters, clips.data.features)
