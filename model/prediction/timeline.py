"""A video's score over time as a picture: curve, threshold, abnormal spans, frames at peaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from model.evaluation.plots import ABNORMAL, CURVE
from model.prediction.prediction import VideoPrediction

_WIDTH = 9.0  # inches, at 100 pixels each
_CURVE_HEIGHT = 2.3
_STILL_HEIGHT = 1.35
_MAX_STILL_WIDTH = 1.9
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.62, 0.15, 0.34, 0.5
_GAP = 0.38  # between stills and curve
_STILL_GAP = 0.12
MAX_STILLS = 4


@dataclass(frozen=True, kw_only=True)
class Still:
    """A frame to show: its number and its picture, (H, W, 3) uint8 RGB."""

    frame: int
    image: NDArray[np.uint8]


def draw_timeline(
    path: Path, title: str, prediction: VideoPrediction, stills: Sequence[Still] = ()
) -> None:
    """Draw what a model says of a video.

    Args:
        path: a PNG file.
        title: name of the video.
        prediction: scores, times and threshold.
        stills: frames shown above the curve, each tied to its place on it, in order of time.
    """
    above = _STILL_HEIGHT + _GAP if stills else 0.0
    height = _TOP + above + _CURVE_HEIGHT + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height), dpi=100)
    FigureCanvasAgg(figure)
    axes = _add_axes(figure, _LEFT, _BOTTOM, _WIDTH - _LEFT - _RIGHT, _CURVE_HEIGHT)
    _draw_curve(axes, prediction)
    points = [(_middle(prediction, each.frame), 0.0) for each in stills]
    across = axes.transData.transform(np.reshape(points, (-1, 2)))
    sizes = [_still_size(each) for each in stills]
    centers = spread([x / figure.dpi for x in across[:, 0]], [width for width, _ in sizes])
    for still, size, center in zip(stills, sizes, centers, strict=True):
        _draw_still(figure, axes, prediction, still, size, center)
    top = 1 - 0.1 / height
    # a name may hold dollar signs, which matplotlib takes for formulas
    left = figure.text(_LEFT / _WIDTH, top, title, va="top", fontsize=10, weight="bold")
    left.set_parse_math(False)
    if prediction.category:
        share = prediction.probabilities[prediction.category]
        right = figure.text(
            1 - _RIGHT / _WIDTH, top, f"category: {prediction.category} ({share:.2f})",
            va="top", ha="right", fontsize=10,
        )  # fmt: skip
        right.set_parse_math(False)
    # without the software's version in it, the same scores give the same bytes
    figure.savefig(path, metadata={"Software": None}, pil_kwargs={"optimize": True})


def _draw_curve(axes: Axes, prediction: VideoPrediction) -> None:
    edges, scores, threshold = prediction.edges_seconds, prediction.scores, prediction.threshold
    for span in prediction.intervals:
        axes.axvspan(span.start_seconds, span.end_seconds, color=ABNORMAL, alpha=0.18, linewidth=0)
    axes.axhline(threshold, color=ABNORMAL, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        f"threshold {threshold:g}", (0.004, threshold), xycoords=("axes fraction", "data"),
        xytext=(0, 2), textcoords="offset points", fontsize=7.5, color=ABNORMAL,
    )  # fmt: skip
    axes.stairs(scores, edges, color=CURVE, linewidth=1.5, baseline=None)
    end = edges[-1] if edges[-1] > edges[0] else edges[0] + 1.0
    axes.set_xlim(edges[0], end)
    axes.set_ylim(-0.02, 1.04)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_xlabel(f"time (frames 0 to {len(scores) - 1})", fontsize=9)
    axes.set_ylabel("anomaly score", fontsize=9)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _draw_still(
    figure: Figure,
    axes: Axes,
    prediction: VideoPrediction,
    still: Still,
    size: tuple[float, float],
    center: float,
) -> None:
    """Draw one frame of `size` inches around `center`, and a line to its place on the curve."""
    score = float(prediction.scores[still.frame])
    color = ABNORMAL if score >= prediction.threshold else CURVE
    bottom = _BOTTOM + _CURVE_HEIGHT + _GAP
    picture = _add_axes(figure, center - size[0] / 2, bottom, *size)
    picture.imshow(still.image, aspect="auto", interpolation="antialiased")
    picture.set_xticks([])
    picture.set_yticks([])
    for spine in picture.spines.values():
        spine.set_color(color)
        spine.set_linewidth(1.4)
    seconds = clock(float(prediction.edges_seconds[still.frame]))
    picture.set_xlabel(f"frame {still.frame}, {seconds}: {score:.2f}", fontsize=8, labelpad=2)
    point = (_middle(prediction, still.frame), score)
    line = ConnectionPatch(
        (0.5, -0.14), point, picture.transAxes, axes.transData, color=color, linewidth=0.9
    )
    figure.add_artist(line)
    axes.plot(*point, marker="o", markersize=4, color=color, clip_on=False)


def spread(centers: Sequence[float], widths: Sequence[float]) -> list[float]:
    """Return the centres moved apart, in order, until boxes of these widths do not overlap.

    Inches. The boxes stay over the curve if there is room for all of them; a box that is not
    in another's way stays where it is.
    """
    moved = list(centers)
    edge = _LEFT
    for i, width in enumerate(widths):
        moved[i] = max(moved[i], edge + width / 2)
        edge = moved[i] + width / 2 + _STILL_GAP
    edge = _WIDTH - _RIGHT
    for i in reversed(range(len(widths))):
        moved[i] = min(moved[i], edge - widths[i] / 2)
        edge = moved[i] - widths[i] / 2 - _STILL_GAP
    return moved


def _middle(prediction: VideoPrediction, frame: int) -> float:
    """Return the time half-way through a frame."""
    return float(prediction.edges_seconds[frame : frame + 2].mean())


def _still_size(still: Still) -> tuple[float, float]:
    """Return width and height in inches."""
    rows, columns = still.image.shape[:2]
    height = min(_STILL_HEIGHT, _MAX_STILL_WIDTH * rows / columns)
    return height * columns / rows, height


def _add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes by inches from the lower left corner."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def clock(seconds: float) -> str:
    """Return a time as people write it: 7.24 s, 1:07.2, 2:01:07.2."""
    tenths = round(seconds * 10)
    if tenths < 600:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    ahead = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{ahead}:{rest // 10:02d}.{rest % 10}"


def _tick(seconds: float, _: int) -> str:
    return f"{seconds:g} s" if seconds < 60 else clock(seconds).removesuffix(".0")
