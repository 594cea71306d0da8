"""The confusion matrix as a picture, and the colours of all pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data.files import new_file
from model.measures.metrics import VideoResult, confusion

ABNORMAL = "#d62728"
CURVE = "#1f4e79"


def draw_confusion(path: Path, results: Sequence[VideoResult]) -> None:
    """Draw the confusion matrix of the videos' categories, each row's shares by colour."""
    names, counts = confusion(results)
    side = max(3.5, 1.5 + 0.4 * len(names))
    figure = new_figure(side + 0.5, side)
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
    save_figure(figure, path)


def _row_shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of so many inches that no global state of pyplot knows of."""
    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plain(name: str) -> str:
    """Return a name with the dollar signs escaped, which matplotlib takes for formulas."""
    return name.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file."""
    # Without the software's version in it, the same scores give the same bytes.
    with new_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})
