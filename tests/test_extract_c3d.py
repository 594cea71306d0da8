"""C3D: the network against a direct one, its weights in every format in use, the way to a run.

The network of these tests is narrow, but for one: 200 kB of weights instead of 245 MB.
"""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from scipy.ndimage import correlate
from test_extract_backbones import COLOUR

import extract.weights.c3d as c3d_weights
from cache import FeatureCache
from data.errors import ConfigError, WeightsError
from extract.backbones import BACKBONES, C3DBackbone
from extract.c3d import C3D, c3d_input
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig
from extract.weights.c3d import SHAPES, convert_c3d, expected_shapes
from extract.weights.resolve import load_state_dict, resolve_c3d
from feat import cli

pytestmark = pytest.mark.usefixtures("one_thread")

# the first two as wide as the fast convolution wants them
WIDTHS = dict(
    zip((name[:-7] for name in list(SHAPES)[:-2:2]), (16, 16, 3, 4, 5, 6, 4, 3), strict=True)
)
NARROW = expected_shapes(WIDTHS, 8)
CPU = torch.device("cpu")
State = dict[str, np.ndarray]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow(C3DBackbone):
        shape = (8,)

    monkeypatch.setattr(c3d_weights, "SHAPES", NARROW)
    monkeypatch.setitem(BACKBONES, "c3d", Narrow())


@pytest.fixture(scope="module")
def state() -> State:
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape).astype(np.float32)
        if len(shape) > 1
        else rng.normal(0, 0.1, shape).astype(np.float32)
        for name, shape in NARROW.items()
    }


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Frames that need no scaling."""
    return np.random.default_rng(1).integers(0, 256, (16, 128, 171, 3), dtype=np.uint8)


def pooled(x: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Caffe's max pooling (C, T, H, W): windows side by side, the last ones cut off by the edge."""
    rows = [range(0, n, step) for n, step in zip(x.shape[1:], size, strict=True)]
    out = np.empty((len(x), *map(len, rows)))
    for t, a in enumerate(rows[0]):
        for y, b in enumerate(rows[1]):
            for z, c in enumerate(rows[2]):
                window = x[:, a : a + size[0], b : b + size[1], c : c + size[2]]
                out[:, t, y, z] = window.max(axis=(1, 2, 3))
    return out


def reference_pool5(state: State, clip: np.ndarray) -> np.ndarray:
    """The last map (C, 1, 4, 4) float64, a convolution at a time, as Caffe's network."""
    crop = clip[:, 8 : 8 + 112, 29 : 29 + 112].astype(np.float64)
    blue, green, red = crop[..., 2] - 90.25, crop[..., 1] - 97.66, crop[..., 0] - 101.41
    x = np.stack([blue, green, red])
    for layer in WIDTHS:
        weight, bias = state[f"{layer}.weight"], state[f"{layer}.bias"]
        x = np.stack([
            sum(correlate(x[i], row[i].astype(np.float64), mode="constant") for i in range(len(x)))
            for row in weight
        ])  # fmt: skip
        x = np.maximum(x + bias[:, None, None, None], 0)
        if layer in ("conv1", "conv2", "conv3b", "conv4b", "conv5b"):
            x = pooled(x, (1, 2, 2) if layer == "conv1" else (2, 2, 2))
    return x


@pytest.fixture(scope="module")
def pool5(state: State, clip: np.ndarray) -> np.ndarray:
    return reference_pool5(state, clip)


def network(state: State, precision: str = "float32") -> C3D:
    return C3D({n: torch.from_numpy(a) for n, a in state.items()}, device=CPU, precision=precision)


@pytest.mark.parametrize("kernels", ["0", "1"])
def test_features_are_those_of_a_direct_network(
    state: State, clip: np.ndarray, pool5: np.ndarray, kernels: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("FEAT_KERNELS", kernels)
    assert pool5.shape == (3, 1, 4, 4)
    expected = np.maximum(state["fc6.weight"] @ pool5.reshape(-1) + state["fc6.bias"], 0)
    assert (expected > 0).any()
    assert (expected == 0).any()  # after the ReLU
    found = network(state)(torch.from_numpy(np.stack([clip, clip[::-1].copy()])))
    assert (found.shape, found.dtype) == ((2, 8), torch.float32)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-3 * expected.max())
    assert not np.allclose(found[1], expected, rtol=1e-2)
    rounded = network(state, "bfloat16")(torch.from_numpy(clip[None]))
    assert torch.cosine_similarity(rounded, found[:1]).item() > 0.999


def test_squashed_frames_get_their_proportions_back() -> None:
    """A picture of slopes, squashed to 224x224 as the decoder does, has the same slopes at 4:3."""
    y, x = (np.arange(224) + 0.5) / 224, (np.arange(224) + 0.5) / 224
    frame = np.stack(np.broadcast_arrays(250 * y[:, None], 250 * x[None], 40.0), axis=-1)
    clips = torch.from_numpy(np.rint(frame).astype(np.uint8))[None, None].expand(1, 16, -1, -1, -1)
    blue, green, red = c3d_input(clips)[0, :, 7].numpy()
    np.testing.assert_allclose(blue, 40 - 90.25, atol=1e-3)
    rows, columns = (np.arange(112) + 8.5) / 128, (np.arange(112) + 29.5) / 171
    np.testing.assert_allclose(red + 101.41, np.tile(250 * rows[:, None], 112), atol=0.8)
    np.testing.assert_allclose(green + 97.66, np.tile(250 * columns, (112, 1)), atol=0.8)


# --- formats of weights: each writer follows the source that is named, not our converter


def as_davidea(state: State, path: Path) -> None:
    """c3d.pickle: torch.save of the year 2017."""
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    tensors["fc7.weight"], tensors["fc8.bias"] = torch.zeros(3, 8), torch.zeros(3)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def as_mmaction(state: State, path: Path) -> None:
    """Its layers are conv1a and conv2a, each a module with a `conv`."""
    tensors = {}
    for name, array in state.items():
        layer, part = name.split(".")
        layer = {"conv1": "conv1a", "conv2": "conv2a"}.get(layer, layer)
        middle = "" if layer == "fc6" else "conv."
        tensors[f"backbone.{layer}.{middle}{part}"] = torch.from_numpy(array)
    torch.save(tensors, path)


def as_jfzhang(state: State, path: Path) -> None:
    """c3d-pretrained.pth: the places of layers among poolings and ReLUs."""
    places = dict(zip(WIDTHS, (0, 3, 6, 8, 11, 13, 16, 18), strict=True))
    tensors = {"classifier.3.weight": torch.zeros(3, 8)}
    for name, array in state.items():
        layer, part = name.split(".")
        place = "classifier.0" if layer == "fc6" else f"features.{places[layer]}"
        tensors[f"{place}.{part}"] = torch.from_numpy(array)
    torch.save(tensors, path)


def keras_arrays(state: State) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """As convert_caffe_model.py: kernels moved, fc6 a column at a time, (C, 4, 4) -> (4, 4, C)."""
    arrays = {}
    for layer in [*WIDTHS, "fc6"]:
        weight = state[f"{layer}.weight"]
        if layer == "fc6":
            columns = [row.reshape(-1, 4, 4).transpose(1, 2, 0).flatten() for row in weight]
            weight = np.stack(columns, axis=1)
        else:
            weight = np.transpose(weight, (2, 3, 4, 1, 0))
        arrays[layer] = weight, state[f"{layer}.bias"]
    return arrays


def as_keras_1(state: State, path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"conv1", b"pool1"]
        for layer, (weight, bias) in keras_arrays(state).items():
            file[f"{layer}/{layer}_W"], file[f"{layer}/{layer}_b"] = weight, bias
        file.create_group("pool1")


def as_keras_2(state: State, path: Path) -> None:
    with h5py.File(path, "w") as file:
        for layer, (weight, bias) in keras_arrays(state).items():
            part = file.create_group(f"model_weights/{layer}/{layer}")
            part["kernel:0"], part["bias:0"] = weight, bias


def as_caffe(state: State, path: Path) -> None:
    """Blobs of five axes under the names of the prototxt."""
    blobs = {}
    for name, array in state.items():
        layer, part = name.split(".")
        layer = {"conv1": "conv1a", "conv2": "conv2a", "fc6": "fc6-1"}.get(layer, layer)
        blobs[f"{layer}/{'W' if part == 'weight' else 'b'}"] = (
            array if array.ndim == 5 else array.reshape((1,) * (5 - array.ndim) + array.shape)
        )
    np.savez(path, **blobs)


def as_caffe_dict(state: State, path: Path) -> None:
    layers: dict[str, Any] = {
        layer: {"weights": state[f"{layer}.weight"], "biases": state[f"{layer}.bias"]}
        for layer in [*WIDTHS, "fc6"]
    }
    layers["conv4b"] = [layers["conv4b"]["weights"], layers["conv4b"]["biases"]]
    np.save(path, layers, allow_pickle=True)  # type: ignore[arg-type]


FORMATS = {
    "c3d.pickle": as_davidea,
    "c3d_sports1m_pretrain.pth": as_mmaction,
    "c3d-pretrained.pth": as_jfzhang,
    "sports1M_weights_tf.h5": as_keras_1,
    "C3D_keras_2.hdf5": as_keras_2,
    "conv3d_deepnetA.npz": as_caffe,
    "c3d.npy": as_caffe_dict,
}


def converted(path: Path) -> State:
    return convert_c3d(path, path.read_bytes())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_arrays(
    name: str, state: State, tmp_path: Path, narrow: None
) -> None:
    FORMATS[name](state, tmp_path / name)
    found = converted(tmp_path / name)
    assert list(found) == list(NARROW)
    for part, array in state.items():
        np.testing.assert_array_equal(found[part], array, strict=True)


def test_a_keras_network_gives_the_features_that_keras_gives(
    state: State, clip: np.ndarray, pool5: np.ndarray, tmp_path: Path, narrow: None
) -> None:
    """Keras flattens a map by height, width and channel; then x @ kernel + bias."""
    as_keras_1(state, tmp_path / "k.h5")
    kernel, bias = keras_arrays(state)["fc6"]
    expected = np.maximum(pool5[:, 0].transpose(1, 2, 0).flatten() @ kernel + bias, 0)
    found = network(converted(tmp_path / "k.h5"))(torch.from_numpy(clip[None]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3 * expected.max())


def test_kernels_in_theanos_order_are_refused(state: State, tmp_path: Path, narrow: None) -> None:
    with h5py.File(tmp_path / "th.h5", "w") as file:
        for name, array in state.items():
            layer, part = name.split(".")
            if part == "weight":
                array = array.T if layer == "fc6" else array[..., ::-1, ::-1]
            file[f"{layer}/{layer}_{'W' if part == 'weight' else 'b'}"] = array
    with pytest.raises(WeightsError, match=r"th\.h5: kernels in Theano's order.*weights_tf\.h5"):
        converted(tmp_path / "th.h5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc6.weight": None}, "no fc6.weight in it, expected C3D's conv1 to conv5b and fc6"),
        ({"conv3b.bias": np.zeros(5, np.float32)}, r"conv3b.bias has shape \(5,\), expected \(4,"),
        ({"conv2.bias": np.full(16, np.nan, np.float32)}, "conv2.bias holds NaN or infinite"),
        ({"m.conv2.bias": np.zeros(16, np.float32)}, "m.conv2.bias is a second conv2.bias"),
    ],
)
def test_another_network_is_refused_in_one_line(
    change: State, message: str, state: State, tmp_path: Path, narrow: None
) -> None:
    changed = {**state, **change}
    np.savez(tmp_path / "w.npz", **{n: a for n, a in changed.items() if a is not None})
    with pytest.raises(WeightsError, match=message) as refused:
        converted(tmp_path / "w.npz")
    assert "\n" not in str(refused.value)
    assert str(tmp_path / "w.npz") in str(refused.value)


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", [*FORMATS, "x.safetensors", "x.caffemodel"])
def test_damaged_and_hostile_files_run_nothing(
    name: str, state: State, tmp_path: Path, narrow: None
) -> None:
    FORMATS.get(name, as_davidea)(state, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    evil = pickle.dumps(_Evil(tmp_path / "ran"), protocol=2)
    head = content[: 10 + int.from_bytes(content[8:10], "little")] if name == "c3d.npy" else b""
    for bad in (content[: len(content) // 2], b"", b"x" * 300, head + evil):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(WeightsError) as refused:
            converted(tmp_path / name)
        assert str(refused.value).startswith(str(tmp_path / name))
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


# --- which weights, and what says so


def feat(*arguments: object, cwd: Path) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setenv("FEAT_WEIGHTS", str(cwd / "weights"))
        return CliRunner().invoke(cli, [str(each) for each in arguments])


def test_without_weights_extract_says_which_file_and_which_command(
    tmp_path: Path, make_video: Any
) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=20)
    refused = feat("extract", "videos", "--streams", "c3d", cwd=tmp_path)
    assert refused.exit_code == 1
    (line,) = refused.stderr.splitlines()
    assert "c3d.pickle" in line
    assert "github.com/DavideA/c3d-pytorch" in line
    assert "feat weights fetch --stream c3d --from FILE" in line
    assert feat("weights", "fetch", "--stream", "c3d", cwd=tmp_path).exit_code == 1
    listed = feat("weights", "ls", cwd=tmp_path).stdout
    assert "c3d  missing; looked for c3d-*.safetensors" in listed
    assert "only --streams c3d needs them" in listed


def test_of_several_weights_one_must_be_named(
    state: State, tmp_path: Path, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights"
    monkeypatch.setenv("FEAT_WEIGHTS", str(folder))
    as_davidea(state, tmp_path / "a.pickle")
    as_caffe(state, tmp_path / "b.npz")
    a = resolve_c3d(str(tmp_path / "a.pickle"))
    assert a.digest == hashlib.sha256((tmp_path / "a.pickle").read_bytes()).hexdigest()
    assert (a.kind, a.name) == ("file", f"file:{a.digest[:16]}")
    assert a.path == folder / f"c3d-{a.digest[:16]}.safetensors"
    assert resolve_c3d() == a
    b = resolve_c3d(str(tmp_path / "b.npz"))
    with pytest.raises(WeightsError, match=r"found c3d-.*, c3d-.*name one with --c3d-weights"):
        resolve_c3d()
    # features that were begun with one of them go on with it
    assert resolve_c3d(present=[{"weights": {"digest": b.digest}}]) == b
    assert resolve_c3d(recorded=a) == a
    a.path.unlink()
    with pytest.raises(WeightsError, match=f"no c3d weights of sha256 {a.digest}.*--from FILE"):
        resolve_c3d(recorded=a)
    np.testing.assert_array_equal(load_state_dict(b)["fc6.weight"], state["fc6.weight"])


def test_frames_that_c3d_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"clip_len: found 32, c3d takes 16$"):
        ExtractConfig(streams=("c3d",), clip_len=32)
    with pytest.raises(ConfigError, match="resize: found crop, c3d takes frames of squash: leave"):
        ExtractConfig(streams=("rgb", "c3d"), decode=DecodeConfig(resize="crop"))
    with pytest.raises(ConfigError, match="found short-side, c3d takes frames of squash"):
        ExtractConfig(streams=("c3d",), decode=DecodeConfig(resize="short-side"), crops=10)


@pytest.mark.slow
def test_its_features_train_and_predict_as_any_stream(
    state: State, tmp_path: Path, make_video: Any, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "colour", COLOUR)  # type: ignore[arg-type]
    rows = ["video,split,category,anomaly"]
    for index in range(4):
        make_video(tmp_path / "videos" / f"{index}.mp4", num_frames=40 + index)
        split, anomaly = "train" if index < 2 else "test", "0:16" if index % 2 else ""
        rows.append(f"{index}.mp4,{split},,{anomaly}")
    (tmp_path / "videos" / "labels.csv").write_text("\n".join(rows) + "\n")
    as_keras_1(state, tmp_path / "sports1M_weights_tf.h5")
    options = ("--from", "sports1M_weights_tf.h5")
    fetched = feat("weights", "fetch", "--stream", "c3d", *options, cwd=tmp_path)
    assert fetched.exit_code == 0, fetched.output
    assert "c3d  found; looked for c3d-*.safetensors" in fetched.stdout
    how = ("--device", "cpu", "--workers", 1)
    extracted = feat("extract", "videos", "--streams", "c3d,colour", *how, cwd=tmp_path)
    assert extracted.exit_code == 0, extracted.output
    cache = FeatureCache(tmp_path / "features")
    record = cache.find("0.mp4", "c3d")
    digest = hashlib.sha256((tmp_path / "sports1M_weights_tf.h5").read_bytes()).hexdigest()
    assert record.config["weights"] == {
        "kind": "file", "name": f"file:{digest[:16]}", "digest": digest,
    }  # fmt: skip
    assert record.config["network"]["layer"] == "fc6 after ReLU"
    features = cache.read("0.mp4", "c3d")
    assert features.shape == (3, 8)  # 40 frames: the last clip's last frame is repeated
    assert (features >= 0).all()
    assert np.ptp(features, axis=0).max() > 0
    train = ("train", "--method", "shuffled", "--streams", "c3d", "--out", "run")
    trained = feat(*train, cwd=tmp_path)
    assert trained.exit_code == 0, trained.output
    evaluated = feat("eval", "--run", "run", "--json", cwd=tmp_path)
    assert evaluated.exit_code == 0, evaluated.output
    make_video(tmp_path / "new.mp4", num_frames=50)
    predicted = feat("predict", "new.mp4", "--run", "run", "--json", "--device", "cpu",
                     cwd=tmp_path)  # fmt: skip
    assert predicted.exit_code == 0, predicted.output
    assert json.loads(predicted.stdout)["videos"]
    kept = FeatureCache(tmp_path / "predict-features").read("new.mp4", "c3d")
    assert kept.shape == (4, 8)


@pytest.mark.slow
def test_the_published_size_runs() -> None:
    generator = torch.Generator().manual_seed(0)
    full = {
        name: torch.randn(shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        if len(shape) > 1
        else torch.zeros(shape)
        for name, shape in SHAPES.items()
    }
    assert sum(array.numel() for array in full.values()) == 61_214_464
    clips = torch.randint(0, 256, (1, 16, 224, 224, 3), dtype=torch.uint8, generator=generator)
    features = C3D(full, device=CPU, precision="float32")(clips)
    assert features.shape == (1, 4096)
    assert 0.3 < (features > 0).float().mean() < 0.7
