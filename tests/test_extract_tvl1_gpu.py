"""TV-L1 in Triton's kernels: on a card, and here in Triton's interpreter, equal to the CPU's."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from test_extract_tvl1 import moving_square, texture

from extract.flow.places import linear_places
from extract.flow.tvl1 import TVL1Config, tvl1_flow
from extract.flow.tvl1_torch import tvl1_flow_clips, tvl1_flow_torch
from extract.kernels.simd import FUSED

pytest.importorskip("triton", reason="Triton is the language of these kernels")

# Triton must be told of its interpreter before it is loaded, hence in a process of its own. The
# tiles are small, so that a pair has several of them.
INTERPRETED = """
import sys
import numpy as np, torch
from extract.flow import tvl1_gpu
from extract.flow.tvl1 import TVL1Config

tvl1_gpu.ROUNDS, tvl1_gpu.PIXEL_PROGRAMS, tvl1_gpu.BLOCK, tvl1_gpu.STAGES = 1, (1, 1), 1024, 3
tvl1_gpu.MIN_ROWS = 12
gray = torch.from_numpy(np.load(sys.argv[1]))
config = TVL1Config(num_scales=2, num_warps=1, outer_iterations=2, inner_iterations=2, epsilon=0.15)
solver = tvl1_gpu.PairSolver(3, 3, *gray.shape[1:], config, gray.device)
flow = solver.solve(gray, torch.tensor([0, 1], dtype=torch.int32))
np.savez(sys.argv[2], flow=flow, iterations=solver.iterations)
"""
CONFIG = TVL1Config(num_scales=2, num_warps=1, outer_iterations=2, inner_iterations=2, epsilon=0.15)


def interpreted(gray: np.ndarray, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    np.save(folder / "gray.npy", gray)
    files = [str(folder / name) for name in ("gray.npy", "result.npz")]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": root}
    subprocess.run([sys.executable, "-c", INTERPRETED, *files], check=True, env=environment)
    with np.load(files[1]) as found:
        return found["flow"], found["iterations"]


@pytest.mark.slow
def test_pairs_at_their_own_pace_give_the_cpus_flow(tmp_path):
    """A moving pair and a still one need different numbers of rounds."""
    first, second = moving_square(20, 27, num_frames=2)
    gray = np.stack([first, second, second])
    flow, iterations = interpreted(gray, tmp_path)
    expected = tvl1_flow(gray, config=CONFIG)
    counts = iterations.sum((0, 1))
    assert counts[1] < counts[0]  # a still pair stops at once
    assert counts[2] == 0  # there was no third
    for found, wanted in zip(flow, expected, strict=True):
        if FUSED:
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("sizes", [(20, 16), (16, 20), (1, 3), (7, 1), (224, 179)])
def test_places_lie_where_opencv_takes_them_from(sizes):
    """Linear weights reproduce a ramp, and the border repeats its last pixel."""
    size, new_size = sizes
    first, weight = linear_places(size, new_size, size / new_size)
    position = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    ramp = first.numpy() + weight.numpy()
    np.testing.assert_allclose(ramp, position.clip(0, size - 1), atol=1e-5)
    assert first.min() >= 0
    assert first.max() <= size - 1


def on_card(gray: np.ndarray, **options) -> np.ndarray:
    return tvl1_flow_torch(torch.from_numpy(gray).cuda(), **options).cpu().numpy()


needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize(
    "size", [(3, 3), (4, 70), (16, 16), (17, 300), (301, 19), (64, 26), (240, 321), (600, 1000)]
)
def test_a_card_gives_the_cpus_flow_bit_for_bit(size):
    frames = (
        moving_square(*size, num_frames=3) if min(size) >= 16 else texture(3 * size[0], size[1])
    )
    gray = np.ascontiguousarray(frames.reshape(-1, *size))
    np.testing.assert_array_equal(on_card(gray), tvl1_flow(gray, num_threads=8))


@pytest.mark.gpu
@needs_card
@pytest.mark.parametrize(
    "change",
    [
        {"median_size": 1},
        {"epsilon": 0.05, "inner_iterations": 7},
        {"num_warps": 1, "num_scales": 1, "inner_iterations": 1, "outer_iterations": 1},
        {"theta": 0.2, "lambda_": 0.3, "tau": 0.2, "scale_step": 0.6},
    ],
)
def test_a_card_takes_every_parameter(change):
    gray, config = moving_square(60, 75, num_frames=4), TVL1Config(**change)
    np.testing.assert_array_equal(on_card(gray, config=config), tvl1_flow(gray, config=config))


@pytest.mark.gpu
@needs_card
def test_noise_a_cut_and_a_still_picture_on_a_card():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (5, 64, 80), dtype=np.uint8)
    moving = moving_square(64, 80, num_frames=5)
    cut = np.concatenate([moving[:2], noise[:1], moving[:2]])
    clips = np.stack([noise, moving, cut, moving[:1].repeat(5, 0)])
    found = tvl1_flow_clips(torch.from_numpy(clips).cuda()).cpu().numpy()
    for flow, clip in zip(found, clips, strict=True):
        np.testing.assert_array_equal(flow, tvl1_flow(clip, num_threads=4))


@pytest.mark.gpu
@needs_card
def test_more_pairs_than_are_solved_at_once(monkeypatch):
    monkeypatch.setattr("extract.flow.tvl1_gpu.MOST_PAIRS", 16)
    gray = moving_square(32, 40, num_frames=38)
    np.testing.assert_array_equal(on_card(gray), tvl1_flow(gray, num_threads=8))
    pairs = np.stack([gray[i : i + 2] for i in range(30)])  # as many frames as twice the pairs
    found = tvl1_flow_clips(torch.from_numpy(pairs).cuda()).cpu().numpy()[:, 0]
    np.testing.assert_array_equal(found, tvl1_flow(gray, num_threads=8)[:30])


@pytest.mark.gpu
@needs_card
def test_threads_on_a_card_do_not_disturb_each_other():
    runs = [moving_square(40 + seed, 50, num_frames=5, seed=seed) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        for found, gray in zip(pool.map(on_card, runs), runs, strict=True):
            np.testing.assert_array_equal(found, tvl1_flow(gray, num_threads=4))


@pytest.mark.gpu
@needs_card
def test_no_pairs_on_a_card():
    assert on_card(np.zeros((1, 20, 21), np.uint8)).shape == (0, 20, 21, 2)
    none = torch.zeros((0, 3, 20, 21), dtype=torch.uint8, device="cuda")
    assert tvl1_flow_clips(none).shape == (0, 2, 20, 21, 2)


@pytest.mark.gpu
@needs_card
def test_the_plain_twin_agrees_with_the_kernels(monkeypatch):
    gray = moving_square(60, 75, num_frames=4)
    found = on_card(gray)
    monkeypatch.setenv("FEAT_KERNELS", "0")
    plain = on_card(gray)
    assert np.linalg.norm(found - plain, axis=-1).mean() <= 0.02
