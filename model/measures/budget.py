"""A threshold for a budget of false alarms, fitted to normal videos, and what it keeps.

An alarm is that of `detection.count_alarms`: a run of frames that score the threshold or more.
Alarms of normal footage are taken to be independent, as of a Poisson process: k of them in H hours
show, with 95 % confidence, a rate of at most `chi2.ppf(0.95, 2 k + 2) / 2 / H`. Without any that is
3 / H, the rule of three.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from data.errors import ModelError

CONFIDENCE = 0.95
MIN_HOURS = 0.05
"""Of normal video, three minutes: less cannot even show that alarms are a minute apart."""
NORMAL_SHARE = 0.5
"""Of the frames of normal video stay below a threshold, at least: that who is always alarmed has
one alarm a video keeps to no budget."""


MAX_OF = 99
"""Successive clips that an alarm may be asked of."""


class NoThresholdError(ModelError):
    """The normal videos there are give no threshold."""


@dataclass(frozen=True, kw_only=True)
class AlarmRule:
    """What is asked for: a budget, and how many successive clips an alarm needs."""

    per_hour: float = 1.0
    """False alarms in an hour of normal video, at most."""
    needs: int = 1
    """Clips that must reach the threshold, N."""
    of: int = 1
    """Of so many successive ones, M; with 1 of 1 every clip stands for itself."""

    def __post_init__(self) -> None:
        if not self.per_hour > 0:
            raise ValueError(f"a budget of {self.per_hour} false alarms an hour; it is above 0")
        if not 1 <= self.needs <= self.of <= MAX_OF:
            raise ValueError(f"{self.needs} of {self.of} clips; 1 <= N <= M <= {MAX_OF} is needed")


@dataclass(frozen=True, kw_only=True)
class FittedThreshold:
    """A threshold and what the normal videos show of it."""

    threshold: float
    """In (0, 1]."""
    claimed_per_hour: float
    """What is kept to with 95 % confidence: the budget, or the least that the hours can show."""
    false_alarms: int
    """In the videos it was fitted to."""
    hours: float
    """Of the videos whose frame rate is known."""
    low: float
    """False alarms an hour: with 95 % confidence no less than this,"""
    high: float
    """and, with as much, no more, as the number that was found shows."""


def fit_threshold(
    scores: Sequence[NDArray[np.float64]], frame_rates: Sequence[float], per_hour: float
) -> FittedThreshold:
    """Return the lowest threshold from which on upwards normal videos keep to a budget.

    At it and at every higher one the alarms are so few that they show, with 95 % confidence, no
    higher rate than the budget. Where even no alarm at all would not show that, the budget is the
    least rate that the hours can show. Of the thresholds between two scores it is the one with the
    fewest digits.

    Args:
        scores: (T,) of each normal video, in [0, 1].
        frame_rates: of each; a video whose rate is unknown (0) is left out.
        per_hour: the budget, false alarms an hour.

    Raises:
        NoThresholdError: too few hours, or the scores are at their highest too often.
    """
    timed = [(one, rate) for one, rate in zip(scores, frame_rates, strict=True) if rate > 0]
    hours = sum(len(one) / rate for one, rate in timed) / 3600
    if hours < MIN_HOURS:
        timeless = len(scores) - len(timed)
        raise NoThresholdError(
            f"{hours * 60:.1f} minutes of held-out normal video, at least {MIN_HOURS * 60:.0f} are "
            "needed: give more normal videos the split val"
            + (f", and {timeless} their frame rate (`feat cache import --fps`)" if timeless else "")
        )
    claimed = max(per_hour, most_an_hour(0, hours))
    most = min(claimed * hours, sum(len(one) for one, _ in timed))  # a frame has one at most
    counts = np.arange(int(most) + 2)
    allowed = max(int((_most(counts) <= claimed * hours * (1 + 1e-12)).sum()) - 1, 0)
    # a run begins where the score rises, for all thresholds above the one and up to the other score
    before = np.concatenate([np.append(-np.inf, one[:-1]) for one, _ in timed])
    every = np.concatenate([one for one, _ in timed])
    begins = every > before
    lows, highs = np.sort(before[begins]), np.sort(every[begins])
    levels = np.unique(highs)
    alarms = _reaching(highs, levels) - _reaching(lows, levels)
    middle = float(np.quantile(every, NORMAL_SHARE, method="higher"))
    over = max([middle, *levels[alarms > allowed]])
    if over >= 1:
        raise NoThresholdError(
            f"{int(alarms[-1])} false alarms in {hours:.2g} h of held-out normal video score 1, so "
            f"that no threshold keeps to {per_hour:g} an hour"
        )
    threshold = _shortest_above(over, min([1.0, *levels[levels > over]]))
    found = int(_reaching(highs, threshold) - _reaching(lows, threshold))
    return FittedThreshold(
        threshold=threshold,
        claimed_per_hour=claimed,
        false_alarms=found,
        hours=hours,
        low=float(chi2.ppf(1 - CONFIDENCE, 2 * found) / 2 / hours) if found else 0.0,
        high=most_an_hour(found, hours),
    )


def most_an_hour(alarms: int, hours: float) -> float:
    """Return the rate that so many alarms in so many hours show not to be exceeded, at 95 %."""
    return float(_most(np.array(alarms)) / hours)


def nth_highest(
    scores: NDArray[np.float64], first_frames: NDArray[np.int64], *, needs: int, of: int
) -> NDArray[np.float64]:
    """Return scores that reach a threshold where N of M successive clips do.

    It is the N-th highest of the scores at the same place of M clips, of which the frame's own is
    in the middle, or just before it. Where a video has no such clip, none reaches a threshold.

    Args:
        scores: (T,) of a video's frames, in [0, 1].
        first_frames: (S,) of its clips, ascending.
        needs: N.
        of: M.
    """
    if of == 1:
        return scores
    starts = np.unique(np.append(0, first_frames[1:][first_frames[1:] < len(scores)]))
    last = np.append(starts[1:], len(scores)) - 1
    frames = np.arange(len(scores))
    clip = np.searchsorted(starts, frames, side="right") - 1
    place = frames - starts[clip]
    found = np.zeros((of, len(scores)))
    for row, shift in zip(found, range(-((of - 1) // 2), of // 2 + 1), strict=True):
        inside = (clip + shift >= 0) & (clip + shift < len(starts))
        other = clip[inside] + shift
        row[inside] = scores[np.minimum(starts[other] + place[inside], last[other])]
    return np.asarray(np.partition(found, of - needs, axis=0)[of - needs])


def _most(alarms: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(chi2.ppf(CONFIDENCE, 2 * alarms + 2) / 2)


def _reaching(
    ascending: NDArray[np.float64], levels: NDArray[np.float64] | float
) -> NDArray[np.int64]:
    """Return how many values are at each level or above it."""
    return np.asarray(len(ascending) - np.searchsorted(ascending, levels, side="left"))


def _shortest_above(low: float, high: float) -> float:
    """Return the number above `low`, up to `high`, with the fewest digits behind the point."""
    for digits in range(3, 17):
        number = round((np.floor(low * 10**digits) + 1) / 10**digits, digits)
        if low < number <= high and number < 1:  # at 1 a score that never gets there is no alarm
            return float(number)
    return float(np.nextafter(low, 2.0))
