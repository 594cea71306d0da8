"""Frames sorted into bins of equal or neighbouring scores, counted for each video.

Every measure that depends on the order of the frames follows from such counts, for the videos
themselves and for any multiple of them, which makes a bootstrap of a thousand draws quick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.intervals import intervals_from_frames
from model.measures.metrics import VideoResult

MAX_BINS = 4096
"""Bins of the bootstrap. Scores that share one count as tied, which moves an AUC by 1/8192 at
most where the bins' frames are of both kinds alike, and in practice by less than 1e-4."""


@dataclass(frozen=True, kw_only=True)
class RankedFrames:
    """V videos' frames by bin of falling score; weak videos have no frames here.

    Tables are sparse: a video has frames in few of the bins, and there may be thousands of both.
    """

    positives: csr_array
    """(V, B) abnormal frames of each video in each bin; bin 0 holds the highest scores."""
    negatives: csr_array
    """(V, B) normal frames."""
    earliness: csr_array
    """(V, B): what each bin adds to the credits of the video's events, see `latency_curve`."""
    num_events: NDArray[np.float64]
    """(V,) maximal runs of abnormal frames."""


def rank_frames(
    results: Sequence[VideoResult], *, max_bins: int | None = MAX_BINS, as_one: bool = False
) -> RankedFrames:
    """Sort the frames of the videos into bins.

    Args:
        results: V videos.
        max_bins: where there are more distinct scores, neighbouring ones share a bin, so that
            all bins hold about as many frames; None gives each distinct score its own.
        as_one: count all videos together, as if they were one (V = 1 then).
    """
    framed = [index for index, result in enumerate(results) if result.labels is not None]
    scores = np.concatenate([np.zeros(0), *(results[index].scores for index in framed)])
    distinct, code, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    num_bins = max(len(distinct), 1)
    if max_bins is not None and num_bins > max_bins:
        before = np.cumsum(counts) - counts
        code = (before * max_bins // len(scores))[code]
        num_bins = max_bins
    shape = (1 if as_one else len(results), num_bins)
    positives: list[_Entries] = []
    negatives: list[_Entries] = []
    earliness: list[_Entries] = []
    num_events = np.zeros(shape[0])
    first = 0
    for index in framed:
        labels = results[index].labels
        if labels is None:
            continue
        own = code[first : first + len(labels)]
        first += len(labels)
        row = 0 if as_one else index
        positives.append((row, *np.unique(own[labels == 1], return_counts=True)))
        negatives.append((row, *np.unique(own[labels == 0], return_counts=True)))
        for start, end in intervals_from_frames(labels):
            num_events[row] += 1
            earliness.append((row, *_earliness(own[start:end])))
    return RankedFrames(
        positives=_table(positives, shape),
        negatives=_table(negatives, shape),
        earliness=_table(earliness, shape),
        num_events=num_events,
    )


_Entries = tuple[int, NDArray[np.int64], NDArray[Any]]
"""A row, (n,) columns of it and (n,) what is added there."""


def _table(entries: Sequence[_Entries], shape: tuple[int, int]) -> csr_array:
    rows = np.array([row for row, _, _ in entries], np.int64)
    columns = np.concatenate([np.zeros(0, np.int64), *(columns for _, columns, _ in entries)])
    values = np.concatenate([np.zeros(0), *(values for _, _, values in entries)])
    rows = np.repeat(rows, [len(columns) for _, columns, _ in entries])
    return csr_array((values, (rows, columns)), shape=shape)


def _earliness(code: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the bins that change an event's credit as the threshold falls, and by how much.

    Args:
        code: (n,) bins of the event's frames.
    """
    best = np.minimum.accumulate(code)
    times = np.flatnonzero(np.diff(best, prepend=best[0] + 1))
    credit = 1.0 - times / len(code)
    return code[times], credit - np.append(credit[1:], 0.0)


def latency_aware_precision(
    frames: RankedFrames, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the latency-aware average precision of sets of the videos, (R,); NaN without events.

    At a threshold, an event (a maximal run of n abnormal frames) whose first frame at or above it
    is the d-th (from 0) has the credit 1 - d / n, and none if there is no such frame. The
    latency-aware recall is the mean credit of the events, the precision the share of abnormal
    frames among all that reach the threshold. The value is the sum over the falling thresholds of
    the gain in that recall times the precision there: 1 if every event's first frame is above all
    normal frames, the share of abnormal frames for equal scores.

    Precision against a recall that decays with the delay is the idea of Liu et al. 2025,
    "Rethinking Metrics and Benchmarks of Video Anomaly Detection" (arXiv 2505.19022); the decay
    over an event's own length is ours, so that no time constant is needed and videos of unknown
    frame rate count. Figures of theirs are not to be compared with it.

    Args:
        frames: of the V videos.
        weights: (R, V) how often each video is in each set.
    """
    above = weighted(weights, frames.positives).cumsum(axis=1)
    below = weighted(weights, frames.negatives).cumsum(axis=1)
    gains = weighted(weights, frames.earliness)
    precision = above / np.maximum(above + below, 1.0)
    return ratio((gains * precision).sum(axis=1), weights @ frames.num_events)


def average_precision(
    positives: NDArray[np.float64], negatives: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return scikit-learn's average precision of R sets of frames, (R,).

    Args:
        positives: (R, B) abnormal frames of each set in each bin of falling score.
        negatives: (R, B) normal frames.
    """
    above = positives.cumsum(axis=1)
    below = negatives.cumsum(axis=1)
    precision = above / np.maximum(above + below, 1.0)
    return ratio((positives * precision).sum(axis=1), above[:, -1])


def weighted(weights: NDArray[np.float64], table: csr_array) -> NDArray[np.float64]:
    """Return (R, B) the sums of the (V, B) table's rows, each taken (R, V) so many times."""
    return np.ascontiguousarray(weights @ table)  # sums along a row are quick, and always the same


def roc_area(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area under the ROC curve of R sets of frames, (R,); NaN for one kind of frame.

    That is the share of the pairs of an abnormal and a normal frame in which the abnormal one is
    higher; ties count half.

    Args:
        positives: (R, B) abnormal frames of each set in each bin of falling score.
        negatives: (R, B) normal frames.
    """
    all_normal = negatives.sum(axis=1)
    lower = all_normal[:, None] - negatives.cumsum(axis=1) + negatives / 2
    won = np.einsum("rb,rb->r", positives, lower)
    return ratio(won, positives.sum(axis=1) * all_normal)


def ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return part / whole, NaN where the whole is nothing."""
    known = whole > 0
    return np.where(known, part / np.where(known, whole, 1.0), np.nan)
