"""Figures 5, 6 and 7 of an ablation."""

from pathlib import Path

from matplotlib.axes import Axes

from model.evaluation.plots import CURVE, draw_confusion, new_figure, save_figure
from model.experiments.ablate_plan import BASE
from model.experiments.ablate_table import FinishedPart

MIN_HEIGHT = 0.1
"""Of an axis: a difference of a thousandth is not to look like a cliff."""
PANELS = {"auc": "frame-level AUC", "accuracy": "category accuracy"}


def draw_part(path: Path, finished: FinishedPart) -> None:
    """Draw a figure into a PNG file."""
    if finished.part.name == "figure7":
        draw_confusion(path, finished.videos)
        return
    shown = [name for name in PANELS if any(getattr(line, name) for line in finished.lines)]
    figure = new_figure(4.6 * len(shown), 3.4)
    for place, name in enumerate(shown):
        _draw_panel(figure.add_subplot(1, len(shown), place + 1), finished, name)
    save_figure(figure, path)


def _draw_panel(axes: Axes, finished: FinishedPart, name: str) -> None:
    """Draw mean and standard deviation of each variant, and what they are taken over."""
    lines = [line for line in finished.lines if getattr(line, name)]
    # Equal steps: lambda2's values lie orders of magnitude apart.
    places = {line.variant: place for place, line in enumerate(finished.lines)}
    for line in lines:
        points = line.points[name]
        axes.plot(
            [places[line.variant]] * len(points), points,
            linestyle="none", marker="o", markersize=3, color="0.7", zorder=1,
        )  # fmt: skip
    across = [places[line.variant] for line in lines]
    spreads = [getattr(line, name) for line in lines]
    axes.errorbar(
        across, [spread.mean for spread in spreads], yerr=[spread.std or 0.0 for spread in spreads],
        color=CURVE, linewidth=1.6, marker="o", markersize=5, capsize=3, elinewidth=1.0, zorder=2,
    )  # fmt: skip
    if BASE in places:
        axes.axvline(places[BASE], color="0.5", linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xticks(list(places.values()), [line.label for line in finished.lines])
    axes.set_xlabel(r"$\lambda_2$" if finished.part.column == "lambda2" else finished.part.column)
    axes.set_ylabel(PANELS[name])
    low, high = axes.get_ylim()
    margin = max(0.0, MIN_HEIGHT - (high - low)) / 2
    axes.set_ylim(low - margin, high + margin)
    over = "splits" if finished.num_splits > 1 else "seeds"
    count = spreads[0].count
    title = f"mean ± deviation of {count} {over}" if count > 1 else "one run each: no spread known"
    axes.set_title(title, fontsize=9, loc="left")
