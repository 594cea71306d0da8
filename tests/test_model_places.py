"""One-class methods that look at each crop, or at the places of a feature map."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import quick_first
from model_cache import add_video, label

from cache import FeatureCache
from model.evaluation.evaluate import run_evaluation
from model.features.load import load_features
from model.methods.base import unbounded_scores
from model.methods.gather import gather
from model.methods.one_class.novelty import pyramid
from model.methods.registry import choose_method
from model.runs.train import run_training
from model.training.session import FitSession

pytestmark = pytest.mark.usefixtures("one_thread")

MAP = {"feature_map": {"height": 7, "width": 7, "version": 1}}
NOVELTY = {
    "knn": {},
    "gmm": {},
    "sparse": {"rounds": 3, "num_atoms": 32},
    "srnn": {"steps": 60, "num_atoms": 32, "learning_rate": 0.03, "layers": 10},
    "autoencoder": {},
}
ROWS = [
    *(label(f"n{number}", "train") for number in range(6)),
    label("quiet", "test"),
    *(label(f"odd{number}", "test", "32:48") for number in range(8)),
]


def make_maps(path: Path, config: dict = MAP) -> FeatureCache:
    """Each place has a pattern of its own; in an abnormal clip two places differ from it."""
    rng = np.random.default_rng(0)
    patterns = 2 * rng.normal(size=(49, 12))
    cache = FeatureCache.create(path)
    for row in ROWS:
        maps = patterns + rng.normal(0, 0.3, (6, 49, 12))
        if row.is_abnormal:
            change = 4 * rng.choice([-1, 1], 12)
            maps[2, 11] += change
            maps[2, 30] -= change  # so that their mean stays
        add_video(cache, row.video, {"rgb": maps}, 96, config=config)
    return cache


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return make_maps(tmp_path_factory.mktemp("maps") / "features")


@pytest.mark.parametrize("name", quick_first(list(NOVELTY), 2))
def test_what_is_odd_in_one_place_is_found_there_and_lost_in_the_mean(
    name: str, cache: FeatureCache, tmp_path: Path
) -> None:
    found = {}
    for crops in ("mean", "all"):
        method = choose_method(name).changed({**NOVELTY[name], "crops": crops})
        run = run_training(cache, ROWS, method, out=tmp_path / crops).run
        found[crops] = run_evaluation(run, cache, ROWS, pictures=False).metrics.values["auc"]
    assert found["all"] > (0.7 if name == "srnn" else 0.9)
    assert found["mean"] < 0.7


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_patches_are_the_means_of_cells(height: int, width: int, num: int, seed: int) -> None:
    maps = np.random.default_rng(seed).normal(size=(num, height * width, 3)).astype(np.float32)
    grid = maps.reshape(num, height, width, 3)
    expected = []
    for count in (1, 2, 4):
        for row in range(count):
            for column in range(count):
                # from the place the cell begins in to the place it ends in
                top, left = row * height // count, column * width // count
                bottom = -(-(row + 1) * height // count)
                right = -(-(column + 1) * width // count)
                expected.append(grid[:, top:bottom, left:right].mean(axis=(1, 2)))
    found = pyramid(maps, (height, width))
    assert found.shape == (num, 21, 3)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_the_stacked_rnn_says_what_it_looks_at(
    cache: FeatureCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = FeatureCache.create(tmp_path / "plain")
    for row in ROWS:
        add_video(plain, row.video, {"rgb": cache.read(row.video, "rgb").mean(axis=1)}, 96)
    method = choose_method("srnn").changed({"steps": 2, "layers": 2})
    for each, said in (
        (cache, "srnn looks at 21 crops or places of each clip"),
        (plain, "srnn looks at one vector of each clip"),
    ):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="feat"):
            method, material = gather(method, each, ROWS)
            fitted = method.fit(material, FitSession(seed=0))
        assert said in caplog.messages
        assert fitted.parameters["mean"].shape == (12,)


def test_the_stacked_rnn_measures_sequences_together_as_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("model.methods.one_class.srnn.TOGETHER", 2)
    rng = np.random.default_rng(0)
    lengths = [3, 1, 3, 4, 3, 1]
    videos = np.repeat([0, 2, 3, 7, 8, 9], lengths)
    clips = rng.normal(size=(len(videos), 6)).astype(np.float32)
    method = choose_method("srnn").changed({"num_atoms": 8, "steps": 3, "layers": 3})
    model = method.fit_model(clips, videos, 0)
    found = method.distance(model, clips, videos)
    for video in np.unique(videos):
        rows = videos == video
        alone = method.distance(model, clips[rows], videos[rows])
        np.testing.assert_allclose(found[rows], alone, rtol=1e-5)


@pytest.mark.parametrize("name", quick_first(list(NOVELTY), 2))
def test_a_clip_is_as_far_as_its_places_are_on_average_and_videos_do_not_mix(
    name: str, cache: FeatureCache
) -> None:
    method = choose_method(name).changed({**NOVELTY[name], "crops": "all"})
    if "steps" in NOVELTY[name]:
        method = method.changed({"steps": 3})
    method, material = gather(method, cache, ROWS)
    fitted = method.fit(material, FitSession(seed=0))
    tests = [row for row in ROWS if row.split == "test"]
    data = load_features(cache, tests, streams=["rgb"], crops="all")
    assert data.crops is not None
    scores = method.score(fitted, data, torch.device("cpu")).slots
    parameters = fitted.parameters
    axes = (parameters["mean"], parameters["std"], parameters["axes"])
    model = {n.removeprefix("model."): v for n, v in parameters.items() if n.startswith("model.")}
    distances = [
        method.distance(
            model, ((data.crops[:, place] - axes[0]) / axes[1]) @ axes[2], data.video_of
        )
        for place in range(49)
    ]
    beyond = (np.mean(distances, axis=0) - parameters["center"]) / parameters["scale"]
    np.testing.assert_allclose(scores, unbounded_scores(beyond), rtol=1e-4, atol=1e-6)
    for number, row in enumerate(tests):
        alone = load_features(cache, [row], streams=["rgb"], crops="all")
        np.testing.assert_allclose(
            method.score(fitted, alone, torch.device("cpu")).slots,
            scores[data.rows(number)],
            rtol=1e-4,
            atol=1e-6,
        )
