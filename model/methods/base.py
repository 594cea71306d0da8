"""What a method is: it learns from labelled clips and gives every clip a score.

A method is a frozen dataclass whose fields are its settings. To add one, write a module with a
class that derives from `Method`, and name it in `registry.METHODS`: every command then works with
it. Most need `fit` and `score` alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cache import FeatureCache
from data.labels import VideoLabel
from data.splits.protocols import Supervision
from model.features.load import FeatureSet, WhichCrops, load_features
from model.features.windows import slot_bounds, slot_targets
from model.measures.scores import ClipScores
from model.settings import Settings
from model.training.session import FitSession

Parameters = Mapping[str, NDArray[Any]]
"""Everything a fitted method needs to score, as named arrays: what its checkpoint holds."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a method learns from. The labels say no more than its supervision allows."""

    train: FeatureSet
    val: FeatureSet | None
    """Videos for choices only, never fitted to: the labels' `val` videos or, for a method that
    asks for some (`held_out_share`), a part of the training videos. None without any."""
    whole: "Callable[[], Material] | None" = None
    """Gives the training videos with those that were held out; None if none were."""

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories of the training videos, in order."""
        return tuple(sorted({row.category for row in self.train.labels if row.category}))


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What a fit gives."""

    parameters: Parameters
    categories: tuple[str, ...] = ()
    """Those the method learnt to tell apart, in the order of its outputs."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """How the fit went, as JSON types: steps, validation measures."""
    on_whole: bool = False
    """Whether the parameters were fitted to `Material.whole` in the end."""
    before_whole: "Fitted | None" = None
    """Then what it was before, which had not seen the videos held out, nor categories that they
    alone are of."""


@dataclass(frozen=True, kw_only=True)
class Method(Settings, ABC):
    """A way to score clips. Subclasses are frozen dataclasses; their fields are settings."""

    name: ClassVar[str]
    supervision: ClassVar[Supervision]
    """What of the training labels it sees; `gather` hides the rest before `fit`."""
    is_random: ClassVar[bool] = True
    """Whether another seed gives another result."""
    uses_flow_stats: ClassVar[bool] = False
    """Whether it looks at `FeatureSet.flow_stats`."""
    learns_categories: ClassVar[bool] = False
    """Whether it tells categories apart. Videos with unknown frames then teach their category."""
    reads_frames: ClassVar[bool] = False
    """Whether it looks at `FeatureSet.frames`, and at no features."""
    learns_frames: ClassVar[bool] = False
    """Whether its targets are frames, which a video imported without a frame count has not."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"default": {}}
    """Name -> settings that differ from the fields' own values."""

    smoothing: float = 0.0
    """Standard deviation, in clips, of the Gaussian that smooths a video's scores; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("smoothing", 0.0 <= self.smoothing <= 100.0, "0 (none) to 100 clips")

    @abstractmethod
    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Learn and return the parameters.

        Raises:
            ModelError: there is too little to learn from.
        """

    @abstractmethod
    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the scores of the clips of `data`, the higher the more abnormal."""

    def load(
        self,
        cache: FeatureCache,
        labels: Sequence[VideoLabel],
        *,
        streams: Sequence[str],
        configs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> FeatureSet:
        """Return what it looks at of the labelled videos; see `load_features`."""
        return load_features(
            cache,
            labels,
            streams=streams,
            configs=configs,
            motion=self.wants_motion,
            flow_stats=self.uses_flow_stats,
            crops=self.which_crops,
        )

    @property
    def num_steps(self) -> int:
        """Optimiser steps at most, for a progress bar; 0 for a method that logs none."""
        return int(getattr(self, "steps", 0))

    @property
    def wants_motion(self) -> bool:
        """Whether the flow's statistics stand among the features, see `load_features`."""
        return False

    @property
    def which_crops(self) -> WhichCrops:
        """Which crops it looks at beside their mean."""
        return "none"

    @property
    def held_out_share(self) -> float:
        """Share of the training videos to hold out where the labels name no `val` ones."""
        return 0.0

    def cpu_seconds(self, material: Material) -> float:
        """Return about how long `fit` takes on a CPU; 0 if it does not use the session's device.

        `--device auto` goes by it; `training_seconds` estimates it for a network.
        """
        return 0.0

    def suited_to(self, *, clip_len: int, has_motion: bool) -> Self:
        """Return the method with settings filled in that depend on the features.

        Args:
            clip_len: nominal frames a clip; 0 where it varies.
            has_motion: whether the cache holds the flow's statistics of all videos.
        """
        return self


def unbounded_scores(beyond: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return scores in (0, 1) of values of any size; 0.5 where one is 0.

    The arc tangent never reaches its limits, so that far and farther stay apart.
    """
    return np.asarray(0.5 + np.arctan(beyond) / np.pi, np.float64)


def clip_targets(data: FeatureSet) -> NDArray[np.float64]:
    """Return (N,) the share of abnormal frames of each clip.

    Raises:
        LabelsError: a label is weak, or goes beyond its video's last frame.
    """
    parts = [video_targets(data, index, label) for index, label in enumerate(data.labels)]
    return np.concatenate(parts)


def video_targets(data: FeatureSet, index: int, label: VideoLabel) -> NDArray[np.float64]:
    """Return (S,) the same of one video's clips.

    Args:
        data: of several videos.
        index: of the video among them.
        label: of the video.
    """
    rows = data.rows(index)
    if label.extent in ("normal", "all"):  # holds for imported videos without a frame count too
        return np.full(rows.stop - rows.start, float(label.is_abnormal))
    frames = label.frame_labels(int(data.num_frames[index]))
    bounds = slot_bounds(
        data.start_frame[rows], data.end_frame[rows], clip_len=data.clip_len, slots=1
    )
    return slot_targets(frames, bounds)[0][:, 0].astype(np.float64)
