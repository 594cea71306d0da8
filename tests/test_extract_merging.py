"""Clips of several videos in one batch: whose rows are whose, what fails, what memory is taken."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_extract_backbones import COLOUR, MOTION, SMALL, TVL1

import extract.run.job
import extract.run.pool
import extract.run.runner
from cache import FeatureCache
from data.child import Child
from data.videos import find_videos
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig
from extract.devices import Resources, Share
from extract.merging import Merger
from extract.run.report import ExtractReport
from extract.run.runner import run_extraction

pytestmark = pytest.mark.usefixtures("one_thread")

TOGETHER = Resources(device="cpu", threads=4, batch=6)
LENGTHS = {"a.mp4": 20, "b.mp4": 5, "c.mp4": 50, "d.mp4": 16, "e.mp4": 33, "sub/f.mp4": 3}


# The merger alone: items and results are numbers.


@given(
    st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 3)), max_size=30), st.integers(1, 5)
)
@settings(max_examples=50)
def test_every_item_has_its_own_result_whatever_it_was_computed_with(
    items: list[tuple[str, int]], size: int
) -> None:
    seen: list[tuple[str, list[int]]] = []

    def compute(kind: str, numbers: list[int]) -> list[int]:
        seen.append((kind, numbers))
        time.sleep(1e-4)  # others gather
        return [number * (1 if kind == "x" else -1) for number in numbers]

    merger: Merger[str, int, int] = Merger(compute, size=size)
    futures = [merger.submit(kind, owner, number) for number, (kind, owner) in enumerate(items, 1)]
    signs = [1 if kind == "x" else -1 for kind, _ in items]
    assert [future.result(10) for future in futures] == [
        sign * number for number, sign in enumerate(signs, 1)
    ]
    assert all(len(numbers) <= size for _, numbers in seen)
    for kind in "xy":  # first come, first served
        order = [number for each, numbers in seen if each == kind for number in numbers]
        assert order == sorted(order)


def test_no_more_is_taken_than_is_computed_and_as_much_again() -> None:
    size, computing, taken, most = 4, threading.Event(), [], []

    def compute(kind: None, items: list[int]) -> list[int]:
        computing.wait(10)
        most.append(len(taken))
        taken[:] = taken[len(items) :]
        return items

    merger: Merger[None, int, int] = Merger(compute, size=size)

    def hand_in(owner: int) -> list[int]:
        futures = []
        for number in range(20):
            futures.append(merger.submit(None, owner, number))
            taken.append(number)
        return [future.result(10) for future in futures]

    with ThreadPoolExecutor(5) as pool:
        results = [pool.submit(hand_in, owner) for owner in range(5)]
        time.sleep(0.2)
        assert len(taken) <= 2 * size
        computing.set()
        assert all(result.result(20) == list(range(20)) for result in results)
    # one of each of the five may have been let in and not have said so yet
    assert max(most) <= 2 * size + 5


def test_an_error_is_that_of_its_owner_alone() -> None:
    begin = threading.Event()
    seen = []

    def compute(kind: None, items: list[int]) -> list[int]:
        begin.wait(10)
        seen.append(items)
        if 13 in items:
            raise ValueError("13")
        return items

    merger: Merger[None, int, int] = Merger(compute, size=8)
    first = merger.submit(None, "first", 0)
    futures = {number: merger.submit(None, number % 3, number) for number in range(9, 17)}
    begin.set()
    assert first.result(10) == 0
    for number, future in futures.items():
        if number % 3 == 13 % 3:
            with pytest.raises(ValueError, match="13"):
                future.result(10)
        else:
            assert future.result(10) == number
    # the batch, then each owner's part of it, once
    assert [sorted(items) for items in seen[1:]].count([9, 12, 15]) <= 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB."),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_memory_that_does_not_suffice_halves_the_batch_for_good_and_is_said_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    begin, sizes = threading.Event(), []

    def compute(kind: None, items: list[int]) -> list[int]:
        begin.wait(10)
        sizes.append(len(items))
        if len(items) > 3:
            raise error
        return items

    caplog.set_level(logging.INFO, logger="feat")
    merger: Merger[None, int, int] = Merger(compute, size=16)
    alone = merger.submit(None, 0, 0)
    futures = [merger.submit(None, number % 5, number) for number in range(1, 17)]
    begin.set()
    assert [future.result(10) for future in [alone, *futures]] == list(range(17))
    more = [merger.submit(None, 0, number) for number in range(16)]
    assert [future.result(10) for future in more] == list(range(16))
    assert [size for size in sizes if size > 3] in ([16, 8, 4], [15, 7])
    assert max(sizes[4:]) <= 3
    (said,) = caplog.messages
    assert said.startswith("the GPU's memory does not hold 1")
    assert said.endswith(f"at a time: going on with {max(sizes[4:])}")


def test_what_is_given_up_is_not_computed() -> None:
    begin, seen = threading.Event(), []

    def compute(kind: None, items: list[int]) -> list[int]:
        begin.wait(10)
        seen.extend(items)
        return items

    merger: Merger[None, int, int] = Merger(compute, size=4)
    first = merger.submit(None, 0, 0)
    while merger._waiting[None]:  # taken
        time.sleep(0.01)
    given_up, wanted = merger.submit(None, 1, 1), merger.submit(None, 2, 2)
    assert given_up.cancel()
    begin.set()
    assert (first.result(10), wanted.result(10)) == (0, 2)
    assert seen == [0, 2]


# Whole runs over real videos; the networks are small, see tests/test_extract_backbones.py.


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name, num_frames in LENGTHS.items():
        make_video(root / name, num_frames=num_frames)
    return root


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> ExtractConfig:
    for each in (COLOUR, MOTION):
        monkeypatch.setitem(BACKBONES, each.stream, each)
    return ExtractConfig(streams=("colour", "motion"), decode=SMALL, tvl1=TVL1)


@pytest.fixture(scope="module")
def alone(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureCache]:
    """The features of each video, its clips computed one by one."""
    with pytest.MonkeyPatch.context() as patch:
        for each in (COLOUR, MOTION):
            patch.setitem(BACKBONES, each.stream, each)
        config = ExtractConfig(streams=("colour", "motion"), decode=SMALL, tvl1=TVL1)
        place = tmp_path_factory.mktemp("alone") / "features"
        report = run_extraction(videos, place, config, resources=Resources(device="cpu"))
        assert report.done == len(LENGTHS)
        yield FeatureCache(place)


def watch(
    monkeypatch: pytest.MonkeyPatch, look: Callable[[torch.Tensor], None] = lambda clips: None
) -> list[int]:
    """Note how many clips the network of `colour` gets at a time; `look` sees them first."""
    sizes: list[int] = []

    def network(clips: torch.Tensor) -> torch.Tensor:
        sizes.append(len(clips))
        time.sleep(0.05)  # a GPU is slow too: clips gather meanwhile
        look(clips)
        return COLOUR.function(clips)

    monkeypatch.setitem(BACKBONES, "colour", replace(COLOUR, function=network))  # type: ignore[misc]
    monkeypatch.setattr(extract.run.job, "_extractors", {})  # nor the networks of an earlier run
    return sizes


def assert_as_alone(report: ExtractReport, cache: FeatureCache, alone: FeatureCache) -> None:
    for name in LENGTHS:
        if name in {each["video"] for each in report.failed}:
            continue
        for stream in ("colour", "motion"):
            found = cache.read(name, stream)
            np.testing.assert_allclose(found, alone.read(name, stream), rtol=1e-6)
            assert len(found) == -(-LENGTHS[name] // 16)
        stats = [each.read_record(each.find(name, "motion").key) for each in (cache, alone)]
        np.testing.assert_array_equal(stats[0].flow_stats, stats[1].flow_stats)


def test_merged_clips_give_the_rows_of_separate_ones(
    videos: Path, tmp_path: Path, config: ExtractConfig, alone: FeatureCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sizes = watch(monkeypatch)
    report = run_extraction(videos, tmp_path / "features", config, resources=TOGETHER)
    assert (report.done, report.failed, report.clips) == (len(LENGTHS), [], 12)
    assert sum(sizes) == 12
    assert 4 < max(sizes) <= 6  # no video has more than four
    assert_as_alone(report, FeatureCache(tmp_path / "features"), alone)
    # each clip has its share: together they are no more than the run
    assert sum(report.stage_seconds[each] for each in ("decode", "flow", "network")) > 0
    assert report.stage_seconds["flow"] + report.stage_seconds["network"] < report.seconds
    assert report.stage_seconds["decode"] < report.seconds


def test_bad_videos_spoil_nothing_of_those_computed_with_them(
    videos: Path, tmp_path: Path, config: ExtractConfig, alone: FeatureCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "videos"
    for source in find_videos(videos):
        (folder / source.video_id).parent.mkdir(parents=True, exist_ok=True)
        (folder / source.video_id).symlink_to(source.path)
    (folder / "text.mp4").write_text("not a video")
    target = alone.read("c.mp4", "colour")[1]

    def refuse_one(clips: torch.Tensor) -> None:
        if any(np.allclose(row, target, rtol=1e-5) for row in COLOUR.function(clips).numpy()):
            raise RuntimeError("CUDA error: too colourful")

    watch(monkeypatch, refuse_one)
    report = run_extraction(folder, tmp_path / "features", config, resources=TOGETHER)
    failed = {each["video"]: each["error"] for each in report.failed}
    assert set(failed) == {"text.mp4", "c.mp4"}
    assert failed["c.mp4"] == "RuntimeError: CUDA error: too colourful"
    assert report.done == len(LENGTHS) - 1
    assert_as_alone(report, FeatureCache(tmp_path / "features"), alone)


@pytest.mark.slow
def test_a_full_gpu_is_told_once_and_one_that_holds_no_clip_fails_the_videos(
    videos: Path, tmp_path: Path, config: ExtractConfig, alone: FeatureCache,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def refuse(clips: torch.Tensor, *, most: int) -> None:
        if len(clips) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")

    caplog.set_level(logging.WARNING, logger="feat")
    sizes = watch(monkeypatch, lambda clips: refuse(clips, most=2))
    report = run_extraction(videos, tmp_path / "features", config, resources=TOGETHER)
    assert (report.done, report.failed) == (len(LENGTHS), [])
    assert_as_alone(report, FeatureCache(tmp_path / "features"), alone)
    assert max(sizes) > 2
    (said,) = [line for line in caplog.messages if "GPU" in line]
    assert said.startswith(f"the GPU's memory does not hold {max(sizes)} clips at a time: going on")
    watch(monkeypatch, lambda clips: refuse(clips, most=0))
    report = run_extraction(videos, tmp_path / "none", config, resources=TOGETHER)
    assert len(report.failed) == len(LENGTHS)
    assert {each["error"] for each in report.failed} == {
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0; free the GPU's "
        "memory or use --device cpu"
    }


def test_an_interrupt_ends_all_videos_and_the_next_run_does_the_rest(
    videos: Path, tmp_path: Path, config: ExtractConfig, alone: FeatureCache,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    calls = []

    def interrupt_the_second(clips: torch.Tensor) -> None:
        calls.append(len(clips))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    watch(monkeypatch, interrupt_the_second)
    place = tmp_path / "features"
    with pytest.raises(KeyboardInterrupt):
        run_extraction(videos, place, config, resources=replace(TOGETHER, batch=2))
    assert not list(place.glob("claims/*.claim"))
    assert not [each for each in threading.enumerate() if each.name.startswith("video")]
    assert sum(calls) < 12
    report = run_extraction(videos, place, config, resources=TOGETHER)
    assert report.done + report.skipped == len(LENGTHS)
    assert_as_alone(report, FeatureCache(place), alone)


@pytest.mark.parametrize(
    ("resources", "devices", "num_videos", "workers", "share"),
    [
        (Resources(threads=16), ("cpu",), 99, 4, Share(threads=4, videos=1, batch=1)),
        (Resources(threads=16, workers=1), ("cpu",), 99, 1, Share(threads=16, videos=1, batch=1)),
        (Resources(threads=16), ("cuda:0",), 99, 1, Share(threads=16, videos=16, batch=64)),
        # a lonely video has a decoder of all threads
        (Resources(threads=16), ("cuda:0",), 1, 1, Share(threads=16, videos=1, batch=64)),
        (Resources(threads=16), ("cuda:0",), 5, 1, Share(threads=16, videos=5, batch=64)),
        (
            Resources(threads=16, batch=8),
            ("cuda:0", "cuda:1"),
            99,
            2,
            Share(threads=8, videos=8, batch=8),
        ),
        (
            Resources(threads=16),
            tuple(f"cuda:{number}" for number in range(8)),
            9,
            8,
            Share(threads=2, videos=2, batch=64),
        ),
        (
            Resources(threads=3),
            tuple(f"cuda:{number}" for number in range(8)),
            99,
            3,
            Share(threads=1, videos=1, batch=64),
        ),
        (
            Resources(threads=16, workers=2),
            ("cuda:0",),
            99,
            2,
            Share(threads=8, videos=8, batch=64),
        ),
    ],
)
def test_cores_and_decoders_are_shared_out_among_the_workers(
    resources: Resources, devices: tuple[str, ...], num_videos: int, workers: int, share: Share
) -> None:
    assert resources.share(devices, num_videos) == (workers, share)
    assert share.videos * share.decode_threads <= share.threads


def test_worker_processes_have_the_devices_in_turn(
    videos: Path, tmp_path: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # processes that end at once stand for those of two GPUs that die
    given: list[str] = []

    def start(pipe: Connection, device: str) -> Child:
        given.append(device)
        with pipe:
            return Child(["true"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    monkeypatch.setattr(extract.run.pool, "_start", start)
    monkeypatch.setattr(extract.run.runner, "list_devices", lambda device: ("cuda:0", "cuda:1"))
    report = run_extraction(
        videos, tmp_path / "features", config, resources=Resources(workers=3, threads=3)
    )
    # three at first, then every video gets one of its own, which dies as well
    assert given == ["cuda:0", "cuda:1", "cuda:0"] + ["cuda:0"] * len(LENGTHS)
    assert len(report.failed) == len(LENGTHS)
    assert {each["error"] for each in report.failed} == {
        "its worker process was killed, most likely for want of memory; try fewer --workers"
    }


@pytest.mark.slow
def test_two_processes_that_merge_clips_give_the_features_of_one_that_does_not(
    videos: Path, tmp_path: Path, random_rgb_weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ExtractConfig(streams=("rgb",), decode=DecodeConfig(size=32))
    caches = []
    for name, resources in (
        ("one", Resources(device="cpu", workers=1)),
        ("two", Resources(device="cpu", workers=2, threads=4, batch=3)),
    ):
        report = run_extraction(
            videos, tmp_path / name, config,
            weights={"rgb": str(random_rgb_weights)}, resources=resources,
        )  # fmt: skip
        assert (report.done, report.failed) == (len(LENGTHS), [])
        caches.append(FeatureCache(tmp_path / name))
    for video in LENGTHS:
        one, two = (cache.read(video, "rgb") for cache in caches)
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)  # up to 8
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_rows_of_the_cpu_and_goes_on_when_it_is_full(
    videos: Path, tmp_path: Path, config: ExtractConfig, alone: FeatureCache,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def fill(clips: torch.Tensor) -> None:
        if len(clips) > 2:
            torch.empty(1 << 50, dtype=torch.uint8, device=clips.device)

    caplog.set_level(logging.WARNING, logger="feat")
    sizes = watch(monkeypatch, fill)
    report = run_extraction(
        videos, tmp_path / "features", config, resources=replace(TOGETHER, device="cuda")
    )
    assert (report.done, report.failed) == (len(LENGTHS), [])
    assert max(sizes) > 2
    told = f"the GPU's memory does not hold {max(sizes)} clips at a time"
    assert [line for line in caplog.messages if told in line]
    cache = FeatureCache(tmp_path / "features")
    for name in LENGTHS:
        colour = [each.read(name, "colour") for each in (cache, alone)]
        np.testing.assert_allclose(*colour, rtol=1e-5)
        stats = [each.read_record(each.find(name, "motion").key) for each in (cache, alone)]
        np.testing.assert_allclose(stats[0].flow_stats, stats[1].flow_stats, rtol=0.02, atol=0.02)
