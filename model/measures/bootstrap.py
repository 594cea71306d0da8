"""Bootstrap intervals over videos: how far would a measure move with other test videos?

Frames of one video are alike, so whole videos are drawn, with replacement, all from one pot: how
many of them are abnormal, or of a category, is a matter of chance in a test set too. Where several
runs (seeds) are averaged they are drawn too. Draws in which a measure is undefined are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from model.measures.detection import (
    OVERLAPS,
    DetectionTables,
    count_alarms,
    detection_tables,
)
from model.measures.metrics import (
    THRESHOLD,
    VideoResult,
    abnormal_categories,
    frame_auc,
    window_hits,
)
from model.measures.ranking import (
    RankedFrames,
    average_precision,
    latency_aware_precision,
    rank_frames,
    ratio,
    roc_area,
    weighted,
)
from model.measures.registry import MeasureFunction

CLASS_AGNOSTIC = tuple(f"ap_iou_{needed}" for needed in OVERLAPS)
BY_CATEGORY = tuple(f"map_iou_{needed}" for needed in OVERLAPS)
DETECTION = (*CLASS_AGNOSTIC, "ap_iou_mean", *BY_CATEGORY, "map_iou_mean")
MEASURES = (
    "auc",
    "ap",
    "auc_abnormal",
    "auc_macro",
    "far",
    "far_per_hour",
    "missed_events",
    "far_per_hour_fitted",
    "missed_events_fitted",
    "accuracy_video",
    "accuracy_window",
    "auc_category",
    "latency_ap",
    *DETECTION,
)
NUM_RESAMPLES = 1000
NUM_RESAMPLES_ADDED = 200
"""Fewer, for a measure of `registry.ADDED_MEASURES` is computed anew for each of them."""
SEED = (0, 6)
"""Of every call, so that all measures are drawn for the same sets of videos."""
COVERAGE = 0.95
CHUNK = 250
"""Draws at a time: they share one matrix product and some 10 MB for each array of bins."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where the measure of a drawn set of videos lies in 95 of 100 draws."""

    low: float
    high: float


def category_measure(category: str) -> str:
    """Return the name of the measure `auc_category` of one category alone."""
    return f"auc_category[{category}]"


def bootstrap_intervals(
    runs: Sequence[Sequence[VideoResult]],
    *,
    measures: Sequence[str] = MEASURES,
    categories: Sequence[str] = (),
    tables: Sequence[DetectionTables] | None = None,
    threshold: float | None = None,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Interval | None]:
    """Return the interval of the mean over runs of each measure; None where it is undefined.

    Args:
        runs: for each run its results, of the same videos in the same order.
        measures: of `MEASURES`, or `category_measure` of a category.
        categories: those that the model knows.
        tables: the detections of each run, if they are known already.
        threshold: the one fitted for the runs; None leaves its measures undefined.
        num_resamples: draws; those in which a measure is undefined are left out of its interval.
    """
    rng = np.random.default_rng(SEED)
    weights = _draw_videos(runs, rng, num_resamples)
    picked = _times_drawn(rng.integers(len(runs), size=(num_resamples, len(runs))), len(runs))
    total = np.zeros((num_resamples, len(measures)))
    for place, run in enumerate(runs):
        often = picked[:, place, None]
        table = _Table.of(run, categories=categories, threshold=threshold)
        drawn = table.draws(weights, measures, tables[place] if tables else None)
        total += np.where(often > 0, often * drawn, 0.0)
    means = total / len(runs)
    return {name: _interval(means[:, place]) for place, name in enumerate(measures)}


def paired_intervals(
    runs: Sequence[Sequence[VideoResult]],
    *,
    measures: Sequence[str],
    num_resamples: int = NUM_RESAMPLES,
) -> list[tuple[dict[str, Interval | None], dict[str, Interval | None]]]:
    """Return each run's intervals, and those of the differences of its measures from the first's.

    Each draw is one set of videos for all runs: hard videos lower the measures of all of them and
    leave the differences, which are therefore known better than two separate intervals suggest.

    Args:
        runs: for each run its results, of the same videos in the same order.
        measures: of `MEASURES` without detections.
        num_resamples: draws; those in which a measure is undefined are left out of its interval.
    """
    weights = _draw_videos(runs, np.random.default_rng(SEED), num_resamples)
    drawn = [_Table.of(run).draws(weights, measures) for run in runs]

    def intervals(values: NDArray[np.float64]) -> dict[str, Interval | None]:
        return {name: _interval(values[:, place]) for place, name in enumerate(measures)}

    return [(intervals(values), intervals(values - drawn[0])) for values in drawn]


def function_interval(
    measure: MeasureFunction, results: Sequence[VideoResult], categories: Sequence[str] = ()
) -> Interval | None:
    """Return the interval of a measure that is a function, from the draws of the other measures.

    Args:
        measure: called once a draw, with a video as often as it was drawn.
        results: one for each video.
        categories: those that the model knows.
    """
    rng = np.random.default_rng(SEED)
    draws = rng.integers(len(results), size=(NUM_RESAMPLES_ADDED, len(results)))
    values = [measure([results[video] for video in draw], categories) for draw in draws]
    return _interval(np.array([np.nan if value is None else value for value in values]))


def _draw_videos(
    runs: Sequence[Sequence[VideoResult]], rng: np.random.Generator, num_resamples: int
) -> NDArray[np.float64]:
    """Return (num_resamples, V) how often each of the runs' V videos is in each draw."""
    names = [result.video for result in runs[0]]
    if any([result.video for result in run] != names for run in runs):
        raise ValueError("the runs are not of the same videos in the same order")
    return _times_drawn(rng.integers(len(names), size=(num_resamples, len(names))), len(names))


def _times_drawn(drawn: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return (R, count) how often each of `count` things is in each row of (R, n) draws."""
    rows = np.arange(len(drawn))[:, None] * count + drawn
    return np.bincount(rows.ravel(), minlength=len(drawn) * count).reshape(-1, count).astype(float)


def _interval(values: NDArray[np.float64]) -> Interval | None:
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return None
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class _Table:
    """One run's V videos, counted so that the measures of any multiple of them are quick."""

    frames: RankedFrames
    is_abnormal: NDArray[np.bool_]
    is_normal: NDArray[np.bool_]
    of_category: dict[str, NDArray[np.bool_]]
    """(V,) for each category, which videos are abnormal and of it."""
    counts: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
    """For each measure that is a share of things: (V,) those that count, and all."""
    results: Sequence[VideoResult]
    categories: Sequence[str]
    """For the detections and the videos' own AUCs, which are found only when asked for."""

    @classmethod
    def of(
        cls,
        results: Sequence[VideoResult],
        *,
        categories: Sequence[str] = (),
        threshold: float | None = None,
    ) -> "_Table":
        frames = rank_frames(results)
        is_normal = np.array([r.labels is not None and not r.is_abnormal for r in results])
        named = np.array([bool(r.category and r.predicted) for r in results])
        hits = [r.predicted == r.category for r in results]
        alarms = [(r.scores >= THRESHOLD).sum() for r in results]
        return cls(
            frames=frames,
            is_abnormal=np.array([result.is_abnormal for result in results]),
            is_normal=is_normal,
            of_category={
                name: np.array([r.is_abnormal and r.category == name for r in results])
                for name in abnormal_categories(results)
            },
            counts={
                **count_alarms(results).shares(),
                **fitted_shares(results, threshold),
                "far": (is_normal * alarms, is_normal * [float(len(r.scores)) for r in results]),
                "accuracy_video": (named * np.array(hits, dtype=float), named.astype(float)),
                "accuracy_window": (
                    named * [float(window_hits(r, categories)) for r in results],
                    named * [float(r.window_votes.sum()) for r in results],
                ),
            },
            results=results,
            categories=categories,
        )

    @cached_property
    def own_auc(self) -> NDArray[np.float64]:
        """The AUC of each video, (V,); NaN where it has frames of one kind only."""
        own = [frame_auc([result])[0] for result in self.results]
        return np.array([np.nan if auc is None else auc for auc in own])

    def measure(self, weights: NDArray[np.int64], measures: Sequence[str]) -> list[float]:
        """Return the measures of the one set that has each video `weights` (V,) times."""
        return [float(value) for value in self.draws(weights[None].astype(float), measures)[0]]

    def draws(
        self,
        weights: NDArray[np.float64],
        measures: Sequence[str],
        tables: DetectionTables | None = None,
    ) -> NDArray[np.float64]:
        """Return the measures of R sets, (R, len(measures)); NaN where one is undefined.

        Args:
            weights: (R, V) how often each video is in each set.
            measures: their names.
            tables: the detections, if they are known already.
        """
        if tables is None and set(measures) & set(DETECTION):
            tables = detection_tables(self.results, self.categories)
        parts = []
        for first in range(0, len(weights), CHUNK):
            part = weights[first : first + CHUNK]
            found = detection_measures(tables, part) if tables else {}
            if not {"auc", "ap"}.isdisjoint(measures):
                positives = weighted(part, self.frames.positives)
                negatives = weighted(part, self.frames.negatives)
                found["auc"] = roc_area(positives, negatives)
                found["ap"] = average_precision(positives, negatives)
            if any(measure.startswith("auc_category") for measure in measures):
                found |= self._category_aucs(part)
            parts.append(
                np.stack([found[m] if m in found else self._values(m, part) for m in measures], 1)
            )
        return np.concatenate(parts)

    def _values(self, measure: str, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        if measure in self.counts:
            part, whole = self.counts[measure]
            return ratio(weights @ part, weights @ whole)
        if measure == "latency_ap":
            return latency_aware_precision(self.frames, weights)
        if measure == "auc_abnormal":
            own = weights * self.is_abnormal
            return roc_area(
                weighted(own, self.frames.positives), weighted(own, self.frames.negatives)
            )
        if measure == "auc_macro":
            mixed = np.isfinite(self.own_auc)
            return ratio(weights[:, mixed] @ self.own_auc[mixed], weights[:, mixed].sum(axis=1))
        raise ValueError(f"measure {measure!r} is unknown")

    def _category_aucs(self, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return `auc_category` and the AUC of each category."""
        normal = weighted(weights * self.is_normal, self.frames.negatives)
        found = {}
        for category, own in self.of_category.items():
            drawn = weights[:, own]
            found[category_measure(category)] = roc_area(
                weighted(drawn, self.frames.positives[own]),
                weighted(drawn, self.frames.negatives[own]) + normal,
            )
        return {**found, "auc_category": mean_known([*found.values()], weights)}


def fitted_shares(
    results: Sequence[VideoResult], threshold: float | None
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Return the shares of alarms at a fitted threshold, (V,) each; of nothing without one."""
    nothing = np.zeros(len(results))
    shares = count_alarms(results, threshold or THRESHOLD).shares()
    return {
        f"{name}_fitted": share if threshold else (nothing, nothing)
        for name, share in shares.items()
    }


def detection_measures(
    tables: DetectionTables, weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return the measures `DETECTION` of R sets, each (R,).

    Args:
        tables: of V videos, from `detection_tables`.
        weights: (R, V) how often each video is in each set.
    """
    agnostic = tables.every.average_precision(weights)
    each = [table.average_precision(weights) for table in tables.by_category.values()]
    means = [mean_known([values[k] for values in each], weights) for k in range(len(OVERLAPS))]
    return {
        **dict(zip(CLASS_AGNOSTIC, agnostic, strict=True)),
        "ap_iou_mean": agnostic.mean(axis=0),
        **dict(zip(BY_CATEGORY, means, strict=True)),
        "map_iou_mean": np.mean(means, axis=0),
    }


def mean_known(
    values: Sequence[NDArray[np.float64]], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean of those of some (R,) values that are not NaN; NaN where all are."""
    if not values:
        return np.full(len(weights), np.nan)
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    return ratio(np.where(known, stacked, 0.0).sum(axis=0), known.sum(axis=0).astype(float))
