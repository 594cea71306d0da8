"""Bootstrap intervals over videos: how far would a measure move with other test videos?

Frames of one video are alike, so videos are drawn, not frames. Where several runs (seeds) are
averaged they are drawn too. Measures of a drawn set follow from how often each video is in it: a
weighted AUC, exact, ties counted half.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.metrics import THRESHOLD, VideoResult, frame_auc

MEASURES = ("auc", "ap", "auc_abnormal", "auc_macro", "far")
NUM_RESAMPLES = 1000
COVERAGE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Where the measure of a drawn set of videos lies in 95 of 100 draws."""

    low: float
    high: float


def bootstrap_intervals(
    runs: Sequence[Sequence[VideoResult]],
    *,
    measures: Sequence[str] = MEASURES,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Return the interval of the mean over runs of each measure; None where it is undefined.

    Args:
        runs: for each run its results, of the same videos in the same order.
        measures: of `MEASURES`.
        num_resamples: draws; those in which a measure is undefined are left out of its interval.
        seed: of the draws.
    """
    names = [result.video for result in runs[0]]
    if any([result.video for result in run] != names for run in runs):
        raise ValueError("the runs are not of the same videos in the same order")
    tables = [_Table.of(run) for run in runs]
    rng = np.random.default_rng((seed, 6))
    drawn = np.full((num_resamples, len(measures)), np.nan)
    for resample in drawn:
        weights = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        picked = np.bincount(rng.integers(len(runs), size=len(runs)), minlength=len(runs))
        values = [tables[run].measure(weights, measures) for run in np.flatnonzero(picked)]
        resample[:] = np.average(values, axis=0, weights=picked[picked > 0])
    return {name: _interval(drawn[:, place]) for place, name in enumerate(measures)}


def _interval(values: NDArray[np.float64]) -> Interval | None:
    known = values[np.isfinite(values)]
    if len(known) == 0:
        return None
    low, high = np.quantile(known, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return Interval(low=float(low), high=float(high))


@dataclass(frozen=True, kw_only=True)
class _Table:
    """One run's frames: equal scores of one video in one row, sorted by falling score."""

    video: NDArray[np.int64]
    positives: NDArray[np.float64]
    negatives: NDArray[np.float64]
    starts: NDArray[np.int64]
    """First row of each group of equal scores."""
    is_abnormal: NDArray[np.bool_]
    own_auc: NDArray[np.float64]
    """(V,) NaN where a video has frames of one kind only."""
    num_frames: NDArray[np.float64]
    num_alarms: NDArray[np.float64]
    is_normal: NDArray[np.bool_]

    @classmethod
    def of(cls, results: Sequence[VideoResult]) -> "_Table":
        rows: list[NDArray[Any]] = [np.zeros((4, 0))]
        for index, result in enumerate(results):
            if result.labels is None:
                continue
            scores, place = np.unique(result.scores, return_inverse=True)
            abnormal = np.bincount(place, result.labels, minlength=len(scores))
            total = np.bincount(place, minlength=len(scores))
            rows.append(
                np.stack([np.full(len(scores), float(index)), scores, abnormal, total - abnormal])
            )
        table = np.concatenate(rows, axis=1)
        table = table[:, np.argsort(-table[1], kind="stable")]
        own = [frame_auc([result])[0] for result in results]
        return cls(
            video=table[0].astype(np.int64),
            positives=table[2],
            negatives=table[3],
            starts=np.flatnonzero(np.diff(table[1], prepend=np.inf)),
            is_abnormal=np.array([result.is_abnormal for result in results]),
            own_auc=np.array([np.nan if auc is None else auc for auc in own]),
            num_frames=np.array([float(len(result.scores)) for result in results]),
            num_alarms=np.array([float((r.scores >= THRESHOLD).sum()) for r in results]),
            is_normal=np.array(
                [r.labels is not None and not r.labels.any() for r in results], dtype=bool
            ),
        )

    def measure(self, weights: NDArray[np.int64], measures: Sequence[str]) -> list[float]:
        """Return the measures of a set that has each video `weights` times."""
        found: dict[str, float] = {}
        if {"auc", "ap"} & set(measures):
            found["auc"], found["ap"] = self._ranking(weights)
        if "auc_abnormal" in measures:
            found["auc_abnormal"] = self._ranking(weights * self.is_abnormal)[0]
        mixed = np.isfinite(self.own_auc)
        found["auc_macro"] = _ratio(
            weights[mixed] @ self.own_auc[mixed], float(weights[mixed].sum())
        )
        normal = weights * self.is_normal
        found["far"] = _ratio(normal @ self.num_alarms, float(normal @ self.num_frames))
        return [found[name] for name in measures]

    def _ranking(self, weights: NDArray[np.int64]) -> tuple[float, float]:
        """Return AUC and average precision."""
        if len(self.starts) == 0:
            return np.nan, np.nan
        often = weights[self.video]
        positives = np.add.reduceat(self.positives * often, self.starts)
        negatives = np.add.reduceat(self.negatives * often, self.starts)
        above, below = positives.cumsum(), negatives.cumsum()
        auc = _ratio(negatives @ (above - positives / 2), above[-1] * below[-1])
        precision = above / np.maximum(above + below, 1.0)
        return auc, _ratio(positives @ precision, above[-1])


def _ratio(part: Any, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")
