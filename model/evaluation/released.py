"""The authors' published evaluation beside the right one: what each of its shortcuts is worth.

Facts from `test.py` and `eval.py` of wanboyang/anomaly_detection_LAD2000. What is not evaluation
stays out: their choice of the checkpoint on the test set cannot be repeated with one checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from model.evaluation.compat import CompatTable, frame_measures
from model.features.load import FeatureSet
from model.features.windows import slot_bounds, spread_on_frames
from model.measures.metrics import VideoResult
from model.methods.base import Fitted

PredictWindows = Callable[
    [NDArray[np.int64], NDArray[np.bool_]], tuple[NDArray[np.float64], NDArray[np.float64]]
]
"""Rows and mask (W, K) of windows -> scores (W, K, m) and class probabilities (W, C)."""


@runtime_checkable
class WindowMethod(Protocol):
    """A method that scores windows of K clips, as the published evaluation takes for granted."""

    @property
    def num_clips(self) -> int:
        """K."""

    def score_windows(
        self,
        fitted: Fitted,
        data: FeatureSet,
        rows: NDArray[np.int64],
        mask: NDArray[np.bool_],
        device: torch.device,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what `PredictWindows` does."""


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """Where the published evaluation differs from ours; each can be taken alone."""

    tails: bool = False
    """A last clip of fewer frames than the others is left out, and its frames with it."""
    padding: bool = False
    """The last clip is repeated up to a multiple of K; windows over the repeats count fully."""
    scramble: bool = False
    """The (windows, K) clips are read as if they lay (K, windows): clips of several windows mix."""
    maximum: bool = False
    """A frame has the highest score of the windows that hold it, not their mean."""
    last_block: bool = False
    """Where the clips are no multiple of K, frames behind the last multiple do not count."""
    per_window: bool = False
    """Accuracy is the share of windows, not of videos."""


NAMES = tuple(asdict(Shortcuts()))
COLUMNS = {
    "right": Shortcuts(),
    **{name: Shortcuts(**{name: True}) for name in NAMES},
    "released": Shortcuts(**dict.fromkeys(NAMES, True)),
}


NOTE = (
    "right: every frame once, mean over windows, category accuracy over videos; no column is "
    "smoothed. released: all six shortcuts of the authors' published evaluation. Between them each "
    "one alone, as a difference from right. tails: last clips that are not full left out; padding: "
    "last clip repeated to a multiple of K; scramble: windows mixed by a wrong reshape; maximum: "
    "highest score of the windows; last_block: frames behind the last multiple of K clips left "
    "out; per_window: accuracy over windows. Only the first column is a result."
)


def compare_with_released(
    predict: PredictWindows, num_clips: int, data: FeatureSet, categories: Sequence[str]
) -> CompatTable:
    """Evaluate a model on labelled videos in all columns.

    Args:
        predict: scores windows of the clips of `data`.
        num_clips: K.
        data: whose clips and videos they are.
        categories: those the model knows.
    """
    values: dict[str, dict[str, float | None]] = {}
    num_frames = {}
    for column, shortcuts in COLUMNS.items():
        videos = _score(predict, num_clips, data, shortcuts)
        framed, are_abnormal = _framed(videos, data)
        values[column] = {
            **frame_measures(framed, are_abnormal),
            "accuracy": _accuracy(videos, data, categories, shortcuts.per_window),
        }
        num_frames[column] = sum(len(result.scores) for result in framed)
    return CompatTable(
        name="released", note=NOTE, totals=("released",), values=values, num_frames=num_frames
    )


@dataclass(frozen=True, kw_only=True)
class _Video:
    """What an evaluation sees of one video."""

    index: int
    scores: NDArray[np.float64]
    """(t,) of the first t frames; t = 0 where none counts."""
    probabilities: NDArray[np.float64]
    """(W, C) of its windows."""


def _score(
    predict: PredictWindows, num_clips: int, data: FeatureSet, shortcuts: Shortcuts
) -> list[_Video]:
    kept = [_clips_of(data, video, shortcuts) for video in range(len(data.labels))]
    laid = [_lay_windows(rows, num_clips, shortcuts) for rows in kept if len(rows)]
    if not laid:
        return []
    scores, probabilities = predict(
        np.concatenate([rows for rows, _ in laid]),
        np.concatenate([mask for _, mask in laid]),
    )
    edges = np.cumsum([len(rows) for rows, _ in laid])[:-1]
    found = []
    seen = [video for video, rows in enumerate(kept) if len(rows)]
    for video, (_, mask), own, shares in zip(
        seen, laid, np.split(scores, edges), np.split(probabilities, edges), strict=True
    ):
        slots = _merge(own, mask, maximum=shortcuts.maximum)[: len(kept[video])]
        frames = _frames(slots.clip(0.0, 1.0), data, video, kept[video], shortcuts, num_clips)
        found.append(_Video(index=video, scores=frames, probabilities=shares))
    return found


def _clips_of(data: FeatureSet, video: int, shortcuts: Shortcuts) -> NDArray[np.int64]:
    """Return the rows of a video's clips that the evaluation knows of."""
    rows = np.arange(data.first_clip[video], data.first_clip[video + 1])
    if shortcuts.tails and data.clip_len:
        rows = rows[data.end_frame[rows] - data.start_frame[rows] == data.clip_len]
    return rows


def _lay_windows(
    rows: NDArray[np.int64], num_clips: int, shortcuts: Shortcuts
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the rows and the mask of a video's windows, (W, K) each."""
    length = max(len(rows), num_clips)
    if shortcuts.padding:
        length = -(-len(rows) // num_clips) * num_clips
    offset = np.arange(length - num_clips + 1)[:, None] + np.arange(num_clips)
    windows = rows[np.minimum(offset, len(rows) - 1)]
    mask = np.ones_like(offset, dtype=bool) if shortcuts.padding else offset < len(rows)
    if shortcuts.scramble:
        windows, mask = (array.reshape(num_clips, -1).T for array in (windows, mask))
    return windows, mask


def _merge(
    scores: NDArray[np.float64], mask: NDArray[np.bool_], *, maximum: bool
) -> NDArray[np.float64]:
    """Return (n, m): the scores of n clips, each in up to K windows, one clip further each.

    Args:
        scores: (W, K, m).
        mask: (W, K).
        maximum: take the highest, not the mean.
    """
    windows, num_clips, slots = scores.shape
    place = (np.arange(windows)[:, None] + np.arange(num_clips))[mask]
    total = np.full((windows + num_clips - 1, slots), -np.inf if maximum else 0.0)
    if maximum:
        np.maximum.at(total, place, scores[mask])
        return total
    np.add.at(total, place, scores[mask])
    return np.asarray(total / np.bincount(place, minlength=len(total)).clip(min=1)[:, None])


def _frames(
    slots: NDArray[np.float64],
    data: FeatureSet,
    video: int,
    rows: NDArray[np.int64],
    shortcuts: Shortcuts,
    num_clips: int,
) -> NDArray[np.float64]:
    starts, ends = data.start_frame[rows], data.end_frame[rows]
    bounds = slot_bounds(starts, ends, clip_len=data.clip_len, slots=slots.shape[1])
    num_frames = int(ends.max()) if shortcuts.tails else int(data.num_frames[video])
    frames = spread_on_frames(slots, bounds, num_frames)
    whole = len(rows) // num_clips * num_clips
    return frames[: starts[whole]] if shortcuts.last_block and whole < len(rows) else frames


def _framed(videos: Sequence[_Video], data: FeatureSet) -> tuple[list[VideoResult], list[bool]]:
    """Return the frames that count, and which videos are abnormal, by all of their frames."""
    framed, are_abnormal = [], []
    for video in videos:
        label = data.labels[video.index]
        num_frames = int(data.num_frames[video.index])
        if label.is_weak or not num_frames:
            continue
        truth = label.frame_labels(num_frames)
        labels = truth[: len(video.scores)]
        framed.append(VideoResult(video=label.video, scores=video.scores, labels=labels))
        are_abnormal.append(bool(truth.any()))
    return framed, are_abnormal


def _accuracy(
    videos: Sequence[_Video], data: FeatureSet, categories: Sequence[str], per_window: bool
) -> float | None:
    hits: list[bool] = []
    for video in videos if categories else ():
        category = data.labels[video.index].category
        if category:
            shares = video.probabilities if per_window else video.probabilities.mean(0)[None]
            hits += [categories[int(place)] == category for place in shares.argmax(axis=1)]
    return float(np.mean(hits)) if hits else None
