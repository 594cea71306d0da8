"""What a method is: it is fitted to labelled clips and gives every clip a score."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError
from data.labels import VideoLabel
from data.splits.protocols import Protocol as Supervision
from model.features.load import FeatureSet
from model.features.windows import slot_bounds, slot_targets, spread_on_frames
from model.measures.smoothing import smooth_scores

Parameters = Mapping[str, NDArray[Any]]
"""Everything a fitted method needs to score, as named arrays: what its checkpoint holds."""


@dataclass(frozen=True, kw_only=True)
class Clips:
    """The clips of some videos, as a method sees them."""

    data: FeatureSet
    """Its labels are reduced to what the method's supervision allows."""
    flow_stats: NDArray[np.float32] | None = None
    """(N, 6), columns `cache.records.FLOW_STATS`; only for methods that use them."""

    @property
    def video_of(self) -> NDArray[np.int64]:
        """(N,) index of each clip's video."""
        return np.repeat(np.arange(len(self.data.labels)), np.diff(self.data.first_clip))


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a method learns from."""

    train: Clips
    val: Clips | None
    """The labels' `val` videos: for choices only, never fitted to. None if they name none."""


class Method(Protocol):
    """A way to score clips. The implementations are frozen dataclasses; fields are settings."""

    name: ClassVar[str]
    supervision: ClassVar[Supervision]
    """What of the training labels it sees; `gather` hides the rest before `fit`."""
    is_random: ClassVar[bool]
    """Whether another seed gives another result."""
    uses_flow_stats: ClassVar[bool]

    def fit(self, material: Material, seed: int) -> Parameters:
        """Learn and return the parameters.

        Raises:
            ModelError: there is too little to learn from.
        """

    def score(self, parameters: Parameters, clips: Clips) -> NDArray[np.float64]:
        """Return (N,) scores in [0, 1], the higher the more abnormal."""


def settings_of(method: Method) -> dict[str, Any]:
    """Return a method's settings as JSON types."""
    return asdict(method) if is_dataclass(method) and not isinstance(method, type) else {}


def with_settings(method: Method, settings: Mapping[str, Any]) -> Method:
    """Return the method with those of the settings changed that are not None.

    Raises:
        ConfigError: it has no such setting.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    known: set[str] = {field.name for field in fields(method)} if is_dataclass(method) else set()
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(
            f"method {method.name} has no setting {', '.join(unknown)}; "
            + (f"it has {', '.join(sorted(known))}" if known else "it has none")
        )
    return replace(method, **given) if given else method  # type: ignore[type-var]


def clip_targets(data: FeatureSet) -> NDArray[np.float64]:
    """Return (N,) the share of abnormal frames of each clip.

    Raises:
        LabelsError: a label is weak, or goes beyond its video's last frame.
    """
    parts = [_video_targets(data, index, label) for index, label in enumerate(data.labels)]
    return np.concatenate(parts)


def _video_targets(data: FeatureSet, index: int, label: VideoLabel) -> NDArray[np.float64]:
    rows = data.rows(index)
    if label.extent in ("normal", "all"):  # holds for imported videos without a frame count too
        return np.full(rows.stop - rows.start, float(label.is_abnormal))
    frames = label.frame_labels(int(data.num_frames[index]))
    return slot_targets(frames, _bounds(data, rows))[0][:, 0].astype(np.float64)


def frame_scores(
    scores: NDArray[np.float64], data: FeatureSet, *, smoothing: float = 0.0
) -> list[NDArray[np.float64]]:
    """Return (T,) scores of each video from (N,) scores of all clips, as for the ConvLSTM's.

    Args:
        scores: (N,) of the clips.
        data: the videos.
        smoothing: standard deviation in clips, see `model.measures.smoothing`.
    """
    frames = [
        spread_on_frames(
            scores[data.rows(index), None],
            _bounds(data, data.rows(index)),
            int(data.num_frames[index]),
        )
        for index in range(len(data.labels))
    ]
    return smooth_scores(frames, data, smoothing)


def _bounds(data: FeatureSet, rows: slice) -> NDArray[np.int64]:
    return slot_bounds(
        data.start_frame[rows], data.end_frame[rows], clip_len=data.clip_len, slots=1
    )
