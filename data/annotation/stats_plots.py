"""The three panels of the paper's Figure 3 for any labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.annotation.stats import NO_CATEGORY, VideoStats, category_shares
from data.errors import LabelsError
from data.files import new_file

BLUE, ORANGE, GREY = "#3b6ea5", "#d9822b", "#555555"
FORMATS = (".png", ".svg", ".pdf")


def plot_stats(stats: Sequence[VideoStats], path: Path, *, title: str = "") -> None:
    """Write the figure: (a) share of abnormal frames per category, (b) per video, (c) frames.

    Args:
        stats: the videos; those whose frames are unknown are left out of the panels that need
            them, and each panel says how many it shows.
        path: ends in .png, .svg or .pdf.
        title: of the whole figure.

    Raises:
        LabelsError: another ending, no video with known frames, or the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if path.suffix.lower() not in FORMATS:
        raise LabelsError(f"{path}: expected a name that ends in {', '.join(FORMATS)}")
    lengths = np.array([row.num_frames for row in stats if row.num_frames is not None])
    if not lengths.size:
        raise LabelsError(
            "no video has a known number of frames; add the column 'frames' or give --cache"
        )
    categories = category_shares(stats)
    height = max(3.4, 1.5 + 0.22 * len(categories))
    figure = Figure(figsize=(12, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    _plot_categories(axes[0], stats, categories)
    shares = [row.share for row in stats if row.label.is_abnormal and row.share is not None]
    axes[1].hist(shares, bins=np.linspace(0, 1, 21), color=ORANGE, edgecolor="white")
    axes[1].set(
        title=f"(b) per abnormal video ({len(shares)} videos)",
        xlabel="share of abnormal frames",
        ylabel="videos",
        xlim=(0, 1),
    )
    _plot_lengths(axes[2], stats, lengths)
    for axis in axes[1:]:
        axis.yaxis.get_major_locator().set_params(integer=True)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(11)
    if title:
        figure.suptitle(title, fontsize=13)
    _save(figure, path)


def _plot_categories(axis, stats, categories) -> None:  # type: ignore[no-untyped-def]
    names = list(categories)[::-1]
    shown = ["all" if names == [NO_CATEGORY] else name for name in names]
    values = [categories[name] for name in names]
    bars = axis.barh(range(len(names)), values, color=BLUE)
    axis.bar_label(bars, labels=[f"{value:.2f}" for value in values], padding=3, color=GREY)
    used = sum(row.label.is_abnormal and row.share is not None for row in stats)
    axis.set(
        title=f"(a) per category ({used} abnormal videos)",
        xlabel="share of abnormal frames",
        yticks=range(len(names)),
        yticklabels=shown,
        xlim=(0, 1.12),
        xticks=np.linspace(0, 1, 6),
    )
    if len(names) == 1:
        axis.set_ylim(-1, 1)


def _plot_lengths(axis, stats, lengths) -> None:  # type: ignore[no-untyped-def]
    # a few very long videos would squeeze all others into one bar
    logarithmic = lengths.max() > 30 * np.median(lengths)
    low, high = int(lengths.min()), int(lengths.max())
    if low == high:
        low, high = low - 1, high + 1
    edges = np.geomspace(low, high, 31) if logarithmic else np.linspace(low, high, 31)
    normal = [
        row.num_frames for row in stats if row.num_frames is not None and not row.label.is_abnormal
    ]
    abnormal = [
        row.num_frames for row in stats if row.num_frames is not None and row.label.is_abnormal
    ]
    axis.hist(
        [normal, abnormal],
        bins=edges,
        stacked=True,
        color=[BLUE, ORANGE],
        edgecolor="white",
        linewidth=0.5,
        label=[f"normal ({len(normal)})", f"abnormal ({len(abnormal)})"],
    )
    axis.set(
        title=f"(c) frames per video ({len(lengths)} videos)", xlabel="frames", ylabel="videos"
    )
    if logarithmic:
        axis.set_xscale("log")
    axis.legend(frameon=False, loc="upper right")


def _save(figure, path: Path) -> None:  # type: ignore[no-untyped-def]
    import matplotlib

    kind = path.suffix[1:].lower()
    # no date and no random ids: the same labels make the same file
    extra = {"svg": {"metadata": {"Date": None}}, "pdf": {"metadata": {"CreationDate": None}}}
    with (
        matplotlib.rc_context({"svg.hashsalt": "feat"}),
        new_file(path, error=LabelsError) as partial,
    ):
        figure.savefig(partial, format=kind, dpi=100, **extra.get(kind, {}))
