"""The competitors: their arithmetic against plain loops, what they may see, what they find."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from marks import quick_first
from model_cache import (
    FEATURE_METHODS,
    add_video,
    clip_table,
    demo_rows,
    label,
    make_cache,
    stream_config,
)
from sklearn.linear_model import Lasso
from sklearn.mixture import GaussianMixture
from torch.nn import functional

from cache import FeatureCache, FeatureRecord
from cache.exchange.foreign import ImportConfig
from cache.exchange.importing import import_features
from data.errors import ConfigError, ModelError
from model.evaluation.evaluate import run_evaluation
from model.features.load import load_features
from model.measures.scores import ClipScores, spread_scores
from model.methods.base import clip_targets
from model.methods.convlstm import ConvLSTMMethod
from model.methods.gather import gather
from model.methods.one_class.gmm import GaussianMixtureMethod
from model.methods.one_class.knn import NearestNeighbourMethod
from model.methods.one_class.srnn import StackedRNN
from model.methods.registry import choose_method
from model.methods.weak.ar_net import ARNet, center_loss, dynamic_mil_loss
from model.methods.weak.deepmil import DeepMIL, ranking_loss, segment_clips
from model.methods.weak.mil import bags_of, draw_bags
from model.runs.checkpoint import KIND, load_checkpoint
from model.runs.folder import CHECKPOINT_NAME
from model.runs.tensor_file import read_arrays, write_arrays
from model.runs.train import run_training
from model.training.session import FitSession

QUICK = {
    "deepmil": {"steps": 60},
    "ar-net": {"steps": 150, "learning_rate": 1e-3},
    "rtfm": {"steps": 30, "learning_rate": 2e-3},
    "ur-dmu": {"steps": 20, "learning_rate": 6e-4, "bags": 4},
    "bn-wvad": {"steps": 20, "learning_rate": 6e-4, "bags": 4},
    "pel4vad": {"steps": 60, "learning_rate": 1e-3},
    "srnn": {"steps": 20, "num_atoms": 32, "batch": 16, "layers": 10},
    "sparse": {"rounds": 8, "num_atoms": 64},
}
WEAK = sorted(QUICK.keys() - {"srnn", "sparse"})
"""They learn from bags."""
NOVELTY = ["gmm", "sparse", "srnn", "knn", "autoencoder"]
FOUND = [*NOVELTY, "logistic"]
SHORT = {name: {"steps": 3} for name in WEAK} | {
    "srnn": {"steps": 3, "layers": 3},
    "convlstm": {"steps": 2, "hidden": 4},
    "sparse": {"rounds": 2, "num_atoms": 32},
}
"""Where it does not matter what they find."""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


def quick(name):
    return choose_method(name).changed(QUICK.get(name, {}))


def short(name):
    return choose_method(name).changed(SHORT.get(name, {}))


def fit(method, cache, rows, seed=0):
    suited, material = gather(method, cache, rows)
    return suited.fit(material, FitSession(seed=seed))


def score(method, fitted, data):
    return method.score(fitted, data, torch.device("cpu")).slots


# --- what they find ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", quick_first(FOUND, ["gmm", "knn", "logistic"]))
def test_each_method_finds_what_stands_out(name, cache, tmp_path):
    trained = run_training(cache, demo_rows(), quick(name), seed=0, runs=tmp_path)
    report = run_evaluation(trained.run, cache, demo_rows(), pictures=False)
    assert report.metrics.values["auc"] > 0.9
    assert report.metrics.counts["num_frames"] == 640
    assert report.metrics.values["accuracy_video"] is None
    assert report.protocol.startswith(f"{name}, {quick(name).supervision}")


@pytest.mark.parametrize(
    "name",
    quick_first(WEAK, ["deepmil", "rtfm"]),
)
def test_video_labels_are_enough_to_find_the_frames(name, tmp_path):
    """Many values that say nothing, as in real features: a strong single one may be learnt upside
    down, since only the highest score of a video is ever pushed."""
    rng = np.random.default_rng(0)
    cache, rows = FeatureCache.create(tmp_path / "features"), []
    for index in range(16):
        split, start = ("train", "test")[index >= 12], 16 * int(rng.integers(0, 6))
        rows += [label(f"b{index}.mp4", split, f"{start}:{start + 64}")]
        rows += [label(f"g{index}.mp4", split)]
    for row in rows:
        features = np.abs(rng.normal(0, 1, (10, 64)))
        features[:, :8] += 1.5 * row.frame_labels(160).reshape(10, 16).mean(axis=1)[:, None]
        add_video(cache, row.video, {"rgb": features}, 160)
    trained = run_training(cache, rows, quick(name), seed=0, runs=tmp_path)
    report = run_evaluation(trained.run, cache, rows, pictures=False)
    if name in ("ur-dmu", "pel4vad"):  # their attention lets ten clips lend each other scores
        assert report.metrics.values["auc"] > 0.85
        return
    assert report.metrics.values["auc_abnormal"] > 0.9
    assert report.metrics.values["auc"] > 0.95


def test_supervision_is_said_in_words(cache, tmp_path):
    said = {}
    for name in ("logistic", "deepmil", "knn"):
        run = run_training(cache, demo_rows(), short(name), seed=0, runs=tmp_path).run
        said[name] = run_evaluation(run, cache, demo_rows(), pictures=False).protocol
    assert "fully supervised (frame labels of 8 training videos)" in said["logistic"]
    assert "weakly supervised (video labels, no frames, of 8 training videos)" in said["deepmil"]
    assert "unsupervised (features, no labels, of 4 normal training videos)" in said["knn"]


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(cache):
    """Mean over seeds: one seed's direction in feature space may be a lucky one."""
    rows = demo_rows()
    method = choose_method("shuffled")
    method, material = gather(method, cache, rows)
    test = [row for row in rows if row.split == "test"]
    data = load_features(cache, test, streams=["rgb", "flow"])
    truth = clip_targets(data) > 0
    differences = []
    for seed in range(30):
        scores = score(method, method.fit(material, FitSession(seed=seed)), data)
        differences.append(scores[truth].mean() - scores[~truth].mean())
    assert abs(np.mean(differences)) < 3 * np.std(differences) / np.sqrt(30) + 0.02
    assert np.std(differences) > 0


def test_position_learns_when_not_what(tmp_path):
    rows = [label(f"bad{i}.mp4", "train", "128:160") for i in range(4)]
    rows += [label(f"good{i}.mp4", "train") for i in range(2)]
    rows += [label("long.mp4", "test", "16:32"), label("short.mp4", "test")]
    lengths = {row.video: 160 for row in rows} | {"long.mp4": 320, "short.mp4": 40}
    cache = make_cache(tmp_path / "features", rows, num_frames=lengths)
    method = choose_method("position")
    data = load_features(cache, rows[-2:], streams=["rgb"])
    scores = method.score(fit(method, cache, rows), data, torch.device("cpu"))
    long, short = spread_scores(scores, data, smoothing=0).frames
    assert long.shape == (320,)
    assert long[256:].min() > 0.5 > 0.1 > long[:256].max()  # the last fifth, whatever is there
    assert short[-8:].min() > 5 * short[:32].max()


def test_flow_magnitude_looks_at_the_flow_statistics(tmp_path):
    rows = demo_rows()
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 8})
    rng = np.random.default_rng(0)
    add_flow(cache, rows, lambda moving: rng.uniform(1, 2, (len(moving), 6)) * (1 + 5 * moving))
    method = choose_method("flow-magnitude")
    run = run_training(cache, rows, method, seed=0, runs=tmp_path).run
    assert run_evaluation(run, cache, rows, pictures=False).metrics.values["auc"] > 0.95


def test_flow_magnitude_says_what_it_lacks(cache, tmp_path):
    method = choose_method("flow-magnitude")
    with pytest.raises(ModelError, match=r"bad/0.mp4: its flow features come without mean_abs_x"):
        gather(method, cache, demo_rows())
    other = make_cache(tmp_path / "features", demo_rows(), streams={"rgb": 8})
    with pytest.raises(ModelError, match="needs the stream flow, the features are rgb"):
        gather(method, other, demo_rows())


def add_flow(cache, rows, make):
    for row in rows:
        clips = clip_table(160)
        shares = row.frame_labels(160).reshape(10, 16).mean(axis=1)[:, None]
        cache.write(
            [
                FeatureRecord(
                    stream="flow",
                    config=stream_config("flow"),
                    source=cache.entry(cache.find(row.video, "rgb").key).source,
                    features=np.zeros((10, 4), np.float32),
                    clips=clips,
                    flow_stats=make(shares).astype(np.float32),
                )
            ]
        )


# --- what they may see ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["deepmil", "ar-net"])
def test_weakly_supervised_methods_do_not_see_frames(name, cache):
    rows = demo_rows()
    hidden = [
        replace(row, extent="unknown", intervals=()) if row.is_abnormal else row for row in rows
    ]
    moved = [
        replace(row, intervals=((0, 8),)) if row.is_abnormal and row.split == "train" else row
        for row in rows
    ]
    method = choose_method(name).changed({"steps": 5})
    first, *others = [fit(method, cache, r).parameters for r in (rows, hidden, moved)]
    for other in others:
        for key, array in first.items():
            np.testing.assert_array_equal(array, other[key])


@pytest.mark.parametrize("name", NOVELTY)
def test_unsupervised_methods_see_normal_videos_only(name, cache):
    rows = demo_rows()
    fewer = [row for row in rows if row.split == "test" or not row.is_abnormal]
    method = quick(name)
    first, other = [fit(method, cache, r).parameters for r in (rows, fewer)]
    for key, array in first.items():
        np.testing.assert_array_equal(array, other[key])


def test_fully_supervised_ones_leave_weak_videos_out(cache, caplog):
    rows = [*demo_rows()]
    rows[0] = replace(rows[0], extent="unknown", intervals=())
    _, material = gather(choose_method("logistic"), cache, rows)
    assert len(material.train.labels) == 7
    assert "1 videos with unknown frames (?) are left out of training: bad/0.mp4" in caplog.text


def test_val_videos_are_for_choices_only(cache):
    rows = demo_rows()
    rows = [replace(r, split="val") if r.video in ("bad/3.mp4", "good/3.mp4") else r for r in rows]
    method, material = gather(choose_method("logistic"), cache, rows)
    assert [row.video for row in material.val.labels] == ["bad/3.mp4", "good/3.mp4"]
    assert len(material.train.labels) == 6
    method.fit(material, FitSession(seed=0))


def test_a_test_video_that_was_trained_on_is_refused(cache, tmp_path):
    run = run_training(cache, demo_rows(), quick("knn"), seed=0, runs=tmp_path).run
    leaking = [replace(row, split="test") for row in demo_rows()]
    with pytest.raises(ModelError, match=r"4 test videos were used to train this run: good/0\.mp4"):
        run_evaluation(run, cache, leaking)


@pytest.mark.parametrize(
    ("name", "kept", "message"),
    [
        ("deepmil", "good", "4 training videos: 4 normal, 0 with known abnormal frames"),
        ("ar-net", "bad", "4 training videos: 0 normal, 4 with known abnormal frames"),
        ("logistic", "good", "4 training videos: 4 normal, 0 with known abnormal frames"),
    ],
)
def test_a_missing_kind_is_named(name, kept, message, cache):
    rows = [row for row in demo_rows() if row.split == "test" or row.video.startswith(kept)]
    with pytest.raises(ModelError, match=message):
        fit(quick(name), cache, rows)


def test_imported_segments_without_a_frame_count_can_be_learnt_from(tmp_path):
    rng = np.random.default_rng(0)
    rows = [label(f"{kind}{i}", "train", "?" * (kind == "b")) for kind in "bg" for i in range(4)]
    rows.append(label("probe", "test", "0:50"))
    arrays = {row.video: rng.normal(size=(32, 16)) for row in rows}
    np.savez(tmp_path / "c3d.npz", **arrays)
    cache = FeatureCache.create(tmp_path / "features")
    config = ImportConfig(stream="c3d", origin="test", layout="segments")
    import_features([tmp_path / "c3d.npz"], cache, config, frames={"probe": 320})
    for name in ("deepmil", "knn"):
        run = run_training(cache, rows, quick(name), seed=0, runs=tmp_path).run
        report = run_evaluation(run, cache, rows, pictures=False)
        assert report.metrics.counts["num_frames"] == 320
        with pytest.raises(ModelError, match="1 test videos were imported without a frame count"):
            run_evaluation(run, cache, [replace(rows[4], split="test")])


# --- their arithmetic -------------------------------------------------------------------------


def test_ranking_loss_by_hand():
    abnormal = torch.tensor([[0.2, 0.9, 0.4], [0.1, 0.1, 0.3]])
    normal = torch.tensor([[0.5, 0.0, 0.0]])
    # hinges 1 - 0.9 + 0.5 and 1 - 0.3 + 0.5; differences 0.7, -0.5 and 0, 0.2; scores add up to 2
    ranking = 0.6 + 1.2
    expected = ranking + 0.1 * (0.49 + 0.25 + 0.04) + 0.01 * 2.0
    loss = ranking_loss(abnormal, normal, smoothness=0.1, sparsity=0.01)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(1, 13), min_size=2, max_size=6), st.integers(0, 2**32 - 1))
def test_ar_net_losses_equal_plain_loops(lengths, seed):
    rng = np.random.default_rng(seed)
    first = np.cumsum([0, *lengths])
    bags = bags_of(first)
    scores = rng.uniform(0.01, 0.99, first[-1])
    kinds = np.arange(len(lengths)) < len(lengths) // 2
    padded, mask = torch.from_numpy(scores[bags.rows]), torch.from_numpy(bags.mask)
    chosen, targets, spreads = [], [], []
    for video, length in enumerate(lengths):
        own = scores[first[video] : first[video + 1]]
        count = -(-length // 4)
        chosen += sorted(own, reverse=True)[:count]
        targets += [float(kinds[video])] * count
        spreads += [] if kinds[video] else [own.var()]
    expected = functional.binary_cross_entropy(
        torch.tensor(chosen).double(), torch.tensor(targets).double()
    )
    loss = dynamic_mil_loss(padded, mask, torch.from_numpy(kinds), divisor=4)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    centre = center_loss(padded[torch.from_numpy(~kinds)], mask[torch.from_numpy(~kinds)])
    assert float(centre) == pytest.approx(float(np.mean(spreads)), abs=1e-9)


@given(st.integers(1, 100), st.integers(1, 40))
def test_segments_cover_every_clip_evenly(num_clips, num_segments):
    first, end = segment_clips(num_clips, num_segments)
    covered = np.concatenate([np.arange(a, b) for a, b in zip(first, end, strict=True)])
    assert set(covered) == set(range(num_clips))
    assert (end > first).all()
    assert end.max() == num_clips
    if num_clips >= num_segments:
        assert len(covered) == num_clips
        assert np.ptp(end - first) <= 1


def test_segments_of_the_docstring():
    assert np.stack(segment_clips(5, 3)).T.tolist() == [[0, 1], [1, 3], [3, 5]]
    assert np.stack(segment_clips(2, 4)).T.tolist() == [[0, 1], [0, 1], [1, 2], [1, 2]]


def test_batches_hold_both_kinds_and_no_video_twice():
    rows = [label(f"b{i}", "train", "?") for i in range(40)] + [
        label(f"g{i}", "train") for i in range(20)
    ]
    seen = set()
    for abnormal, normal in draw_bags(rows, each=30, steps=20, seed=0):
        assert len(set(abnormal)) == 30
        assert len(set(normal)) == 20
        assert abnormal.max() < 40 <= normal.min()
        seen |= set(abnormal)
    assert seen == set(range(40))


def test_mixture_density_is_that_of_scikit_learn():
    inputs = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
    method = GaussianMixtureMethod(num_gaussians=3)
    videos = np.zeros(len(inputs), np.int64)
    model = method.fit_model(inputs, videos, 0)
    floor = 0.01 * float(inputs.var(axis=0).mean())
    own = GaussianMixture(
        3, covariance_type="diag", reg_covar=floor, random_state=0, max_iter=200
    ).fit(inputs.astype(np.float64))
    expected = -own.score_samples(inputs.astype(np.float64))
    np.testing.assert_allclose(method.distance(model, inputs, videos), expected, rtol=1e-6)


def test_many_layers_of_the_stacked_rnn_give_the_code_that_scikit_learn_gives():
    """Of each clip alone, and of a clip that its predecessor's code draws to itself."""
    rng = np.random.default_rng(0)
    atoms, clips = rng.normal(size=(12, 20)), rng.normal(size=(3, 12))
    method = StackedRNN(layers=3000, sparsity=0.5, coherence=2.0, alike=30.0)
    found = method.codes(torch.tensor(clips)[None], torch.tensor(atoms))[0].numpy()
    before = np.zeros(20)
    for t, clip in enumerate(clips):
        likeness = np.exp(-np.square(clip - clips[t - 1]).sum() / 30.0) if t else 0.0
        pull = np.sqrt(2.0 * likeness)
        lasso = Lasso(0.5 / 32, fit_intercept=False, max_iter=100_000, tol=1e-10)
        lasso.fit(np.vstack([atoms, pull * np.eye(20)]), np.concatenate([clip, pull * before]))
        np.testing.assert_allclose(found[t], lasso.coef_, atol=1e-5)
        before = lasso.coef_
    assert 0 < np.count_nonzero(np.abs(found) > 1e-9) < found.size


def test_the_stacked_rnn_remembers_no_other_video():
    rng = np.random.default_rng(0)
    clips, videos = rng.normal(size=(9, 4)).astype(np.float32), np.repeat([0, 1, 4], [2, 3, 4])
    method = StackedRNN(num_atoms=6, steps=30, coherence=1.0)
    model = method.fit_model(clips, videos, 0)
    whole = method.distance(model, clips, videos)
    alone = [method.distance(model, clips[videos == v], videos[videos == v]) for v in (0, 1, 4)]
    np.testing.assert_allclose(whole, np.concatenate(alone))
    assert np.linalg.norm(model["atoms"], axis=0).max() < 1 + 1e-5
    joined = method.distance(model, clips, np.zeros(9, np.int64))
    assert (joined[:2] == whole[:2]).all()
    assert (joined[2:] != whole[2:]).any()


def test_the_stacked_rnn_learns_to_rebuild_what_it_saw():
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(3, 20))
    normal = (rng.exponential(size=(300, 3)) @ basis).astype(np.float32)
    videos = np.repeat(np.arange(10), 30)
    longer = StackedRNN(num_atoms=20, steps=60)
    untrained, trained = (
        method.distance(method.fit_model(normal, videos, 0), normal, videos).mean()
        for method in (longer.changed({"steps": 1}), longer)
    )
    assert trained < 0.7 * untrained


def test_neighbours_by_hand():
    method = NearestNeighbourMethod(num_neighbours=2)
    videos = np.zeros(3, np.int64)
    model = method.fit_model(np.array([[0.0], [1.0], [5.0]], np.float32), videos, 0)
    found = method.distance(model, np.array([[2.0], [6.0]], np.float32), videos[:2])
    np.testing.assert_allclose(found, [1.5, 3.0])


@pytest.mark.slow
def test_novelty_scores_are_calibrated_on_videos_not_fitted_to(tmp_path):
    """Frames of unseen normal videos seldom reach 0.5; scores of the far out stay in order."""
    rows = [label(f"g{i}.mp4", "train") for i in range(30)]
    rows += [label(f"t{i}.mp4", "test") for i in range(10)]
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 16})
    for name in NOVELTY:
        method = quick(name)
        fitted = fit(method, cache, rows)
        data = load_features(cache, rows[30:], streams=["rgb"])
        scores = score(method, fitted, data)
        assert (scores >= 0.5).mean() < 0.12
        far = replace(data, features=data.features * np.float32(1e3))
        farther = replace(data, features=data.features * np.float32(1e4))
        assert (score(method, fitted, far) > scores).all()
        assert (score(method, fitted, farther) > score(method, fitted, far)).all()
        assert score(method, fitted, farther).max() <= 1.0


def test_clip_scores_reach_their_own_frames(cache):
    data = load_features(cache, demo_rows()[:2], streams=["rgb"])
    frames = spread_scores(ClipScores(slots=np.arange(20) / 20), data, smoothing=0).frames
    np.testing.assert_array_equal(frames[1], np.repeat(np.arange(10, 20) / 20, 16))


def test_deepmil_score_of_a_clip_is_that_of_its_segments(tmp_path):
    rows = [label("b.mp4", "train", "?"), label("g.mp4", "train")]
    cache = make_cache(tmp_path / "features", rows, num_frames={"b.mp4": 16 * 64, "g.mp4": 48})
    method, material = gather(DeepMIL(steps=1), cache, rows)
    scores = score(method, method.fit(material, FitSession(seed=0)), material.train)
    assert len(scores) == 64 + 3
    np.testing.assert_array_equal(scores[:64:2], scores[1:64:2])  # two clips a segment
    assert len(np.unique(scores[64:])) == 3


# --- seeds, settings, checkpoints -------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    quick_first(
        sorted(set(FEATURE_METHODS) - {"flow-magnitude"}), ["deepmil", "gmm", "logistic", "rtfm"]
    ),
)
def test_a_seed_says_it_all(name, cache):
    method, material = gather(short(name), cache, demo_rows())
    before = torch.random.get_rng_state()
    first, again, other = (
        method.fit(material, FitSession(seed=seed)).parameters for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(np.array_equal(array, again[key]) for key, array in first.items())
    changed = any(not np.array_equal(array, other[key]) for key, array in first.items())
    assert changed == method.is_random


@pytest.mark.parametrize("name", quick_first(["deepmil", "logistic", "bn-wvad", "sparse"], 2))
def test_a_checkpoint_scores_as_what_was_saved(name, cache, tmp_path):
    report = run_training(cache, demo_rows(), short(name), seed=4, runs=tmp_path)
    loaded = load_checkpoint(report.run)
    assert loaded.info == report.info
    method, material = gather(short(name), cache, demo_rows())
    np.testing.assert_allclose(
        score(loaded.info.method, loaded.fitted, material.train),
        score(method, method.fit(material, FitSession(seed=4)), material.train),
        rtol=1e-12,
    )


def test_a_damaged_checkpoint_is_refused(cache, tmp_path):
    report = run_training(cache, demo_rows(), quick("knn"), seed=0, runs=tmp_path)
    path = report.run / CHECKPOINT_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="not a checkpoint this build can read"):
        load_checkpoint(report.run)
    assert b"knn" in whole
    path.write_bytes(whole.replace(b"knn", b"gmm", 1))
    with pytest.raises(ModelError, match="its content has changed since it was written"):
        load_checkpoint(report.run)
    path.write_bytes(whole)
    described, arrays = read_arrays(path, KIND)
    write_arrays(path, KIND, {**described, "method": "abc"}, arrays)
    with pytest.raises(ModelError, match="method 'abc' is unknown"):
        load_checkpoint(report.run)
    path.unlink()
    with pytest.raises(ModelError, match="no checkpoint there"):
        load_checkpoint(report.run)


def test_settings_are_checked():
    assert choose_method("ar-net").changed({"steps": 7}) == ARNet(steps=7)
    with pytest.raises(ConfigError, match="knn has no setting steps; it has smoothing, num_comp"):
        choose_method("knn").changed({"steps": 7})
    with pytest.raises(ConfigError, match="method 'svm' is unknown; expected convlstm, "):
        choose_method("svm")


def test_the_convlstm_leaves_out_videos_without_a_frame_count(tmp_path, caplog):
    rng = np.random.default_rng(0)
    rows = [label(f"g{i}", "train") for i in range(8)]
    rows += [label(f"b{i}", "train", "40:80") for i in range(4)]
    np.savez(tmp_path / "c3d.npz", **{row.video: rng.normal(size=(8, 16)) for row in rows})
    cache = FeatureCache.create(tmp_path / "features")
    config = ImportConfig(stream="c3d", origin="test", layout="segments")
    counted = {row.video: 160 for row in rows if row.video not in ("g0", "g1", "g2", "g3", "g4")}
    import_features([tmp_path / "c3d.npz"], cache, config, frames=counted)
    method = ConvLSTMMethod(
        hidden=4, head_widths=(8,), readout="each", steps=2, eval_every=1, val_fraction=0.5
    )
    report = run_training(cache, rows, method, runs=tmp_path, device="cpu")
    assert len(report.info.train_videos) + report.num_val_videos == 7
    assert "5 videos whose frames nobody counted teach no scores: g0" in caplog.text
