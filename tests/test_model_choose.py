"""Which streams a model takes by itself, and which it refuses."""

import numpy as np
import pytest
from cache_samples import make_other, make_record
from model_cache import add_video, demo_rows

from cache import FeatureCache
from data.errors import ModelError
from data.labels import VideoLabel
from model.evaluation.evaluate import run_evaluation
from model.features.choose import available_streams, choose_streams
from model.features.load import load_features
from model.methods.registry import choose_method
from model.prediction.prediction import predict_video
from model.runs.train import run_training
from model.runs.trained import load_run


def test_models_take_streams_of_features_only(tmp_path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    streams = [make_record(stream=stream) for stream in ("flow", "rgb", "c3d")]
    others = [make_other("images", "thumbnails"), make_other("frames", "pixels")]
    cache.write([*streams, *others])
    available = available_streams(cache, ["a/one.mp4", "absent.mp4"])
    assert available == {"a/one.mp4": {"rgb", "flow", "c3d"}, "absent.mp4": set()}
    chosen = choose_streams({"a/one.mp4": available["a/one.mp4"]})
    assert chosen == ("rgb", "flow", "c3d")
    label = VideoLabel(video="a/one.mp4", split="train", category="Normal")
    assert load_features(cache, [label], streams=chosen).features.shape == (5, 24)
    with pytest.raises(ModelError, match="thumbnails: found a stream of kind images"):
        load_features(cache, [label], streams=("thumbnails",))


def test_models_take_the_mean_of_several_crops(tmp_path) -> None:
    """Every clip's own; with the same method it is that of a cache with the means in it."""
    rows, rng = demo_rows(), np.random.default_rng(0)
    crops, means = (FeatureCache.create(tmp_path / name) for name in ("crops", "means"))
    for row in rows:
        array = rng.normal(size=(10, 10, 8)).astype(np.float32)
        array += 3 * row.frame_labels(160).reshape(10, 16).mean(axis=1)[:, None, None]
        add_video(crops, row.video, {"rgb": array}, 160)
        add_video(means, row.video, {"rgb": array.mean(axis=1)}, 160)
    test = [row for row in rows if row.split == "test"]
    of_crops, of_means = (load_features(each, test, streams=["rgb"]) for each in (crops, means))
    np.testing.assert_allclose(of_crops.features, of_means.features, rtol=1e-5, atol=1e-6)
    trained = [
        run_training(each, rows, choose_method("logistic"), runs=each.path / "runs").run
        for each in (crops, means)
    ]
    found = [
        run_evaluation(run, each, rows) for run, each in zip(trained, (crops, means), strict=True)
    ]
    assert found[0].metrics.values["auc"] == pytest.approx(found[1].metrics.values["auc"])
    assert found[0].metrics.values["auc"] > 0.9
    predicted = predict_video(load_run(trained[0]), crops, test[0].video)
    assert len(predicted.scores) == 160


def test_one_crop_and_several_are_not_mixed(tmp_path) -> None:
    rows, rng = demo_rows()[:3], np.random.default_rng(0)
    cache = FeatureCache.create(tmp_path / "features")
    for row, shape in zip(rows, [(10, 5, 8), (10, 10, 8), (10, 8)], strict=True):
        add_video(cache, row.video, {"rgb": rng.normal(size=shape)}, 160)
    said = r"have 10 crops of 8 values, those of .* 5 crops of 8 values"
    with pytest.raises(ModelError, match=said):
        load_features(cache, rows[:2], streams=["rgb"])
    with pytest.raises(ModelError, match=r"have 8 values, those of .* 5 crops of 8 values"):
        load_features(cache, rows[::2], streams=["rgb"])
