"""`feat train --seeds` and `feat eval` on its folder: mean and spread, going on, refusals."""

import html
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from model_cache import SMALLEST, KilledError, add_video, demo_rows, make_cache
from sklearn.metrics import roc_auc_score

from cache import FeatureCache
from data.errors import ConfigError, ModelError
from feat import cli
from model.evaluation.evaluate import check_unseen, run_evaluation
from model.experiments.folder import spread_of
from model.experiments.seeds import evaluate_seeds, resume_seeds, train_seeds
from model.measures.scores import video_results
from model.methods.gather import DataOptions
from model.methods.registry import choose_method
from model.runs.train import run_training
from model.runs.trained import load_run

METHOD = replace(SMALLEST, steps=12, eval_every=4, learning_rate=1e-2)
QUICK = [
    word
    for assignment in ("steps=20", "hidden=4", "layers=1", "learning_rate=0.02", "batch_size=16")
    for word in ("--set", assignment)
]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


def train(cache, out, method=METHOD, *, seeds=3, rows=None, **how):
    return train_seeds(cache, rows or demo_rows(), method, count=seeds, out=out, **how)


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """Three seeds, and the folder of their runs, into which nobody writes."""
    out = tmp_path_factory.mktemp("whole") / "three"
    return out, train(cache, out)


def checkpoints(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        path.parent.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.glob("seed-*/model.safetensors")
    }


def test_each_seed_is_the_run_it_would_be_alone(cache, tmp_path):
    report = train(cache, tmp_path / "three", first=4)
    assert [row["seed"] for row in report.rows] == [4, 5, 6]
    alone = run_training(cache, demo_rows(), METHOD, seed=5, runs=tmp_path)
    measures = {name: value for name, value in alone.info.result.items() if "val_" in name}
    assert len(measures) == 6
    assert {name: report.rows[1][name] for name in measures} == measures
    assert (alone.run / "model.safetensors").read_bytes() == (
        tmp_path / "three" / "seed-5" / "model.safetensors"
    ).read_bytes()


def test_mean_and_standard_deviation_are_those_of_the_rows(whole):
    _, report = whole
    losses = [row["val_loss"] for row in report.rows]
    assert len(set(losses)) == 3
    assert report.spreads["val_loss"].mean == pytest.approx(sum(losses) / 3)
    assert report.spreads["val_loss"].std == pytest.approx(np.std(losses, ddof=1))
    found = json.loads(json.dumps(report.to_dict()))
    assert found["spread"]["val_loss"]["count"] == 3
    line = next(line for line in report.to_text().splitlines() if line.startswith("val_loss"))
    assert report.to_text().splitlines()[1].split() == ["steps", "12.0000", "0.0000", *["12"] * 3]
    assert line.split()[1:3] == [f"{np.mean(losses):.4f}", f"{np.std(losses, ddof=1):.4f}"]


def test_spread_of_one_or_of_missing_values():
    assert spread_of([0.5]).std is None
    assert spread_of([0.5, None]) is None
    assert spread_of([]) is None


def test_going_on_keeps_finished_runs_and_resumes_the_killed_one(cache, whole, tmp_path):
    out = tmp_path / "killed"
    seen = []

    def die(row):
        seen.append(row["step"])
        if seen == [4, 8, 12, 4, 8]:  # the second look of the second seed
            raise KilledError

    with pytest.raises(KilledError):
        train(cache, out, on_row=die, save_seconds=0)
    kept = checkpoints(out)
    assert set(kept) == {"seed-0"}
    steps = []
    report = resume_seeds(
        cache, out, options=DataOptions(), on_row=lambda row: steps.append(row["step"])
    )
    assert steps == [8, 12, 4, 8, 12]  # the state of the look that was killed was not saved
    after = checkpoints(out)
    assert after["seed-0"] == kept["seed-0"]
    assert {n: data for n, (_, data) in after.items()} == {
        n: data for n, (_, data) in checkpoints(whole[0]).items()
    }
    more = train(cache, out, seeds=4)
    assert [row["seed"] for row in more.rows] == [0, 1, 2, 3]
    assert {n: checkpoints(out)[n] for n in after} == after
    assert report.rows == more.rows[:3]


def test_a_run_killed_before_its_first_step_is_begun_again(cache, tmp_path):
    out = tmp_path / "out"
    train(cache, out, seeds=1)
    (out / "seed-1").mkdir()
    (out / "seed-1" / "environment.json").write_text("{")
    assert len(train(cache, out, seeds=2).rows) == 2


def test_other_terms_are_refused(cache, tmp_path):
    out = tmp_path / "out"
    train(cache, out, seeds=1)
    moved = [replace(demo_rows()[0], intervals=((0, 16),)), *demo_rows()[1:]]
    with pytest.raises(ConfigError, match="runs with other settings; their spread"):
        train(cache, out, replace(METHOD, steps=13))
    with pytest.raises(ConfigError, match="runs with other labels"):
        train(cache, out, rows=moved)
    with pytest.raises(ConfigError, match="runs with other streams"):
        train(cache, out, options=DataOptions(streams=("rgb",)))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ModelError, match="photos: neither empty nor of several seeds"):
        train(cache, tmp_path / "photos")


def test_a_cache_that_gained_a_stream_in_between_is_noticed(tmp_path):
    rows = demo_rows()
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 16})
    train(cache, tmp_path / "out", seeds=1)
    for row in rows:
        add_video(cache, row.video, {"flow": np.ones((10, 8))}, 160)
    cache = FeatureCache(cache.path)
    with pytest.raises(ConfigError, match=r"seed-1: trained on other features \(rgb \+ flow\)"):
        train(cache, tmp_path / "out", seeds=2)


def test_two_processes_do_not_work_in_one_folder(cache, tmp_path):
    def second(row):
        train(cache, tmp_path / "out", seeds=1)

    with pytest.raises(ModelError, match="out: another process works there"):
        train(cache, tmp_path / "out", seeds=1, on_row=second)
    assert len(train(cache, tmp_path / "out", seeds=1).rows) == 1  # it is free again


def test_where_training_measures_nothing_the_runs_are_named(cache, tmp_path):
    report = train_seeds(
        cache, demo_rows(), choose_method("knn"), count=2, out=tmp_path / "out", device="cpu"
    )
    assert report.to_text() == f"run: {tmp_path / 'out'}, seeds 0 1"


def test_an_unfinished_seed_is_not_left_out_of_the_evaluation(cache, tmp_path):
    out = tmp_path / "out"
    train(cache, out, seeds=2)
    (out / "seed-1" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="seeds 1 are not finished; run `feat train --resume"):
        evaluate_seeds(out, lambda run: pytest.fail("evaluated"))
    terms = json.loads((out / "seeds.json").read_text())
    for damage in ([], {**terms, "first": "0"}, {**terms, "first": None}, {**terms, "count": 0}):
        (out / "seeds.json").write_text(json.dumps(damage))
        with pytest.raises(ModelError, match=r"seeds.json: not a folder of several seeds"):
            evaluate_seeds(out, lambda run: pytest.fail("evaluated"))


@pytest.mark.slow
def test_the_mean_of_the_seeds_is_evaluated_too(cache, tmp_path):
    out = tmp_path / "out"
    train(cache, out)
    report = evaluate_seeds(out, lambda run: run_evaluation(run, cache, demo_rows()))

    def scores(folder):
        return np.load(folder / "eval" / "scores.npz")

    each = [scores(out / f"seed-{seed}")["scores"] for seed in range(3)]
    together = scores(out)
    assert np.ptp(each, axis=0).max() > 0.001
    np.testing.assert_allclose(together["scores"], np.mean(each, axis=0), atol=1e-6)
    assert report.ensemble.metrics.values["auc"] == pytest.approx(
        roc_auc_score(together["labels"], together["scores"])
    )
    assert report.ensemble.protocol.startswith(
        "mean of 3 seeds' models, each convlstm, fully supervised"
    )
    page = html.unescape((out / "eval" / "report.html").read_text())
    settings = re.search(r'"seeds": \[([\d,\s]*)\]', page)
    assert [int(seed) for seed in settings[1].split(",")] == [0, 1, 2]


def test_the_mean_of_the_seeds_votes_by_mean_probabilities(cache, tmp_path):
    """Also where a seed was not trained on every category."""
    out = tmp_path / "out"
    train(cache, out, seeds=2)
    trained = load_run(out)
    one, two = trained.checkpoints
    rows = [row for row in demo_rows() if row.split == "test"]
    data = trained.load_features(cache, rows)
    known = trained.categories
    assert len(known) > 1
    first, second, both = (
        replace(trained, checkpoints=some).score(data).probabilities()
        for some in ((one,), (two,), (one, two))
    )
    np.testing.assert_allclose(both, (first + second) / 2, atol=1e-9)
    renamed = replace(two, info=replace(two.info, categories=("other", *known[1:])))
    mixed = replace(trained, checkpoints=(one, renamed))
    assert mixed.categories == (*known, "other")
    scores = mixed.score(data)
    halves = np.column_stack([first[:, 0], first[:, 1:] + second[:, 1:], second[:, 0]]) / 2
    np.testing.assert_allclose(scores.probabilities(), halves, atol=1e-9)
    for result, half in zip(video_results(scores, data), halves, strict=True):
        assert result.predicted == mixed.categories[int(np.argmax(half))]
        assert result.window_votes.sum() == 6  # windows of 5 of its 10 clips


def test_a_test_video_that_any_seed_has_seen_is_refused(cache, tmp_path):
    out = tmp_path / "out"
    train(cache, out, seeds=2)
    trained = load_run(out)
    first, second = trained.checkpoints
    test = next(row for row in demo_rows() if row.split == "test")
    data = trained.load_features(cache, [test])
    seen = replace(second.info, val_videos={**second.info.val_videos, test.video: "0" * 64})
    with pytest.raises(ModelError, match=f"1 test videos were used to train.*{test.video}"):
        check_unseen(data, replace(trained, checkpoints=(first, replace(second, info=seen))))
    check_unseen(data, trained)


def test_train_and_eval_from_the_command_line(cache, tmp_path):
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        options = ["--cache", str(cache.path), "--json"]
        trained = CliRunner().invoke(cli, ["train", *QUICK, "--seeds", "2", *options])
        assert trained.exit_code == 0, trained.stderr
        folder = json.loads(trained.stdout)["run"]
        assert folder.endswith("-seeds-0-to-1")
        found = json.loads(CliRunner().invoke(cli, ["eval", "--json"]).stdout)
        assert found["run"] == folder
        single = [
            json.loads(CliRunner().invoke(cli, ["eval", "--json", "--run", row["run"]]).stdout)
            for row in found["seeds"]
        ]
        assert [row["auc"] for row in found["seeds"]] == [report["auc"] for report in single]
        assert found["spread"]["auc"]["mean"] == pytest.approx(
            np.mean([report["auc"] for report in single])
        )
        assert found["spread"]["auc"]["mean"] > 0.8
        text = CliRunner().invoke(cli, ["eval", "--run", folder])
        line = next(line for line in text.stdout.splitlines() if line.startswith("auc "))
        assert float(line.split()[3]) == pytest.approx(found["ensemble"]["auc"], abs=1e-4)
        assert "ensemble  seeds 0 1" in text.stdout
        assert found["ensemble"]["report"] == f"{folder}/eval/report.html"
        again = CliRunner().invoke(cli, ["train", "--resume", folder, *options])
        assert json.loads(again.stdout)["seeds"] == json.loads(trained.stdout)["seeds"]
        again = CliRunner().invoke(cli, ["train", *options, "--out", folder, "--seeds", "3"])
        assert again.exit_code == 1
        assert "runs with other settings; their spread would say nothing" in again.stderr
    finally:
        os.chdir(before)


@pytest.mark.slow
def test_other_methods_have_seeds_too(cache, tmp_path, caplog):
    """One that draws nothing is said to give the same run each time."""
    report = train(cache, tmp_path / "drawn", choose_method("shuffled"), seeds=2)
    assert "draws nothing" not in caplog.text
    one, two = load_run(report.run).checkpoints
    rows = [row for row in demo_rows() if row.split == "test"]
    data = load_run(report.run).load_features(cache, rows)
    scores = [each.info.method.score(each.fitted, data, torch.device("cpu")) for each in (one, two)]
    assert not np.array_equal(scores[0].slots, scores[1].slots)
    evaluated = evaluate_seeds(report.run, lambda run: run_evaluation(run, cache, demo_rows()))
    assert evaluated.spreads["auc"].std > 0
    train(cache, tmp_path / "fixed", choose_method("logistic"), seeds=2)
    assert "logistic draws nothing: its seeds all give the same run" in caplog.text
