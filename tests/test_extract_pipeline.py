"""The pipeline of one video: order, threads, checkpoints, and the whole path of a GPU on meta."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import extract.flow.tvl1_torch
import extract.pipeline
from data.errors import FeatError
from data.videos import VideoSource
from extract.config import DEFAULT_STREAMS, ExtractConfig
from extract.decode.config import DecodeConfig
from extract.flow.gray_torch import rgb_to_gray_torch
from extract.flow.tvl1 import TVL1Config, rgb_to_gray
from extract.pipeline import Extractor
from extract.streaming import VideoFeatures
from extract.weights.resolve import resolve_weights

# small frames and few of the iterations: nothing here is about the features' accuracy
QUICK = ExtractConfig(
    decode=DecodeConfig(size=64),
    tvl1=TVL1Config(num_warps=1, outer_iterations=1, inner_iterations=3),
)

pytestmark = pytest.mark.usefixtures("one_thread")  # as `extract.run.worker` sees to


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, make_video) -> VideoSource:
    path = make_video(tmp_path_factory.mktemp("video") / "a.mp4", num_frames=38)
    return VideoSource(video_id="a.mp4", path=path, kind="file")


def extractor(weights: Path, *, num_threads: int, device: str = "cpu") -> Extractor:
    resolved = {
        stream: resolve_weights(stream, rgb=str(weights), flow="crossmodal")
        for stream in DEFAULT_STREAMS
    }
    return Extractor(QUICK, resolved, device=device, num_threads=num_threads)


def test_any_number_of_threads_gives_the_same_bits(
    video: VideoSource, random_rgb_weights: Path
) -> None:
    runs = {}
    for num_threads in (1, 3):
        seconds: dict[str, float] = {}
        one = extractor(random_rgb_weights, num_threads=num_threads)
        runs[num_threads] = one.extract(video, DEFAULT_STREAMS, stage_seconds=seconds)
        assert set(seconds) == {"decode", "flow", "network"}
        assert all(value > 0 for value in seconds.values())
    for name in ("rgb", "flow", "flow_stats"):
        np.testing.assert_array_equal(runs[1].arrays[name], runs[3].arrays[name])
        assert len(runs[1].arrays[name]) == 3  # 38 frames: two clips and a tail
    # the drawn frames differ, so rows in a wrong order would not go unseen
    assert len(np.unique(runs[1].arrays["flow_stats"], axis=0)) == 3


def test_an_extractor_leaves_the_number_of_torchs_threads_as_it_is(
    random_rgb_weights: Path,
) -> None:
    torch.set_num_threads(2)
    try:
        extractor(random_rgb_weights, num_threads=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_batches_are_reported_in_order_and_no_clips_returned_but_those_asked_for(
    video: VideoSource, random_rgb_weights: Path
) -> None:
    one = extractor(random_rgb_weights, num_threads=2)
    seen: list[tuple[int, np.ndarray]] = []
    whole = one.extract(video, ("rgb",), stage_seconds={})
    rest = one.extract(
        video, ("rgb",), stage_seconds={}, clips=range(1, 99),
        on_clip=lambda frames, expected, rows: seen.append((frames, rows["rgb"].copy())),
    )  # fmt: skip
    assert [frames for frames, _ in seen] == [32, 38]
    for count, (_, rows) in enumerate(seen, 1):
        np.testing.assert_array_equal(rows, rest.arrays["rgb"][:count])
    np.testing.assert_array_equal(rest.arrays["rgb"], whole.arrays["rgb"][1:])
    assert rest.num_frames == whole.num_frames == 38
    middle = one.extract(video, ("rgb",), stage_seconds={}, clips=range(1, 2))
    np.testing.assert_array_equal(middle.arrays["rgb"], whole.arrays["rgb"][1:2])


def test_two_videos_at_once_and_the_end_of_one_is_announced(
    video: VideoSource, random_rgb_weights: Path
) -> None:
    one = extractor(random_rgb_weights, num_threads=2)
    alone = one.extract(video, DEFAULT_STREAMS, stage_seconds={})
    events: list[str] = []
    second: list[VideoFeatures] = []

    def begin_the_next() -> None:
        if "read" not in events:
            thread.start()
        events.append("read")

    thread = threading.Thread(
        target=lambda: second.append(one.extract(video, DEFAULT_STREAMS, stage_seconds={}))
    )
    first = one.extract(
        video, DEFAULT_STREAMS, stage_seconds={},
        on_clip=lambda *_: events.append("batch"), on_read=begin_the_next,
    )  # fmt: skip
    thread.join()
    assert events.count("batch") == 3
    assert events.index("read") < len(events) - 1  # while the last clips are worked on
    for name, expected in alone.arrays.items():
        np.testing.assert_array_equal(first.arrays[name], expected)
        np.testing.assert_array_equal(second[0].arrays[name], expected)


def test_a_failing_clip_ends_the_video_with_its_error(
    video: VideoSource, random_rgb_weights: Path
) -> None:
    one = extractor(random_rgb_weights, num_threads=2)

    def broken(clips: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of memory")

    working, one.networks["flow"] = one.networks["flow"], broken
    with pytest.raises(RuntimeError, match="out of memory"):
        one.extract(video, DEFAULT_STREAMS, stage_seconds={})
    one.networks["flow"] = working
    assert len(one.extract(video, DEFAULT_STREAMS, stage_seconds={}).arrays["flow"]) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(
    value: float, video: VideoSource, random_rgb_weights: Path
) -> None:
    one = extractor(random_rgb_weights, num_threads=1)
    network = one.networks["rgb"]

    def overflowing(clips: torch.Tensor) -> torch.Tensor:
        rows = network(clips)
        rows[:, 5] = value
        return rows

    one.networks["rgb"] = overflowing
    with pytest.raises(FeatError, match="rgb: features that are no finite numbers, in float32 on"):
        one.extract(video, ("rgb",), stage_seconds={})


def test_the_whole_path_of_a_gpu_runs_on_the_meta_device(
    random_rgb_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On meta a tensor made on the wrong device raises, and so does every look at a value. The one
    # look that the flow takes every few iterations is switched off.
    monkeypatch.setattr(extract.flow.tvl1_torch, "_any_left", lambda active: True)
    one = extractor(random_rgb_weights, num_threads=1, device="meta")
    frames = torch.zeros((2, 17, 224, 224, 3), dtype=torch.uint8, device="meta")
    rows = one.compute(DEFAULT_STREAMS, frames, [16, 5], {})
    assert set(rows) == {"rgb", "flow", "flow_stats"}
    assert {tensor.device.type for tensor in rows.values()} == {"meta"}
    assert rows["rgb"].shape == rows["flow"].shape == (2, 1024)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_gray_on_a_device_is_that_of_the_cpu(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # any two channels at any level, and three at any of 52
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    coarse = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
    first, second = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    for channels in ((0, 1), (1, 2), (0, 2)):
        fine = np.full((1, 256 * 256, 3), 201, np.uint8)
        fine[..., channels[0]], fine[..., channels[1]] = first.ravel(), second.ravel()
        frames = np.concatenate([coarse, fine], axis=1)[:, None]
        before = frames.copy()
        gray = rgb_to_gray_torch(torch.from_numpy(frames).to(device))
        assert gray.dtype == torch.uint8
        np.testing.assert_array_equal(gray.cpu().numpy(), rgb_to_gray(frames))
        np.testing.assert_array_equal(frames, before)
