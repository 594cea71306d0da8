"""From a method's scores of clips to scores of frames and categories of videos."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cache.keys import imported_sha256
from data.labels import VideoLabel
from model.features.load import FeatureSet
from model.features.windows import slot_bounds, spread_on_frames
from model.measures.metrics import VideoResult
from model.measures.smoothing import smooth_scores


@dataclass(frozen=True, kw_only=True)
class ClipScores:
    """What a method says of the N clips of some videos."""

    slots: NDArray[np.float64]
    """(N, m): a score for each of m equal parts of a clip's frames, or (N,), one for the clip. In
    [0, 1]; what lies outside is clamped."""
    categories: tuple[str, ...] = ()
    """The C classes the method knows; none for most methods."""
    windows: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    """(W, C) class probabilities of each window, or whatever part of a video the method judges."""
    video: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(W,) index of each window's video."""


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """An answer for V videos and their W windows."""

    frames: list[NDArray[np.float64]]
    """(T,) in [0, 1] for each video."""
    categories: tuple[str, ...]
    """The C classes; C may be 0."""
    windows: NDArray[np.float64]
    """(W, C) class probabilities of each window."""
    video: NDArray[np.int64]
    """(W,) which video each window is of."""

    def probabilities(self) -> NDArray[np.float64]:
        """Return (V, C): the mean over the video's windows of the class probabilities."""
        total = np.zeros((len(self.frames), len(self.categories)))
        if self.categories:
            np.add.at(total, self.video, self.windows)
            total /= np.bincount(self.video, minlength=len(total))[:, None]
        return total

    def votes(self) -> NDArray[np.int64]:
        """Return (V, C): windows of the video for which each class is the likeliest."""
        votes = np.zeros((len(self.frames), len(self.categories)), dtype=np.int64)
        if self.categories:
            np.add.at(votes, (self.video, self.windows.argmax(axis=1)), 1)
        return votes


def spread_scores(scores: ClipScores, data: FeatureSet, *, smoothing: float) -> VideoScores:
    """Return the scores of every frame of the videos of `data`.

    Args:
        scores: of its clips.
        data: the videos.
        smoothing: standard deviation, in clips, of the Gaussian over each video's frame scores; 0
            for none.
    """
    # A linear output may leave [0, 1]; it is clamped here, after windows were averaged, so that
    # windows can make up for each other.
    slots = scores.slots.reshape(len(data.features), -1).clip(0.0, 1.0)
    bounds = slot_bounds(
        data.start_frame, data.end_frame, clip_len=data.clip_len, slots=slots.shape[1]
    )
    frames = [
        spread_on_frames(slots[data.rows(v)], bounds[data.rows(v)], int(data.num_frames[v]))
        for v in range(len(data.labels))
    ]
    return VideoScores(
        frames=smooth_scores(frames, data, smoothing),
        categories=scores.categories,
        windows=scores.windows,
        video=scores.video,
    )


def mean_scores(answers: Sequence[VideoScores]) -> VideoScores:
    """Return the mean of what several models say of the same videos, frame by frame.

    Class probabilities are averaged window by window; a category that one of the models does not
    know has no probability there.
    """
    names = tuple(dict.fromkeys(name for answer in answers for name in answer.categories))
    windows = np.zeros((len(answers[0].video), len(names)))
    for answer in answers:
        windows[:, [names.index(name) for name in answer.categories]] += answer.windows
    return VideoScores(
        frames=[np.mean(each, axis=0) for each in zip(*(a.frames for a in answers), strict=True)],
        categories=names,
        windows=windows / len(answers),
        video=answers[0].video,
    )


def _frame_labels(label: VideoLabel, num_frames: int) -> NDArray[np.uint8] | None:
    return None if label.is_weak or not num_frames else label.frame_labels(num_frames)


def video_results(scores: VideoScores, data: FeatureSet) -> list[VideoResult]:
    """Return the scores beside the truth.

    Raises:
        LabelsError: a label goes beyond a video's last frame.
    """
    probabilities, votes = scores.probabilities(), scores.votes()
    return [
        VideoResult(
            video=label.video,
            scores=scores.frames[index],
            labels=_frame_labels(label, int(data.num_frames[index])),
            category=label.category,
            predicted=(
                scores.categories[int(probabilities[index].argmax())] if scores.categories else ""
            ),
            probabilities=probabilities[index],
            window_votes=votes[index],
            frame_rate=float(data.frame_rate[index]),
            sha256=sha256 if sha256 != imported_sha256(label.video) else "",
        )
        for index, (label, sha256) in enumerate(zip(data.labels, data.sha256, strict=True))
    ]
