"""Training from real shards: what it learns, what it refuses, what it leaves behind."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from marks import quick_first
from model_cache import add_video, clip_table, demo_rows, label, make_cache, segment_table

from cache import FeatureCache, NameEntry
from data.errors import ConfigError, LabelsError, ModelError
from model.evaluation.evaluate import run_evaluation
from model.features.load import load_features
from model.features.standardize import Standardizer
from model.features.windows import ABNORMAL_SHARE
from model.methods.convlstm import ConvLSTMMethod
from model.methods.gather import DataOptions, gather, hold_out
from model.methods.registry import choose_method
from model.network.convlstm import GRID, KERNEL
from model.runs.checkpoint import load_checkpoint
from model.runs.train import run_training
from model.training.step import make_window_data

QUICK = ConvLSTMMethod(
    hidden=8,
    head_widths=(32,),
    readout="each",
    steps=30,
    eval_every=10,
    learning_rate=2e-2,
    batch_size=16,
    patience=0,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    return train(cache, demo_rows(), tmp_path_factory.mktemp("demo")).run


def train(cache, rows, folder, method=QUICK, **options):
    options.setdefault("out", folder / "run")
    return run_training(cache, rows, method, runs=folder, **options)


def tensors(run):
    return load_checkpoint(run).parameters


def same(one, two) -> bool:
    assert any(name.startswith("network.") for name in one)
    assert one.keys() == two.keys()
    return all(np.array_equal(one[name], two[name]) for name in one)


def num_seen(report) -> int:
    return len(report.info.train_videos) + report.num_val_videos


def streams(report) -> list[str]:
    return [stream.name for stream in report.info.streams]


@pytest.mark.parametrize(
    ("readout", "loss"),
    quick_first(
        [
            ("each", "cross_entropy"),
            ("last", "smooth_l1"),
            ("last", "cross_entropy"),
            ("each", "smooth_l1"),
        ]
    ),
)
def test_learns_a_small_separable_set(cache, tmp_path, readout, loss):
    report = train(
        cache,
        demo_rows(),
        tmp_path,
        replace(QUICK, readout=readout, score_loss=loss, steps=60),
    )
    found = run_evaluation(report.run, cache, demo_rows(), pictures=False).metrics.values
    assert found["auc"] > 0.95
    assert found["accuracy_video"] == 1.0


def test_paper_preset_is_the_paper():
    paper = choose_method("convlstm", "paper")
    assert (paper.num_clips, paper.hidden, paper.layers) == (5, 128, 2)
    assert (GRID, KERNEL, paper.peepholes) == (4, 3, True)
    assert paper.head_widths == (2048, 1024, 512)
    assert (paper.standardize, paper.dropout, paper.skip) == (False, 0.0, False)
    assert (paper.learning_rate, paper.weight_decay) == (3e-4, 5e-4)
    assert (paper.batch_size, ABNORMAL_SHARE) == (60, 0.5)
    assert (paper.category_weight, paper.score_weight) == (1.0, 10.0)
    assert paper.score_loss == "smooth_l1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, "hidden is 0, expected at least 1"),
        ({"readout": "first"}, "readout is 'first', expected one of last, each"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0, expected above 0"),
        ({"color": 3}, "convlstm has no setting color"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        choose_method("convlstm").changed(settings)


def test_the_same_seed_gives_the_same_numbers(cache, run, tmp_path):
    again = train(cache, demo_rows(), tmp_path).run
    assert same(tensors(run), tensors(again))
    log = "metrics.jsonl"
    assert (run / log).read_bytes() == (again / log).read_bytes()


def test_the_order_of_the_rows_does_not_matter(cache, run, tmp_path):
    again = train(cache, demo_rows()[::-1], tmp_path).run
    assert same(tensors(run), tensors(again))


def test_another_seed_gives_other_numbers(cache, run, tmp_path):
    other = train(cache, demo_rows(), tmp_path, seed=1).run
    assert not same(tensors(run), tensors(other))


def test_training_leaves_torchs_random_state_alone(cache, tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(cache, demo_rows(), tmp_path, replace(QUICK, steps=2))
    assert torch.equal(before, torch.get_rng_state())


def test_test_videos_change_nothing(cache, run, tmp_path):
    without = [row for row in demo_rows() if row.split != "test"]
    assert same(tensors(run), tensors(train(cache, without, tmp_path).run))


def test_run_folder_tells_everything(cache, run):
    assert {path.name for path in run.iterdir()} >= {
        "config.json",
        "environment.json",
        "labels.csv",
        "metrics.jsonl",
        "model.safetensors",
    }
    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["clip_slots"] == 16
    assert [stream["name"] for stream in config["streams"]] == ["rgb", "flow"]
    assert config["streams"][0]["config"] == cache.configs("rgb")[0]
    assert config["categories"] == ["fall", "run"]
    names = {*config["train_videos"], *config["val_videos"]}
    assert names == {row.video for row in demo_rows() if row.split == "train"}
    assert config["seconds"] > 0
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 30]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_standardisation_is_the_training_sets_and_travels_with_the_checkpoint(cache, run):
    loaded = load_checkpoint(run)
    rows = [row for row in demo_rows() if row.video in loaded.info.train_videos]
    data = load_features(cache, rows, streams=("rgb", "flow"))
    mean, std = data.features.mean(axis=0), data.features.std(axis=0)
    np.testing.assert_allclose(loaded.parameters["standardizer.mean"], mean, atol=1e-5)
    np.testing.assert_allclose(loaded.parameters["standardizer.std"], std, atol=1e-5)


def test_without_standardisation_features_stay_as_they_are(cache, tmp_path):
    raw = replace(QUICK, standardize=False, steps=1)
    found = tensors(train(cache, demo_rows(), tmp_path, raw).run)
    assert not found["standardizer.mean"].any()
    assert (found["standardizer.std"] == 1).all()


def test_a_feature_that_never_varies_is_not_blown_up():
    features = np.full((10, 2), 0.1, np.float32)
    features[:, 1] = np.arange(10)
    found = Standardizer.fit(features).apply(features)
    np.testing.assert_allclose(found[:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(found[:, 1].std(), 1.0, rtol=1e-5)


def test_features_far_from_the_training_sets_are_limited_also_after_loading(cache, tmp_path):
    limited = replace(QUICK, feature_clip=2.0, steps=1)
    loaded = load_checkpoint(train(cache, demo_rows(), tmp_path, limited).run)
    mean, std = (loaded.parameters[f"standardizer.{name}"] for name in ("mean", "std"))
    data = load_features(cache, demo_rows()[:1], streams=("rgb", "flow"))
    scores = {}
    for deviations in (100.0, 2.0, 1.0):
        features = np.tile(mean + np.float32(deviations) * std, (len(data.features), 1))
        far = replace(data, features=features)
        scores[deviations] = loaded.info.method.score(loaded.fitted, far, torch.device("cpu")).slots
    np.testing.assert_allclose(scores[100.0], scores[2.0], rtol=1e-5)
    assert np.abs(scores[1.0] - scores[2.0]).max() > 1e-4
    found = Standardizer(mean=mean, std=std, limit=2.0).apply(
        np.stack([mean + 100 * std, mean - std])
    )
    np.testing.assert_allclose(found[0], 2.0)
    np.testing.assert_allclose(found[1], -1.0, atol=1e-4)


def test_the_best_network_by_validation_is_kept(cache, tmp_path):
    report = train(cache, demo_rows(), tmp_path, replace(QUICK, steps=100, patience=2))
    lines = (report.run / "metrics.jsonl").read_text().splitlines()
    losses = {row["step"]: row["val_score_loss"] for row in map(json.loads, lines)}
    assert (
        report.info.result["selected_by"] == "score_loss"
    )  # one abnormal video is too few for an AUC
    assert report.info.result["best_step"] == min(losses, key=losses.get)
    assert report.info.result["steps"] == min(
        report.info.result["best_step"] + 2 * QUICK.eval_every, 100
    )


@pytest.mark.slow
def test_without_the_scores_loss_the_categorys_selects(cache, tmp_path):
    """Scores that nothing trains would select at random."""
    report = train(cache, demo_rows(), tmp_path, replace(QUICK, score_weight=0.0))
    assert report.info.result["selected_by"] == "category_loss"
    rows = [json.loads(line) for line in (report.run / "metrics.jsonl").read_text().splitlines()]
    assert (
        report.info.result["best_step"]
        == min(rows, key=lambda row: row["val_category_loss"])["step"]
    )
    assert rows[-1]["category_loss"] < rows[0]["category_loss"]


def test_one_stream_is_enough(tmp_path):
    cache = make_cache(tmp_path / "features", demo_rows(), streams={"rgb": 32})
    report = train(cache, demo_rows(), tmp_path)
    assert streams(report) == ["rgb"]
    assert (
        run_evaluation(report.run, cache, demo_rows(), pictures=False).metrics.values["auc"] > 0.95
    )


@pytest.mark.slow
def test_streams_can_be_chosen(cache, tmp_path):
    report = train(cache, demo_rows(), tmp_path, options=DataOptions(streams=("flow",)))
    info = load_checkpoint(report.run).info
    assert [stream.name for stream in info.streams] == ["flow"]
    assert [stream.dim for stream in info.streams] == [32]
    assert tensors(report.run)["standardizer.mean"].shape == (32,)


def test_a_stream_that_some_videos_lack_is_left_out_loudly(cache, tmp_path, caplog):
    cache = make_cache(tmp_path / "features", demo_rows(), streams={"rgb": 32})
    source = clip_table(160)
    add_video(cache, "bad/0.mp4", {"flow": np.zeros((10, 32))}, 160, clips=source)
    report = train(cache, demo_rows(), tmp_path, replace(QUICK, steps=1))
    assert streams(report) == ["rgb"]
    assert "flow is missing for 7 of 8 videos" in caplog.text


@pytest.mark.slow
def test_segments_of_any_width_and_length_can_be_learnt(tmp_path):
    """As imported features come: 32 segments a video, of as many frames as it takes."""
    rows = demo_rows()
    cache = FeatureCache.create(tmp_path / "features")
    rng = np.random.default_rng(0)
    for index, row in enumerate(rows):
        frames = 150 + 7 * index
        clips = segment_table(frames, 32)
        truth = row.frame_labels(frames)
        features = rng.normal(0.0, 0.3, (32, 50))
        spans = zip(clips.start_frame, clips.end_frame, strict=True)
        features[:, :9] += 3.0 * np.array([[truth[a:b].mean()] for a, b in spans])
        add_video(cache, row.video, {"c3d": features}, frames, clips=clips)
    report = train(cache, rows, tmp_path)
    assert load_checkpoint(report.run).info.method.clip_slots == 16
    assert run_evaluation(report.run, cache, rows, pictures=False).metrics.values["auc"] > 0.95


def test_without_categories_there_is_no_category_head(cache, tmp_path):
    rows = [replace(row, category="") for row in demo_rows()]
    report = train(cache, rows, tmp_path)
    assert not [name for name in tensors(report.run) if "category" in name]
    found = run_evaluation(report.run, cache, rows, pictures=False).metrics
    assert found.values["accuracy_video"] is None
    assert "without categories" in found.reasons["accuracy_video"]


def test_weak_videos_are_left_out_and_counted(tmp_path, caplog):
    rows = [*demo_rows(), label("weak.mp4", "train", "?")]
    cache = make_cache(tmp_path / "features", rows)
    report = train(cache, rows, tmp_path, replace(QUICK, steps=1))
    assert num_seen(report) == 8
    assert "1 videos with unknown frames (?) are left out of training: weak.mp4" in caplog.text


def test_weak_videos_teach_their_category_and_nothing_else(tmp_path):
    rows = [*demo_rows(), replace(label("weak.mp4", "train", "?"), category="only here")]
    cache = make_cache(tmp_path / "features", rows)
    report = train(cache, rows, tmp_path, replace(QUICK, steps=1))
    assert num_seen(report) == 9
    assert "only here" in report.info.categories
    method, material = gather(QUICK, cache, rows)
    data = material.train
    inputs = Standardizer.identity(data.features.shape[1]).inputs(data.features)
    windows = make_window_data(data, inputs, material.categories, method)
    weak = [row.video for row in data.labels].index("weak.mp4")
    assert weak not in [row.video for row in material.val.labels]
    assert not windows.target_mask[data.rows(weak)].any()
    others = windows.target_mask[: data.rows(weak).start]
    assert others.any(dim=1).all()
    chosen = windows.categories == material.categories.index("only here")
    assert chosen.sum() == windows.is_abnormal[chosen.numpy()].sum() > 0


def test_validation_videos_of_the_labels_are_used(cache):
    rows = [
        replace(row, split="val") if row.video in ("bad/0.mp4", "good/0.mp4") else row
        for row in demo_rows()
    ]
    _, material = gather(replace(QUICK, val_fraction=0.5), cache, rows)
    assert [row.video for row in material.val.labels] == ["bad/0.mp4", "good/0.mp4"]
    assert len(material.train.labels) == 6
    assert material.whole is None  # those that the labels name stay out of every fit


def test_a_validation_part_is_held_out_of_both_kinds_and_never_of_test(tmp_path):
    rows = [label(f"{kind}{i}", "train", kind) for kind in ("", "all", "3:9") for i in range(10)]
    rows.append(label("t", "test", "all"))
    cache = make_cache(tmp_path / "features", rows, num_frames=16, streams={"rgb": 16})
    parts = {}
    for seed in range(5):
        _, material = gather(replace(QUICK, val_fraction=0.2), cache, rows, seed=seed)
        parts[seed] = material.val.labels
        videos = [row.video for part in (material.train, material.val) for row in part.labels]
        assert sorted(videos) == sorted(row.video for row in rows[:-1])
    for val_rows in parts.values():
        assert sum(row.is_abnormal for row in val_rows) == 4
        assert len(val_rows) == 6
        assert all(row.split == "train" for row in val_rows)
    assert len({tuple(row.video for row in val_rows) for val_rows in parts.values()}) > 1


def test_the_only_video_of_a_kind_is_not_held_out():
    rows = [label("a", "train", "3:9"), *(label(f"n{i}", "train") for i in range(10))]
    kept, held = hold_out(rows, 0.2, seed=0)
    assert [len(kept), len(held)] == [9, 2]
    assert rows[0] in kept


def test_whole_scenes_and_all_copies_of_a_video_are_held_out(tmp_path):
    rows = [
        replace(label(f"{kind}{i:02}", "train", kind), scene=f"s{i // 2}" if i < 16 else "")
        for kind in ("", "all")
        for i in range(20)
    ]
    cache = FeatureCache.create(tmp_path / "features")
    features = np.zeros((2, 16), np.float32)
    copied = {"16": "x", "17": "x", "18": "y", "19": "y"}  # of these no scene is given
    for row in rows:
        content = copied.get(row.video[-2:], row.video)
        add_video(cache, row.video, {"rgb": features}, 32, content=content)
        sha256 = hashlib.sha256(content.encode()).hexdigest()
        cache.set_names({row.video: NameEntry(sha256=sha256, size=1000, mtime_ns=0)})
    for seed in range(5):
        method = replace(QUICK, val_fraction=0.2)
        _, material = gather(method, cache, rows, seed=seed)
        train, val = material.train, material.val
        assert not {row.scene for row in train.labels if row.scene} & {r.scene for r in val.labels}
        assert not set(train.sha256) & set(val.sha256)
        assert sum(row.is_abnormal for row in val.labels) == 4
        assert len(val.labels) == 8
        assert len(material.whole().train.labels) == 40


def test_videos_of_no_scene_are_held_out_as_ever():
    """The names are those that builds without scenes drew."""
    rows = [label(f"{kind}{i}", "train", kind) for kind in ("", "all") for i in range(10)]
    held = [row.video for row in hold_out(rows, 0.2, seed=3)[1]]
    assert held == ["2", "7", "all1", "all4"]


@pytest.mark.parametrize(
    ("scenes", "held", "told"),
    [
        ("aaaa", 4, "of too few scenes to hold any out whole: those held out share scenes"),
        ("aaab", 4, ""),
        ("aabb", 8, "4 abnormal and 4 normal training videos"),
    ],
)
def test_too_few_scenes_for_the_share_are_said(scenes, held, told, caplog):
    rows = [
        replace(label(f"{kind}{i:02}", "train", kind), scene=scenes[i % 4])
        for kind in ("", "all")
        for i in range(10)
    ]
    kept, out = hold_out(rows, 0.2, seed=0)
    assert len(out) == held
    assert {row.is_abnormal for row in kept} == {True, False}
    assert bool(told) == bool(caplog.text)
    assert told in caplog.text


@pytest.mark.parametrize("anomalies", [["", ""], ["all", "all"], ["?", ""]])
def test_frames_of_one_kind_cannot_be_learnt_from(tmp_path, anomalies):
    rows = [label(f"{i}.mp4", "train", anomaly) for i, anomaly in enumerate(anomalies)]
    cache = make_cache(tmp_path / "features", rows)
    with pytest.raises(ModelError, match="needs both abnormal and normal frames"):
        train(cache, rows, tmp_path)


@pytest.mark.parametrize(
    ("anomalies", "method", "needs", "able"),
    [
        (["?", "?", "", ""], "convlstm", "frames that are known", "deepmil, ar-net, rtfm, "),
        (
            ["", "", ""],
            "convlstm",
            "frames that are known",
            "gmm, sparse, srnn, knn, autoencoder with",
        ),
        (["", "", ""], "deepmil", "both abnormal and normal videos", "gmm, sparse, srnn, knn, "),
        (["3:9", "3:9"], "ar-net", "normal videos", "convlstm, logistic, shuffled, position with"),
        (["3:9", "?"], "knn", "normal videos", "convlstm, logistic, shuffled, position with"),
        (["?", "?"], "position", "frames that are known", ""),
    ],
)
def test_labels_of_one_kind_name_the_methods_that_can_use_them(
    tmp_path, anomalies, method, needs, able
):
    rows = [label(f"{i}.mp4", "train", anomaly) for i, anomaly in enumerate(anomalies)]
    cache = make_cache(tmp_path / "features", rows)
    with pytest.raises(ModelError) as caught:
        run_training(cache, rows, choose_method(method), out=tmp_path / "a")
    text = str(caught.value)
    assert f"{method} cannot learn from these labels: it needs" in text
    assert needs in text
    assert ("--method takes" in text) == bool(able)
    assert able in text
    if able:
        name = text.partition("--method takes ")[2].partition(" with these")[0].split(", ")[-1]
        run_training(cache, rows, choose_method(name), out=tmp_path / "b")


def test_missing_videos_are_named_with_the_next_step(cache, tmp_path, caplog):
    rows = [*demo_rows(), label("gone.mp4", "train")]
    with pytest.raises(
        ModelError, match=r"gone\.mp4 \(did .*\); run `feat extract` or .* --skip-missing"
    ):
        train(cache, rows, tmp_path)
    report = train(
        cache, rows, tmp_path, replace(QUICK, steps=1), options=DataOptions(skip_missing=True)
    )
    assert num_seen(report) == 8
    assert "left out: gone.mp4" in caplog.text


@pytest.mark.parametrize("method", ["gmm", "mean-feature", "tcnn", "deepmil"])
def test_what_skipping_leaves_must_be_enough_to_learn_from(tmp_path, method):
    rows = [label("a.mp4", "train", "all", "run"), label("b.mp4", "train", "all", "run")]
    rows += [label("v.mp4", "val"), label("w.mp4", "val", "all")]
    cache = make_cache(tmp_path / "features", rows)
    rows += [label("gone.mp4", "train"), label("gone2.mp4", "train")]
    with pytest.raises(ModelError, match=f"{method} cannot learn from these labels: it needs "):
        train(cache, rows, tmp_path, choose_method(method), options=DataOptions(skip_missing=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["knn", "deepmil", "mnad"])
@pytest.mark.parametrize("skip", [False, True])
def test_labels_of_another_dataset_are_told_where_nothing_would_be_left(
    cache, tmp_path, method, skip
):
    rows = [label("other.mp4", "train"), label("bad.mp4", "train", "0:4"), label("t.mp4", "test")]
    with pytest.raises(
        ModelError, match=r"[12] of [12] labelled videos are not in the cache"
    ) as error:
        run_training(
            cache,
            rows,
            choose_method(method, "small" if method == "mnad" else "default"),
            out=tmp_path / "run",
            options=DataOptions(skip_missing=skip),
        )
    assert "--skip-missing" not in str(error.value)


def test_labels_beyond_the_end_of_a_video_are_refused(cache, tmp_path):
    rows = [
        replace(row, intervals=((90, 170),)) if row.video == "bad/0.mp4" else row
        for row in demo_rows()
    ]
    with pytest.raises(LabelsError, match=r"bad/0\.mp4.*90:170.*160"):
        train(cache, rows, tmp_path)
    lenient = DataOptions(allow_misaligned=True)
    report = train(cache, rows, tmp_path, replace(QUICK, steps=1), options=lenient)
    assert report.info.result["steps"] == 1


def test_the_same_content_in_training_and_test_is_refused(tmp_path):
    rows = [*demo_rows(), label("copy.mp4", "test")]
    cache = make_cache(tmp_path / "features", demo_rows())
    content = cache.names()["good/0.mp4"]
    cache.set_names({"good/0.mp4": content, "copy.mp4": content})
    for options in (DataOptions(), DataOptions(allow_misaligned=True)):
        with pytest.raises(LabelsError, match=r"same content.*good/0\.mp4.*copy\.mp4") as caught:
            train(cache, rows, tmp_path, options=options)
        assert "--allow-misaligned" not in str(caught.value)  # it would not help


def test_features_made_in_two_ways_are_not_mixed(tmp_path):
    rows = [*demo_rows(), label("other.mp4", "train")]
    cache = make_cache(tmp_path / "features", demo_rows())
    features = {"rgb": np.zeros((10, 32)), "flow": np.zeros((10, 32))}
    add_video(cache, "other.mp4", features, 160, config={"weights": {"digest": "b" * 64}})
    with pytest.raises(ConfigError, match=r"weights\.digest"):
        train(cache, rows, tmp_path)


def test_streams_with_different_clips_are_refused(tmp_path):
    rows = demo_rows()
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 32})
    for row in rows:
        clips = clip_table(160, stride=8)
        add_video(cache, row.video, {"flow": np.zeros((len(clips), 32))}, 160, clips=clips)
    with pytest.raises(ModelError, match="the clips of flow are not those of rgb"):
        train(cache, rows, tmp_path)


def test_features_with_nan_are_refused_by_name(tmp_path):
    cache = make_cache(tmp_path / "features", demo_rows(), streams={"rgb": 32})
    rows = [*demo_rows(), label("nan.mp4", "train")]
    features = np.zeros((10, 32))
    features[3, 4] = np.nan
    add_video(cache, "nan.mp4", {"rgb": features}, 160)
    with pytest.raises(ModelError, match=r"nan\.mp4: features hold NaN"):
        train(cache, rows, tmp_path)


def test_a_run_folder_that_holds_something_is_not_overwritten(cache, run, tmp_path):
    with pytest.raises(ModelError, match="training there is finished; name a new folder"):
        train(cache, demo_rows(), tmp_path, out=run)


def test_runs_started_in_the_same_second_have_their_own_folders(cache, tmp_path):
    quick = replace(QUICK, steps=1)
    runs = {train(cache, demo_rows(), tmp_path, quick, out=None).run for _ in range(2)}
    assert len(runs) == 2


@pytest.mark.slow
def test_bfloat16_trains_too(cache, tmp_path):
    report = train(cache, demo_rows(), tmp_path, replace(QUICK, precision="bfloat16"))
    assert (
        run_evaluation(report.run, cache, demo_rows(), pictures=False).metrics.values["auc"] > 0.9
    )
