"""RTFM, UR-DMU, BN-WVAD, PEL4VAD: sizes as published, losses against plain loops, what they see."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from marks import quick_first
from model_cache import label, make_cache
from torch.nn import functional

from model.features.load import load_features
from model.methods.gather import gather
from model.methods.registry import choose_method
from model.methods.weak import sequence
from model.methods.weak.bn_wvad import BNOutput
from model.methods.weak.pel4vad import PELOutput
from model.methods.weak.rtfm import RTFMOutput
from model.methods.weak.ur_dmu import UROutput
from model.training.session import FitSession

HEADS = ("rtfm", "ur-dmu", "bn-wvad", "pel4vad")
# millions of parameters for features of 1024 and of 2048 values, counted from the publications'
# networks
PUBLISHED = {
    "rtfm": (6.5, 24.7),
    "ur-dmu": (6.5, 8.1),
    "bn-wvad": (5.8, 7.4),
    "pel4vad": (1.2, 3.5),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def bce(values, target):
    return -np.mean([math.log(v if target else 1 - v) for v in np.ravel(values)])


def top(values, count):
    return np.mean(sorted(np.ravel(values), reverse=True)[:count])


def made(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.05, 0.95, shape))


@pytest.mark.parametrize("name", HEADS)
def test_networks_are_of_the_published_size(name):
    for dim, millions in zip((1024, 2048), PUBLISHED[name], strict=True):
        with torch.device("meta"):
            network = choose_method(name).network(dim)
        count = sum(weights.numel() for weights in network.parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("name", quick_first(HEADS))
def test_scores_hang_on_the_video_alone_and_on_its_order(name, tmp_path):
    rows = [label(f"b{i}", "train", "?") for i in range(4)] + [
        label(f"g{i}", "train") for i in range(4)
    ]
    cache = make_cache(tmp_path / "features", rows)
    method, material = gather(choose_method(name).changed({"steps": 2}), cache, rows)
    fitted = method.fit(material, FitSession(seed=0))
    data = load_features(cache, rows, streams=["rgb", "flow"])
    scores = method.score(fitted, data, torch.device("cpu")).slots
    assert scores.shape == (len(data.features),)
    assert ((scores >= 0) & (scores <= 1)).all()
    alone = load_features(cache, rows[2:3], streams=["rgb", "flow"])
    own = method.score(fitted, alone, torch.device("cpu")).slots
    np.testing.assert_allclose(own, scores[data.rows(2)], rtol=1e-5)
    turned = replace(alone, features=np.ascontiguousarray(alone.features[::-1]))
    backwards = method.score(fitted, turned, torch.device("cpu")).slots
    assert not np.allclose(backwards[::-1], own, rtol=1e-5)


def test_a_very_long_video_is_scored_in_parts(tmp_path, monkeypatch):
    rows = [label("b", "train", "?"), label("g", "train")]
    cache = make_cache(tmp_path / "features", rows)
    method, material = gather(choose_method("pel4vad").changed({"steps": 1}), cache, rows)
    fitted = method.fit(material, FitSession(seed=0))
    data = material.train
    monkeypatch.setattr(sequence, "MAX_CLIPS", 5)
    scores = method.score(fitted, data, torch.device("cpu")).slots
    network = method.load_network(fitted, data.features.shape[1], torch.device("cpu"))
    with torch.inference_mode():
        for video in range(2):
            clips = torch.from_numpy(data.features[data.rows(video)])
            parts = [network(part[None]).scores[0] for part in clips.split(5)]
            np.testing.assert_allclose(scores[data.rows(video)], torch.cat(parts), rtol=1e-6)


def test_instances_are_of_their_own_part_of_the_video(tmp_path):
    rows = [label("b", "train", "?"), label("g", "train")]
    cache = make_cache(
        tmp_path / "features", rows, streams={"rgb": 3}, num_frames={"b": 16 * 9, "g": 16 * 2}
    )
    data = load_features(cache, rows, streams=["rgb"])
    data = replace(data, features=np.repeat(np.arange(11, dtype=np.float32)[:, None], 3, axis=1))
    drawn = sequence._Instances(data, 3, averages=False, seed=0)
    seen = np.stack([drawn.draw(np.array([0, 1]))[0][:, :, 0].numpy() for _ in range(50)])
    assert [sorted(set(seen[:, 0, part])) for part in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [sorted(set(seen[:, 1, part])) for part in range(3)] == [[9], [9], [10]]
    means = sequence._Instances(data, 3, averages=True, seed=0).draw(np.array([0]))[0]
    assert means[0, :, 0].tolist() == [1, 4, 7]


def test_rtfm_loss():
    scores, features = made(5, 20), 30 * made(5, 20, 6, seed=1)
    method = choose_method("rtfm").changed({"dropout": 0.0})
    found = method.loss(RTFMOutput(scores, features), 2)
    s, x = scores.numpy(), features.numpy()
    magnitude, chosen = [], []
    for video in range(5):
        lengths = np.sqrt((x[video] ** 2).sum(axis=1))
        longest = np.argsort(-lengths)[:2]  # 20 // 10
        magnitude.append(np.linalg.norm(x[video, longest].mean(axis=0)))
        chosen.append(s[video, longest].mean())
    classified = np.mean([bce([chosen[v]], v < 2) for v in range(5)])
    apart = np.mean(
        [(abs(100 - magnitude[a]) + magnitude[n]) ** 2 for a in (0, 1) for n in (2, 3, 4)]
    )
    sparse = np.mean([np.sqrt((s[v] ** 2).sum()) for v in (0, 1)])
    smooth = np.mean([sum((s[v, t + 1] - s[v, t]) ** 2 for t in range(19)) for v in (0, 1)])
    expected = classified + 1e-4 * apart + 8e-3 * sparse + 8e-4 * smooth
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_ur_dmu_loss():
    videos, length, num_abnormal = 4, 20, 2
    s, near, far = (made(videos, length, seed=i) for i in range(3))
    x, mean, spread, long = (made(videos, length, 6, seed=i) for i in range(3, 7))
    found = choose_method("ur-dmu").loss(UROutput(s, x, near, far, mean, spread, long), 2)
    count = length // 16 + 1

    def highest(values, weights, video):
        return values[video, np.argsort(-weights[video])[:count]].mean(axis=0)

    def unit(vector):
        return vector / np.linalg.norm(vector)

    s, near, far, x, mean, spread, long = (
        one.numpy() for one in (s, near, far, x, mean, spread, long)
    )
    a, n = range(num_abnormal), range(num_abnormal, videos)
    classified = np.mean([bce([top(s[v], count)], v in a) for v in range(videos)])
    memory = (
        np.mean([bce([top(far[v], count)], 1) for v in a])
        + np.mean([bce([top(near[v], count)], 1) for v in a])
        + bce(near[list(n)], 1)
        + np.mean([bce([top(far[v], count)], 0) for v in n])
    )
    triplet = np.mean(
        [
            max(
                0.0,
                1
                + np.linalg.norm(unit(highest(x, near, m)) - unit(highest(x, near, v)) + 1e-6)
                - np.linalg.norm(unit(highest(x, near, m)) - unit(highest(x, far, v)) + 1e-6),
            )
            for v, m in zip(a, n, strict=True)
        ]
    )
    m, lv = mean[list(n)], spread[list(n)]
    divergence = np.mean((-0.5 * (1 + lv - m**2 - np.exp(lv))).sum(axis=2))
    longer = np.mean(
        [
            max(
                0,
                100
                - np.linalg.norm(highest(long, far, v))
                + np.linalg.norm(highest(mean, near, w)),
            )
            for v, w in zip(a, n, strict=True)
        ]
    )
    expected = classified + 0.1 * memory + 0.1 * triplet + 1e-3 * divergence + 1e-4 * longer
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_bn_wvad_loss():
    raw, first, second = made(4, 10), 5 * made(4, 10, seed=1), 5 * made(4, 10, seed=2)
    found = choose_method("bn-wvad").loss(BNOutput(raw, raw, (first, second)), 2)

    def triplet(d):
        batch = sorted(d[:2].ravel(), reverse=True)[:8]  # two fifths of 20
        chosen = [
            v for row in d[:2] for v in row if v >= sorted(row, reverse=True)[1] or v >= batch[-1]
        ]
        return np.mean([max(0, 1 + v - np.mean(chosen)) for v in d[2:].ravel()])

    norm = np.mean([np.linalg.norm(row) for row in raw.numpy()[2:]])
    expected = norm + 5 * triplet(first.numpy()) + 20 * triplet(second.numpy())
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_bn_wvad_scores_half_where_one_normal_clip_in_a_hundred_is_beyond(tmp_path):
    rows = [label("b", "train", "?")] + [label(f"g{i}", "train") for i in range(20)]
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 16})
    method, material = gather(choose_method("bn-wvad").changed({"steps": 3}), cache, rows)
    data = material.train
    scores = method.score(method.fit(material, FitSession(seed=0)), data, torch.device("cpu")).slots
    normal = np.concatenate([scores[data.rows(v)] for v in range(1, 21)])
    assert (normal >= 0.5).mean() == pytest.approx(0.01, abs=1 / len(normal))


def test_bn_wvad_measures_a_very_long_video_in_the_parts_that_it_scores(tmp_path, monkeypatch):
    rows = [label("b", "train", "?"), label("g", "train")]
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 16})
    data = load_features(cache, rows, streams=["rgb"])
    method = choose_method("bn-wvad")
    network = method.network(16).eval()
    seen = []
    network.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    monkeypatch.setattr(sequence, "MAX_CLIPS", 4)
    method.finish(network, data)
    assert seen == [4, 3, 3]


def test_bn_wvad_distance_is_from_the_statistics_of_the_layer():
    network = choose_method("bn-wvad").network(8).double()
    network.train()
    with torch.no_grad():
        for seed in range(3):
            network(made(4, 5, 8, seed=seed))
        network.eval()
        x = made(1, 5, 8, seed=9)
        embedded = network.embedding(x)[0]
        norm, linear = network.first.norm, network.first.linear
        standard = (linear(embedded) - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        expected = functional.pairwise_distance(standard, torch.zeros_like(standard), eps=0)
        torch.testing.assert_close(network(x).distances[0][0], expected)


def test_pel4vad_loss_takes_one_normal_score_and_more_of_an_abnormal_video():
    scores = made(3, 40)
    found = choose_method("pel4vad").loss(PELOutput(scores), 1)
    s = scores.numpy()
    expected = np.mean([bce([top(s[0], 3)], 1), bce([s[1].max()], 0), bce([s[2].max()], 0)])
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_pel4vad_classifier_sees_nothing_later_and_eight_before():
    network = choose_method("pel4vad").network(8).double().eval()
    x = made(1, 30, 300).transpose(1, 2).requires_grad_()
    padded = functional.pad(x, (8, 0))
    network.classify(padded)[0, 0, 20].backward()
    touched = x.grad[0].abs().sum(dim=0).nonzero().ravel().tolist()
    assert touched == list(range(12, 21))
