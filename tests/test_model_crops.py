"""Methods on a cache that keeps several crops of each clip."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from marks import quick_first
from model_cache import add_video, demo_rows, label, make_cache

from cache import FeatureCache
from cache.commands.upkeep import cache_group
from data.errors import FeatError
from model.features.load import load_features, mean_crop
from model.methods.gather import DataOptions, gather
from model.methods.registry import choose_method
from model.runs.train import run_training
from model.runs.trained import load_run
from model.training.session import FitSession

pytestmark = pytest.mark.usefixtures("one_thread")

TEN = {"crops": {"count": 10, "version": 1}}


def with_crops(
    plain: FeatureCache, path: Path, *, shift: float = 0.0, streams: tuple[str, ...] = ("rgb",)
) -> FeatureCache:
    """Return a cache of ten crops each, which differ by `shift` and whose mean is `plain`'s."""
    made = FeatureCache.create(path)
    spread = (shift * (np.arange(10) - 4.5))[:, None]
    for video in plain.videos():
        entries = {stream: plain.find(video, stream) for stream in streams}
        add_video(
            made,
            video,
            {name: plain.read(video, name)[:, None] + spread for name in entries},
            next(iter(entries.values())).source.num_frames,
            config=TEN,
        )
    return made


@given(
    arrays(
        np.float16,
        array_shapes(min_dims=3, max_dims=3, max_side=12),
        elements=st.floats(-6e4, 6e4, width=16),
    )
)
def test_the_mean_crop_lies_between_its_crops_in_any_order_and_is_that_of_float64(crops):
    mean = mean_crop(crops)
    wide = crops.astype(np.float64)
    assert mean.dtype == np.float32
    assert mean.shape == (crops.shape[0], crops.shape[2])
    np.testing.assert_allclose(mean, wide.mean(axis=1), rtol=1e-5, atol=0.05)
    np.testing.assert_allclose(mean, mean_crop(crops[:, ::-1]), rtol=1e-5, atol=0.05)
    np.testing.assert_array_equal(mean_crop(crops[:, :1]), crops[:, 0])


@pytest.mark.parametrize("name", quick_first(["logistic", "knn", "deepmil", "convlstm", "rtfm"], 2))
def test_every_method_trains_on_the_mean_of_the_crops(name, tmp_path):
    rows = demo_rows()
    plain = make_cache(tmp_path / "plain", rows, streams={"rgb": 16})
    crops = with_crops(plain, tmp_path / "crops", shift=0.25)
    method = choose_method(name)
    if hasattr(method, "steps"):
        method = method.changed({"steps": 4, **({"hidden": 4} if name == "convlstm" else {})})
    runs = [
        run_training(cache, rows, method, out=tmp_path / f"run{number}", device="cpu").run
        for number, cache in enumerate((plain, crops))
    ]
    tests = [row for row in rows if row.split == "test"]
    scores = [
        load_run(run).score(load_run(run).load_features(cache, tests)).frames
        for run, cache in zip(runs, (plain, crops), strict=True)
    ]
    for ours, theirs in zip(*scores, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    with pytest.raises(FeatError, match=r"other rgb features than the cache has: crops"):
        load_run(runs[1]).check_cache(plain)


def test_some_videos_with_crops_and_some_without_are_refused_before_work(tmp_path):
    rows = [label("a", "train", "?"), label("b", "train")]
    cache = make_cache(tmp_path / "one", rows[:1], streams={"rgb": 8})
    add_video(cache, "b", {"rgb": np.zeros((10, 10, 8))}, 160, config=TEN)
    with pytest.raises(FeatError, match=r"rgb features of a and b were made differently: crops"):
        run_training(cache, rows, choose_method("rtfm"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    # imported ones may have one configuration, yet not as many crops
    add_video(cache, "c", {"rgb": np.zeros((10, 5, 8))}, 160, config=TEN)
    with pytest.raises(FeatError, match=r"of c have 5 x 8 values, those of b 10 x 8$"):
        load_features(cache, [label("b", "train"), label("c", "train")], streams=["rgb"])


def test_one_cache_may_keep_one_crop_and_ten_and_the_user_chooses(tmp_path):
    rows = demo_rows()
    plain = make_cache(tmp_path / "both", rows, streams={"rgb": 8})
    with_crops(plain, tmp_path / "both")
    with pytest.raises(FeatError, match=r"2 configurations of rgb .* choose one with --config"):
        run_training(plain, rows, choose_method("logistic"), out=tmp_path / "run")
    ten = next(config for config in plain.configs("rgb") if "crops" in config)
    options = DataOptions(configs={"rgb": ten})
    report = run_training(
        plain, rows, choose_method("logistic"), out=tmp_path / "run", options=options
    )
    assert report.info.streams[0].config["crops"]["count"] == 10


def test_info_tells_how_many_crops_there_are(tmp_path):
    make_cache(tmp_path / "c", demo_rows()[:1], streams={"rgb": 8})
    with_crops(FeatureCache(tmp_path / "c"), tmp_path / "c")
    result = CliRunner().invoke(cache_group, ["info", "--cache", str(tmp_path / "c")])
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert ("crops: 1" in lines, "crops: 10" in lines) == (True, True)


@pytest.mark.parametrize("name", ["rtfm", "pel4vad"])
def test_all_crops_are_drawn_in_training_and_their_scores_averaged(name, tmp_path):
    rows = [label(f"b{i}", "train", "?") for i in range(3)] + [
        label(f"g{i}", "train") for i in range(3)
    ]
    plain = make_cache(tmp_path / "plain", rows, streams={"rgb": 16, "flow": 16})
    cache = with_crops(plain, tmp_path / "crops", shift=0.5, streams=("rgb", "flow"))
    method = choose_method(name).changed({"steps": 3, "crops": "all"})
    method, material = gather(method, cache, rows)
    data = material.train
    assert data.crops.shape == (len(data.features), 10, 32)
    np.testing.assert_allclose(data.crops.mean(axis=1), data.features, rtol=1e-5, atol=1e-5)
    drawn = method.fit(material, FitSession(seed=0))
    scores = method.score(drawn, data, torch.device("cpu")).slots
    each = [
        method.score(drawn, replace(data, crops=data.crops[:, [crop]]), torch.device("cpu")).slots
        for crop in range(10)
    ]
    assert np.ptp(each, axis=0).max() > 1e-4
    np.testing.assert_allclose(scores, np.mean(each, axis=0), rtol=1e-6)
    mean = method.changed({"crops": "mean"})
    weights = mean.fit(material_of(mean, cache, rows), FitSession(seed=0)).parameters
    assert any(not np.array_equal(drawn.parameters[key], weights[key]) for key in weights)


def material_of(method, cache, rows):
    return gather(method, cache, rows)[1]


def test_all_crops_of_a_cache_with_one_are_that_one_to_the_bit(tmp_path):
    rows = demo_rows()
    cache = make_cache(tmp_path / "plain", rows, streams={"rgb": 16})
    fits = []
    for crops in ("mean", "all"):
        method = choose_method("pel4vad").changed({"steps": 2, "crops": crops})
        fits.append(method.fit(material_of(method, cache, rows), FitSession(seed=0)).parameters)
    for key in fits[0]:
        np.testing.assert_array_equal(fits[0][key], fits[1][key])


def test_the_stacked_rnn_takes_the_mean_where_there_is_no_map(tmp_path):
    """Of ten crops, and of streams of which one has crops, one a map or both none."""
    rows = demo_rows()
    plain = make_cache(tmp_path / "plain", rows, streams={"rgb": 16, "flow": 16})
    expected = load_features(plain, rows[:3], streams=["rgb", "flow"], crops="maps")
    assert expected.crops is None
    both = with_crops(plain, tmp_path / "both", shift=0.5, streams=("rgb", "flow"))
    mixed = with_crops(plain, tmp_path / "mixed", shift=0.5, streams=("rgb",))
    for row in rows:
        frames = plain.find(row.video, "flow").source.num_frames
        add_video(mixed, row.video, {"flow": plain.read(row.video, "flow")}, frames)
    for cache in (both, mixed):
        found = load_features(cache, rows[:3], streams=["rgb", "flow"], crops="maps")
        assert found.crops is None
        np.testing.assert_allclose(found.features, expected.features, rtol=1e-4, atol=1e-4)
        method = choose_method("srnn").changed({"steps": 2, "layers": 2})
        fitted = method.fit(material_of(method, cache, rows), FitSession(seed=0))
        assert fitted.parameters["mean"].shape == (32,)


def test_all_crops_of_streams_that_have_not_as_many_are_refused(tmp_path):
    cache = FeatureCache.create(tmp_path / "c")
    add_video(cache, "a", {"rgb": np.zeros((10, 10, 8)), "flow": np.zeros((10, 8))}, 160)
    with pytest.raises(FeatError, match=r"not the same crops: rgb 10, flow 1; .* crops=mean$"):
        load_features(cache, [label("a", "train")], streams=["rgb", "flow"], crops="all")
