"""Frame-level and video-level measures; every definition's rule is stated where it has one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

THRESHOLD = 0.5
"""Binarises a score (Wan et al. 2021, section 5.1): a score of at least this is an alarm."""

NO_FRAME_COUNTS = "not measured: no frame counts"
"""Why an evaluation has no measure of frames, where no video tells how many it has."""


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """What a model said of one video, and what is true."""

    video: str
    scores: NDArray[np.float64]
    """(T,) in [0, 1], one for each frame; none where nobody has counted the frames."""
    labels: NDArray[np.uint8] | None
    """(T,) 0 or 1; None where the abnormal frames are not known: of a weak label, or of a video
    whose frames nobody has counted."""
    category: str = ""
    """Empty: none given."""
    predicted: str = ""
    """The likeliest category of the whole video; empty for a model without categories."""
    probabilities: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """(C,) mean over the video's windows."""
    window_votes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(C,) for how many of the video's windows each category is the likeliest."""
    frame_rate: float = 0.0
    """Frames a second; 0 if unknown."""
    sha256: str = ""
    """Of the video's content; empty if unknown, as of imported features."""

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels.shape != self.scores.shape:
            raise ValueError(
                f"{self.video}: {len(self.scores)} scores for {len(self.labels)} frame labels"
            )

    @property
    def is_counted(self) -> bool:
        """Whether it is known how many frames the video has."""
        return len(self.scores) > 0

    @property
    def is_abnormal(self) -> bool:
        """Whether some frame is known to be abnormal."""
        return self.labels is not None and bool(self.labels.any())


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Measures by name; one that cannot be computed is None, and `reasons` says why."""

    values: dict[str, float | None]
    reasons: dict[str, str]
    counts: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dictionary of JSON types, with the reasons under `reasons`."""
        return {**self.values, **self.counts, "reasons": self.reasons}


def compute_metrics(results: Sequence[VideoResult], categories: Sequence[str]) -> Metrics:
    """Return all measures of a set of videos.

    - `auc`, `ap`: over the frames of all videos together (micro).
    - `auc_abnormal`: the same over the videos that hold an abnormal frame.
    - `auc_macro`: mean over videos of each one's own AUC; videos whose frames are all of one
      kind have none and are left out (`num_macro_videos` are in).
    - `far`: share of the frames of normal videos whose score is at least `THRESHOLD`.
    - `accuracy_video`: share of the videos with a category for which it is the likeliest in the
      mean of the windows' probabilities. A category that the model does not know counts as wrong.
    - `accuracy_window`: the same share of the windows of these videos, so that long videos weigh
      more.

    Videos with a weak label, and those whose frames nobody has counted, count for the accuracies
    only.

    Args:
        results: one for each video.
        categories: those the model knows.
    """
    framed = [result for result in results if result.labels is not None]
    abnormal = [result for result in framed if result.is_abnormal]
    normal = [result for result in framed if not result.is_abnormal]
    own = [auc for auc in (frame_auc([result])[0] for result in framed) if auc is not None]
    named = [result for result in results if result.category]
    reasons: dict[str, str] = {}
    values: dict[str, float | None] = {}

    def put(name: str, value: float | None, reason: str) -> None:
        values[name] = value
        if value is None:
            reasons[name] = reason

    put("auc", *frame_auc(framed))
    put("ap", *_average_precision(framed))
    put("auc_abnormal", *frame_auc(abnormal))
    put("auc_macro", float(np.mean(own)) if own else None, "no video has frames of both kinds")
    alarms = _joined([result.scores for result in normal]) >= THRESHOLD
    put("far", float(alarms.mean()) if len(alarms) else None, "no normal video")
    if not any(result.is_counted for result in results):
        reasons.update(dict.fromkeys(reasons, NO_FRAME_COUNTS))
    hits = [result.predicted == result.category for result in named]
    known = bool(categories) and bool(hits)
    put(
        "accuracy_video",
        float(np.mean(hits)) if known else None,
        "no video has a category" if categories else "the model was trained without categories",
    )
    windows = sum(int(result.window_votes.sum()) for result in named)
    hits_window = sum(window_hits(result, categories) for result in named)
    put(
        "accuracy_window",
        hits_window / windows if known and windows else None,
        reasons.get("accuracy_video", "the scores came without the windows' categories"),
    )
    counts = {
        "num_videos": len(results),
        "num_frames": sum(len(result.scores) for result in results),
        "num_abnormal_videos": len(abnormal),
        "num_abnormal_frames": sum(int(r.labels.sum()) for r in framed if r.labels is not None),
        "num_weak_videos": sum(r.labels is None and r.is_counted for r in results),
        "num_uncounted_videos": sum(not r.is_counted for r in results),
        "num_macro_videos": len(own),
        "num_category_videos": len(named),
        "num_unknown_category_videos": sum(r.category not in categories for r in named),
        "num_category_windows": windows,
    }
    return Metrics(values=values, reasons=reasons, counts=counts)


def uncounted_words(count: int) -> str:
    """Return what stands behind a number of videos, so many of them without a frame count."""
    return f" ({count} without frame counts: in no measure of frames)" if count else ""


def frame_auc(results: Sequence[VideoResult]) -> tuple[float | None, str]:
    """Return the area under the ROC curve over all frames, or None and the reason.

    It is scikit-learn's, from the sum of ranks (Mann and Whitney): a seventh of the time for one
    video, of which an evaluation has very many.
    """
    labels, scores = frames_of(results)
    if len(np.unique(labels)) < 2:
        return None, _one_class(labels)
    is_abnormal = labels > 0
    above, below = int(is_abnormal.sum()), int((~is_abnormal).sum())
    won = rankdata(scores)[is_abnormal].sum() - above * (above + 1) / 2
    return float(won / (above * below)), ""


def window_hits(result: VideoResult, categories: Sequence[str]) -> int:
    """Return how many of a video's windows are given its category."""
    if result.category not in categories or len(result.window_votes) == 0:
        return 0
    return int(result.window_votes[list(categories).index(result.category)])


def category_aucs(results: Sequence[VideoResult]) -> dict[str, float]:
    """Return the AUC of each category of abnormal videos, by name.

    Over the frames of that category's abnormal videos and of all normal videos, whatever category
    these have. A category for which only one kind of frame is there has none.
    """
    framed = [result for result in results if result.labels is not None]
    normal = [result for result in framed if not result.is_abnormal]
    found = {}
    for category in abnormal_categories(framed):
        own = [r for r in framed if r.is_abnormal and r.category == category]
        auc, _ = frame_auc([*own, *normal])
        if auc is not None:
            found[category] = auc
    return found


def abnormal_categories(results: Sequence[VideoResult]) -> list[str]:
    """Return the categories of the videos that hold an abnormal frame, sorted."""
    return sorted({r.category for r in results if r.category and r.is_abnormal})


def frames_of(results: Sequence[VideoResult]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the labels and scores of all frames of the videos whose frame labels are known."""
    known = [(r.labels, r.scores) for r in results if r.labels is not None]
    labels = _joined([labels for labels, _ in known]).astype(np.uint8)
    return labels, _joined([scores for _, scores in known])


def confusion(
    results: Sequence[VideoResult],
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the categories met and the (C, C) counts, true by row and predicted by column."""
    named = [result for result in results if result.category and result.predicted]
    met = sorted({r.category for r in named} | {r.predicted for r in named})
    if not met:
        return [], np.zeros((0, 0), dtype=np.int64)
    # Counted here: scikit-learn's function warns where all videos have one category.
    counts = np.zeros((len(met), len(met)), dtype=np.int64)
    for result in named:
        counts[met.index(result.category), met.index(result.predicted)] += 1
    return met, counts


def _average_precision(results: Sequence[VideoResult]) -> tuple[float | None, str]:
    labels, scores = frames_of(results)
    if not labels.any():
        return None, "no abnormal frame"
    return float(average_precision_score(labels, scores)), ""


def _one_class(labels: NDArray[np.uint8]) -> str:
    if len(labels) == 0:
        return "no frame with a known label"
    return "all frames are abnormal" if labels.any() else "no abnormal frame"


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *arrays])
