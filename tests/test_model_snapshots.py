"""Snapshots of a training and the three numbers made of them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from marks import quick_first
from model_cache import add_video, demo_rows, label, make_cache, segment_table

from cache import FeatureCache
from data.errors import ModelError
from feat import cli
from model.evaluation.evaluate import run_evaluation
from model.evaluation.snapshots import video_auc
from model.measures.metrics import VideoResult
from model.methods.registry import choose_method
from model.runs.checkpoint import load_checkpoint
from model.runs.snapshots import load_snapshots, snapshot_steps
from model.runs.train import run_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    """Videos that no method tells apart well, so that looks differ."""
    rng = np.random.default_rng(0)
    cache = FeatureCache.create(tmp_path_factory.mktemp("weak") / "features")
    rows = []
    for index in range(30):
        split = ("train", "val", "test")[index % 3]
        rows += [label(f"b{index}", split, "16:64"), label(f"g{index}", split)]
        for name, extra in ((f"b{index}", 0.5), (f"g{index}", 0.0)):
            features = np.abs(rng.normal(0, 1, (8, 24)))
            features[1:4, :6] += extra
            add_video(cache, name, {"rgb": features}, 128)
    return cache, rows


def test_snapshots_are_evenly_spread():
    for steps, count, expected in [(10, 3, {3, 7, 10}), (4, 9, {1, 2, 3, 4}), (5, 0, set())]:
        method = choose_method("deepmil").changed({"steps": steps, "snapshots": count})
        assert snapshot_steps(method) == expected
    assert snapshot_steps(choose_method("knn")) == set()


@pytest.mark.parametrize("name", quick_first(["deepmil", "convlstm"]))
def test_three_numbers_of_a_run(name, weak, tmp_path):
    cache, rows = weak
    quick = {"steps": 6, "snapshots": 3, "learning_rate": 0.003}
    quick |= {"hidden": 4, "eval_every": 2} if name == "convlstm" else {"bags": 3}
    run = run_training(cache, rows, choose_method(name).changed(quick), runs=tmp_path).run
    kept = load_snapshots(run)
    assert [one.info.result["step"] for one in kept] == [2, 4, 6]
    found = run_evaluation(run, cache, rows, pictures=False)
    numbers = found.snapshots
    assert numbers is not None
    assert (numbers.count, numbers.last.step) == (3, 6)
    # each as if training had ended there
    aucs = []
    for steps in (2, 4, 6):
        shorter = choose_method(name).changed({**quick, "steps": steps, "snapshots": 1})
        part = run_training(cache, rows, shorter, runs=tmp_path).run
        ended = run_evaluation(part, cache, rows, pictures=False).snapshots
        assert ended is not None
        aucs.append(ended.last.auc)
    assert numbers.last.auc == pytest.approx(aucs[-1], abs=1e-9)
    assert numbers.best_on_test.auc == pytest.approx(max(aucs), abs=1e-9)
    assert numbers.best_on_test.step == 2 * (int(np.argmax(aucs)) + 1)
    assert numbers.chosen is not None
    assert numbers.chosen.auc == pytest.approx(aucs[numbers.chosen.step // 2 - 1], abs=1e-9)
    what = "frames" if name == "convlstm" else "videos"
    assert numbers.chosen_by == f"the AUC of the {what} of 20 others"
    assert numbers.last.interval is not None
    if name != "convlstm":  # which keeps what validation selects
        assert numbers.last.auc == pytest.approx(found.metrics.values["auc"], abs=1e-9)


def test_a_snapshot_holds_what_is_measured_at_the_end(weak, tmp_path):
    cache, rows = weak
    method = choose_method("bn-wvad").changed({"steps": 2, "snapshots": 2, "bags": 2})
    run = run_training(cache, rows, method, runs=tmp_path).run
    first, last = load_snapshots(run)
    assert float(first.parameters["middle"]) != float(last.parameters["middle"]) != 1.0
    whole = load_checkpoint(run).parameters
    assert all(np.array_equal(array, last.parameters[key]) for key, array in whole.items())


def test_what_chooses_never_sees_the_test_videos(weak, tmp_path):
    """With other test videos the same snapshot is chosen."""
    cache, rows = weak
    method = choose_method("deepmil").changed({"steps": 12, "snapshots": 6, "bags": 3})
    run = run_training(cache, rows, method, runs=tmp_path).run
    fewer = [row for row in rows if row.split != "test" or row.video in ("b2", "g2", "b5")]
    steps = set()
    for labels in (rows, fewer):
        numbers = run_evaluation(run, cache, labels, pictures=False).snapshots
        assert numbers is not None
        assert numbers.chosen is not None
        steps.add(numbers.chosen.step)
    assert len(steps) == 1


def test_without_validation_nothing_is_chosen_and_it_says_why(tmp_path):
    cache, rows = make_cache(tmp_path / "features", demo_rows()), demo_rows()
    method = choose_method("deepmil").changed({"steps": 4, "snapshots": 2})
    run = run_training(cache, rows, method, out=tmp_path / "run").run
    said = CliRunner().invoke(cli, ["eval", "--run", str(run), "--cache", str(cache.path)])
    assert "chosen on validation" in said.stdout
    assert "no validation videos: give some the split val, or set held_out" in said.stdout
    assert "NOT a result" in said.stdout
    page = (run / "eval" / "report.html").read_text(encoding="utf-8")
    assert "best on test: NOT a result" in page
    assert "the highest of 2 looks at the test videos" in page
    held = choose_method("deepmil").changed({"steps": 4, "snapshots": 2, "held_out": 0.3})
    run = run_training(cache, rows, held, out=tmp_path / "held").run
    numbers = run_evaluation(run, cache, rows, pictures=False).snapshots
    assert numbers is not None
    assert numbers.chosen is not None
    assert set(load_checkpoint(run).info.val_videos) & {row.video for row in rows}


def test_validation_videos_without_a_frame_count_do_not_choose(weak, tmp_path):
    """Features of segments may be imported without one: their frames have no scores."""
    _, rows = weak
    rng = np.random.default_rng(1)
    cache = FeatureCache.create(tmp_path / "features")
    for row in rows:
        frames, features = 0 if row.video in ("b1", "g4") else 128, rng.normal(0, 1, (8, 24))
        clips = segment_table(frames or 8, 8)
        add_video(cache, row.video, {"rgb": features}, frames, clips=clips, config={"clip_len": 0})
    labels = [label(r.video, r.split, "?") if r.video == "b1" else r for r in rows]
    method = choose_method("deepmil").changed({"steps": 2, "snapshots": 1, "bags": 3})
    run = run_training(cache, labels, method, runs=tmp_path).run
    numbers = run_evaluation(run, cache, labels, pictures=False).snapshots
    assert numbers is not None
    assert numbers.chosen_by == "the AUC of the videos of 18 others"


@pytest.mark.slow
def test_a_comparison_tells_the_three_numbers(weak, tmp_path):
    cache, rows = weak
    table = tmp_path / "table.csv"
    args = ["compare", "--cache", str(cache.path), "--methods", "deepmil,knn", "--seeds", "2"]
    args += ["--out", str(tmp_path / "out"), "--csv", str(table), "--json"]
    args += ["--set", "deepmil.steps=6", "--set", "deepmil.snapshots=3", "--set", "deepmil.bags=3"]
    (tmp_path / "labels.csv").write_text(
        "video,split,category,anomaly\n"
        + "".join(f"{row.video},{row.split},,{row.anomaly}\n" for row in rows)
    )
    args += ["--labels", str(tmp_path / "labels.csv")]
    said = CliRunner().invoke(cli, args)
    assert said.exit_code == 0, said.output
    of = {row["method"]: row for row in json.loads(said.stdout)["rows"]}
    runs = [Path(tmp_path / "out" / "deepmil" / f"seed-{seed}" / "eval") for seed in (0, 1)]
    each = [json.loads((run / "metrics.json").read_text())["snapshots"] for run in runs]
    for name in ("last", "chosen", "best_on_test"):
        assert of["deepmil"][f"auc_{name}"] == pytest.approx(
            np.mean([one[name]["auc"] for one in each])
        )
        assert of["knn"][f"auc_{name}"] is None
    assert of["deepmil"]["auc_best_on_test"] >= of["deepmil"]["auc_last"]
    with table.open(newline="") as file:
        assert next(csv.DictReader(file))["auc_chosen"]
    shown = CliRunner().invoke(cli, [word for word in args if word != "--json"]).stdout
    assert "best on test: NOT a result" in shown


def test_a_damaged_snapshot_is_named(weak, tmp_path):
    cache, rows = weak
    method = choose_method("deepmil").changed({"steps": 2, "snapshots": 1, "bags": 3})
    run = run_training(cache, rows, method, runs=tmp_path).run
    (path,) = (run / "snapshots").iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelError, match=r"snapshots/0000002.safetensors: not a checkpoint"):
        run_evaluation(run, cache, rows, pictures=False)


def test_auc_of_videos_is_of_their_highest_scores():
    results = [
        VideoResult(video=str(i), scores=np.array(scores), labels=None)
        for i, scores in enumerate([[0.1, 0.9], [0.3, 0.2], [0.6, 0.1]])
    ]
    rows = [label("0", "val", "?"), label("1", "val", "?"), label("2", "val")]
    assert video_auc(results, rows) == 0.5
    assert video_auc(results[:2], rows[:2]) is None
