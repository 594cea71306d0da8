"""Normalised scores and dropped frames, always beside the scores as they are; one-class tables."""

import html
import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cache import SMALLEST, demo_rows, label, make_cache
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import minmax_scale

from data.errors import ModelError
from feat import cli
from model.evaluation.compat import CompatTable
from model.evaluation.evaluate import run_evaluation
from model.evaluation.one_class import compare_with_one_class
from model.evaluation.results import read_results
from model.features.load import load_features
from model.measures.metrics import VideoResult, compute_metrics, frame_auc
from model.measures.normalising import ScoreRule
from model.measures.scores import video_results
from model.methods.registry import choose_method
from model.runs.snapshots import load_snapshots
from model.runs.train import run_training
from model.runs.trained import load_run

pytestmark = pytest.mark.usefixtures("one_thread")

VIDEO_4 = ScoreRule(normalise="video", drop_first=4)


def feat(*words):
    return CliRunner().invoke(cli, ["-q", *(str(word) for word in words)])


def result(video, scores, labels=None):
    truth = None if labels is None else np.array(labels, np.uint8)
    return VideoResult(video=video, scores=np.array(scores, np.float64), labels=truth)


def area(parts):
    """Frame AUC by scikit-learn of (scores, labels) of several videos."""
    scores, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    return roc_auc_score(labels, scores)


def papers(results, dropped):
    """Do what their evaluation scripts do: list by list, each video by its own ends."""
    found = []
    for one in results:
        scores = [float(score) for score in one.scores][dropped:]
        low, high = min(scores), max(scores)
        found.append(([(s - low) / (high - low) for s in scores], list(one.labels)[dropped:]))
    return found


# --- the arithmetic -----------------------------------------------------------------------------


def test_each_rule_by_hand():
    one = result("one", [0.9, 0.2, 0.4, 0.6], [1, 0, 0, 1])
    two = result("two", [0.1, 0.3, 0.3, 0.7], [0, 0, 1, 1])
    weak = result("weak", [0.5, 0.0, 1.0])

    def scores(rule):
        return [each.scores.tolist() for each in rule.apply([one, two, weak])]

    assert scores(ScoreRule()) == [one.scores.tolist(), two.scores.tolist(), [0.5, 0.0, 1.0]]
    assert scores(ScoreRule(drop_first=1))[0] == [0.2, 0.4, 0.6]
    assert [r.labels.tolist() for r in ScoreRule(drop_first=1).apply([one, two])] == [
        [0, 0, 1],
        [0, 1, 1],
    ]
    own = ScoreRule(normalise="video")
    np.testing.assert_allclose(scores(own)[0], [1, 0, 2 / 7, 4 / 7])
    np.testing.assert_allclose(scores(own)[1], [0, 1 / 3, 1 / 3, 1])
    # normalised is what is left: without the first frame 0.6 is the highest
    both = ScoreRule(normalise="video", drop_first=1)
    np.testing.assert_allclose(scores(both)[0], [0, 0.5, 1])
    every = ScoreRule(normalise="global").apply([one, two])
    np.testing.assert_allclose(every[0].scores, [1, 0.125, 0.375, 0.625])
    np.testing.assert_allclose(every[1].scores, [0, 0.25, 0.25, 0.75])


@pytest.mark.parametrize("rule", ["video", "global"])
@pytest.mark.parametrize("scores", [[0.3] * 5, [0.3], [0.1 + 0.2, 0.3, 0.3], [0.0, 0.0], []])
def test_constant_scores_become_0_and_rounding_is_no_difference(rule, scores):
    (found,) = ScoreRule(normalise=rule).apply([result("v", scores)])
    assert found.scores.tolist() == [0.0] * len(scores)


def test_a_constant_video_stays_where_it_is_among_others():
    found = ScoreRule(normalise="global").apply(
        [result("flat", [0.6] * 2), result("else", [0.2, 1])]
    )
    np.testing.assert_allclose(found[0].scores, [0.5, 0.5])


many = st.lists(
    st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=6, max_size=12),
    min_size=1,
    max_size=4,
)


@settings(max_examples=50)
@given(many, st.integers(0, 5))
def test_rules_are_those_of_scikit_learn(videos, dropped):
    given_ = [
        result(str(place), [score / 1000 for score, _ in video], [truth for _, truth in video])
        for place, video in enumerate(videos)
    ]
    parts = [(one.scores[dropped:], one.labels[dropped:]) for one in given_]
    together = minmax_scale(np.concatenate([scores for scores, _ in parts]))
    edges = np.cumsum([len(scores) for scores, _ in parts])[:-1]
    expected = {
        "none": [scores for scores, _ in parts],
        "video": [minmax_scale(scores) for scores, _ in parts],
        "global": np.split(together, edges),
    }
    truth = np.concatenate([labels for _, labels in parts])
    known = len(set(truth.tolist())) == 2
    measures = {}
    for name, scores in expected.items():
        found = ScoreRule(normalise=name, drop_first=dropped).apply(given_)
        for one, own, (_, labels) in zip(found, scores, parts, strict=True):
            np.testing.assert_allclose(one.scores, own, atol=1e-12)
            assert one.labels.tolist() == labels.tolist()
            assert ((one.scores >= 0) & (one.scores <= 1)).all()
        values = compute_metrics(found, []).values
        measures[name] = (values["auc"], values["ap"])
        if known:  # of scores in thousandths, so that rounding makes and breaks no tie
            rounded = np.concatenate(scores).round(9)
            assert values["auc"] == pytest.approx(roc_auc_score(truth, rounded), abs=1e-9)
    assert measures["global"] == measures["none"]


def test_what_is_no_rule_and_what_leaves_no_frame_is_refused():
    for wrong in ({"normalise": "batch"}, {"drop_first": -1}):
        with pytest.raises(ValueError, match="no rule for scores"):
            ScoreRule(**wrong)
    given_ = [result("long", [0] * 9), result("b", [0, 1, 0]), result("c", [1, 0, 0, 0])]
    with pytest.raises(
        ModelError, match=r"no frame is left of 2 videos .* first 4: b, c; .* less than 3"
    ):
        ScoreRule(drop_first=4).apply(given_)
    assert len(ScoreRule(drop_first=2).apply(given_)[1].scores) == 1


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return make_cache(tmp_path_factory.mktemp("rules") / "features", demo_rows(), seed=3)


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    method = choose_method("deepmil").changed(
        {"steps": 6, "snapshots": 3, "bags": 2, "learning_rate": 0.01}
    )
    return run_training(cache, demo_rows(), method, out=tmp_path_factory.mktemp("r") / "run").run


@pytest.fixture(scope="module")
def plain(cache, run):
    return run_evaluation(run, cache, demo_rows(), pictures=False).metrics.values


def test_changed_scores_are_measured_beside_those_as_they_are(run, plain):
    done = feat("eval", "--run", run, "--normalise", "video", "--drop-first", 4)
    assert done.exit_code == 0, done.output
    found = json.loads((run / "eval" / "metrics.json").read_text())
    assert found["auc"] == plain["auc"]  # the figures and the scores kept are the right ones
    results = read_results(run / "eval")
    assert found["auc"] == pytest.approx(frame_auc(results)[0], abs=1e-6)
    ruled = found["ruled"]
    assert (ruled["normalise"], ruled["drop_first"]) == ("video", 4)
    expected = papers(results, 4)
    assert ruled["auc"] == pytest.approx(area(expected), abs=1e-6)
    labels = np.concatenate([labels for _, labels in expected])
    scores = np.concatenate([scores for scores, _ in expected])
    assert ruled["ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
    assert ruled["num_frames"] == found["num_frames"] - 4 * len(results)
    assert ruled["auc"] != found["auc"]

    text = done.stdout.splitlines()
    head = next(line for line in text if line.startswith("scores "))
    assert (
        re.split(r"  +", head)[-1] == "min-max in each video, first 4 frames dropped (NOT a result)"
    )
    line = next(line for line in text[text.index(head) :] if line.startswith("auc "))
    assert [f"{found['auc']:.4f}", f"{ruled['auc']:.4f}"] == re.findall(r"0\.\d+", line)[::3]
    assert "which are known only when it has ended" in done.stdout
    page = html.unescape((run / "eval" / "report.html").read_text())
    row = re.search(r'<tr><th scope="row">auc</th><td>(.*?)</td><td>(.*?)</td>', page)
    assert row[1].startswith(f"{found['auc']:.4f}")
    assert row[2].startswith(f"{ruled['auc']:.4f}")
    assert "NOT a result" in page
    assert "known only when it has ended" in page
    assert feat("report", run).exit_code == 0  # from what is kept
    assert page == html.unescape((run / "eval" / "report.html").read_text())

    assert json.loads(feat("eval", "--run", run, "--json").stdout)["auc"] == plain["auc"]
    again = feat("eval", "--run", run)
    assert "dropped" not in again.stdout
    assert "ruled" not in json.loads((run / "eval" / "metrics.json").read_text())
    assert "first 4 frames" not in (run / "eval" / "report.html").read_text()


def test_a_global_rule_is_said_to_change_no_ranking(run, plain):
    done = feat("eval", "--run", run, "--normalise", "global", "--all")
    assert "Their order stays, and with it AUC and average precision" in done.stdout
    ruled = json.loads((run / "eval" / "metrics.json").read_text())["ruled"]
    for name in ("auc", "ap", "auc_abnormal", "auc_macro"):
        assert ruled[name] == pytest.approx(plain[name], abs=1e-12)
    for name in ("auc_macro", "ap_iou_mean"):  # all of them, once in each table
        assert len([line for line in done.stdout.splitlines() if line.startswith(name)]) == 2


def test_too_many_frames_to_drop_is_one_line(run):
    for more in ((), ("--compat", "one-class")):
        done = feat("eval", "--run", run, "--drop-first", 160, *more)
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: no frame is left of 4 videos without their first 160: ")
        assert line.endswith("--drop-first must be less than 160")
    assert feat("eval", "--run", run, "--drop-first", -1).exit_code == 2
    assert feat("eval", "--run", run, "--normalise", "batch").exit_code == 2


def test_a_fitted_threshold_is_not_asked_of_normalised_scores(tmp_path):
    rows = [
        label(f"{kind}{index}", split, "500:900" if kind == "bad" else "")
        for kind in ("bad", "good")
        for index, split in enumerate(["train"] * 2 + ["val"] * 3 + ["test"])
    ]
    cache = make_cache(tmp_path / "f", rows, num_frames=2500, streams={"rgb": 16})
    run = run_training(cache, rows, SMALLEST, out=tmp_path / "run").run
    for rule in ("video", "global"):
        found = run_evaluation(run, cache, rows, normalise=rule)
        assert found.metrics.values["far_per_hour_fitted"] is not None
        values, reasons = found.ruled.metrics.values, found.ruled.metrics.reasons
        for name in ("far_per_hour_fitted", "missed_events_fitted"):
            assert values[name] is None
            assert reasons[name].startswith("a threshold fitted to scores as they are means noth")
        assert values["far_per_hour"] is not None
        assert values["far"] is not None
    page = html.unescape((run / "eval" / "report.html").read_text())
    assert "none (a threshold fitted to scores as they are means nothing" in page
    # frames left out leave the scores, and with them the threshold, what they are
    dropped = run_evaluation(run, cache, rows, drop_first=900, pictures=False)
    assert dropped.ruled.metrics.values["missed_events_fitted"] is None  # its events are over
    assert dropped.ruled.metrics.values["far_per_hour_fitted"] is not None


@pytest.mark.slow
def test_every_seed_and_their_mean_have_both_numbers(cache, tmp_path):
    folder = tmp_path / "seeds"
    words = ("--method", "deepmil", "--set", "steps=2", "--set", "bags=2", "--seeds", 2)
    assert feat("train", "--cache", cache.path, *words, "--out", folder).exit_code == 0
    done = feat("eval", "--run", folder, "--normalise", "video", "--drop-first", 4)
    assert done.exit_code == 0, done.output
    lines = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert len(lines["auc"]) == len(lines["auc_video_drop4"]) == 6  # mean, std, ensemble, two seeds
    assert "names with _video_drop4 behind: video: the scores of each video" in done.stdout
    ruled = area(papers(read_results(folder / "eval"), 4))
    assert float(lines["auc_video_drop4"][3]) == pytest.approx(ruled, abs=1e-4)
    each = [area(papers(read_results(folder / f"seed-{seed}" / "eval"), 4)) for seed in (0, 1)]
    assert float(lines["auc_video_drop4"][1]) == pytest.approx(np.mean(each), abs=1e-4)


@pytest.mark.slow
def test_compared_runs_have_both_numbers(cache, run, tmp_path):
    other = run_training(cache, demo_rows(), choose_method("knn"), out=tmp_path / "knn").run
    assert feat("eval", "--run", run).exit_code == 0
    assert feat("eval", "--run", other, "--normalise", "video", "--drop-first", 4).exit_code == 0
    out = tmp_path / "two.html"
    assert feat("report", run, other, "--out", out).exit_code == 0
    page = html.unescape(out.read_text())
    figures = dict(re.findall(r'<div id="figure-(auc\w*)">(.*?)</table>', page, re.DOTALL))
    caption = "AUC, min-max in each video, first 4 frames dropped: NOT a result"
    assert f"<caption>{caption}</caption>" in figures["auc_video_drop4"]
    for name, dropped in (("auc", None), ("auc_video_drop4", 4)):
        values = re.findall(r"<strong>([\d.]+)</strong>", figures[name])
        for value, folder in zip(values, (run, other), strict=True):
            results = read_results(folder / "eval")
            parts = papers(results, 4) if dropped else [(r.scores, r.labels) for r in results]
            assert float(value) == pytest.approx(area(parts), abs=6e-4)
    assert "known only when it has ended" in page
    assert feat("eval", "--run", other).exit_code == 0
    assert feat("report", run, other, "--out", out).exit_code == 0
    assert "dropped" not in out.read_text()


def test_a_damaged_rule_is_one_line(run, tmp_path):
    assert feat("eval", "--run", run, "--drop-first", 3).exit_code == 0
    path = run / "eval" / "metrics.json"
    path.write_text(path.read_text().replace('"normalise": "none"', '"normalise": "x"'))
    shutil.copytree(run, tmp_path / "copy")
    for words in ((run,), (run, tmp_path / "copy", "--out", tmp_path / "two.html")):
        done = feat("report", *words)
        assert done.exit_code == 1
        (line,) = done.stderr.splitlines()
        assert "results cannot be read: ValueError: no rule for scores" in line


# --- the papers' evaluation ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def looks(cache, run):
    """What each snapshot says of the test videos, scored by hand."""
    rows = [row for row in demo_rows() if row.split == "test"]
    trained = load_run(run)
    data = load_features(cache, rows, streams=["rgb", "flow"])
    kept = load_snapshots(run)
    assert len(kept) == 3
    return {
        one.info.result["step"]: video_results(
            type(trained)(path=run, checkpoints=(one,), device=trained.device).score(data), data
        )
        for one in kept
    }


def test_the_table_is_their_evaluation_and_each_shortcut_is_alone(cache, run, plain, looks):
    found = run_evaluation(run, cache, demo_rows(), compat="one-class", pictures=False)
    table = found.compat
    results = list(looks.values())[-1]  # the last snapshot is the model
    aucs = [area([(r.scores, r.labels) for r in each]) for each in looks.values()]
    theirs = [area(papers(each, 4)) for each in looks.values()]
    expected = {
        "right": plain["auc"],
        "video": area(papers(results, 0)),
        "drop_first": area([(r.scores[4:], r.labels[4:]) for r in results]),
        "best_step": max(aucs),
        "one_class": max(theirs),
    }
    assert {name: row["auc"] for name, row in table.values.items()} == pytest.approx(
        expected, abs=1e-9
    )
    count = sum(len(r.scores) for r in results)
    assert table.num_frames == {
        **dict.fromkeys(("right", "video", "best_step"), count),
        **dict.fromkeys(("drop_first", "one_class"), count - 4 * len(results)),
    }
    steps = [[*looks][int(np.argmax(each))] for each in (aucs, theirs)]
    assert (
        f"of 3 snapshots the one with the highest AUC on the test videos (step {steps[0]}; "
        f"with the others step {steps[1]})"
    ) in table.note
    assert found.metrics.values == plain
    assert found.ruled is None
    kept = json.loads(json.dumps(found.to_dict()))["compat"]
    assert CompatTable(**kept).rows() == table.rows()


def test_the_best_look_is_taken_by_each_rule_on_its_own():
    """Made so that the step that is best as it is loses once each video is normalised."""
    labels = [0, 0, 1, 1]
    apart = [result("a", [0.1, 0.2, 0.3, 0.4], labels), result("b", [0.6, 0.7, 0.8, 0.9], labels)]
    level = [result("a", [0.1, 0.5, 0.4, 0.9], labels), result("b", [0.1, 0.5, 0.4, 0.9], labels)]
    table = compare_with_one_class(level, {5: level, 9: apart}, drop_first=0)
    # 12 of 16 pairs in order either way; normalised all of them for `apart`
    assert [table.values[name]["auc"] for name in table.values] == [0.75, 0.75, 0.75, 0.75, 1.0]
    assert "(step 5; with the others step 9)" in table.note


def test_the_command_prints_keeps_and_shows_the_table(run):
    done = feat("eval", "--run", run, "--compat", "one-class")
    assert done.exit_code == 0, done.output
    table = (run / "eval" / "one-class.md").read_text()
    assert table in done.stdout
    assert table.startswith("|  | right | video | drop_first | best_step | one_class |\n")
    assert "the first 4 frames of each video left out" in table
    page = (run / "eval" / "report.html").read_text()
    assert "<summary>Evaluation as one-class papers publish it</summary>" in page
    eight = feat("eval", "--run", run, "--compat", "one-class", "--drop-first", 8)
    assert "the first 8 frames of each video left out" in eight.stdout
    none = feat("eval", "--run", run, "--compat", "one-class", "--drop-first", 0)
    (row,) = [line for line in none.stdout.splitlines() if line.startswith("| auc |")]
    assert row.split(" | ")[3] == "+0.0000"
    assert "one-class" not in feat("eval", "--run", run).stdout
    assert not (run / "eval" / "one-class.md").exists()


@pytest.mark.parametrize("method", ["knn", "logistic"])
def test_without_snapshots_it_says_so_and_what_to_do(method, cache, tmp_path):
    run = run_training(cache, demo_rows(), choose_method(method), out=tmp_path / "run").run
    table = run_evaluation(run, cache, demo_rows(), compat="one-class", pictures=False).compat
    assert tuple(table.values) == ("right", "video", "drop_first", "one_class")
    assert "best_step: not available, for the run has kept no snapshots" in table.note
    assert "train with --set snapshots=20" in table.note
    assert "one_class: video and drop_first together" in table.note
