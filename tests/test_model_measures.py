"""Detection, latency and category measures by hand; bootstrap counts against scikit-learn."""

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from model.measures.bootstrap import (
    MEASURES,
    _Table,
    bootstrap_intervals,
    category_measure,
)
from model.measures.detection import count_alarms, detection_tables, match, overlap, propose
from model.measures.metrics import VideoResult, category_aucs, compute_metrics
from model.measures.ranking import latency_aware_precision, rank_frames
from model.measures.registry import ADDED_MEASURES
from model.measures.table import MEANINGS, meaning_of, measure_all, metrics_text


def result(video, scores, labels=None, **more):
    return VideoResult(
        video=video,
        scores=np.array(scores, dtype=np.float64),
        labels=None if labels is None else np.array(labels, np.uint8),
        **more,
    )


def latency(*results):
    frames = rank_frames(results, max_bins=None, as_one=True)
    return float(latency_aware_precision(frames, np.ones((1, 1)))[0])


def detection(results, categories=()):
    tables = detection_tables(results, categories)
    once = np.ones((1, len(results)))
    every = tables.every.average_precision(once)[:, 0]
    each = {c: t.average_precision(once)[:, 0] for c, t in tables.by_category.items()}
    return every, each


def random_results(seed: int, num_videos: int, num_values: int = 6) -> list[VideoResult]:
    """Videos of 1 to 40 frames with many equal scores; some weak, some all of one kind."""
    rng = np.random.default_rng(seed)
    found = []
    for index in range(num_videos):
        frames = int(rng.integers(1, 40))
        labels = np.repeat(rng.integers(0, 2, 1 + frames // 5), 5)[:frames]
        labels = labels * int(rng.integers(0, 2))
        shares = rng.dirichlet(np.ones(2))
        found.append(
            result(
                f"v{index}",
                rng.integers(0, num_values, frames) / num_values,
                None if rng.random() < 0.1 else labels,
                category=("", "fall", "run")[rng.integers(0, 3)],
                predicted=("fall", "run")[int(shares.argmax())],
                probabilities=shares,
                window_votes=rng.integers(0, 5, 2),
                frame_rate=(0.0, 25.0)[index % 2],
            )
        )
    return found


# --- detection --------------------------------------------------------------------------------


def test_overlap_by_hand():
    others = np.array([[0, 10], [5, 15], [10, 20], [2, 4]])
    np.testing.assert_allclose(overlap(np.array([0, 10]), others), [1.0, 5 / 15, 0.0, 2 / 10])


def test_a_curve_that_is_the_labels_detects_every_interval():
    labels = [0, 0, 1, 1, 1, 0, 0, 1, 0]
    every, _ = detection([result("a", labels, labels), result("b", [0.0] * 9, [0] * 9)])
    assert every.tolist() == [1.0] * 5


def test_a_shifted_interval_is_found_where_the_overlap_suffices():
    scores = np.zeros(40)
    scores[10:20] = 1.0  # against 14:24: 6 frames of 14 in common, 0.43
    labels = np.zeros(40)
    labels[14:24] = 1
    every, _ = detection([result("a", scores, labels)])
    assert every.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


def test_a_more_confident_false_detection_halves_the_precision():
    scores, labels = np.zeros(60), np.zeros(60)
    scores[10:20], scores[40:50] = 0.9, 1.0
    labels[10:20] = 1
    every, _ = detection([result("a", scores, labels)])
    # the first detection is false: precision 1/2 where the interval is found
    np.testing.assert_allclose(every, 0.5)
    # in a normal video it does as much harm
    alone, loud = scores.copy(), np.zeros(60)
    alone[40:50], loud[5:9] = 0.0, 0.95
    both = [result("a", alone, labels), result("b", loud, np.zeros(60))]
    np.testing.assert_allclose(detection(both)[0], 0.5)


def test_precision_is_interpolated():
    """A false detection, then two true ones: precision 1/2, then 2/3, which holds for both."""
    curves = {"false": 0.95, "first": 0.9, "second": 0.8}
    block = np.array([0] * 10 + [1] * 10)
    results = [
        result(name, block * peak, block * (name != "false")) for name, peak in curves.items()
    ]
    np.testing.assert_allclose(detection(results)[0], 2 / 3)


def test_an_interval_is_found_once():
    """Two detections inside one long interval: the second is a false one."""
    proposals = propose(np.array([0.0] * 5 + [1.0] * 8 + [0.0] * 4 + [0.9] * 8 + [0.0] * 5))
    truth = np.array([[5, 25]])
    assert match(proposals, truth, 0.3).sum() == 1
    assert match(proposals, truth, 0.3)[0]


def test_proposals_are_runs_above_a_level_by_falling_mean():
    proposals = propose(np.array([0.0, 0.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.2]))
    assert proposals.bounds.tolist() == [[2, 3], [1, 4], [7, 8]]
    np.testing.assert_allclose(proposals.confidence, [1.0, 2 / 3, 0.2])
    assert propose(np.full(4, 0.3)).bounds.tolist() == [[0, 4]]


def test_a_detection_counts_for_its_category_as_much_as_the_category_is_likely():
    labels = [0] * 10 + [1] * 10
    sure = np.array([0.9, 0.1])
    right = result("a", labels, labels, category="fall", probabilities=sure)
    wrong = result("b", labels, labels, category="run", probabilities=sure)
    every, each = detection([right, wrong], ("fall", "run"))
    assert every.tolist() == [1.0] * 5
    # "fall": the two detections are equally confident, one of them is true
    np.testing.assert_allclose(each["fall"], 0.5)
    np.testing.assert_allclose(each["run"], 0.5)
    lone = result("b", labels, labels, category="run", probabilities=sure[::-1])
    assert detection([right, lone], ("fall", "run"))[1]["run"].tolist() == [1.0] * 5


def test_a_category_the_model_does_not_know_is_never_detected():
    labels = [0] * 10 + [1] * 10
    held = result("a", labels, labels, category="fire", probabilities=np.array([1.0]))
    assert detection([held], ("fall",))[1]["fire"].tolist() == [0.0] * 5
    assert detection([held], ())[1] == {}


# --- latency ----------------------------------------------------------------------------------


def test_latency_by_hand():
    # an event of 4 frames; the first alarm, above all normal frames, comes at its third frame
    late = result("a", [0.1, 0.2, 0.3, 0.9, 0.9, 0.1], [0, 1, 1, 1, 1, 0])
    # 0.9: delay 2 of 4, credit 1/2 at precision 1; 0.3: delay 1, +1/4 at precision 3/3;
    # 0.2: +1/4 at precision 4/4
    assert latency(late) == pytest.approx(1.0)
    # with a normal frame at 0.25 the last quarter is had at precision 4/5
    loud = result("b", [0.25], [0])
    assert latency(late, loud) == pytest.approx(0.75 + 0.25 * 4 / 5)


def test_an_earlier_alarm_is_worth_more():
    labels = [0] * 5 + [1] * 10 + [0] * 5
    early, late = np.full(20, 0.5), np.full(20, 0.5)
    early[5], late[14] = 1.0, 1.0
    assert latency(result("a", early, labels)) > latency(result("a", late, labels)) + 0.4
    equal = [average_precision_score(labels, scores) for scores in (early, late)]
    assert equal[0] == pytest.approx(equal[1])  # which average precision does not see


def test_equal_scores_give_the_share_of_abnormal_frames():
    assert latency(result("a", [0.5] * 10, [0] * 7 + [1] * 3)) == pytest.approx(0.3)


def test_latency_against_a_plain_count_over_thresholds():
    for seed in range(20):
        results = [r for r in random_results(seed, 6) if r.labels is not None]
        events = [(r.scores[a:b]) for r in results for a, b in propose_events(r.labels)]
        if not events:
            assert np.isnan(latency(*results))
            continue
        value, before = 0.0, 0.0
        for threshold in sorted({s for r in results for s in r.scores}, reverse=True):
            credits = [
                1 - next(i for i, s in enumerate(e) if s >= threshold) / len(e)
                if max(e) >= threshold
                else 0.0
                for e in events
            ]
            alarms = [label for r in results for label in r.labels[r.scores >= threshold]]
            recall = float(np.mean(credits))
            value += (recall - before) * float(np.mean(alarms))
            before = recall
        assert latency(*results) == pytest.approx(value)


def propose_events(labels):
    runs, start = [], None
    for frame, label in enumerate([*labels, 0]):
        if label and start is None:
            start = frame
        if not label and start is not None:
            runs.append((start, frame))
            start = None
    return runs


# --- categories -------------------------------------------------------------------------------


def test_category_auc_is_its_abnormal_videos_against_all_normal_ones():
    results = [
        result("a", [0.1, 0.9], [0, 1], category="run"),
        result("b", [0.9, 0.2], [0, 1], category="fall"),
        result("c", [0.3], [0], category="run"),
        result("d", [0.1], [0]),
    ]
    found = category_aucs(results)
    assert found == {"fall": pytest.approx(1 / 3), "run": 1.0}
    values = measure_all(results, ())
    assert values.values["auc_category"] == pytest.approx((1 / 3 + 1) / 2)
    assert [(row.category, row.num_videos) for row in values.categories] == [
        ("fall", 1),
        ("run", 1),
    ]
    assert all(row.interval is None for row in values.categories)  # of single videos
    twice = [*results, result("e", [0.2, 0.4], [0, 1], category="run")]
    assert measure_all(twice, ()).categories[1].interval is not None


def test_window_accuracy_counts_windows():
    results = [
        result("a", [0.0], [0], category="run", predicted="run", window_votes=np.array([2, 8])),
        result("b", [0.0], [0], category="fall", predicted="run", window_votes=np.array([1, 1])),
        result("c", [0.0], [0], category="fire", predicted="run", window_votes=np.array([0, 4])),
        result("d", [0.0], [0], predicted="run", window_votes=np.array([0, 50])),
    ]
    found = compute_metrics(results, ("fall", "run"))
    assert found.values["accuracy_window"] == pytest.approx(9 / 16)
    assert found.counts["num_category_windows"] == 16


def test_false_alarms_and_missed_events_by_hand():
    """Alarms at 0.5: 1:3 and 5:6 false, 7:9 touches an event; of three events 6:8 alone is seen."""
    noisy = result(
        "a", [0.1, 0.5, 0.9, 0, 0, 0.6, 0.2, 0.8, 0.7, 0, 0, 0.4], [0] * 6 + [1, 1] + [0, 0, 1, 1],
        frame_rate=2.0,
    )  # fmt: skip
    quiet = result("b", [0.1] * 10, [0] * 9 + [1], frame_rate=0.5)
    no_rate = result("c", [0.9, 0.1], [0, 0])
    weak = result("d", [0.9, 0.1, 0.9], frame_rate=1.0)
    found = count_alarms([noisy, quiet, no_rate, weak])
    assert found.false_alarms.tolist() == [2, 0, 1, 0]
    assert found.missed.tolist() == [1, 1, 0, 0]
    assert found.num_events.tolist() == [2, 1, 0, 0]
    assert found.normal_hours == pytest.approx(np.array([8 / 2, 9 / 0.5, 0, 0]) / 3600)
    values = measure_all([noisy, quiet, no_rate, weak], ()).values
    assert values["far_per_hour"] == pytest.approx(2 / (22 / 3600))  # the timed videos'
    assert values["missed_events"] == pytest.approx(2 / 3)
    assert count_alarms([noisy], 0.3).missed.tolist() == [0]  # the score is at least that
    assert count_alarms([noisy], 0.95).false_alarms.tolist() == [0]


def test_false_alarms_an_hour_need_a_known_frame_rate():
    found = measure_all([result("a", [0.9, 0.1], [0, 1])], ())
    assert found.values["far_per_hour"] is None
    assert found.intervals["far_per_hour"] is None
    assert "frame rate is known" in found.reasons["far_per_hour"]
    assert found.values["missed_events"] == 1.0


def test_measures_that_do_not_exist_say_why():
    normal = [result("a", [0.1, 0.2], [0, 0])]
    found = measure_all(normal, ("run",))
    for name in ("auc", "latency_ap", "ap_iou_0.5", "map_iou_0.1", "auc_category"):
        assert found.values[name] is None
        assert found.intervals[name] is None
        assert found.reasons[name] == "no abnormal frame"
    plain = measure_all([result("a", [0.1, 0.2], [0, 1])], ())
    assert plain.reasons["map_iou_0.1"] == "the model was trained without categories"
    assert plain.reasons["auc_category"] == "no abnormal video has a category"
    assert set(found.values) == set(MEASURES) == set(MEANINGS)
    assert any("none (no abnormal frame)" in line for line in metrics_text(found))


def false_alarms(results, categories):
    """The share `far` once more, as a function."""
    normal = [r.scores for r in results if r.labels is not None and not r.is_abnormal]
    return float((np.concatenate(normal) >= 0.5).mean()) if normal else None


def test_an_added_measure_stands_beside_the_others(monkeypatch):
    monkeypatch.setitem(ADDED_MEASURES, "alarms", "test_model_measures:false_alarms")
    results = random_results(3, 60, 200)
    found = measure_all(results, ("fall", "run"))
    assert found.values["alarms"] == pytest.approx(found.values["far"])
    # the same as of the built-in measure from as many draws
    built_in = bootstrap_intervals([results], measures=["far"], num_resamples=200)["far"]
    interval = found.to_dict()["intervals"]["alarms"]
    assert interval == pytest.approx([built_in.low, built_in.high])
    assert meaning_of("alarms") == "The share `far` once more, as a function."
    assert any(line.startswith("alarms  ") for line in metrics_text(found))
    without = measure_all([r for r in results if r.is_abnormal], ())
    assert (without.values["alarms"], without.intervals["alarms"]) == (None, None)
    assert without.reasons["alarms"] == "undefined for these videos"


# --- bootstrap --------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), num_videos=st.integers(1, 8))
def test_counts_of_a_drawn_set_give_the_measures_of_that_set(seed, num_videos):
    """Every measure from the table's counts equals the one computed from copies of the videos."""
    rng = np.random.default_rng(seed)
    results = random_results(seed, num_videos)
    weights = rng.integers(0, 4, num_videos)
    weights[rng.integers(num_videos)] += 1
    drawn = [results[video] for video in np.repeat(np.arange(num_videos), weights)]
    names = ("fall", "run")
    table = _Table.of(results, categories=names)
    found = dict(zip(MEASURES, table.measure(weights, MEASURES), strict=True))
    expected = measure_all(drawn, names)
    for name in MEASURES:
        if expected.values[name] is None:
            assert np.isnan(found[name]), name
        else:
            assert found[name] == pytest.approx(expected.values[name]), name
    for row in expected.categories:
        alone = table.measure(weights, [category_measure(row.category)])[0]
        assert alone == pytest.approx(row.auc)


def large_results(num_videos: int = 300, num_frames: int = 3000) -> list[VideoResult]:
    rng = np.random.default_rng(0)
    found = []
    for index in range(num_videos):
        labels = np.zeros(num_frames, np.uint8)
        if index % 2:
            start = int(rng.integers(0, num_frames // 2))
            labels[start : start + int(rng.integers(50, 500))] = 1
        curve = np.repeat(rng.normal(size=num_frames // 10 + 1), 10)[:num_frames]
        scores = 1 / (
            1 + np.exp(-(curve + labels - rng.normal() + rng.normal(size=num_frames) / 9))
        )
        found.append(result(f"v{index}", scores, labels))
    return found


@pytest.mark.parametrize("num_videos", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_many_distinct_scores_share_bins_without_moving_the_measures_and_in_seconds(num_videos):
    """Videos of 3000 frames, as many distinct scores, 1000 draws."""
    results = large_results(num_videos)
    begun = time.process_time()
    intervals = bootstrap_intervals([results], measures=("auc", "ap", "auc_abnormal"))
    seconds = time.process_time() - begun
    assert seconds < 15  # 1.0 s measured; drawing with scikit-learn takes 1000 times 0.6 s
    labels = np.concatenate([r.labels for r in results])
    scores = np.concatenate([r.scores for r in results])
    auc, ap = roc_auc_score(labels, scores), average_precision_score(labels, scores)
    found = _Table.of(results).measure(np.ones(num_videos, np.int64), ("auc", "ap", "latency_ap"))
    assert found[0] == pytest.approx(auc, abs=1e-5)
    assert found[1] == pytest.approx(ap, abs=2e-3)
    assert found[2] == pytest.approx(latency(*results), abs=1e-2)
    assert intervals["auc"].low < auc < intervals["auc"].high
    assert intervals["ap"].low < ap < intervals["ap"].high


def test_the_measures_of_thousands_of_videos_take_memory_by_their_frames():
    results = large_results(2000, 20)
    results = [replace(r, category="fall" if r.is_abnormal else "") for r in results]
    tracemalloc.start()
    try:
        bootstrap_intervals([results], measures=MEASURES, num_resamples=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30e6  # a table of 2000 videos and 4096 bins takes 66 MB


def test_intervals_of_all_measures_hold_their_values():
    results = [r for r in random_results(7, 60, 200) if r.labels is not None]
    found = measure_all(results, ("fall", "run"), threshold=0.3)
    for name, value in found.values.items():
        interval = found.intervals[name]
        assert interval.low <= value <= interval.high, name
        assert interval.low < interval.high, name
