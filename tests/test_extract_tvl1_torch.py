"""TV-L1 in plain PyTorch: agrees with the compiled kernels, and keeps off the host."""

import numpy as np
import pytest
import torch
from test_extract_tvl1 import endpoint_errors, moving_square, texture

from extract.flow import tvl1_torch
from extract.flow.tvl1 import TVL1Config, tvl1_flow
from extract.flow.tvl1_torch import (
    median5,
    resize_linear,
    tvl1_flow_clips,
    tvl1_flow_torch,
    warp_cubic,
)

cv2 = pytest.importorskip("cv2", reason="opencv is the reference of these tests")


@pytest.fixture(autouse=True)
def one_thread():
    """These tensors are tiny: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(frames: np.ndarray, **options) -> np.ndarray:
    return tvl1_flow_torch(torch.from_numpy(frames), **options).numpy()


@pytest.mark.parametrize("size", [(48, 57), (17, 33), (64, 96)])
def test_agrees_with_the_numba_kernels(size):
    config = TVL1Config(num_warps=3)
    frames = moving_square(*size)
    flow = run(frames, config=config)
    assert flow.shape == (2, *size, 2)
    assert flow.dtype == np.float32
    errors = endpoint_errors(flow, tvl1_flow(frames, config=config))
    assert errors.mean() <= 0.02
    assert np.percentile(errors, 99) <= 0.15


@pytest.mark.parametrize("change", [{}, {"median_size": 1}, {"epsilon": 0.03}, {"theta": 0.2}])
def test_one_warp_agrees_to_rounding(change):
    config = TVL1Config(num_scales=2, num_warps=1, **change)
    frames = moving_square(40, 45)
    flow, expected = run(frames, config=config), tvl1_flow(frames, config=config)
    assert endpoint_errors(flow, expected).mean() < 1e-3


def test_how_often_the_host_looks_does_not_change_the_flow(monkeypatch):
    """Frozen pairs keep their state: the stopping rule is met exactly, not every few iterations."""
    frames = np.concatenate([moving_square(24, 30), texture(24, 30)[None].repeat(2, 0)])
    config = TVL1Config(num_scales=1, num_warps=2, outer_iterations=3)
    monkeypatch.setattr(tvl1_torch, "CPU_BATCH_SIZE", 4)
    expected = run(frames, config=config)
    for check_every in (1, 4, 30):
        monkeypatch.setattr(tvl1_torch, "CHECK_EVERY", check_every)
        np.testing.assert_array_equal(run(frames, config=config), expected)


def test_a_pair_does_not_depend_on_its_batch(monkeypatch):
    frames = np.concatenate([moving_square(24, 30, num_frames=3, seed=s) for s in range(2)])
    config = TVL1Config(num_scales=2, num_warps=2, outer_iterations=3)
    expected = np.concatenate([run(frames[i : i + 2], config=config) for i in range(5)])
    for size in (2, 64):
        monkeypatch.setattr(tvl1_torch, "CPU_BATCH_SIZE", size)
        np.testing.assert_allclose(run(frames, config=config), expected, atol=1e-5)


def test_clips_do_not_run_into_each_other():
    clips = np.stack([moving_square(24, 30, num_frames=3, seed=s) for s in range(2)])
    config = TVL1Config(num_scales=1, num_warps=1)
    flow = tvl1_flow_clips(torch.from_numpy(clips), config=config)
    assert flow.shape == (2, 2, 24, 30, 2)
    for found, clip in zip(flow.numpy(), clips, strict=True):
        np.testing.assert_array_equal(found, run(clip, config=config))


def test_identical_frames_do_not_move():
    np.testing.assert_array_equal(run(texture(32, 40)[None].repeat(3, 0)), 0)


def test_runs_in_inference_mode_and_out_of_it():
    frames = moving_square(18, 22, num_frames=2)
    with torch.inference_mode():
        first = run(frames)
    np.testing.assert_array_equal(run(frames), first)


def test_one_frame_has_no_flow():
    assert run(np.zeros((1, 20, 21), np.uint8)).shape == (0, 20, 21, 2)


def test_other_input_is_refused():
    with pytest.raises(ValueError, match="gray must be uint8"):
        run(np.zeros((2, 16, 16), np.float32))
    with pytest.raises(ValueError, match="gray must be uint8"):
        run(np.zeros((1, 2, 16, 16), np.uint8))
    with pytest.raises(ValueError, match="gray must be uint8"):
        run(np.zeros((2, 2, 16), np.uint8))


def test_looking_is_the_only_read_of_a_tensor(monkeypatch):
    """On meta a tensor made on another device, or a value read by the host, raises."""
    gray = torch.zeros((4, 20, 24), dtype=torch.uint8, device="meta")
    config = TVL1Config(num_scales=1, num_warps=1, outer_iterations=2, inner_iterations=6)
    monkeypatch.setattr(tvl1_torch, "CHECK_EVERY", 3)
    with pytest.raises(RuntimeError, match="meta"):
        tvl1_flow_torch(gray, config=config)
    looks = []
    monkeypatch.setattr(tvl1_torch, "_any_left", lambda active: looks.append(active) or True)
    flow = tvl1_flow_torch(gray, config=config)
    assert (flow.device.type, flow.shape) == ("meta", (3, 20, 24, 2))
    assert len(looks) == 4  # one batch, 2 outer loops of 6 iterations, a look every 3


def test_median_equals_opencvs():
    image = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))
    expected = [[cv2.medianBlur(plane, 5) for plane in planes] for planes in image.numpy()]
    np.testing.assert_array_equal(median5(image).numpy(), expected)


@pytest.mark.parametrize("spread", [0.8, 30.0])
def test_warp_equals_opencvs_remap(spread):
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (20, 26)).astype(np.float32)
    flow = rng.normal(0, spread, (2, 20, 26)).astype(np.float32)
    y, x = np.mgrid[:20, :26].astype(np.float32)
    expected = cv2.remap(image, x + flow[0], y + flow[1], cv2.INTER_CUBIC)
    ours = warp_cubic(torch.from_numpy(image)[None, None], torch.from_numpy(flow)[None])
    np.testing.assert_allclose(ours[0, 0].numpy(), expected, atol=2e-3)


@pytest.mark.parametrize("sizes", [((20, 26), (16, 21)), ((16, 21), (20, 26)), ((5, 4), (9, 9))])
def test_resizing_equals_opencvs(sizes):
    source, target = sizes
    image = np.random.default_rng(0).uniform(0, 255, source).astype(np.float32)
    expected = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
    steps = (source[0] / target[0], source[1] / target[1])
    ours = resize_linear(torch.from_numpy(image), target, steps)
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-4)


@pytest.mark.realdata
def test_agrees_with_the_numba_kernels_on_real_frames(shared_data):
    names = sorted((shared_data / "ped2/testing/frames/01").glob("*.jpg"))[60:63]
    frames = np.stack([cv2.imread(str(name), cv2.IMREAD_GRAYSCALE) for name in names])
    frames = np.ascontiguousarray(frames[:, ::2, ::2])
    errors = endpoint_errors(run(frames), tvl1_flow(frames))
    assert errors.mean() <= 0.02
