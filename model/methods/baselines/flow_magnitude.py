"""How much moves, and nothing else: four numbers a clip that the flow network never sees."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cache.records import FLOW_STATS
from data.errors import ModelError
from model.features.load import MOTION_STATS, FeatureSet
from model.methods.baselines.linear import LinearMethod


@dataclass(frozen=True, kw_only=True)
class FlowMagnitude(LinearMethod):
    """Logistic regression on the logarithms of four statistics of the optical flow."""

    name: ClassVar[str] = "flow-magnitude"
    uses_flow_stats: ClassVar[bool] = True

    penalties: tuple[float, ...] = (1e-2, 1e-1, 1.0, 10.0)
    """Candidates for C, ascending."""

    def inputs(self, data: FeatureSet) -> NDArray[np.float32]:
        """Return the logarithms of `MOTION_STATS`."""
        if data.flow_stats is None:
            raise ModelError("flow-magnitude was given clips without flow statistics")
        places = [FLOW_STATS.index(name) for name in MOTION_STATS]
        # Motion spans orders of magnitude; the offset is below what TV-L1 can tell from none.
        return np.asarray(np.log(data.flow_stats[:, places] + 1e-2), np.float32)
