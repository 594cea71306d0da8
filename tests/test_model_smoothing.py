"""Smoothed frame scores: the kernel, its width in clips, and who is smoothed when."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from model_cache import add_video, demo_rows, label, make_cache, segment_table
from scipy.stats import norm

from cache import FeatureCache
from data.errors import ConfigError
from feat import cli
from model.evaluation.evaluate import run_evaluation
from model.evaluation.results import read_results
from model.experiments.compare import run_comparison
from model.experiments.folder import Terms
from model.features.load import load_features
from model.measures.smoothing import smooth_scores
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import METHODS, choose_method
from model.runs.train import run_training

SMALL = ConvLSTMMethod(
    hidden=4, layers=1, head_widths=(32,), readout="each", smoothing=1.0, steps=20, eval_every=20,
    learning_rate=1e-2, batch_size=24,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


def scores_of(run, cache, **how):
    folder = run_evaluation(run, cache, demo_rows(), pictures=False, **how).report.parent
    return np.concatenate([result.scores for result in read_results(folder)])


def test_a_spike_becomes_a_bell_that_is_as_wide_as_clips_are_long(tmp_path):
    rows = [label("clips.mp4", "test"), label("next.mp4", "test")]
    cache = make_cache(tmp_path / "clips", rows, num_frames={row.video: 333 for row in rows})
    spike, zeros = np.zeros(333), np.zeros(333)
    spike[160] = 1.0
    data = load_features(cache, rows, streams=["rgb"])
    smooth, other = smooth_scores([spike, zeros], data, 0.5)
    # 333 frames are 20 clips of 16 and one of 13
    np.testing.assert_allclose(smooth, norm.pdf(np.arange(333), 160, 8), atol=2e-4)
    assert not other.any()  # it stays in its video
    assert smooth_scores([spike, zeros], data, 0.0)[0] is spike

    cache = FeatureCache.create(tmp_path / "segments")
    add_video(cache, "s.mp4", {"rgb": np.zeros((16, 8))}, 320, clips=segment_table(320, 16))
    data = load_features(cache, [label("s.mp4", "test")], streams=["rgb"])
    (smooth,) = smooth_scores([spike[:320]], data, 1.0)
    np.testing.assert_allclose(smooth, norm.pdf(np.arange(320), 160, 20), atol=2e-4)


def test_a_video_goes_on_as_it_began_and_ended(cache):
    data = load_features(cache, demo_rows()[:1], streams=["rgb"])
    steps = np.repeat([0.2, 0.8], 80)
    (smooth,) = smooth_scores([steps], data, 1.0)
    assert smooth[0] == pytest.approx(0.2, abs=1e-4)
    assert smooth[-1] == pytest.approx(0.8, abs=1e-4)
    (constant,) = smooth_scores([np.full(160, 0.7)], data, 3.0)
    np.testing.assert_allclose(constant, 0.7)


def test_beyond_its_ends_a_video_has_the_scores_of_its_first_and_last_frame(cache):
    """A ramp from 0 to 159 that stays at both, under a Gaussian: E[min(max(Z, 0), 159)].

    With Z normal of mean t and deviation s, E[max(Z, 0)] = t Phi(t/s) + s phi(t/s).
    """
    data = load_features(cache, demo_rows()[:1], streams=["rgb"])
    frames = np.arange(160.0)
    (smooth,) = smooth_scores([frames], data, 1.0)  # clips of 16 frames

    def rectified(mean):
        return mean * norm.cdf(mean / 16) + 16 * norm.pdf(mean / 16)

    # a mirrored video would begin with 12.8 instead of 6.4; the kernel ends after 4 deviations
    np.testing.assert_allclose(smooth, rectified(frames) - rectified(frames - 159), atol=0.02)


def test_a_run_is_evaluated_as_it_says_or_as_asked(cache, tmp_path):
    run = run_training(cache, demo_rows(), SMALL, runs=tmp_path).run
    own, raw, one = (
        scores_of(run, cache, **how) for how in ({}, {"smoothing": 0}, {"smoothing": 1})
    )
    np.testing.assert_array_equal(own, one)
    # most of a frame's score is that of the clips around it: neighbours differ less
    assert np.abs(np.diff(own)).max() < 0.3 * np.abs(np.diff(raw)).max()
    assert own.mean() == pytest.approx(raw.mean(), abs=0.02)
    report = run_evaluation(run, cache, demo_rows(), pictures=False)
    assert report.protocol.endswith("scores smoothed over 1 clips")
    assert "smoothed" not in run_evaluation(run, cache, demo_rows(), smoothing=0).protocol


def test_a_network_is_selected_by_its_own_scores(cache, tmp_path):
    """Smoothing changes what a run says of a video, not which network it is."""
    looks = [
        run_training(cache, demo_rows(), replace(SMALL, smoothing=width), runs=tmp_path).info.result
        for width in (0.0, 3.0)
    ]
    assert looks[0] == looks[1]
    assert "val_auc" in looks[0]


def test_methods_are_smoothed_only_where_asked(cache, tmp_path):
    run = run_training(cache, demo_rows(), choose_method("logistic"), runs=tmp_path).run
    steps = np.abs(np.diff(scores_of(run, cache)))
    assert np.count_nonzero(steps) < 40  # one score a clip
    assert np.count_nonzero(np.abs(np.diff(scores_of(run, cache, smoothing=1)))) > 300


@pytest.mark.slow
def test_a_comparison_smooths_all_or_none(cache, tmp_path):
    methods = [choose_method("logistic"), replace(SMALL, smoothing=0.0)]
    terms = Terms(device="cpu", smoothing=1.0)

    def compare(terms):
        run_comparison(cache, demo_rows(), methods, seeds=1, out=tmp_path / "c", terms=terms)

    compare(terms)
    for name in ("logistic", "convlstm"):
        found = json.loads((tmp_path / f"c/{name}/seed-0/eval/metrics.json").read_text())
        assert "smoothed over 1 clips" in found["protocol"]
    with pytest.raises(ConfigError, match="other settings of"):
        compare(replace(terms, smoothing=None))


def test_the_option_reaches_the_scores(cache, tmp_path):
    run = str(tmp_path / "run")
    small = ["--set", "steps=2", "--set", "hidden=8", "--set", "smoothing=2", "--seed", "1"]
    feat = CliRunner().invoke
    trained = feat(cli, ["train", "--cache", str(cache.path), "--out", run, *small])
    assert trained.exit_code == 0, trained.stderr
    for options, words in (([], "over 2 clips"), (["--smoothing", "0.5"], "over 0.5 clips")):
        found = feat(cli, ["eval", "--run", run, *options, "--json"])
        assert words in json.loads(found.stdout)["protocol"]


@pytest.mark.slow
def test_any_method_can_be_trained_to_be_smoothed(cache, tmp_path):
    method = choose_method("logistic").changed({"smoothing": 1.0})
    run = run_training(cache, demo_rows(), method, runs=tmp_path).run
    own, raw, one = (
        scores_of(run, cache, **how) for how in ({}, {"smoothing": 0}, {"smoothing": 1})
    )
    np.testing.assert_array_equal(own, one)
    in_one_video = np.s_[:160]
    assert np.abs(np.diff(own[in_one_video])).max() < 0.1 * np.abs(np.diff(raw[in_one_video])).max()


def test_only_the_default_smooths():
    """The paper and the authors' code do not, nor do the other methods."""
    smoothing = {
        (name, preset)
        for name in METHODS
        for preset in choose_method(name).presets
        if choose_method(name, preset).smoothing
    }
    assert smoothing == {("convlstm", "default")}
