"""The authors' published evaluation beside the right one: what each of its shortcuts is worth.

Facts from `test.py` and `eval.py` of wanboyang/anomaly_detection_LAD2000. What is not evaluation
stays out: their choice of the checkpoint on the test set cannot be repeated with one checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from model.features.load import FeatureSet
from model.features.windows import slot_bounds, spread_on_frames
from model.measures.metrics import THRESHOLD, VideoResult, frame_auc, frames_of
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


MEASURES = ("auc", "ap", "auc_abnormal", "far", "accuracy")


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


@dataclass(frozen=True, kw_only=True)
class CompatTable:
    """Measures of the right evaluation, of each shortcut alone, and of all of them together."""

    values: dict[str, dict[str, float | None]]
    """Column -> measure -> value; None where it is undefined."""
    num_frames: dict[str, int]
    """Column -> frames that count."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"values": self.values, "num_frames": self.num_frames}

    def rows(self) -> list[list[str]]:
        """Return the table as text, a head first: shortcuts as differences from the right value."""
        lines = [["", *COLUMNS]]
        for measure in MEASURES:
            right = self.values["right"][measure]
            cells = [measure]
            for column in COLUMNS:
                value = self.values[column][measure]
                if value is None:
                    cells.append("none")
                elif column in ("right", "released") or right is None:
                    cells.append(f"{value:.4f}")
                else:
                    cells.append(f"{value - right:+.4f}")
            lines.append(cells)
        return [*lines, ["frames", *(str(self.num_frames[column]) for column in COLUMNS)]]

    def to_markdown(self) -> str:
        """Return the table and how to read it."""
        return f"{markdown_table(self.rows())}\n\n{NOTE}\n"


NOTE = (
    "right: every frame once, mean over windows, category accuracy over videos; no column is "
    "smoothed. released: all six shortcuts of the authors' published evaluation. Between them each "
    "one alone, as a difference from right. tails: last clips that are not full left out; padding: "
    "last clip repeated to a multiple of K; scramble: windows mixed by a wrong reshape; maximum: "
    "highest score of the windows; last_block: frames behind the last multiple of K clips left "
    "out; per_window: accuracy over windows. Only the first column is a result."
)


def markdown_table(rows: Sequence[Sequence[str]], *, num_names: int = 1) -> str:
    """Return a table, its head first; all columns but the first `num_names` stand to the right."""
    head, *others = rows
    rule = ["---"] * num_names + ["--:"] * (len(head) - num_names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *others))


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
        values[column] = _measure(videos, data, categories, per_window=shortcuts.per_window)
        num_frames[column] = sum(
            len(video.scores) for video in videos if not data.labels[video.index].is_weak
        )
    return CompatTable(values=values, num_frames=num_frames)


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


def _measure(
    videos: Sequence[_Video], data: FeatureSet, categories: Sequence[str], *, per_window: bool
) -> dict[str, float | None]:
    framed: list[VideoResult] = []
    of_abnormal: list[VideoResult] = []
    of_normal: list[VideoResult] = []
    for video in videos:
        label = data.labels[video.index]
        if label.is_weak:
            continue
        # A video is abnormal by all of its frames, whatever part of them counts.
        truth = label.frame_labels(int(data.num_frames[video.index]))
        seen = VideoResult(
            video=label.video, scores=video.scores, labels=truth[: len(video.scores)]
        )
        framed.append(seen)
        (of_abnormal if truth.any() else of_normal).append(seen)
    labels, scores = frames_of(framed)
    _, normal = frames_of(of_normal)
    return {
        "auc": frame_auc(framed)[0],
        "ap": float(average_precision_score(labels, scores)) if labels.any() else None,
        "auc_abnormal": frame_auc(of_abnormal)[0],
        "far": float((normal >= THRESHOLD).mean()) if len(normal) else None,
        "accuracy": _accuracy(videos, data, categories, per_window),
    }


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
