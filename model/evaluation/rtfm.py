"""The evaluation of RTFM's repository and those that follow it, beside the right one.

Facts from the test scripts and label scripts of RTFM (Tian et al. 2021), UR-DMU, PEL4VAD, MGFN,
BN-WVAD, TEVAD and XDVioDet. What is not evaluation stays out: each tests every few steps and keeps
the step that is best on the test videos, which `model.evaluation.snapshots` shows.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve

from model.evaluation.compat import CompatTable, frame_measures
from model.features.load import FeatureSet
from model.measures.metrics import VideoResult


@dataclass(frozen=True, kw_only=True)
class Shortcuts:
    """Where their evaluation differs from ours; each can be taken alone."""

    repeat: bool = False
    """A clip has one score, repeated over its 16 frames (RTFM and all others)."""
    padding: bool = False
    """The last clip counts as full: its score goes on, and so does the last frame's label (RTFM's
    labels of ShanghaiTech and UCF-Crime, TEVAD's of Ped2)."""
    tails: bool = False
    """Frames behind the last full clip are left out (XDVioDet's labels of XD-Violence)."""
    shift: bool = False
    """Frames that a list counts from 1 are read as if it counted from 0: abnormal ones come one
    later (RTFM's labels of UCF-Crime, TEVAD's of Ped2)."""
    trapezoid: bool = False
    """Average precision is the area under straight lines between the points of the curve."""


COLUMNS = {
    "right": Shortcuts(),
    **{name: Shortcuts(**{name: True}) for name in asdict(Shortcuts())},
    "rtfm": Shortcuts(repeat=True, padding=True, trapezoid=True),
    "rtfm_tails": Shortcuts(repeat=True, tails=True, trapezoid=True),
}

NOTE = (
    "right: the evaluation above, every frame once. Then each shortcut alone, as a difference from "
    "right. repeat: one score a clip; padding: the last clip counts as full, with the last frame's "
    "label; tails: frames behind the last full clip left out; shift: abnormal frames one later, as "
    "in their labels of UCF-Crime and Ped2; trapezoid: average precision by straight lines. rtfm: "
    "repeat, padding and trapezoid, as on ShanghaiTech; rtfm_tails: tails instead of padding, as "
    "on XD-Violence. Clips have the cache's length; imported segments have no tails. Only the "
    "first column is a result."
)


def compare_with_rtfm(results: Sequence[VideoResult], data: FeatureSet) -> CompatTable:
    """Evaluate scores in all columns, whatever method they are of.

    Args:
        results: of the videos of `data`, in their order.
        data: whose clips and videos they are.
    """
    values: dict[str, dict[str, float | None]] = {}
    num_frames = {}
    known = [
        (result, data.start_frame[data.rows(video)])
        for video, result in enumerate(results)
        if result.labels is not None
    ]
    for column, shortcuts in COLUMNS.items():
        framed = [
            evaluated_frames(result, starts, data.clip_len, shortcuts) for result, starts in known
        ]
        values[column] = frame_measures(
            framed,
            [result.is_abnormal for result, _ in known],
            precision=_trapezoid if shortcuts.trapezoid else average_precision_score,
        )
        num_frames[column] = sum(len(result.scores) for result in framed)
    return CompatTable(
        name="rtfm",
        note=NOTE,
        totals=("rtfm", "rtfm_tails"),
        values=values,
        num_frames=num_frames,
    )


def evaluated_frames(
    result: VideoResult, starts: NDArray[np.int64], clip_len: int, shortcuts: Shortcuts
) -> VideoResult:
    """Return what an evaluation with these shortcuts sees of a video whose frames are labelled.

    Args:
        result: of every frame, T of them.
        starts: (S,) first frame of each clip, ascending.
        clip_len: frames of a full clip; 0 where each clip has its own number.
        shortcuts: which of them.
    """
    scores, labels = result.scores, result.labels
    assert labels is not None
    if shortcuts.repeat:
        edges = np.concatenate([[0], starts[1:], [len(scores)]])
        lengths = np.diff(edges)
        scores = np.repeat(np.add.reduceat(scores, edges[:-1]) / lengths, lengths)
    if shortcuts.shift:
        labels = np.concatenate([[0], labels[:-1]]).astype(labels.dtype)
    ends = starts + clip_len
    if shortcuts.tails and clip_len:
        whole = int(ends[ends <= len(scores)].max(initial=0))
        scores, labels = scores[:whole], labels[:whole]
    elif shortcuts.padding and clip_len:
        missing = (0, max(int(ends[-1]) - len(scores), 0))
        scores, labels = np.pad(scores, missing, "edge"), np.pad(labels, missing, "edge")
    return replace(result, scores=scores, labels=labels)


def _trapezoid(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(auc(recall, precision))
