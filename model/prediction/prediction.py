"""What a trained model says of one video in a cache: frame scores, intervals, peaks, category."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cache import ClipTable, FeatureCache
from data.intervals import intervals_from_frames
from data.labels import VideoLabel
from model.measures.metrics import THRESHOLD
from model.runs.reference import Distance
from model.runs.threshold import threshold_words
from model.runs.trained import TrainedRun


@dataclass(frozen=True, kw_only=True)
class AbnormalInterval:
    """A run of frames whose scores reach the threshold; half-open, as in `labels.csv`."""

    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float
    peak: float
    """The highest score in it."""


@dataclass(frozen=True, kw_only=True)
class VideoPrediction:
    """What a model says of one video of T frames."""

    scores: NDArray[np.float64]
    """(T,) in [0, 1]."""
    edges_seconds: NDArray[np.float64]
    """(T + 1,): when each frame is first shown, then when the last one ends; never descending."""
    threshold: float
    threshold_means: str
    """What it was fitted for, or that it was not."""
    frame_rate: float
    partial: str
    """Why decoding stopped early, empty if it did not."""
    seen: bool
    """Whether the model was trained on this video or selected by it."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of each category; empty if the model has none."""
    category_extents: Mapping[str, frozenset[bool]] = field(default_factory=dict)
    """Whether a category is one of abnormal videos (True), of normal ones, or of both; not of all
    need this be known."""
    distance: Distance | None = None
    """From the training videos; None if the run cannot tell."""

    @property
    def intervals(self) -> list[AbnormalInterval]:
        """The runs of frames that score `threshold` or more, in order."""
        return [
            AbnormalInterval(
                start_frame=start,
                end_frame=end,
                start_seconds=float(self.edges_seconds[start]),
                end_seconds=float(self.edges_seconds[end]),
                peak=float(self.scores[start:end].max()),
            )
            for start, end in intervals_from_frames(self.scores >= self.threshold)
        ]

    @property
    def peak_frame(self) -> int:
        """The first frame with the highest score."""
        return int(self.scores.argmax())

    @property
    def category(self) -> str:
        """The likeliest category that fits the verdict; empty if there is none.

        A video with an abnormal interval is of no category that only normal videos had, and one
        without is of none that only abnormal videos had.
        """
        is_abnormal = bool((self.scores >= self.threshold).any())
        fitting = [
            name
            for name in self.probabilities
            if is_abnormal in self.category_extents.get(name, (is_abnormal,))
        ]
        return max(fitting, key=self.probabilities.__getitem__, default="")


def predict_video(
    trained: TrainedRun, cache: FeatureCache, video: str, *, threshold: float | None = None
) -> VideoPrediction:
    """Return what a run says of one video.

    Args:
        trained: of one seed or several.
        cache: holds the features it wants.
        video: name or sha256 of the video in the cache.
        threshold: of an abnormal frame; default: the one fitted for the run, else 0.5.

    Raises:
        CacheError: the features are not there, or not of the configuration trained on.
        ModelError: the features are not numbers, or not those of the model's clips.
    """
    data = trained.load_features(cache, [VideoLabel(video=video, split="test", extent="unknown")])
    answer, own = trained.score(data), trained.threshold
    means = own.stands_for() if own else "no threshold was fitted"
    if threshold is not None:
        means = f"as given; the run's own is {threshold_words(own)}"
    usual = own.value if own else THRESHOLD
    stream = trained.info.streams[0]
    entry = cache.find(video, stream.name, stream.config)
    return VideoPrediction(
        scores=answer.frames[0],
        edges_seconds=frame_edges(
            cache.read_clips(entry.key),
            int(data.num_frames[0]),
            cache.read_frame_seconds(entry.key),
        ),
        threshold=usual if threshold is None else threshold,
        threshold_means=means,
        frame_rate=float(data.frame_rate[0]),
        partial=entry.source.partial,
        seen=trained.has_seen(data.sha256[0]),
        probabilities=dict(zip(answer.categories, answer.probabilities()[0].tolist(), strict=True)),
        category_extents=trained.category_extents,
        distance=(
            trained.reference.distance(data.features, sha256=data.sha256[0])
            if trained.reference
            else None
        ),
    )


def frame_edges(
    clips: ClipTable, num_frames: int, frame_seconds: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return (T + 1,) seconds: when each frame is first shown, then when the last one ends.

    The table has times of the first frame of every clip and of the end of the last one; where the
    frames' own times are unknown, a frame in between is taken to lie evenly between the two.

    Args:
        clips: of one video, at least one.
        num_frames: T, frames of the video.
        frame_seconds: the time of each frame, in any order; None: unknown.
    """
    if frame_seconds is not None and len(frame_seconds) >= num_frames:
        end = clips.end_seconds[clips.end_frame.argmax()]
        return np.maximum.accumulate(np.append(frame_seconds[:num_frames], end))
    frames = np.append(clips.start_frame, clips.end_frame.max())
    seconds = np.append(clips.start_seconds, clips.end_seconds[clips.end_frame.argmax()])
    frames, first = np.unique(frames, return_index=True)
    # broken files repeat or reverse times
    seconds = np.maximum.accumulate(seconds[first])
    return np.asarray(np.interp(np.arange(num_frames + 1), frames, seconds), np.float64)
