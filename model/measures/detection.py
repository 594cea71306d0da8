"""Intervals read off a score curve: alarms at a threshold, and temporal detection.

Detection follows the rules of ActivityNet's and THUMOS' evaluation: detections in the order of
confidence, each matched with the best interval of its video that is still free and overlaps
enough; average precision under the interpolated precision curve.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.intervals import intervals_from_frames
from model.measures.metrics import THRESHOLD, VideoResult, abnormal_categories
from model.measures.ranking import ratio, weighted

OVERLAPS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Temporal intersection over union that a match needs."""
LEVELS = np.arange(1, 10) / 10
"""Where a curve is cut, as shares of the way from its video's lowest to its highest score."""
MAX_OVERLAP = 0.5
"""Of two proposals that overlap by more, the less confident is dropped."""
MAX_PROPOSALS = 100
"""Kept for one video."""


@dataclass(frozen=True, kw_only=True)
class AlarmCounts:
    """Alarms of V videos at one threshold; all zero where the frame labels are unknown.

    An alarm is a run of frames that score the threshold or more. It is false if none of its
    frames is labelled abnormal. A labelled interval is missed if no alarm holds a frame of it.
    """

    false_alarms: NDArray[np.float64]
    """(V,)."""
    normal_hours: NDArray[np.float64]
    """(V,) hours of frames labelled normal; 0 where the frame rate is unknown."""
    missed: NDArray[np.float64]
    """(V,) labelled intervals without an alarm."""
    num_events: NDArray[np.float64]
    """(V,) labelled intervals."""

    def shares(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return what counts, and all, of each video (V,), by the measure that is their ratio."""
        timed = self.normal_hours > 0  # a video without normal frames has no false alarm
        return {
            "far_per_hour": (self.false_alarms * timed, self.normal_hours),
            "missed_events": (self.missed, self.num_events),
        }


def count_alarms(results: Sequence[VideoResult], threshold: float = THRESHOLD) -> AlarmCounts:
    """Count false alarms and missed events of videos.

    Args:
        results: of V videos.
        threshold: a frame that scores at least this belongs to an alarm.
    """
    rows = np.zeros((4, len(results)))
    for row, result in zip(rows.T, results, strict=True):
        if result.labels is None:
            continue
        alarms = intervals_from_frames(result.scores >= threshold)
        events = intervals_from_frames(result.labels)
        row[0] = sum(not result.labels[start:end].any() for start, end in alarms)
        if result.frame_rate > 0:
            row[1] = (result.labels == 0).sum() / result.frame_rate / 3600
        row[2] = sum(bool((result.scores[start:end] < threshold).all()) for start, end in events)
        row[3] = len(events)
    return AlarmCounts(
        false_alarms=rows[0], normal_hours=rows[1], missed=rows[2], num_events=rows[3]
    )


@dataclass(frozen=True, kw_only=True)
class Proposals:
    """Intervals read off one video's scores, by falling confidence."""

    bounds: NDArray[np.int64]
    """(P, 2) first frame and frame after the last."""
    confidence: NDArray[np.float64]
    """(P,) mean score of the interval's frames."""


def propose(scores: NDArray[np.float64]) -> Proposals:
    """Return the intervals of a score curve: its runs above nine levels, without near copies.

    A constant curve is one interval.

    Args:
        scores: (T,).
    """
    if len(scores) == 0:
        return Proposals(bounds=np.zeros((0, 2), np.int64), confidence=np.zeros(0))
    low, high = scores.min(), scores.max()
    runs = {
        run
        for level in (low + LEVELS * (high - low) if high > low else [low])
        for run in intervals_from_frames(scores >= level)
    }
    bounds = np.array(sorted(runs), dtype=np.int64)
    total = np.concatenate([[0.0], np.cumsum(scores)])
    confidence = (total[bounds[:, 1]] - total[bounds[:, 0]]) / np.diff(bounds, axis=1)[:, 0]
    order = np.argsort(-confidence, kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < MAX_PROPOSALS:
        kept.append(int(order[0]))
        order = order[1:][overlap(bounds[order[0]], bounds[order[1:]]) <= MAX_OVERLAP]
    return Proposals(bounds=bounds[kept], confidence=confidence[kept])


def overlap(one: NDArray[np.int64], many: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the temporal intersection over union of one interval (2,) with others (n, 2)."""
    shared = np.minimum(one[1], many[:, 1]) - np.maximum(one[0], many[:, 0])
    shared = np.maximum(shared, 0)
    lengths = (one[1] - one[0]) + (many[:, 1] - many[:, 0])
    return np.asarray(shared / np.maximum(lengths - shared, 1))


def match(proposals: Proposals, truth: NDArray[np.int64], needed: float) -> NDArray[np.bool_]:
    """Return which proposals (P,) find an interval of the truth that no better one has found.

    Args:
        proposals: by falling confidence.
        truth: (G, 2) labelled intervals.
        needed: intersection over union of a match, at least.
    """
    found = np.zeros(len(proposals.confidence), dtype=bool)
    free = np.ones(len(truth), dtype=bool)
    for place, bounds in enumerate(proposals.bounds):
        if not free.any():
            break
        fit = np.where(free, overlap(bounds, truth), -1.0)
        best = int(fit.argmax())
        if fit[best] >= needed:
            found[place], free[best] = True, False
    return found


@dataclass(frozen=True, kw_only=True)
class DetectionTable:
    """Detections of V videos, counted between the confidences at which something is found.

    Where nothing is found recall stands still, so that the detections there matter only through
    the precision at the next find: counts between finds give the exact average precision, for
    any multiple of the videos.
    """

    found: Sequence[csr_array]
    """(V, B) true finds at each of the `OVERLAPS`; few of a video, so that tables are sparse."""
    made: csr_array
    """(V, B) detections; those below the last find are left out."""
    num_events: NDArray[np.float64]
    """(V,) labelled intervals."""

    def average_precision(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (O, R) values in [0, 1]; NaN where a set has no labelled interval.

        Args:
            weights: (R, V) how often each video is in each set.
        """
        total = weighted(weights, self.made).cumsum(axis=1)
        events = weights @ self.num_events
        values = []
        for found in self.found:
            gains = weighted(weights, found)
            precision = gains.cumsum(axis=1) / np.maximum(total, 1.0)
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            values.append(ratio((gains * best).sum(axis=1), events))
        return np.stack(values)


@dataclass(frozen=True, kw_only=True)
class DetectionTables:
    """Detections whatever the category, and those of each category that is labelled."""

    every: DetectionTable
    by_category: dict[str, DetectionTable]


def detection_tables(results: Sequence[VideoResult], categories: Sequence[str]) -> DetectionTables:
    """Read the intervals off all videos' scores and match them with the labelled ones.

    A detection of a category has the confidence of the interval times the probability that the
    video is of it. A category that the model does not know is never detected. Weak videos are
    left out of both, and abnormal ones without a category of the second.

    Args:
        results: of V videos.
        categories: those that the model knows; none gives no tables of categories.
    """
    proposals, truths, found = [], [], []
    for result in results:
        known = result.labels is not None
        labels = result.labels if result.labels is not None else np.zeros(0, np.uint8)
        proposal = propose(result.scores if known else np.zeros(0))
        truth = np.array(intervals_from_frames(labels), dtype=np.int64).reshape(-1, 2)
        proposals.append(proposal)
        truths.append(len(truth))
        found.append(np.stack([match(proposal, truth, needed) for needed in OVERLAPS]))
    confidence = [proposal.confidence for proposal in proposals]
    every = _table(confidence, found, np.array(truths, dtype=np.float64))
    tables = {}
    for category in abnormal_categories(results) if categories else ():
        own = [result.is_abnormal and result.category == category for result in results]
        shares = [_probability(result, categories, category) for result in results]
        tables[category] = _table(
            [
                values[:0] if share is None else values * share
                for values, share in zip(confidence, shares, strict=True)
            ],
            [
                hits[:, :0] if share is None else hits & mine
                for hits, share, mine in zip(found, shares, own, strict=True)
            ],
            np.array(truths, dtype=np.float64) * np.array(own),
        )
    return DetectionTables(every=every, by_category=tables)


def _probability(result: VideoResult, categories: Sequence[str], category: str) -> float | None:
    """Return how likely a video is of a category; None where it makes no detections of it."""
    if category not in categories or (result.is_abnormal and not result.category):
        return None
    return float(result.probabilities[list(categories).index(category)])


def _table(
    confidence: Sequence[NDArray[np.float64]],
    found: Sequence[NDArray[np.bool_]],
    num_events: NDArray[np.float64],
) -> DetectionTable:
    video = np.repeat(np.arange(len(confidence)), [len(values) for values in confidence])
    values = np.concatenate([np.zeros(0), *confidence])
    hits = np.concatenate([np.zeros((len(OVERLAPS), 0), dtype=bool), *found], axis=1)
    edges = -np.unique(-values[hits.any(axis=0)])  # falling
    # detections between two finds join the less confident of the two
    place = np.searchsorted(-edges, -values, side="left")
    counted = place < len(edges)
    shape = (len(confidence), max(len(edges), 1))

    def times(which: NDArray[np.bool_]) -> csr_array:
        ones = np.ones(int(which.sum()))
        return csr_array((ones, (video[which], place[which])), shape=shape)

    return DetectionTable(
        found=[times(hit) for hit in hits], made=times(counted), num_events=num_events
    )
