"""The place in the video alone: what a model gains from when annotators cut their videos."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, clip_targets
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class Position(Method):
    """The share of abnormal frames at each place of the training videos, features unseen."""

    name: ClassVar[str] = "position"
    supervision: ClassVar[Supervision] = "fully"
    is_random: ClassVar[bool] = False

    num_bins: int = 10
    """Equal parts that a video is divided into."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_bins")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Count abnormal and normal frames in each part, one of each added."""
        train = material.train
        targets = clip_targets(train)
        places = self._places(train)
        lengths = (train.end_frame - train.start_frame).astype(np.float64)
        abnormal = np.bincount(places, targets * lengths, minlength=self.num_bins)
        total = np.bincount(places, lengths, minlength=self.num_bins)
        return Fitted(parameters={"share": (abnormal + 1.0) / (total + 2.0)})

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the share at each clip's middle."""
        return ClipScores(slots=fitted.parameters["share"][self._places(data)])

    def _places(self, data: FeatureSet) -> NDArray[np.int64]:
        middle = (data.start_frame + data.end_frame) / 2
        ends = np.maximum.reduceat(data.end_frame, data.first_clip[:-1])
        relative = middle / ends[data.video_of]
        return np.minimum((relative * self.num_bins).astype(np.int64), self.num_bins - 1)
