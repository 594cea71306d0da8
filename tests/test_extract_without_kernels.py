"""Extraction in plain PyTorch and NumPy: as with the compiled kernels, and without numba."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from test_extract_tvl1 import moving_square

from data.errors import ConfigError
from data.kernels import _obstacle, use_triton
from data.videos import VideoSource
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig
from extract.flow.tvl1 import TVL1Config, rgb_to_gray
from extract.flow.tvl1_torch import tvl1_flow_torch
from extract.kernels.choice import use_kernels
from extract.pipeline import Extractor
from extract.weights.resolve import resolve_weights

pytestmark = pytest.mark.usefixtures("one_thread")

STREAMS = ("rgb", "flow")
ROOT = Path(__file__).parent.parent
# small frames and few iterations: plain flow takes a minute for a clip of 224x224
SMALL = ExtractConfig(
    decode=DecodeConfig(size=64), tvl1=TVL1Config(num_scales=3, num_warps=2, outer_iterations=3)
)


def features(source: VideoSource, weights: Path) -> dict[str, np.ndarray]:
    resolved = {
        stream: resolve_weights(stream, rgb=str(weights), flow="crossmodal") for stream in STREAMS
    }
    one = Extractor(SMALL, resolved, device="cpu", num_threads=2)
    return one.extract(source, STREAMS, stage_seconds={}).arrays


@pytest.mark.slow
def test_features_without_kernels_are_those_with_them(
    make_video, tmp_path: Path, random_rgb_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-5 of a feature's length for RGB; to 1e-3 where flow, which iterates, goes before."""
    path = make_video(tmp_path / "a.mp4", num_frames=18)
    source = VideoSource(video_id="a.mp4", path=path, kind="file")
    monkeypatch.setenv("FEAT_KERNELS", "1")
    expected = features(source, random_rgb_weights)
    monkeypatch.setenv("FEAT_KERNELS", "0")
    found = features(source, random_rgb_weights)
    for stream, tolerance in (("rgb", 1e-5), ("flow", 1e-3)):
        assert found[stream].shape == expected[stream].shape == (2, 1024)
        lengths = np.linalg.norm(expected[stream], axis=1)
        errors = np.linalg.norm(found[stream] - expected[stream], axis=1)
        assert (errors <= tolerance * lengths).all()
        assert (errors > 0).all()  # it is another arithmetic
    np.testing.assert_allclose(found["flow_stats"], expected["flow_stats"], rtol=0.05, atol=0.02)


@pytest.mark.slow
def test_extraction_runs_where_numba_cannot_be_imported(
    make_video, tmp_path: Path, random_rgb_weights: Path
) -> None:
    """In the command and in its two workers; one line says so."""
    for name in ("a", "b"):
        make_video(tmp_path / "videos" / f"{name}.mp4", num_frames=12 + ord(name) % 2)
    absent = tmp_path / "absent"
    for package in ("numba", "llvmlite"):
        (absent / package).mkdir(parents=True)
        text = f"raise ModuleNotFoundError('no {package} here')\n"
        (absent / package / "__init__.py").write_text(text)
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from extract.config import ExtractConfig\n"
        "from extract.decode.config import DecodeConfig\n"
        "from extract.devices import Resources\n"
        "from extract.flow.tvl1 import TVL1Config\n"
        "from extract.run.runner import run_extraction\n"
        "videos, cache, weights = map(Path, sys.argv[1:])\n"
        "flow = TVL1Config(num_warps=1, outer_iterations=1)\n"
        "config = ExtractConfig(decode=DecodeConfig(size=32), tvl1=flow)\n"
        "report = run_extraction(videos, cache, config,\n"
        "                        weights={'rgb': str(weights), 'flow': 'crossmodal'},\n"
        "                        resources=Resources(device='cpu', workers=2, threads=2))\n"
        "assert report.done == 2, report.to_text()\n"
    )
    folders = (tmp_path / "videos", tmp_path / "cache")
    done = subprocess.run(
        [sys.executable, "-c", program, *folders, random_rgb_weights],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{absent}:{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("kernels cannot be imported (no llvmlite here)") == 1
    assert done.stderr.count("\n") <= 3, done.stderr  # the weights' own two lines beside it


@pytest.mark.parametrize(
    ("value", "expected"), [(None, True), ("", True), ("1", True), ("0", False)]
)
def test_the_environment_chooses(
    value: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEAT_KERNELS", raising=False)
    if value is not None:
        monkeypatch.setenv("FEAT_KERNELS", value)
    assert use_kernels() is expected


def test_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEAT_KERNELS", "off")
    with pytest.raises(ConfigError, match=r"FEAT_KERNELS: found off, expected 1 .* or 0"):
        use_kernels()


@pytest.fixture
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FEAT_KERNELS", "1")
    _obstacle.cache_clear()
    yield
    _obstacle.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_triton_is_not_asked(
    asked_anew: None, caplog: pytest.LogCaptureFixture
) -> None:
    assert not any(use_triton(torch.device(name)) for name in ("cpu", "meta", "cuda", "cuda:0"))
    assert len(caplog.messages) == 1  # one GPU, said once
    assert "no Triton kernels for the GPU (PyTorch finds none)" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("capability", "cause"),
    # a recent one still has no driver that Triton could talk to
    [((7, 5), "compute capability 7.5, 8.0 is needed"), ((9, 0), "gcc and python3-dev")],
)
def test_a_gpu_that_triton_cannot_compile_for_is_said_to_be_slow(
    capability: tuple[int, int], cause: str, asked_anew: None,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    assert not use_triton(torch.device("cuda:1"))
    assert cause in caplog.text
    assert "a hundred times as long" in caplog.text


def test_gray_is_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 160, 161, 3), dtype=np.uint8)
    monkeypatch.setenv("FEAT_KERNELS", "1")
    expected = rgb_to_gray(frames)
    monkeypatch.setenv("FEAT_KERNELS", "0")
    np.testing.assert_array_equal(rgb_to_gray(frames), expected)


def test_threads_that_solve_pairs_of_one_size_do_not_disturb_each_other() -> None:
    config = TVL1Config(num_scales=2, num_warps=2, outer_iterations=2)
    runs = [torch.from_numpy(moving_square(48, 57, num_frames=3, seed=seed)) for seed in range(4)]
    alone = [tvl1_flow_torch(run, config=config) for run in runs]
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda run: tvl1_flow_torch(run, config=config), runs)
        for found, expected in zip(together, alone, strict=True):
            assert torch.equal(found, expected)
