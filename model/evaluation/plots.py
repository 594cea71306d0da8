"""Pictures of an evaluation, drawn without a display."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from data.intervals import intervals_from_frames
from model.measures.metrics import THRESHOLD, VideoResult, confusion, frames_of

ABNORMAL = "#d62728"
CURVE = "#1f4e79"


def draw_curve(path: Path, result: VideoResult, *, threshold: float = THRESHOLD) -> None:
    """Draw a video's score over its frames, with the abnormal frames shaded."""
    figure = _figure(8.0, 2.2)
    axes = figure.add_subplot()
    num_frames = len(result.scores)
    if result.labels is not None:
        for start, end in intervals_from_frames(result.labels):
            axes.axvspan(start, end, color=ABNORMAL, alpha=0.25, linewidth=0)
    # A step a frame: frame f's score holds from f to f + 1.
    axes.stairs(result.scores, np.arange(num_frames + 1), color=CURVE, linewidth=1.4, baseline=None)
    axes.axhline(threshold, color="0.5", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, num_frames)
    axes.set_ylim(-0.02, 1.02)
    rate = f" ({result.frame_rate:g} a second)" if result.frame_rate > 0 else ""
    axes.set_xlabel(f"frame{rate}")
    axes.set_ylabel("anomaly score")
    axes.set_title(_plain(result.video), fontsize=9, loc="left")
    _save(figure, path)


def draw_roc(path: Path, results: Sequence[VideoResult], auc: float) -> None:
    """Draw the ROC curve over all frames; both kinds of frame must be there."""
    labels, scores = frames_of(results)
    false_rate, true_rate, _ = roc_curve(labels, scores)
    figure = _figure(4.2, 4.0)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.plot(false_rate, true_rate, color=CURVE, linewidth=1.6)
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    axes.set_title(f"all frames: AUC {auc:.4f}", fontsize=10)
    axes.set_aspect("equal")
    _save(figure, path)


def draw_confusion(path: Path, results: Sequence[VideoResult]) -> None:
    """Draw the confusion matrix of the videos' categories, each row's shares by colour."""
    names, counts = confusion(results)
    side = max(3.5, 1.5 + 0.4 * len(names))
    figure = _figure(side + 0.5, side)
    axes = figure.add_subplot()
    axes.imshow(_row_shares(counts), cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.ndindex(counts.shape):
        if counts[row, column]:
            dark = counts[row, column] > counts[row].sum() / 2
            axes.text(
                column, row, str(counts[row, column]),
                ha="center", va="center", fontsize=8, color="white" if dark else "black",
            )  # fmt: skip
    plain = [_plain(name) for name in names]
    axes.set_xticks(range(len(names)), plain, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), plain, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    _save(figure, path)


def _row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that no global state of pyplot knows of."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(name: str) -> str:
    """Return a name with the dollar signs escaped, which matplotlib takes for formulas."""
    return name.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    # Without the software's version in it, the same scores give the same bytes.
    figure.savefig(path, metadata={"Software": None})
