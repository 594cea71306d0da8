"""How much moves, and nothing else: four numbers a clip that the flow network never sees."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from cache.records import FLOW_STATS
from data.errors import ModelError
from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, clip_targets
from model.methods.linear import fit_linear, score_linear
from model.training.session import FitSession

COLUMNS = ("mean_abs_x", "mean_abs_y", "p99_magnitude", "max_cell_magnitude")
PENALTIES = (1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class FlowMagnitude(Method):
    """Logistic regression on the logarithms of four statistics of the optical flow."""

    name: ClassVar[str] = "flow-magnitude"
    supervision: ClassVar[Supervision] = "fully"
    is_random: ClassVar[bool] = False
    uses_flow_stats: ClassVar[bool] = True

    penalties: tuple[float, ...] = PENALTIES
    """Candidates for C, ascending."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("penalties", all(c > 0 for c in self.penalties), "values above 0")
        self._require("penalties", bool(self.penalties), "at least one value")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Fit to the share of abnormal frames of each clip; the seed does nothing."""
        train, val = material.train, material.val
        return Fitted(
            parameters=fit_linear(
                _inputs(train),
                clip_targets(train),
                train.video_of,
                penalties=self.penalties,
                val=(_inputs(val), clip_targets(val)) if val else None,
            )
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the probability that a frame of the clip is abnormal."""
        return ClipScores(slots=score_linear(fitted.parameters, _inputs(data)))


def _inputs(data: FeatureSet) -> NDArray[np.float32]:
    if data.flow_stats is None:
        raise ModelError("flow-magnitude was given clips without flow statistics")
    places = [FLOW_STATS.index(name) for name in COLUMNS]
    # Motion spans orders of magnitude; the offset is below what TV-L1 can tell from none.
    return np.asarray(np.log(data.flow_stats[:, places] + 1e-2), np.float32)
