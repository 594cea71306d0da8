"""Checkpoints of the published code: same outputs as a re-creation of their network."""

import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from model_cache import demo_rows, make_cache
from torch import nn

from cache import FeatureCache
from data.errors import ModelError
from feat import cli
from model.methods.registry import choose_method
from model.network.multitask import AnomalyNetwork
from model.prediction.prediction import predict_video
from model.runs.checkpoint import load_checkpoint
from model.runs.released import import_released, read_released
from model.runs.trained import load_run

LAD = [
    "Crash",
    "Crowd",
    "Destroy",
    "Drop",
    "FallIntoWater",
    "Falling",
    "Fighting",
    "Fire",
    "Hurt",
    "Loitering",
    "Panic",
    "Thiefing",
    "Trampled",
    "Violence",
]

pytestmark = pytest.mark.usefixtures("one_thread")


class Published(nn.Module):
    """What the published network computes, written down from its description.

    Parameters are named and shaped as there, so that `state_dict` is what its training saves:
    one convolution of (input, hidden) to the gates i, f, o, g; the last hidden state flattened;
    2048 -> 1024, then for either output 1024 -> 512 -> n without biases.
    """

    def __init__(self, *, dim=2048, clips=5, categories=14, layers=2, hidden=128):
        super().__init__()
        self.layers = layers
        for layer in range(layers):
            seen = hidden if layer else dim // 16
            cell = nn.Module()
            cell.Gates = nn.Conv2d(seen + hidden, 4 * hidden, 3, padding=1)
            setattr(self, f"convlstm{layer + 1}", cell)
        self.fc_down = nn.Linear(16 * hidden, 1024)
        for name, outputs in (("cls_head", categories), ("reg_head", 16 * clips)):
            head = nn.Module()
            head.fc_1 = nn.Linear(1024, 512, bias=False)
            head.fc_2 = nn.Linear(512, outputs, bias=False)
            setattr(self, name, head)

    def forward(self, inputs):
        """Map (T, N, D) to the category logits (N, C) and the scores (N, 16 T)."""
        steps = list(inputs.reshape(*inputs.shape[:2], -1, 4, 4))
        for layer in range(self.layers):
            gates_of = getattr(self, f"convlstm{layer + 1}").Gates
            size = gates_of.out_channels // 4
            hidden = cell = torch.zeros(inputs.shape[1], size, 4, 4)
            for t, step in enumerate(steps):
                gates = gates_of(torch.cat([step, hidden], dim=1))
                i, f, o = (torch.sigmoid(gates[:, n * size : (n + 1) * size]) for n in range(3))
                cell = f * cell + i * torch.tanh(gates[:, 3 * size :])
                hidden = o * torch.tanh(cell)
                steps[t] = hidden
        shared = torch.relu(self.fc_down(steps[-1].flatten(1)))
        logits, scores = (
            head.fc_2(torch.relu(head.fc_1(shared))) for head in (self.cls_head, self.reg_head)
        )
        return logits, torch.sigmoid(scores)


def published(seed=0, **shape) -> Published:
    torch.manual_seed(seed)
    network = Published(**shape)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.0, 1.5 / math.sqrt(parameter[0].numel()))
    return network


def save(network: nn.Module, path: Path, **how) -> Path:
    torch.save(network.state_dict(), path, **how)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    folder = tmp_path_factory.mktemp("released") / "features"
    return make_cache(folder, demo_rows(), streams={"rgb": 32, "flow": 32})


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"dim": 1024, "clips": 3, "categories": 5},
        {"layers": 1, "dim": 64, "categories": 1},
    ],
)
def test_outputs_are_those_of_the_published_network(tmp_path, shape):
    theirs = published(**shape)
    released = read_released(save(theirs, tmp_path / "iter_200.pkl"))
    ours = AnomalyNetwork(
        released.method, feature_dim=released.feature_dim, num_categories=released.num_categories
    )
    ours.load_state_dict(released.weights)
    torch.manual_seed(1)
    features = torch.rand(6, released.method.num_clips, released.feature_dim) * 2
    with torch.inference_mode():
        logits, scores = theirs(features.transpose(0, 1))
        predicted = ours.eval()(features, torch.ones(features.shape[:2], dtype=torch.bool))
    assert scores.std() > 0.01  # or the comparison would show nothing
    np.testing.assert_allclose(predicted.scores.sigmoid().flatten(1), scores, atol=1e-5)
    np.testing.assert_allclose(predicted.categories, logits, atol=1e-5)


def test_the_preset_has_the_published_shapes():
    method = choose_method("convlstm", "released").changed({"clip_slots": 16})
    ours = AnomalyNetwork(method, feature_dim=2048, num_categories=14)
    theirs = published()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert method.num_clips == 5


def test_the_old_file_format_is_read(tmp_path):
    theirs = published(dim=64)
    old = save(theirs, tmp_path / "a.pkl", _use_new_zipfile_serialization=False)
    new = save(theirs, tmp_path / "b.pkl")
    assert read_released(old).weights.keys() == read_released(new).weights.keys()
    for name, tensor in read_released(old).weights.items():
        assert torch.equal(tensor, read_released(new).weights[name])


class Evil:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("damage", ["absent", "text", "pickle", "whole", "cut", "list", "nan"])
def test_files_that_are_no_state_dict_are_refused_in_one_line(tmp_path, damage):
    path = tmp_path / "iter_1.pkl"
    theirs = published(dim=64)
    save(theirs, path)
    if damage == "absent":
        path.unlink()
    elif damage == "text":
        path.write_text("not weights")
    elif damage == "pickle":
        path.write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    elif damage == "whole":
        torch.save(theirs, path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "list":
        torch.save([torch.zeros(2)], path)
    else:
        torch.save({"fc_down.weight": torch.tensor([float("nan")])}, path)
    with pytest.raises(ModelError, match=r"iter_1\.pkl") as caught:
        read_released(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda s: s.pop("fc_down.bias"), "without fc_down.bias"),
        (lambda s: s.update(extra=torch.zeros(1)), "with unknown extra"),
        (lambda s: s.update({"fc_down.weight": torch.zeros(1024, 7)}), "trunk"),
        (lambda s: s.update({"reg_head.fc_2.weight": torch.zeros(81, 512)}), "81 scores"),
        (lambda s: s.update({"convlstm1.Gates.weight": torch.zeros(3)}), "AED_T"),
        (lambda s: s.update({"convlstm2.Gates.weight": torch.zeros(512, 256, 5, 5)}), "recurrent"),
    ],
)
def test_a_network_of_another_shape_is_refused_with_what_differs(tmp_path, change, found):
    state = published(dim=64).state_dict()
    change(state)
    torch.save(state, tmp_path / "x.pkl")
    with pytest.raises(ModelError, match=found) as caught:
        read_released(tmp_path / "x.pkl")
    assert "\n" not in str(caught.value)


def test_the_run_is_evaluated_and_predicts_like_any_other(cache, tmp_path):
    checkpoint = save(published(dim=64), tmp_path / "iter_6000.pkl")
    run = tmp_path / "released"
    import_options = ["--cache", str(cache.path), "--out", str(run), "--json"]
    done = CliRunner().invoke(cli, ["-q", "import-run", str(checkpoint), *import_options])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["categories"] == LAD
    done = CliRunner().invoke(cli, ["-q", "eval", "--run", str(run), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert "iter_6000.pkl" in found["protocol"]
    assert "not known" in found["protocol"]
    assert found["num_frames"] == 640
    # frame 0 to 15 of a video are in its first window alone: scores straight from the network
    features = np.concatenate([cache.read("bad/4.mp4", s)[:5] for s in ("rgb", "flow")], axis=1)
    with torch.inference_mode():
        scores = published(dim=64)(torch.from_numpy(features)[:, None])[1][0, :16]
    stored = np.load(run / "eval" / "scores.npz")
    np.testing.assert_allclose(stored["scores"][:16], scores, atol=1e-5)
    predicted = predict_video(load_run(run), cache, "bad/4.mp4")
    np.testing.assert_allclose(predicted.scores, stored["scores"][:160], atol=1e-6)


def test_what_does_not_fit_the_cache_is_refused(cache, tmp_path):
    checkpoint = save(published(dim=64), tmp_path / "a.pkl")
    with pytest.raises(ModelError, match=r"64 values.*has rgb \(32\); choose others"):
        import_released(checkpoint, cache, out=tmp_path / "r", streams=["rgb"])
    with pytest.raises(ModelError, match="knows 14 categories, 2 different ones"):
        import_released(checkpoint, cache, out=tmp_path / "r", categories=["a", "b"])
    assert not (tmp_path / "r").exists()
    import_released(checkpoint, cache, out=tmp_path / "r")
    with pytest.raises(ModelError, match="not empty"):
        import_released(checkpoint, cache, out=tmp_path / "r")
    info = load_checkpoint(tmp_path / "r").info
    assert info.train_videos == {}
    assert info.labels_sha256 == ""
