"""The AUC of each method of a comparison as a picture."""

from pathlib import Path

from data.splits.protocols import Supervision
from model.evaluation.plots import ABNORMAL, CURVE, new_figure, save_figure
from model.experiments.compare_table import Comparison

PICTURE_NAME = "compare.png"
COLOURS: dict[Supervision, str] = {
    "fully": CURVE,
    "weakly": ABNORMAL,
    "unsupervised": "0.5",
}


def draw_comparison(path: Path, comparison: Comparison) -> None:
    """Draw a PNG file: a line a method, its AUC with its interval, the methods as in the table.

    Args:
        path: the file.
        comparison: methods without an AUC are left out.
    """
    rows = [row for row in comparison.rows if row.values["auc"] is not None]
    figure = new_figure(6.4, 1.2 + 0.28 * len(rows))
    axes = figure.add_subplot()
    for place, row in enumerate(rows):
        auc, interval = row.values["auc"] or 0.0, row.intervals["auc"]
        error = [[auc - interval.low], [interval.high - auc]] if interval else None
        axes.errorbar(auc, place, xerr=error, color=COLOURS[row.supervision], marker="o", capsize=3)
        axes.annotate(f"{auc:.3f}", (auc, place), (0, 4), textcoords="offset points", fontsize=8,
                      ha="center")  # fmt: skip
    axes.axvline(0.5, color="0.7", linewidth=0.8, linestyle=":")
    names = [f"{row.method} ({row.supervision[0].upper()})" for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("frame-level AUC, 95 % interval over test videos and seeds")
    axes.set_title("F, W, U: fully, weakly supervised, unsupervised", fontsize=9, loc="left")
    save_figure(figure, path)
