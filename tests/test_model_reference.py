"""What a run keeps of its training videos: the nearest clips, and which videos are far from all."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import quick_first
from model_cache import (
    FEATURE_METHODS,
    SMALLEST,
    KilledError,
    add_video,
    demo_rows,
    label,
    make_cache,
)

from cache import FeatureCache
from data.errors import ModelError
from model.experiments.seeds import train_seeds
from model.features.load import FeatureSet, load_features
from model.methods.gather import DataOptions
from model.methods.registry import choose_method
from model.prediction.prediction import predict_video
from model.prediction.report import interval_rows, prediction_json, prediction_lines
from model.runs import reference as module
from model.runs.reference import make_reference, read_reference
from model.runs.train import resume_training, run_training
from model.runs.trained import load_run

pytestmark = pytest.mark.usefixtures("one_thread")

FAR = "elsewhere/far.mp4"


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    """Twelve videos of one kind, and one with features that none of them has."""
    cache = make_cache(tmp_path_factory.mktemp("user") / "features", demo_rows())
    rng = np.random.default_rng(1)
    odd = {stream: rng.normal(4.0, 0.3, (10, 32)) for stream in ("rgb", "flow")}
    add_video(cache, FAR, odd, 160)
    return cache


def features_of(cache: FeatureCache, *, split: str = "train") -> FeatureSet:
    rows = [row for row in demo_rows() if row.split == split]
    return load_features(cache, rows, streams=("rgb", "flow"))


def one_video(cache: FeatureCache, video: str) -> FeatureSet:
    return load_features(cache, [label(video, "test")], streams=("rgb", "flow"))


def exact_distances(data: FeatureSet, features: np.ndarray) -> np.ndarray:
    """(m, n) by the definition, in double precision."""
    mean, std = data.features.mean(axis=0, dtype=float), data.features.std(axis=0, dtype=float)
    left, right = (((one - mean) / std).clip(-10, 10) for one in (features, data.features))
    return np.sqrt(np.square(left[:, None] - right[None]).mean(axis=2))


def test_the_nearest_training_clips_are_those_of_a_search_by_hand(cache):
    data = features_of(cache)
    reference = make_reference([data])
    for feature in features_of(cache, split="test").features:
        exact = exact_distances(data, feature[None])[0]
        nearest = [exact[data.rows(v)].min() for v in range(8)]
        found = reference.neighbours(feature, count=3)
        assert [one.distance for one in found] == pytest.approx(sorted(nearest)[:3], abs=0.01)
        for one in found:
            video = [row.video for row in data.labels].index(one.video)
            clip = data.rows(video).start + one.start_frame // 16
            assert exact[clip] == pytest.approx(one.distance, abs=0.01)
            assert (one.end_frame, one.frame_rate) == (one.start_frame + 16, 25.0)
            assert one.sha256 == data.sha256[video]
            frames = data.labels[video].frame_labels(160)
            assert one.abnormal == frames[one.start_frame : one.end_frame].mean()


def test_a_video_is_not_compared_with_itself(cache):
    data = features_of(cache)
    reference = make_reference([data])
    own = data.features[data.rows(2)]
    assert reference.neighbours(own[0], count=1)[0].distance == pytest.approx(0, abs=0.03)
    found = reference.neighbours(own[0], count=99, sha256=data.sha256[2])
    assert len(found) == 7
    assert data.labels[2].video not in [one.video for one in found]
    distance = reference.distance(own, sha256=data.sha256[2])
    exact = exact_distances(data, own)
    exact[:, data.rows(2)] = np.inf
    assert distance.median == pytest.approx(np.median(exact.min(axis=1)), abs=0.01)


def test_a_video_unlike_all_is_far_and_one_like_them_is_not(cache):
    reference = make_reference([features_of(cache)])
    for row in demo_rows():
        data = one_video(cache, row.video)
        found = reference.distance(data.features, sha256=data.sha256[0])
        assert not found.is_far
        assert found.share < 0.5
    far = reference.distance(one_video(cache, FAR).features)
    assert far.is_far
    assert far.share == 1.0


def test_the_limit_is_the_quantile_of_the_training_videos_medians(cache):
    data = features_of(cache)
    exact = exact_distances(data, data.features)
    exact[data.video_of[:, None] == data.video_of] = np.inf
    nearest = exact.min(axis=1)
    medians = [np.median(nearest[data.rows(v)]) for v in range(8)]
    assert make_reference([data]).limit == pytest.approx(1.1 * max(medians), abs=0.01)


@settings(max_examples=20)
@given(st.integers(30, 60), st.integers(0, 2**16))
def test_of_videos_drawn_alike_few_are_far(count, seed):
    """Videos differ as cameras do; a twentieth of the new ones at most may exceed the quantile."""
    rng = np.random.default_rng(seed)
    videos = rng.normal(size=(count + 40, 1, 6)) + rng.normal(0, 0.3, (count + 40, 4, 6))
    data = made_features(videos[:count].astype(np.float32))
    reference = make_reference([data])
    found = [reference.distance(one) for one in videos[count:].astype(np.float32)]
    assert sum(one.is_far for one in found) <= 10  # of 40; two are to be expected


def made_features(videos: np.ndarray) -> FeatureSet:
    """(V, S, D) features as a set of videos of clips of 16 frames."""
    count, clips, _ = videos.shape
    start = np.tile(np.arange(clips) * 16, count)
    return FeatureSet(
        labels=tuple(label(f"{v}.mp4", "train") for v in range(count)),
        features=videos.reshape(count * clips, -1),
        first_clip=np.arange(count + 1) * clips,
        start_frame=start,
        end_frame=start + 16,
        num_frames=np.full(count, clips * 16),
        frame_rate=np.full(count, 25.0),
        sha256=tuple(f"{v:064x}" for v in range(count)),
        clip_len=16,
        streams=(),
    )


def test_few_training_videos_have_neighbours_but_tell_nothing_far(cache):
    data = features_of(cache)
    few = made_features(data.features[: 4 * 10].reshape(4, 10, -1))
    reference = make_reference([few])
    assert reference.distance(one_video(cache, FAR).features) is None
    assert len(reference.neighbours(data.features[0], count=9)) == 4
    alone = make_reference([made_features(data.features[:10].reshape(1, 10, -1))])
    assert alone.neighbours(data.features[0], count=3, sha256=f"{0:064x}") == []


def test_many_clips_are_thinned_evenly_and_no_video_is_left_out(monkeypatch):
    rng = np.random.default_rng(0)
    data = made_features(rng.normal(size=(6, 50, 3)).astype(np.float32))
    monkeypatch.setattr(module, "MAX_CLIPS", 33)
    reference = make_reference([data])
    assert np.bincount(reference.video).tolist() == [5] * 6
    assert reference.start_frame[:5].tolist() == [5 * 16, 15 * 16, 25 * 16, 35 * 16, 45 * 16]
    monkeypatch.setattr(module, "MAX_CLIPS", 2)
    assert np.bincount(make_reference([data]).video).tolist() == [1] * 6
    monkeypatch.undo()
    assert len(make_reference([data, data]).clips) == 600


@pytest.mark.parametrize(
    "name",
    quick_first(
        [name for name in FEATURE_METHODS if name != "flow-magnitude"],
        ["convlstm", "deepmil", "gmm"],
    ),
)
def test_a_run_of_every_method_keeps_the_videos_it_was_fitted_to(cache, tmp_path, name):
    method = SMALLEST if name == "convlstm" else choose_method(name)
    method = replace(method, steps=2) if method.num_steps else method
    run = run_training(cache, demo_rows(), method, out=tmp_path / "run").run
    trained = load_run(run)
    reference = trained.reference
    fitted_to = trained.info.train_videos
    assert dict(zip(reference.videos, reference.sha256, strict=True)) == fitted_to
    data = trained.load_features(cache, [label("bad/5.mp4", "test")])
    assert len(reference.neighbours(data.features[3], count=3)) == 3
    weakly = trained.info.method.supervision == "weakly"
    bad = np.array([video.startswith("bad") for video in reference.videos])[reference.video]
    assert np.isnan(reference.abnormal).tolist() == (bad & weakly).tolist()


def test_a_refit_to_the_videos_held_out_keeps_them_too(cache, tmp_path):
    method = replace(SMALLEST, refit=True)
    trained = load_run(run_training(cache, demo_rows(), method, out=tmp_path / "run").run)
    assert trained.info.result.get("refit_from")
    assert sorted(trained.reference.videos) == sorted(trained.info.train_videos)
    assert len(trained.reference.videos) == 8


def test_seeds_use_the_first_ones_and_a_resumed_run_has_the_same_bytes(cache, tmp_path):
    train_seeds(cache, demo_rows(), SMALLEST, count=2, out=tmp_path / "several")
    several = load_run(tmp_path / "several")
    first = tmp_path / "several" / "seed-0"
    assert several.reference.videos == read_reference(first).videos

    def die(row):
        raise KilledError

    out = tmp_path / "killed"
    with pytest.raises(KilledError):
        run_training(cache, demo_rows(), SMALLEST, out=out, save_seconds=0, on_row=die)
    assert not (out / "reference.safetensors").exists()
    resume_training(cache, out, options=DataOptions())
    names = ("reference.safetensors", "model.safetensors")
    assert all((out / name).read_bytes() == (first / name).read_bytes() for name in names)


def test_a_damaged_reference_is_one_line_and_an_absent_one_is_none(cache, tmp_path):
    run = run_training(cache, demo_rows(), choose_method("knn"), out=tmp_path / "run").run
    path = run / "reference.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="not a reference this build can read: its content has"):
        load_run(run).reference  # noqa: B018 - it is read when it is asked for
    shutil.copyfile(run / "model.safetensors", path)
    with pytest.raises(ModelError, match="it is no feat reference of this build"):
        load_run(run).reference  # noqa: B018
    path.unlink()
    assert load_run(run).reference is None


def test_predict_says_far_from_the_training_videos_in_every_form(cache, tmp_path):
    run = run_training(cache, demo_rows(), choose_method("logistic"), out=tmp_path / "run").run
    trained = load_run(run)
    far, near = (
        predict_video(trained, cache, video, threshold=0.0) for video in (FAR, "bad/5.mp4")
    )
    (line,) = [line for line in prediction_lines("x", far) if line.startswith("  far ")]
    assert "100% of its clips are farther than" in line
    assert not [line for line in prediction_lines("x", near) if line.startswith("  far ")]
    told = prediction_json(far)
    assert told["far_from_training"] is True
    assert told["training_distance"] > told["training_distance_limit"] > 0
    assert prediction_json(near)["far_from_training"] is False
    assert [row["far_from_training"] for row in interval_rows("x", far)] == ["yes"]
    assert [row["far_from_training"] for row in interval_rows("x", near)] == ["no"]
    (run / "reference.safetensors").unlink()
    unknown = predict_video(load_run(run), cache, FAR, threshold=0.0)
    assert prediction_json(unknown)["far_from_training"] is None
    assert [row["far_from_training"] for row in interval_rows("x", unknown)] == [""]


def test_a_video_that_was_trained_on_is_not_held_against_itself(cache, tmp_path):
    """Else a foreign video among the training videos would be near for ever."""
    rows = [*demo_rows(), label(FAR, "train")]
    run = run_training(cache, rows, choose_method("logistic"), out=tmp_path / "run").run
    seen = predict_video(load_run(run), cache, FAR)
    assert seen.seen
    assert seen.distance.median > 2


@pytest.mark.realdata
def test_of_real_videos_of_the_same_kind_few_are_far(shared_data):
    """Every eighth clip and value of UCF-Crime's C3D features, 90 of 290 videos held out."""
    with np.load(shared_data / "ucf_crime" / "c3d_fc6_32segments_fp16.npz") as held:
        videos = np.stack([held[name][:32:8, ::8] for name in held.files]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(videos))
    reference = make_reference([made_features(videos[order[90:]])])
    far = [reference.distance(one).is_far for one in videos[order[:90]]]
    assert sum(far) <= 5
    assert all(reference.distance(10 * one).is_far for one in videos[order[:90]])
