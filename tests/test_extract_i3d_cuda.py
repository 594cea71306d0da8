"""I3D on a GPU: its Triton kernels, here in Triton's interpreter, and the network on a card."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from marks import quick_first
from test_extract_i3d import made_up_state, relative_error, rgb_state  # noqa: F401 - a fixture
from torch import Tensor

from extract.i3d.folded import FoldedI3D
from extract.i3d.layers import MIXED, Triple
from extract.i3d.network import I3D
from extract.i3d.prepared import prepare_network
from extract.i3d.same import max_pool_same, pad_same

pytest.importorskip("triton")
triton_kernels = importlib.import_module("extract.i3d.triton_kernels")
cuda = importlib.import_module("extract.i3d.cuda")

pytestmark = pytest.mark.usefixtures("one_thread")

HALF, BRAIN, PAIRS = (cuda.FORMATS[name] for name in ("float16", "bfloat16", "float32"))
# Errors of a convolution beside the sum of its terms' sizes; Triton's interpreter has no bfloat16
BOUNDS = {HALF: 2**-10, PAIRS: 2**-20}
# relative errors of features: where 4 of 5 digits are asked for, 22 bits have them
ERRORS = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 3e-2}
POOLS = [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)),
         ((3, 3, 3), (1, 1, 1))]  # fmt: skip


@pytest.fixture
def interpreted() -> Iterator[None]:
    """The kernels as Python, on the CPU, for this test alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        importlib.reload(triton_kernels)
        yield
    importlib.reload(triton_kernels)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def channels_first(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


# --- numbers


def test_pairs_of_float16_hold_22_bits() -> None:
    values = torch.cat([drawn(1000) * 10.0**power for power in range(-3, 5)])
    pairs = cuda.split(values, PAIRS)
    assert pairs.dtype == torch.float16
    error = (cuda.join(pairs).double() - values).abs()
    assert (error <= values * 2.0**-22 + 2.0**-36).all()


def test_full_widths_leave_every_map_of_a_block_a_multiple_of_32_channels() -> None:
    for widths in MIXED.values():
        w0, w1, w1b, w2, w2b, w3 = full = cuda.full_widths(widths)
        assert w1 % 32 == w2 % 32 == (w0 + w1b + w2b + w3) % 32 == 0
        assert all(0 <= more - width < 32 for more, width in zip(full, widths, strict=True))


# --- kernels


@pytest.mark.parametrize("form", BOUNDS)
@pytest.mark.parametrize(
    ("kernel", "size", "depth", "num_outputs"),
    [
        (1, (2, 3, 5, 7), 32, 8),  # 210 cells: a whole block and a part of one
        (3, (1, 3, 5, 7), 32, 72),
        (3, (1, 1, 1, 1), 64, 64),
        (3, (1, 2, 1, 4), 64, 24),
    ],
)
def test_convolution_is_torchs(
    kernel: int,
    size: tuple[int, ...],
    depth: int,
    num_outputs: int,
    form: Any,
    interpreted: None,
) -> None:
    weight = drawn(num_outputs, kernel, kernel, kernel, depth) - 0.5
    weight *= 10.0 ** torch.arange(-3, 3).repeat(num_outputs)[:num_outputs].view(-1, 1, 1, 1, 1)
    weight[0] = 0
    bias = drawn(num_outputs, seed=1)
    conv = cuda.TritonConv(weight, bias, form, padding=kernel // 2)
    x = cuda.split(drawn(*size, depth, seed=2), form)
    values, filters = channels_first(cuda.join(x).double()), channels_first(weight)
    expected = F.conv3d(values, filters, bias, padding=kernel // 2).relu()
    terms = F.conv3d(values, filters.abs(), bias, padding=kernel // 2)
    errors = (channels_first(cuda.join(conv(x))) - expected).abs()
    assert (errors <= BOUNDS[form] * terms).all()


@pytest.mark.parametrize("form", [HALF, PAIRS])
def test_convolution_of_some_channels_into_some_channels(form: Any, interpreted: None) -> None:
    """What is beside them is neither read nor written."""
    weight, bias = drawn(16, 3, 3, 3, 32) - 0.5, drawn(16, seed=1)
    conv = cuda.TritonConv(weight, bias, form, padding=1)
    x = torch.full((form.parts, 1, 2, 3, 4, 96), torch.nan, dtype=form.dtype)
    x[..., 32:64] = cuda.split(drawn(1, 2, 3, 4, 32), form)
    out = torch.full((form.parts, 1, 2, 3, 4, 48), 7.0, dtype=form.dtype)
    conv(x[..., 32:64], out[..., 8:24])
    assert torch.equal(out[..., 8:24], conv(x[..., 32:64].contiguous()))
    assert (out[..., :8] == 7).all()
    assert (out[..., 24:] == 7).all()


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value")
@pytest.mark.parametrize("form", [HALF, PAIRS])
def test_what_is_no_number_stays_none(form: Any, interpreted: None) -> None:
    conv = cuda.TritonConv(torch.ones(8, 1, 1, 1, 32), torch.zeros(8), form, padding=0)
    x = torch.full(
        (form.parts, 1, 1, 2, 2, 32), 60000.0, dtype=form.dtype
    )  # the sum exceeds float16
    assert not cuda.join(conv(x)).isfinite().any()
    x[0, 0, 0, 0, 0, 0] = torch.nan
    found = cuda.join(conv(x))[0, 0]
    assert found[0, 0].isnan().all()
    pooled = cuda.max_pool(x, (1, 3, 3), (1, 2, 2))
    assert cuda.join(pooled)[0, 0, 0, 0, 0].isnan()


@pytest.mark.parametrize("form", [BRAIN, PAIRS])
@pytest.mark.parametrize("pool", quick_first([(pool,) for pool in POOLS]))
def test_pools_are_torchs(pool: tuple[Triple, Triple], form: Any, interpreted: None) -> None:
    for seed, size in enumerate([(1, 2, 5, 3, 72), (1, 1, 1, 1, 8)]):
        x = cuda.split(drawn(*size, seed=seed), form)
        expected = max_pool_same(channels_first(cuda.join(x)), *pool)
        assert torch.equal(channels_first(cuda.join(cuda.max_pool(x, *pool))), expected)


@pytest.mark.parametrize("form", [HALF, PAIRS])
@pytest.mark.parametrize(
    ("channels", "size"), quick_first([(2, (3, 5, 7)), (3, (2, 4, 6)), (3, (1, 1, 1))])
)
def test_first_convolution_is_torchs(
    size: Triple, channels: int, form: Any, interpreted: None
) -> None:
    """Of float32 clips of any layout, and of frames as bytes."""
    weight, bias = drawn(8, channels, 7, 7, 7) - 0.5, drawn(8, seed=1)
    stem = cuda.TritonStem(weight, bias, form)
    frames = (drawn(2, *size, channels, seed=2) * 256).to(torch.uint8).movedim(-1, 1)
    clips = frames.float().contiguous() / 127.5 - 1
    padded = pad_same(frames.double() / 127.5 - 1, (7, 7, 7), (2, 2, 2), 0.0)
    expected = F.conv3d(padded, weight, bias, stride=2).relu()
    for given_clips in (frames, clips):
        found = channels_first(cuda.join(stem(given_clips)))
        assert relative_error(found, expected) < BOUNDS[form]


@pytest.mark.slow
def test_blocks_are_the_plain_networks(interpreted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whose map between them is filled up with zeros."""
    monkeypatch.setattr(cuda, "BLOCK", {"BLOCK_M": 16, "BLOCK_N": 512})  # for a map of few cells
    state = made_up_state("flow")
    network = cuda.TritonI3D(state, "flow", device=torch.device("cpu"), precision="float32")
    plain = I3D.from_state_dict(state, "flow").double()
    x = drawn(1, 1, 1, 3, 512)
    with torch.inference_mode():
        expected = plain.mixed4f(plain.mixed4e(channels_first(x)))
        between = network._mixed(cuda.split(x, PAIRS), "mixed4e")
        found = channels_first(cuda.join(network._mixed(between, "mixed4f")))
    assert between.shape[-1] == 544
    assert (between[..., 528:] == 0).all()
    assert relative_error(found, expected) < 2e-6


# --- on a card


def on_card(test: Callable[..., None]) -> Callable[..., None]:
    absent = not torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(absent, reason="no CUDA device")(test))


def exact_features(state: dict[str, Tensor], stream: str, clips: Tensor) -> Tensor:
    """The plain network's in float64, one clip after the other."""
    network = I3D.from_state_dict(state, stream).double().to(clips.device)
    with torch.inference_mode():
        return torch.cat([network.extract_features(clip[None].double()) for clip in clips])


def smooth_frames(num_clips: int) -> Tensor:
    """Moving frames (B, 3, 16, 224, 224) uint8 without noise, the last clip a still."""
    small = drawn(num_clips, 3, 4, 7, 7).float()
    small[-1] = small[-1, :, :1]
    frames = F.interpolate(small, (16, 224, 224), mode="trilinear", align_corners=True)
    return (frames * 255).round().to(torch.uint8)


@pytest.fixture(scope="module", params=["published", "made up"])
def exact(request: pytest.FixtureRequest) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights, frames and the plain network's features of them."""
    state = made_up_state() if request.param == "made up" else request.getfixturevalue("rgb_state")
    noise = (drawn(1, 3, 16, 224, 224) * 256).to(torch.uint8)
    frames = torch.cat([noise, smooth_frames(2)])
    return state, frames, exact_features(state, "rgb", frames.double() / 127.5 - 1)


@on_card
@pytest.mark.parametrize(("precision", "bound"), ERRORS.items())
def test_features_of_a_card_are_the_plain_networks_on_the_cpu(
    exact: tuple[dict[str, Tensor], Tensor, Tensor], precision: str, bound: float
) -> None:
    state, frames, expected = exact
    network = prepare_network(state, "rgb", device="cuda", precision=precision)
    assert isinstance(network, cuda.TritonI3D)
    for clips in (frames, frames.float() / 127.5 - 1):
        features = network(clips.cuda()).cpu()
        for found, right in zip(features, expected, strict=True):
            assert relative_error(found, right) < bound


@on_card
@pytest.mark.parametrize("precision", ERRORS)
def test_the_places_of_a_card_have_the_features_for_their_mean(precision: str) -> None:
    frames = (drawn(2, 3, 16, 224, 224) * 256).to(torch.uint8).cuda()
    features, places = (
        prepare_network(
            made_up_state(), "rgb", device="cuda", precision=precision, feature_map=kept
        )(frames)
        for kept in (False, True)
    )
    assert places.shape == (2, 49, 1024)
    torch.testing.assert_close(places.mean(dim=1), features, rtol=1e-5, atol=1e-6)


@on_card
@pytest.mark.parametrize(("precision", "bound"), ERRORS.items())
def test_flow_clips_of_any_size_and_length(precision: str, bound: float) -> None:
    """By the same few compiled kernels."""
    state = made_up_state("flow")
    network = prepare_network(state, "flow", device="cuda", precision=precision)
    network(torch.zeros(2, 2, 16, 64, 64, device="cuda"))
    compiled = triton_kernels.convolve.device_caches[torch.cuda.current_device()][0]
    num_compiled = len(compiled)
    for size in [
        (1, 16, 224, 224),
        (3, 17, 57, 35),
        (1, 8, 1, 1),
        (2, 33, 100, 231),
        (5, 64, 9, 7),
    ]:
        batch, num_frames, height, width = size
        clips = (drawn(batch, num_frames, height, width, 2) * 2 - 1).float().movedim(-1, 1).cuda()
        expected = exact_features(state, "flow", clips)
        assert relative_error(network(clips), expected) < bound
    assert len(compiled) == num_compiled


@on_card
@pytest.mark.parametrize("precision", ERRORS)
def test_a_clips_features_are_the_same_in_every_batch(precision: str) -> None:
    network = prepare_network(made_up_state(), "rgb", device="cuda", precision=precision)
    frames = (drawn(64, 3, 16, 112, 112) * 256).to(torch.uint8).cuda()
    whole = network(frames)
    for first, last in [(0, 1), (0, 2), (1, 4), (4, 12), (12, 64)]:
        assert torch.equal(network(frames[first:last]), whole[first:last])


@on_card
def test_plain_operators_compute_where_kernels_are_not_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEAT_KERNELS", "0")
    state = made_up_state()
    plain = prepare_network(state, "rgb", device="cuda", precision="float32")
    assert type(plain) is FoldedI3D
    monkeypatch.setenv("FEAT_KERNELS", "1")
    frames = (drawn(2, 3, 16, 64, 64) * 256).to(torch.uint8).cuda()
    network = prepare_network(state, "rgb", device="cuda", precision="float32")
    assert relative_error(network(frames), plain(frames)) < 1e-5
