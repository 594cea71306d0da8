"""A threshold for a budget of false alarms: the arithmetic, against plain loops and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.measures.budget import (
    AlarmRule,
    NoThresholdError,
    fit_threshold,
    most_an_hour,
    nth_highest,
)
from model.measures.detection import count_alarms
from model.measures.metrics import VideoResult

RATE = 0.5  # frames a second: hours of few frames

# few different values, so that ties and plateaus are common
curves = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.501, 0.9]) | st.floats(0, 0.99),
             min_size=1, max_size=60).map(lambda values: np.repeat(values, 40)),
    min_size=3, max_size=8,
)  # fmt: skip


def alarms_at(videos, threshold: float) -> float:
    normal = [
        VideoResult(video=str(i), scores=v, labels=np.zeros(len(v), np.uint8), frame_rate=RATE)
        for i, v in enumerate(videos)
    ]
    return float(count_alarms(normal, threshold).false_alarms.sum())


def hours_of(videos) -> float:
    return sum(map(len, videos)) / RATE / 3600


@settings(max_examples=80)
@given(curves, st.floats(0.01, 100))
def test_the_threshold_keeps_to_what_is_claimed_there_and_above(videos, per_hour):
    found = fit_threshold(videos, [RATE] * len(videos), per_hour)
    hours = hours_of(videos)
    assert found.hours == pytest.approx(hours)
    assert 0 < found.threshold <= 1
    assert found.claimed_per_hour == pytest.approx(max(per_hour, most_an_hour(0, hours)))
    assert found.false_alarms == alarms_at(videos, found.threshold)
    for threshold in {found.threshold, *np.concatenate(videos).tolist()}:
        if threshold >= found.threshold:
            count = alarms_at(videos, threshold)
            assert most_an_hour(int(count), hours) <= found.claimed_per_hour * (1 + 1e-9)
            assert count / hours <= found.claimed_per_hour
    assert found.low <= found.false_alarms / hours <= found.high
    every = np.concatenate(videos)
    assert (every < found.threshold).mean() > 0.5
    # and no lower score would do
    below = every[every < found.threshold].max()
    assert (
        most_an_hour(int(alarms_at(videos, below)), hours) > found.claimed_per_hour
        or (every >= below).mean() >= 0.5
    )


@settings(max_examples=50)
@given(curves, st.floats(0.01, 100), st.floats(1, 10))
def test_a_greater_budget_never_gives_a_higher_threshold(videos, per_hour, times):
    rates = [RATE] * len(videos)
    strict, generous = (fit_threshold(videos, rates, b) for b in (per_hour, per_hour * times))
    assert generous.threshold <= strict.threshold
    assert generous.false_alarms >= 0


def test_the_rule_of_three_and_published_poisson_limits():
    assert most_an_hour(0, 1) == pytest.approx(2.996, abs=1e-3)  # -log(0.05)
    # Garwood 1936, one-sided 95 %: as tables of exact Poisson limits have them
    assert [round(most_an_hour(k, 1), 2) for k in (1, 2, 5, 10)] == [4.74, 6.30, 10.51, 16.96]
    quiet = [np.full(720, 0.2)]  # 0.4 h
    found = fit_threshold(quiet, [RATE], 1.0)
    assert found.claimed_per_hour == pytest.approx(7.49, abs=0.01)
    assert (found.threshold, found.false_alarms, found.low) == (0.201, 0, 0.0)


def test_as_many_alarms_are_let_pass_as_show_the_budget():
    # ten hours with peaks of 0.500, 0.501, ...: 4 of them show a rate of at most 0.915 an hour
    scores = np.full(18_000, 0.1)
    scores[50::200] = 0.5 + np.arange(90) / 1000
    found = fit_threshold([scores], [RATE], 1.0)
    assert found.false_alarms == 4
    assert most_an_hour(4, 10) < 1 < most_an_hour(5, 10)
    assert found.threshold == pytest.approx(0.586)
    # equal peaks pass together or not at all
    scores[50::200] = 0.6
    assert fit_threshold([scores], [RATE], 1.0).threshold == 0.601


def test_scores_that_differ_by_next_to_nothing_are_told_apart():
    scores = np.full(3600, 1e-4)
    scores[100:200] = 0.9999999
    assert 0.9999999 < fit_threshold([scores], [RATE], 1.0).threshold < 1
    scores[300:400] = np.nextafter(1.0, 0.0)
    assert fit_threshold([scores], [RATE], 1.0).threshold == 1.0


@pytest.mark.parametrize(
    ("scores", "rate", "message"),
    [
        (np.zeros(89), RATE, r"3\.0 minutes of held-out normal video, at least 3 are needed"),
        (np.zeros(3600), 0.0, r"0\.0 minutes.*, and 1 their frame rate"),
        (np.ones(3600), RATE, "1 false alarms in 2 h .* score 1, so that no threshold keeps"),
    ],
)
def test_what_gives_no_threshold_is_told(scores, rate, message):
    with pytest.raises(NoThresholdError, match=message):
        fit_threshold([scores], [rate], 1.0)


def test_the_claim_holds_for_other_footage_of_the_same_kind():
    """The budget is exceeded in at most 5 % of draws, though the threshold is chosen by them."""
    rng = np.random.default_rng(0)
    exceeded = 0
    for _ in range(400):
        # 20 hours in which peaks of a uniform height come 10 times an hour
        scores = np.zeros(36_000)
        scores[rng.integers(36_000, size=rng.poisson(200))] = rng.uniform(0.2, 1.0)
        peaks = scores > 0
        scores[peaks] = rng.uniform(0.2, 0.999, peaks.sum())
        threshold = fit_threshold([scores], [RATE], 1.0).threshold
        true_rate = 10 * (0.999 - threshold) / 0.799
        exceeded += true_rate > 1.0
    assert 4 <= exceeded <= 32  # 5 % of 400, within three deviations, or somewhat fewer


def plain_votes(scores, starts, needs, of):
    """N of M clips, by a loop over clips whose frames all score the same."""
    clips = [scores[start] for start in starts]
    ends = [*starts[1:], len(scores)]
    voted = []
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        around = [
            clips[j] for j in range(i - (of - 1) // 2, i + of // 2 + 1) if 0 <= j < len(clips)
        ]
        around += [0.0] * (of - len(around))
        voted += [sorted(around, reverse=True)[needs - 1]] * (end - start)
    return voted


@given(
    st.lists(st.sampled_from([0.0, 0.2, 0.7, 1.0]), min_size=1, max_size=12),
    st.integers(1, 16),
    st.integers(1, 7).flatmap(lambda m: st.tuples(st.integers(1, m), st.just(m))),
)
def test_n_of_m_against_a_plain_loop(clips, tail, rule):
    starts = np.arange(len(clips)) * 16
    scores = np.repeat(clips, 16)[: 16 * (len(clips) - 1) + tail]
    needs, of = rule
    found = nth_highest(scores, starts, needs=needs, of=of)
    assert found.tolist() == plain_votes(scores, starts, needs, of)
    if of == 1:
        assert found.tolist() == scores.tolist()


def test_two_of_three_clips():
    scores = np.repeat([0.9, 0.1, 0.1, 0.8, 0.2, 0.7, 0.1], 4)
    found = nth_highest(scores, np.arange(7) * 4, needs=2, of=3)
    assert found[::4].tolist() == [0.1, 0.1, 0.1, 0.2, 0.7, 0.2, 0.1]


@pytest.mark.parametrize("wrong", [{"per_hour": 0}, {"needs": 3, "of": 2}, {"needs": 0}])
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"above 0|is needed"):
        AlarmRule(**wrong)


def test_a_budget_beyond_all_frames_takes_the_lowest_threshold_at_once():
    scores = [np.linspace(0, 1, 2000) * 0.9]
    low, lowest = (fit_threshold(scores, [10.0], per_hour) for per_hour in (1e6, 1e300))
    assert low.threshold == lowest.threshold < 0.46  # half of the frames stay below
