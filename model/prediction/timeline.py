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

from data.files import new_file
from model.evaluation.plots import ABNORMAL, CURVE
from model.prediction.prediction import VideoPrediction

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
    figure = Figure(figsize=(9.0, 4.8 if stills else 3.1), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.add_gridspec(2, max(len(stills), 1), height_ratios=[0.6 if stills else 0, 1])
    axes = figure.add_subplot(rows[1, :])
    _draw_curve(axes, prediction)
    for place, still in enumerate(stills):
        _draw_still(figure.add_subplot(rows[0, place]), axes, prediction, still)
    if prediction.category:
        share = prediction.probabilities[prediction.category]
        title = f"{title}    category: {prediction.category} ({share:.2f})"
    # a name may hold dollar signs, which matplotlib takes for formulas
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, weight="bold").set_parse_math(False)
    # without the software's version in it, the same scores give the same bytes
    with new_file(path) as partial:
        figure.savefig(
            partial, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True}
        )


def draw_strip(prediction: VideoPrediction, width: int) -> NDArray[np.uint8]:
    """Return the curve from edge to edge, (H, width, 3) uint8 RGB, H even: to stand below a video.

    Spans and threshold are drawn as in `draw_timeline`; the times are those of the video above.
    """
    height = max(48, width // 16 * 2)
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    _draw_curve(axes, prediction)
    axes.set_axis_off()
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return np.ascontiguousarray(pixels)


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
    axes.xaxis.set_major_formatter(FuncFormatter(_tick))
    axes.set_xlabel(f"time (frames 0 to {len(scores) - 1})", fontsize=9)
    axes.set_ylabel("anomaly score", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_still(picture: Axes, axes: Axes, prediction: VideoPrediction, still: Still) -> None:
    """Draw one frame, and a line to its place on the curve, half-way through the frame."""
    score = float(prediction.scores[still.frame])
    color = ABNORMAL if score >= prediction.threshold else CURVE
    picture.imshow(still.image)
    picture.set(xticks=[], yticks=[])
    picture.spines[:].set(color=color, linewidth=1.4)
    times = prediction.edges_seconds[still.frame : still.frame + 2]
    label = f"frame {still.frame}, {clock(float(times[0]))}: {score:.2f}"
    picture.set_xlabel(label, fontsize=8, labelpad=2)
    point = (float(times.mean()), score)
    line = ConnectionPatch(
        (0.5, -0.16), point, picture.transAxes, axes.transData, color=color, linewidth=0.9
    )
    line.set_in_layout(False)
    picture.add_artist(line)
    axes.plot(*point, marker="o", markersize=4, color=color, clip_on=False)


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
