"""The threshold of a run: fitted in training, fitted anew, and used by eval, predict and report."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from model_cache import SMALLEST, add_video, clip_table, label, make_cache

from data.labels import write_labels
from feat import cli
from model.experiments.compare import run_comparison
from model.experiments.compare_table import to_markdown
from model.experiments.folder import Terms
from model.experiments.seeds import train_seeds
from model.measures.budget import AlarmRule
from model.methods.registry import choose_method
from model.prediction.prediction import predict_video
from model.runs.checkpoint import load_checkpoint
from model.runs.threshold import read_held_out, read_threshold
from model.runs.train import run_training
from model.runs.trained import load_run

pytestmark = pytest.mark.usefixtures("one_thread")
FRAMES = 2500  # 100 s


@pytest.fixture(scope="module")
def rows():
    span = "500:900"
    return [
        label(f"{kind}/{index}.mp4", split, span if kind == "bad" else "")
        for kind in ("bad", "good")
        for index, split in enumerate(["train"] * 3 + ["val"] * 3 + ["test"] * 2)
    ]


@pytest.fixture(scope="module")
def cache(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hours") / "features"
    return make_cache(folder, rows, num_frames=FRAMES, streams={"rgb": 16})


def feat(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_a_run_keeps_its_threshold_and_every_command_uses_it(cache, rows, tmp_path):
    report = run_training(cache, rows, SMALLEST, out=tmp_path / "run")
    stored = report.threshold
    assert stored is not None
    assert stored == read_threshold(report.run)
    assert (stored.num_videos, stored.fitted.hours) == (3, pytest.approx(300 / 3600))
    # 0.083 h of normal video show no less than 36 an hour
    assert stored.fitted.claimed_per_hour == pytest.approx(35.9, abs=0.1)
    assert "can show no less than 36 an hour, not the 1 asked for" in report.to_text()

    evaluated = feat("eval", "--run", report.run)
    assert evaluated.exit_code == 0, evaluated.output
    assert f"{stored.value:g}, fitted for 36 false alarms an hour" in evaluated.stdout
    found = json.loads((report.run / "eval" / "metrics.json").read_text())
    assert found["threshold"] == stored.to_dict()
    assert found["far_per_hour_fitted"] is not None
    page = (report.run / "eval" / "report.html").read_text()
    assert f"back to {stored.value:g}" in page
    start = int(re.search(r'"start": ?(\d+)', page)[1])
    assert json.loads(re.search(r'"thresholds": ?(\[[^]]*\])', page)[1])[start] == stored.value

    trained = load_run(report.run)
    own = predict_video(trained, cache, "bad/6.mp4")
    given = predict_video(trained, cache, "bad/6.mp4", threshold=0.25)
    assert (own.threshold, own.threshold_means) == (stored.value, stored.stands_for())
    assert given.threshold == 0.25
    assert given.threshold_means.startswith(f"as given; the run's own is {stored.value:g}")


def test_another_budget_and_n_of_m_are_fitted_without_the_cache(cache, rows, tmp_path):
    run = run_training(cache, rows, SMALLEST, out=tmp_path / "run").run
    plain = load_run(run)
    data = plain.load_features(cache, [row for row in rows if row.split == "test"])
    before = plain.score(data).frames
    told = feat("threshold", run, "--false-alarms", "50", "--n-of-m", "3/3", "--json")
    assert told.exit_code == 0, told.output
    stored = read_threshold(run)
    assert stored.rule == AlarmRule(per_hour=50, needs=3, of=3)
    assert json.loads(told.stdout)["threshold"] == stored.value
    after = load_run(run).score(data).frames
    # three of three clips around: the scores can only fall
    assert all((new <= old).all() for new, old in zip(after, before, strict=True))
    assert any((new < old).any() for new, old in zip(after, before, strict=True))
    assert feat("runs", "verify", run).exit_code == 0
    path = run / "threshold.json"
    path.write_text(path.read_text().replace(f"{stored.value}", "0.123"))
    damaged = feat("runs", "verify", run)
    assert damaged.exit_code == 1
    assert "not what the scores in held-out.safetensors give" in damaged.stdout
    assert feat("threshold", run, "--n-of-m", "3/2").exit_code == 2


@pytest.mark.parametrize("is_rare", [False, True])
def test_a_refit_is_measured_by_what_had_not_seen_the_videos(cache, rows, tmp_path, is_rare):
    """Nor a category, where the only video of it is held out."""
    none_val = [replace(row, split="train") if row.split == "val" else row for row in rows]
    once = SMALLEST.changed({"val_fraction": 0.5, "refit": False})
    if is_rare:
        held = load_checkpoint(
            run_training(cache, none_val, once, out=tmp_path / "to look").run
        ).info.val_videos
        rare = next(row.video for row in none_val if row.video in held and row.is_abnormal)
        none_val = [replace(row, category="rare") if row.video == rare else row for row in none_val]
    alone = run_training(cache, none_val, once, out=tmp_path / "once")
    again = run_training(cache, none_val, once.changed({"refit": True}), out=tmp_path / "again")
    assert ("rare" in again.info.categories) == is_rare
    one, other = read_held_out(alone.run), read_held_out(again.run)
    assert [video.video for video in one] == [video.video for video in other]
    for first, second in zip(one, other, strict=True):
        assert first.scores.tolist() == second.scores.tolist()
    if is_rare:
        assert "rare" not in alone.info.categories


def test_several_seeds_have_one_threshold_of_their_mean(cache, rows, tmp_path):
    folder = train_seeds(cache, rows, SMALLEST, count=2, out=tmp_path / "two").run
    trained = load_run(folder)
    assert trained.threshold is not None
    held = trained.load_features(cache, [row for row in rows if row.split == "val"])
    scores = trained.score_clips_alone(held).frames
    for video in read_held_out(folder):
        index = [row.video for row in held.labels].index(video.video)
        assert video.scores.tolist() == pytest.approx(scores[index].tolist())

    # what was fitted to another budget since stays
    assert feat("threshold", folder, "--false-alarms", "30").exit_code == 0
    fitted = read_threshold(folder)
    assert fitted.rule.per_hour == 30
    train_seeds(cache, rows, SMALLEST, count=2, out=folder)
    assert read_threshold(folder) == fitted


def test_a_run_without_enough_normal_video_stays_at_a_half(cache, rows, tmp_path):
    few = [row for row in rows if row.video not in ("good/4.mp4", "good/5.mp4")]
    report = run_training(cache, few, SMALLEST, out=tmp_path / "run")
    assert report.threshold is None
    assert "threshold 0.5, no threshold was fitted: 1.7 minutes" in report.to_text()
    assert "0.5, no threshold was fitted" in feat("eval", "--run", report.run).stdout
    assert predict_video(load_run(report.run), cache, "bad/6.mp4").threshold == 0.5
    refused = feat("threshold", report.run)
    assert refused.exit_code == 1
    expected = f"error: {report.run}: 1.7 minutes of held-out normal video, at least 3 are needed"
    assert refused.stderr.startswith(expected)
    assert "--labels and --cache take other normal footage" in refused.stderr

    no_val = [row for row in rows if row.split != "val"]
    report = run_training(cache, no_val, choose_method("knn"), out=tmp_path / "knn")
    assert "if the method has a setting held_out or val_fraction" in report.to_text()

    none = feat("threshold", tmp_path / "none")
    assert none.exit_code == 1
    assert "no such run; `feat runs ls` lists those under ./runs" in none.stderr


def test_new_normal_footage_gives_a_threshold_to_runs_of_earlier_builds(cache, rows, tmp_path):
    trained_on = [row for row in rows if row.split == "train"]
    one = run_training(cache, trained_on, SMALLEST, out=tmp_path / "one").run
    two = train_seeds(cache, trained_on, SMALLEST, count=2, out=tmp_path / "two").run
    for path in tmp_path.rglob("held-out.safetensors"):
        path.unlink()
    refused = feat("threshold", one)
    assert refused.exit_code == 1
    assert "name normal videos with --labels" in refused.stderr

    new = [label(f"new/{index}.mp4", "val") for index in range(3)]
    footage = make_cache(tmp_path / "footage", new, num_frames=2 * FRAMES, streams={"rgb": 16})
    write_labels(footage.path / "labels.csv", new)
    for run in (one, two):
        told = feat("threshold", run, "--cache", footage.path, "--false-alarms", "60", "--json")
        assert told.exit_code == 0, told.output
        stored = read_threshold(run)
        assert json.loads(told.stdout)["threshold"] == stored.value
        assert stored.fitted.hours == pytest.approx(600 / 3600)
        trained = load_run(run)
        expected = trained.score(trained.load_features(footage, new)).frames
        found = {video.video: video.scores.tolist() for video in read_held_out(run)}
        for row, scores in zip(new, expected, strict=True):
            assert found[row.video] == pytest.approx(scores.tolist())
    # those scores are kept: another budget needs no footage
    assert feat("threshold", two, "--false-alarms", "100").exit_code == 0
    assert read_threshold(two / "seed-1").rule.per_hour == 100
    assert feat("runs", "verify", one).exit_code == 0


def test_refused_footage_leaves_a_threshold_as_it_was(cache, rows, tmp_path):
    run = run_training(cache, rows, SMALLEST, out=tmp_path / "run").run
    files = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    seen = [replace(row, split="val") for row in rows if row.video == "good/0.mp4"]
    short = [row for row in rows if row.video == "good/3.mp4"]
    abnormal = [row for row in rows if row.video.startswith("bad")]
    for wanted, reason in (
        (seen, f"1 val videos were used to train {run}: good/0.mp4"),
        (short, "1.7 minutes of held-out normal video, at least 3 are needed"),
        (abnormal, "the labels name no normal video with split 'val'"),
    ):
        write_labels(tmp_path / "some.csv", wanted)
        refused = feat("threshold", run, "--labels", tmp_path / "some.csv")
        assert refused.exit_code == 1
        assert reason in refused.stderr
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == files


def test_videos_of_unknown_frames_are_left_out_of_a_fit(rows, tmp_path):
    unknown = [label(f"{kind}/{kind}.mp4", "val", "?" * (kind == "bad")) for kind in ("bad", "ok")]
    weak = [replace(row, extent="unknown", intervals=()) if row.intervals else row for row in rows]
    cache = make_cache(tmp_path / "features", rows, num_frames=FRAMES, streams={"rgb": 16})
    for row in unknown:
        features = {"rgb": np.ones((32, 16))}
        add_video(cache, row.video, features, 0, clips=clip_table(512))
    method = choose_method("deepmil").changed({"steps": 2, "smoothing": 1})
    report = run_training(cache, [*weak, *unknown], method, out=tmp_path / "run", device="cpu")
    assert report.threshold.num_videos == 3


def test_a_comparison_tells_the_false_alarms_at_the_thresholds_it_fits(cache, rows, tmp_path):
    found = run_comparison(cache, rows, [SMALLEST], seeds=2, out=tmp_path / "c", terms=Terms())
    rates = [
        json.loads(path.read_text())["far_per_hour_fitted"]
        for path in tmp_path.glob("c/*/seed-*/eval/metrics.json")
    ]
    assert len(rates) == 2
    assert found.rows[0].values["far_per_hour_fitted"] == pytest.approx(sum(rates) / 2)
    head, _, line = to_markdown(found).splitlines()[:3]
    cells = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert cells["false alarms an hour"] == f"{sum(rates) / 2:.3f}"


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_budget_it_was_begun_with(cache, rows, tmp_path):
    rule = AlarmRule(per_hour=50, needs=2, of=3)

    def die(row):
        raise KilledError

    for folder, train in (
        ("one", lambda out: run_training(cache, rows, SMALLEST, out=out, alarms=rule, on_row=die)),
        (
            "two",
            lambda out: train_seeds(
                cache, rows, SMALLEST, count=2, out=out, alarms=rule, on_row=die
            ),
        ),
    ):
        out = tmp_path / folder
        with pytest.raises(KilledError):
            train(out)
        arguments = ["train", "--resume", out, "--cache", cache.path]
        assert feat(*arguments).exit_code == 0
        assert read_threshold(out).rule == rule
    assert read_threshold(tmp_path / "two/seed-1").rule == rule


class KilledError(Exception):
    """Ends a training."""
