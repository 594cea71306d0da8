"""All measures of an evaluation, each with its interval or the reason why there is none."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cache.upkeep.summary import format_table
from model.measures.bootstrap import (
    BY_CATEGORY,
    CLASS_AGNOSTIC,
    COVERAGE,
    DETECTION,
    MEASURES,
    Interval,
    bootstrap_intervals,
    category_measure,
    detection_measures,
    fitted_shares,
    function_interval,
)
from model.measures.detection import count_alarms, detection_tables
from model.measures.metrics import (
    NO_FRAME_COUNTS,
    Metrics,
    VideoResult,
    abnormal_categories,
    category_aucs,
    compute_metrics,
)
from model.measures.ranking import latency_aware_precision, rank_frames, ratio
from model.measures.registry import added_measures

HEADLINE = (
    "auc",
    "ap",
    "accuracy_video",
    "far_per_hour",
    "far_per_hour_fitted",
    "missed_events_fitted",
)
"""What `feat eval` prints first."""
MEANINGS = {
    "auc": "area under the ROC curve, all frames together (micro)",
    "ap": "average precision, all frames together",
    "auc_abnormal": "AUC over the videos that hold an abnormal frame",
    "auc_macro": "mean of the videos' own AUCs; videos with frames of one kind only are left out",
    "far": "share of the frames of normal videos that score 0.5 or more",
    "far_per_hour": "runs of frames that score 0.5 or more without an abnormal one, in an "
    "hour of normal frames",
    "missed_events": "share of the labelled intervals in which no frame scores 0.5 or more",
    "far_per_hour_fitted": "the same at the threshold that was fitted for the run",
    "missed_events_fitted": "share of the labelled intervals that the fitted threshold misses",
    "accuracy_video": "share of the videos whose category was found",
    "accuracy_window": "share of the windows whose category was found; long videos weigh more",
    "auc_category": "mean over categories: their abnormal videos against all normal videos",
    "latency_ap": "average precision against a recall that falls with the delay of an alarm",
    **{
        name: f"temporal detection whatever the category, overlap at least {name[-3:]}"
        for name in CLASS_AGNOSTIC
    },
    "ap_iou_mean": "mean of the five above",
    **{
        name: f"temporal detection, mean over categories, overlap at least {name[-3:]}"
        for name in BY_CATEGORY
    },
    "map_iou_mean": "mean of the five above",
}


@dataclass(frozen=True, kw_only=True)
class CategoryAuc:
    """How well the abnormal frames of one category are told from normal ones."""

    category: str
    auc: float
    interval: Interval | None
    """None for a category of a single video."""
    num_videos: int
    """Abnormal ones of this category."""


@dataclass(frozen=True, kw_only=True)
class AllMetrics(Metrics):
    """The measures of `MEASURES` and added ones, with bootstrap intervals over the videos."""

    intervals: dict[str, Interval | None]
    categories: tuple[CategoryAuc, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types: an interval is [low, high]."""
        return {
            **super().to_dict(),
            "intervals": {name: _pair(interval) for name, interval in self.intervals.items()},
            "categories": [
                {**asdict(row), "interval": _pair(row.interval)} for row in self.categories
            ],
        }


def measure_all(
    results: Sequence[VideoResult], categories: Sequence[str], *, threshold: float | None = None
) -> AllMetrics:
    """Return every measure of a set of videos, each over all of its frames.

    Those of `compute_metrics`, and

    - `far_per_hour`, `missed_events`: see `AlarmCounts`, at the threshold 0.5; with
      `_fitted` behind their names at the one fitted for the run.
    - `auc_category`: mean over the categories of abnormal videos of `category_aucs`.
    - `latency_ap`: see `latency_aware_precision`.
    - `ap_iou_0.1` to `ap_iou_0.5` and their mean: see `DetectionTable`; `map_iou_...`: the same
      for each category of abnormal videos, and the mean over them.
    - those of `registry.ADDED_MEASURES`.

    Args:
        results: one for each video.
        categories: those the model knows.
        threshold: the one fitted for the run, if one was.
    """
    simple = compute_metrics(results, categories)
    by_category = category_aucs(results)
    tables = detection_tables(results, categories)
    detected = detection_measures(tables, np.ones((1, len(results))))
    found = {name: float(value[0]) for name, value in detected.items()}
    together = rank_frames(results, max_bins=None, as_one=True)
    found["latency_ap"] = float(latency_aware_precision(together, np.ones((1, 1)))[0])
    found["auc_category"] = float(np.mean([*by_category.values()])) if by_category else np.nan
    shares = {**count_alarms(results).shares(), **fitted_shares(results, threshold)}
    for name, (part, whole) in shares.items():
        found[name] = float(ratio(part.sum(keepdims=True), whole.sum(keepdims=True))[0])
    values, reasons = dict(simple.values), dict(simple.reasons)
    for name in (*shares, "auc_category", "latency_ap", *DETECTION):
        values[name] = found[name] if np.isfinite(found[name]) else None
        if values[name] is None:
            is_fitted = threshold or not name.endswith("_fitted")
            reasons[name] = (
                _reason(name, results, categories) if is_fitted else "no threshold was fitted"
            )
    names = [*MEASURES, *(category_measure(category) for category in by_category)]
    intervals = bootstrap_intervals(
        [results], measures=names, categories=categories, tables=[tables], threshold=threshold
    )
    for name, function in added_measures().items():
        value = function(results, categories)
        if value is None or not np.isfinite(value):
            values[name], reasons[name] = None, "undefined for these videos"
        else:
            values[name] = float(value)
            intervals[name] = function_interval(function, results, categories)
    return AllMetrics(
        values=values,
        reasons=reasons,
        counts=simple.counts,
        intervals={
            name: None if value is None else intervals[name] for name, value in values.items()
        },
        categories=tuple(
            CategoryAuc(
                category=category,
                auc=auc,
                # of a single video no other draw can be made: it would look certain
                interval=intervals[category_measure(category)] if count > 1 else None,
                num_videos=count,
            )
            for category, auc in by_category.items()
            for count in [sum(r.is_abnormal and r.category == category for r in results)]
        ),
    )


def meaning_of(name: str) -> str:
    """Return what a measure is, in words: for an added one, the first line of its docstring."""
    if name in MEANINGS:
        return MEANINGS[name]
    added = added_measures().get(name)  # None: one that an earlier evaluation knew
    return ((added and added.__doc__) or "").strip().partition("\n")[0]


def metrics_text(metrics: AllMetrics, names: Sequence[str] = ()) -> list[str]:
    """Return measures with intervals and meanings as the lines of a table.

    Args:
        metrics: of a set of videos.
        names: those to show, if they are there; none: all, and the AUC of each category.
    """
    rows = []
    for name, value in metrics.values.items():
        if names and name not in names:
            continue
        interval = metrics.intervals[name]
        text = f"none ({metrics.reasons[name]})" if value is None else _value_text(value, interval)
        rows.append([name, text, meaning_of(name)])
    for row in [] if names else metrics.categories:
        what = f"AUC of {row.num_videos} abnormal videos against all normal ones"
        rows.append([f"  {row.category}", _value_text(row.auc, row.interval), what])
    return format_table(["measure", f"value   {COVERAGE:.0%} interval", "what it is"], rows, set())


def _value_text(value: float, interval: Interval | None) -> str:
    return f"{value:.4f}" + (f"  {interval.low:.4f} to {interval.high:.4f}" if interval else "")


def _reason(name: str, results: Sequence[VideoResult], categories: Sequence[str]) -> str:
    if not any(result.is_counted for result in results):
        return NO_FRAME_COUNTS
    if name.startswith("far_per_hour"):
        return "no normal frame of a video whose frame rate is known"
    if not any(result.is_abnormal for result in results):
        return "no abnormal frame"
    if name.startswith("map") and not categories:
        return "the model was trained without categories"
    if not abnormal_categories(results):
        return "no abnormal video has a category"
    return "no normal frame"


def _pair(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None
