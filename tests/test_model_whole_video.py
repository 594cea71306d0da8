"""Methods that judge whole videos: the rules of Sultani et al., and real evaluations."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import quick_first
from model_cache import add_video, label
from test_model_methods import fit

from cache import FeatureCache
from cache.exchange.foreign import ImportConfig
from cache.exchange.importing import import_features
from data.errors import ConfigError, ModelError
from data.labels import write_labels
from feat import cli
from model.evaluation.evaluate import run_evaluation, write_page_again
from model.evaluation.results import read_results
from model.features.load import load_features
from model.methods.classifiers.mean_feature import MeanFeature
from model.methods.classifiers.tcnn import TCNN, whole_video_loss
from model.methods.gather import gather
from model.methods.registry import choose_method
from model.runs.train import run_training
from model.training.session import FitSession

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("Arson", "Fighting", "Robbery")
METHODS = {
    "nearest": MeanFeature(),
    "nearest-unit": MeanFeature(unit_clips=True),
    "linear": MeanFeature(classifier="linear", penalty=0.1),
    "tcnn": TCNN(steps=60, hidden=32, learning_rate=0.01),
    "tcnn-bins": TCNN(steps=60, hidden=32, learning_rate=0.01, bins=3),
}


@pytest.fixture(scope="module")
def rows():
    """Fifteen videos of each kind and of none; every third tests. One has unknown frames."""
    made = []
    for index in range(15):
        split = "test" if index % 3 == 2 else "train"
        anomaly = "?" if index == 0 else "32:64"
        made += [label(f"{kind}{index}.mp4", split, anomaly, kind) for kind in KINDS]
        made += [label(f"n{index}.mp4", split)]
    return made


@pytest.fixture(scope="module")
def cache(rows, tmp_path_factory):
    """Clips of lengths that differ, whose kind shows in the first three of a video."""
    rng = np.random.default_rng(0)
    cache = FeatureCache.create(tmp_path_factory.mktemp("whole") / "features")
    for row in rows:
        clips = int(rng.integers(5, 12))
        features = np.abs(rng.normal(0, 0.3, (clips, 8)))
        if row.category:
            features[:3, KINDS.index(row.category)] += 8
        add_video(cache, row.video, {"c3d": features}, 16 * clips)
    return cache


def imported(folder, rows, cache, counted):
    """Return the same arrays imported, with frame counts of the videos `counted` alone."""
    np.savez(folder / "c3d.npz", **{row.video: cache.read(row.video, "c3d") for row in rows})
    found = FeatureCache.create(folder / "features")
    config = ImportConfig(stream="c3d", origin="test", layout="segments")
    import_features([folder / "c3d.npz"], found, config, frames=dict.fromkeys(counted, 320))
    return found


def held_out(rows):
    return [row for row in rows if row.split == "test"]


def answer(method, cache, rows):
    fitted = fit(method, cache, rows)
    data = load_features(cache, held_out(rows), streams=["c3d"])
    return fitted, data, method.score(fitted, data, torch.device("cpu"))


@pytest.mark.parametrize("name", quick_first(METHODS, 2))
def test_categories_are_found_and_said_by_eval(name, cache, rows, tmp_path):
    method = METHODS[name]
    trained = run_training(cache, rows, method, seed=0, runs=tmp_path)
    report = run_evaluation(trained.run, cache, rows, pictures=False)
    assert report.metrics.values["accuracy_video"] == 1.0
    assert report.metrics.counts["num_category_videos"] == 15
    # a video's windows are one: the whole of it
    assert report.metrics.counts["num_category_windows"] == 15
    assert "weakly supervised" in report.protocol


@pytest.mark.parametrize("name", ["nearest", "tcnn"])
@pytest.mark.parametrize("kept", [0, 7])
def test_categories_need_no_frame_counts(name, kept, cache, rows, tmp_path, caplog):
    """Published arrays tell no frames: the category accuracy is there, and who has no frames."""
    counted = [row.video for row in held_out(rows)[:kept]]
    features = imported(tmp_path, rows, cache, counted)
    run = run_training(features, rows, METHODS[name], seed=0, runs=tmp_path).run
    report = run_evaluation(run, features, rows)
    found = report.metrics
    assert found.values["accuracy_video"] == found.values["accuracy_window"] == 1.0
    assert found.intervals["accuracy_video"] is not None
    assert found.counts["num_category_videos"] == 15
    assert found.counts["num_videos"] == 20
    assert found.counts["num_uncounted_videos"] == 20 - kept
    assert found.counts["num_frames"] == 320 * kept
    assert f"{20 - kept} test videos were imported without a frame count and are" in caplog.text
    frames = [name for name in found.values if not name.startswith("accuracy")]
    if kept:
        assert "frame-level on 7 of the 20 test videos, 13 without" in report.protocol
    else:
        assert "by the categories of the 20 test videos, 20 without frame counts" in report.protocol
        for measure in frames:
            assert found.values[measure] is None
            if not measure.endswith("_fitted"):
                assert found.reasons[measure] == "not measured: no frame counts"
    with (report.report.parent / "videos.csv").open(encoding="utf-8") as file:
        told = {row["video"]: row for row in csv.DictReader(file)}
    assert (
        sum(row["frames"] == "0" and row["abnormal"] == "?" for row in told.values()) == 20 - kept
    )
    assert all(row["predicted"] == row["category"] for row in told.values() if row["category"])
    results = read_results(report.report.parent)
    assert sum(result.labels is None for result in results) == 20 - kept
    assert {result.sha256 for result in results} == {""}  # what was imported is of no known content
    write_page_again(run)
    page = report.report.read_text(encoding="utf-8")
    assert page.count("Nobody has counted its frames") == 20 - kept
    if kept:  # measures of frames are as if only those were there
        alone = [row for row in rows if row.split == "train" or row.video in counted]
        expected = run_evaluation(run, features, alone, pictures=False).metrics.values
        assert {name: found.values[name] for name in frames} == {
            name: expected[name] for name in frames
        }


def test_what_only_frames_can_tell_is_refused_without_any(cache, rows, tmp_path):
    features = imported(tmp_path, rows, cache, [])
    run = run_training(features, rows, METHODS["nearest"], seed=0, runs=tmp_path).run
    for how in ({"normalise": "video"}, {"drop_first": 4}, {"compat": "rtfm"}):
        with pytest.raises(ModelError, match="20 test videos were imported without a frame count"):
            run_evaluation(run, features, rows, **how)
    unnamed = [replace(row, category="") if row.split == "test" else row for row in rows]
    with pytest.raises(ModelError, match="no frame can be scored"):
        run_evaluation(run, features, unnamed)


@pytest.mark.parametrize("compat", ["rtfm", "one-class"])
def test_other_measures_of_frames_are_of_counted_videos(compat, cache, rows, tmp_path):
    counted = [row.video for row in held_out(rows)[:7]]
    features = imported(tmp_path, rows, cache, counted)
    run = run_training(features, rows, METHODS["nearest"], seed=0, runs=tmp_path).run
    how = {"compat": compat, "normalise": "video", "drop_first": 4, "pictures": False}
    alone = [row for row in rows if row.split == "train" or row.video in counted]
    found, expected = (run_evaluation(run, features, part, **how) for part in (rows, alone))
    assert found.compat == expected.compat
    for name, value in expected.ruled.metrics.values.items():
        if not name.startswith("accuracy"):
            assert found.ruled.metrics.values[name] == value


def test_eval_says_how_many_videos_have_no_frames(cache, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = imported(tmp_path, rows, cache, [row.video for row in held_out(rows)[:7]])
    write_labels(features.labels_path, rows)
    train = ["train", "--method", "mean-feature", "--threads", "1", "--out", "run"]
    for words in (train, ["eval", "--run", "run"]):
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "20 (13 without frame counts: in no measure of frames), 2240 frames" in done.stdout
    assert re.search("accuracy_video +1.0000", done.stdout)
    told = json.loads((tmp_path / "run/eval/metrics.json").read_text(encoding="utf-8"))
    assert told["num_uncounted_videos"] == 13
    for words in (
        ["train", "--method", "mean-feature", "--seeds", "1", "--threads", "1", "--out", "several"],
        ["eval", "--run", "several"],
    ):
        done = CliRunner().invoke(cli, words, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "report.html; 20 videos (13 without frame counts: in no" in done.stdout
    # a method without categories has the same videos for its frames, and nothing for the others
    words = ["compare", "--methods", "mean-feature,knn", "--seeds", "1", "--threads", "1"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "20 test videos (13 without frame counts: in no measure of frames), 2240" in done.stdout


def test_categories_alone_can_be_compared(cache, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_labels(imported(tmp_path, rows, cache, []).labels_path, rows)
    words = ["compare", "--methods", "mean-feature", "--threads", "1", "--json"]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["accuracy_video"], row["auc"]) == (1.0, None)


@pytest.mark.parametrize("name", quick_first(METHODS, 2))
def test_chance_is_all_that_shuffled_categories_allow(name, cache, rows):
    """Features say which of three it is; with categories dealt at random they say nothing."""
    rng = np.random.default_rng(3)
    hits, count = 0, 0
    for _ in range(5):
        dealt = rng.permutation([row.category for row in rows if row.category])
        given = iter(dealt)
        mixed = [replace(row, category=next(given)) if row.category else row for row in rows]
        _, data, scores = answer(METHODS[name], cache, mixed)
        named = [v for v, row in enumerate(data.labels) if row.category]
        said = [scores.categories[int(scores.windows[v].argmax())] for v in named]
        hits += sum(a == data.labels[v].category for a, v in zip(said, named, strict=True))
        count += len(named)
    assert hits / count < 0.6


@pytest.mark.parametrize("name", METHODS)
def test_every_clip_of_a_video_has_its_score(name, cache, rows):
    fitted, data, scores = answer(METHODS[name], cache, rows)
    assert fitted.categories == KINDS
    assert scores.windows.shape == (len(data.labels), 3)
    np.testing.assert_allclose(scores.windows.sum(axis=1), 1.0)
    for video in range(len(data.labels)):
        assert np.ptp(scores.slots[data.rows(video)]) == 0
    of_videos = scores.slots[data.first_clip[:-1]]
    abnormal = np.array([row.is_abnormal for row in data.labels])
    assert of_videos[abnormal].mean() > of_videos[~abnormal].mean() + 0.1
    assert (scores.slots >= 0).all()
    assert (scores.slots <= 1).all()


@pytest.mark.parametrize("name", METHODS)
def test_frames_of_abnormal_videos_are_not_seen(name, cache, rows):
    hidden = [
        replace(row, extent="unknown", intervals=()) if row.is_abnormal and row.split == "train"
        else row for row in rows
    ]  # fmt: skip
    a, b = fit(METHODS[name], cache, rows), fit(METHODS[name], cache, hidden)
    for key, value in a.parameters.items():
        np.testing.assert_array_equal(value, b.parameters[key])


@pytest.mark.parametrize("unit_clips", [False, True])
def test_the_nearest_video_decides(unit_clips, cache, rows):
    """Section 5.5 by loops: average the clips, bring to length 1, take the nearest neighbour."""

    def vector(video):
        clips = np.asarray(cache.read(video, "c3d"), np.float64)
        if unit_clips:
            clips = np.array([clip / np.linalg.norm(clip) for clip in clips])
        mean = clips.mean(axis=0)
        return mean / np.linalg.norm(mean)

    # half of the features of another kind: neighbours are not obvious
    method = MeanFeature(unit_clips=unit_clips)
    _, data, scores = answer(method, cache, rows)
    train = [row for row in rows if row.split == "train"]
    for place, row in enumerate(data.labels):
        apart = {r.video: np.linalg.norm(vector(row.video) - vector(r.video)) for r in train}
        nearest = min((r for r in train if r.category), key=lambda r: apart[r.video])
        assert scores.categories[int(scores.windows[place].argmax())] == nearest.category
        normal = min(apart[r.video] for r in train if not r.is_abnormal)
        abnormal = min(apart[r.video] for r in train if r.is_abnormal)
        found = scores.slots[data.first_clip[place]]
        assert found == pytest.approx(normal / (normal + abnormal), rel=1e-4)
        assert (found > 0.5) == (abnormal < normal)


@given(st.integers(1, 5), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
@settings(max_examples=30)
def test_toi_pooling_is_the_maximum_of_each_part(bins, lengths, seed):
    class Data:
        labels = lengths
        first_clip = np.cumsum([0, *lengths])
        features = np.random.default_rng(seed).normal(size=(sum(lengths), 3)).astype(np.float32)

    pooled = TCNN(bins=bins).pooled(Data)  # type: ignore[arg-type]
    assert pooled.shape == (len(lengths), bins * 3)
    for video, count in enumerate(lengths):
        clips = Data.features[Data.first_clip[video] :][:count]
        whole = pooled[video].reshape(bins, 3)
        np.testing.assert_array_equal(whole.max(axis=0), clips.max(axis=0))
        if count % bins == 0:  # parts of one size, each clip in one of them
            parts = clips.reshape(bins, -1, 3)
            np.testing.assert_array_equal(whole, [part.max(axis=0) for part in parts])


def test_the_loss_counts_categories_that_are_known():
    outputs = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, -2.0], [1.0, 1.0, 0.5]])
    abnormal, category = torch.tensor([True, False, True]), torch.tensor([0, -1, 1])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    score = -np.mean([np.log(sigmoid(1.0)), np.log(1 - sigmoid(-2.0)), np.log(sigmoid(0.5))])
    kinds = -np.mean([np.log(np.exp(2) / (np.exp(2) + 1)), np.log(0.5)])
    found = whole_video_loss(outputs, abnormal, category).item()
    assert found == pytest.approx(score + kinds, rel=1e-5)
    alone = whole_video_loss(outputs, abnormal, torch.full((3,), -1)).item()
    assert alone == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kinds", [0, 1, 2])
def test_fewer_categories_are_no_problem(name, kinds, cache, rows):
    few = [row if row.category in KINDS[:kinds] else replace(row, category="") for row in rows]
    fitted, data, scores = answer(METHODS[name], cache, few)
    assert fitted.categories == KINDS[:kinds]
    assert scores.windows.shape == (len(data.labels), kinds)
    for video, row in enumerate(data.labels):
        if row.category:
            assert KINDS[int(scores.windows[video].argmax())] == row.category


def test_a_seed_changes_tcnn_and_nothing_else(cache, rows):
    for name, is_random in (("tcnn", True), ("nearest", False), ("linear", False)):
        method, material = gather(METHODS[name], cache, rows)
        first, again, other = (
            method.fit(material, FitSession(seed=s)).parameters for s in (0, 0, 1)
        )
        assert all(np.array_equal(first[key], again[key]) for key in first)
        assert all(np.array_equal(first[key], other[key]) for key in first) != is_random
        assert method.is_random == is_random


def test_settings_out_of_range_are_refused():
    with pytest.raises(
        ConfigError, match="classifier is 'forest', expected one of nearest, linear"
    ):
        choose_method("mean-feature", assignments=["classifier=forest"])
    with pytest.raises(ConfigError, match="tcnn: bins is 0"):
        choose_method("tcnn", assignments=["bins=0"])
