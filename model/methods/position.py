"""The place in the video alone: what a model gains from when annotators cut their videos."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data.splits.protocols import Protocol as Supervision
from model.methods.base import Clips, Material, Parameters, clip_targets


@dataclass(frozen=True, kw_only=True)
class Position:
    """The share of abnormal frames at each place of the training videos, features unseen."""

    name: ClassVar[str] = "position"
    supervision: ClassVar[Supervision] = "fully"
    is_random: ClassVar[bool] = False
    uses_flow_stats: ClassVar[bool] = False

    num_bins: int = 10
    """Equal parts that a video is divided into."""

    def fit(self, material: Material, seed: int) -> Parameters:
        """Count abnormal and normal frames in each part, one of each added."""
        train = material.train
        targets = clip_targets(train.data)
        places = self._places(train)
        lengths = (train.data.end_frame - train.data.start_frame).astype(np.float64)
        abnormal = np.bincount(places, targets * lengths, minlength=self.num_bins)
        total = np.bincount(places, lengths, minlength=self.num_bins)
        return {"share": (abnormal + 1.0) / (total + 2.0)}

    def score(self, parameters: Parameters, clips: Clips) -> NDArray[np.float64]:
        """Return the share at each clip's middle."""
        return np.asarray(parameters["share"][self._places(clips)], np.float64)

    def _places(self, clips: Clips) -> NDArray[np.int64]:
        data = clips.data
        middle = (data.start_frame + data.end_frame) / 2
        ends = np.maximum.reduceat(data.end_frame, data.first_clip[:-1])
        relative = middle / ends[clips.video_of]
        return np.minimum((relative * self.num_bins).astype(np.int64), self.num_bins - 1)
