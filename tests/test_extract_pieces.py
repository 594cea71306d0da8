"""Long videos in pieces: what workers make of them apart is what one makes of the whole."""

import dataclasses
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_extract_backbones import COLOUR, MOTION, SMALL, TVL1, Drawn

from cache import FeatureCache
from cache.claims import CONTENT_DIGITS
from data.clusters.engine import Item, Lost, Prepare, Result
from data.ffmpeg import find_ffmpeg
from data.videos import VideoSource, content_sha256, find_videos, source_stamp
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.decode.limits import Limits
from extract.devices import Resources, Share
from extract.run.clusters import extract_on
from extract.run.job import Job
from extract.run.pool import on_this_machine, run_tasks
from extract.run.progress import ExtractProgress
from extract.run.report import VideoOutcome
from extract.run.worker import Turn, VideoTask, extract_one

PIECE_CLIPS = 2

Registers = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registers]:
    """Register backbones; the clips of `colour` are noted in its list."""

    def register(*backbones: Drawn) -> None:
        for each in backbones:
            monkeypatch.setitem(BACKBONES, each.stream, each)  # type: ignore[misc]
        monkeypatch.setattr("extract.run.job._extractors", {})

    threads = torch.get_num_threads()
    register(COLOUR, MOTION)
    yield register
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, make_video) -> VideoSource:
    """Nine clips and a tail of five frames, which are shown for times of their own."""
    folder = tmp_path_factory.mktemp("videos")
    constant = make_video(folder / "constant.mp4", num_frames=2 * (9 * 16 + 5))
    path = folder / "videos" / "long.mkv"
    path.parent.mkdir()
    uneven = "select=mod(floor(n/3)\\,2)"  # three frames, a pause of three
    command = [find_ffmpeg(), "-v", "error", "-i", str(constant), "-vf", uneven]
    subprocess.run([*command, str(path)], check=True)
    return find_videos(path.parent)[0]


def config(**options: Any) -> ExtractConfig:
    return ExtractConfig(streams=("colour", "motion"), decode=SMALL, tvl1=TVL1, **options)


def task_of(
    source: VideoSource, cache: Path, config: ExtractConfig, piece_clips: int | None = PIECE_CLIPS
) -> VideoTask:
    FeatureCache.create(cache)
    job = Job(
        cache_dir=cache,
        config=config,
        weights={name: BACKBONES[name].find_weights({}) for name in config.streams},
        devices=("cpu",),
        share=Share(threads=2, videos=1, batch=1),
        folder_fps=25.0,
        limits=Limits(),
        thumbnails=None,
        piece_clips=piece_clips,
    )
    return VideoTask(source=source, stamp=source_stamp(source), job=job)


class Engine:
    """This process; it keeps the outcomes, and may end after some pieces."""

    def __init__(self, *, num_pieces: int | None = None) -> None:
        self.progress = ExtractProgress(num_videos=1, num_bytes=1)
        self.outcomes: list[VideoOutcome] = []
        self._num_pieces = num_pieces

    def __call__(self, tasks: Sequence[VideoTask]) -> Iterator[VideoOutcome]:
        results = on_this_machine(tasks, workers=1, progress=self.progress)
        with closing(results):  # type: ignore[type-var]  # else its threads would go on
            for outcome in results:
                self.outcomes.append(outcome)
                yield outcome
                if self.pieces == self._num_pieces:
                    raise KeyboardInterrupt

    @property
    def pieces(self) -> int:
        return sum(one.status == "piece" for one in self.outcomes)

    def run(self, *tasks: VideoTask) -> list[VideoOutcome]:
        return list(run_tasks(tasks, self, self.progress))


def records(cache: Path, sha256: str) -> dict[str, dict[str, Any]]:
    """Return all that is stored of a video, but for when and by which process it was made."""
    opened = FeatureCache(cache)
    found = {}
    for key in opened.keys_of_content(sha256):
        record = opened.read_record(key)
        fields = {each.name: getattr(record, each.name) for each in dataclasses.fields(record)}
        fields["provenance"] = {
            name: value for name, value in fields["provenance"].items() if name != "time"
        }
        fields["clips"] = record.clips.to_array()
        found[record.stream] = fields
    return found


def assert_same_records(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for stream, fields in first.items():
        for name, value in fields.items():
            other = second[stream][name]
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, other, strict=True)
            else:
                assert value == other, (stream, name)


def assert_as_whole(source: VideoSource, tmp_path: Path, config: ExtractConfig) -> Engine:
    (whole,) = Engine().run(task_of(source, tmp_path / "whole", config, None))
    engine = Engine()
    (joined,) = engine.run(task_of(source, tmp_path / "pieces", config))
    assert whole.status == joined.status == "done", joined.error
    assert (joined.num_clips, joined.num_frames) == (whole.num_clips, whole.num_frames)
    assert joined.partial == whole.partial
    sha256 = whole.sha256
    assert_same_records(records(tmp_path / "whole", sha256), records(tmp_path / "pieces", sha256))
    assert not list((tmp_path / "pieces" / "partial").iterdir())
    return engine


def test_pieces_are_the_whole(video: VideoSource, tmp_path: Path, register: Registers) -> None:
    engine = assert_as_whole(video, tmp_path, config())
    first, *others = [one.status for one in engine.outcomes]
    assert (first, set(others), others.count("done")) == ("long", {"piece", "done"}, 1)
    stored = records(tmp_path / "pieces", engine.outcomes[-1].sha256)
    assert stored["motion"]["frame_seconds"] is not None  # the times are no even ones
    # or clips in a wrong order would not be noticed
    assert len(np.unique(stored["motion"]["flow_stats"], axis=0)) == 10
    assert set(stored) == {"colour", "motion", "thumbnails"}


@pytest.mark.parametrize(
    ("num_frames", "options"),
    [
        (64, {}),  # the last frame of the last piece is its own successor
        (65, {}),
        (70, {"clip_stride": 8}),
        (80, {"clip_stride": 15}),
    ],
)
def test_tails_and_strides(
    tmp_path: Path, make_video, register: Registers, num_frames: int, options: dict[str, int]
) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=num_frames)
    (source,) = find_videos(tmp_path / "videos")
    engine = assert_as_whole(source, tmp_path, config(**options))
    assert engine.pieces >= 1


def test_times_count_from_the_sound_in_pieces_too(
    video: VideoSource, tmp_path: Path, register: Registers
) -> None:
    path = tmp_path / "videos" / "late.ts"
    path.parent.mkdir()
    late = ["-f", "lavfi", "-i", "sine=d=4", "-itsoffset", "1", "-i", str(video.path)]
    subprocess.run([find_ffmpeg(), "-v", "error", *late, "-c:v", "mpeg2video", path], check=True)
    (source,) = find_videos(path.parent)
    engine = assert_as_whole(source, tmp_path, config())
    assert engine.pieces >= 1
    (stored, *_) = records(tmp_path / "pieces", engine.outcomes[-1].sha256).values()
    assert stored["clips"]["start_seconds"][0] == pytest.approx(1.0, abs=0.05)


def test_a_video_that_ends_before_its_container_says(
    video: VideoSource, tmp_path: Path, register: Registers
) -> None:
    path = tmp_path / "videos" / "cut.mkv"
    path.parent.mkdir()
    content = video.path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 5])
    (source,) = find_videos(path.parent)
    engine = assert_as_whole(source, tmp_path, config())
    (done,) = [one for one in engine.outcomes if one.status == "done"]
    assert done.partial.startswith("ffmpeg: ")
    assert done.num_clips < engine.outcomes[0].num_clips


def test_a_folder_of_frames(video: VideoSource, tmp_path: Path, register: Registers) -> None:
    folder = tmp_path / "videos" / "folder"
    folder.mkdir(parents=True)
    command = [find_ffmpeg(), "-v", "error", "-i", str(video.path), "-frames:v", "70"]
    subprocess.run([*command, str(folder / "%04d.jpg")], check=True)
    (source,) = find_videos(folder.parent)
    assert source.kind == "frames"
    assert assert_as_whole(source, tmp_path, config()).pieces >= 1


def test_a_run_that_ended_among_pieces_goes_on_with_those_it_lacks(
    video: VideoSource, tmp_path: Path, register: Registers
) -> None:
    (whole,) = Engine().run(task_of(video, tmp_path / "whole", config(), None))
    task = task_of(video, tmp_path / "pieces", config())
    with pytest.raises(KeyboardInterrupt):
        Engine(num_pieces=2).run(task)
    blocks = (tmp_path / "pieces").glob("partial/*/*.block")
    num_saved = sum(int(path.name.split("-")[1]) for path in blocks)
    assert 4 <= num_saved < 10
    computed = []

    def colour(clips: torch.Tensor) -> torch.Tensor:
        computed.append(len(clips))
        return COLOUR.function(clips)

    register(dataclasses.replace(COLOUR, function=colour))
    (done,) = Engine().run(task)
    assert done.status == "done"
    assert len(computed) == 10 - num_saved
    assert_same_records(
        records(tmp_path / "whole", whole.sha256), records(tmp_path / "pieces", whole.sha256)
    )


def test_pieces_go_on_with_the_checkpoint_of_the_whole_and_save_like_it(
    video: VideoSource, tmp_path: Path, register: Registers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.run.worker.CHECKPOINT_SECONDS", 0.0)
    cache = FeatureCache.create(tmp_path / "pieces")
    turn = Turn(threading.Event())
    turn.progress = Stopping(turn.stop)  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        extract_one(task_of(video, cache.path, config(), None), turn)
    assert len(list(cache.path.glob("partial/*/*.block"))) >= 3
    assert assert_as_whole(video, tmp_path, config()).pieces


class Stopping:
    """Progress that ends the video after five clips: in the middle of a piece."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def underway(self, _: str, *, num_frames: int, **__: int) -> None:
        if num_frames >= 5 * 16:
            self._stop.set()


def test_where_long_videos_are_many_none_is_cut(
    video: VideoSource, tmp_path: Path, register: Registers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.run.pool.ALL_PIECES", 2)
    other = tmp_path / "videos" / "other.mkv"
    other.parent.mkdir()
    other.write_bytes(video.path.read_bytes() + b"another")
    tasks = [task_of(one, tmp_path / "c", config()) for one in (video, *find_videos(other.parent))]
    engine = Engine()
    assert [one.status for one in engine.run(*tasks)] == ["done", "done"]
    assert [one.status for one in engine.outcomes] == ["long", "long", "done", "done"]


def test_a_piece_that_fails_fails_its_video_once(
    video: VideoSource, tmp_path: Path, register: Registers
) -> None:
    def failing(clips: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel")

    register(dataclasses.replace(COLOUR, function=failing))
    engine = Engine()
    (failed,) = engine.run(task_of(video, tmp_path / "cache", config()))
    assert failed.status == "failed"
    assert failed.error == "RuntimeError: no such kernel"
    assert sum(one.status == "failed" for one in engine.outcomes) > 1
    register(COLOUR)
    (done,) = Engine().run(task_of(video, tmp_path / "cache", config()))
    assert done.status == "done"


def test_two_runs_share_the_pieces_of_a_video(
    video: VideoSource, tmp_path: Path, register: Registers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one is at a piece, another process does the others; then both have the video."""
    monkeypatch.setattr("extract.run.pool.BUSY_POLL_SECONDS", 0.05)
    began, may_end = threading.Event(), threading.Event()

    def slow_at_first(clips: torch.Tensor) -> torch.Tensor:
        if not began.is_set():
            began.set()
            assert may_end.wait(30)
        return COLOUR.function(clips)

    register(dataclasses.replace(COLOUR, function=slow_at_first))
    task = task_of(video, tmp_path / "pieces", config())
    first, second = Engine(), Engine()
    results: list[VideoOutcome] = []
    threads = [
        threading.Thread(target=lambda e=e: results.extend(e.run(task))) for e in (first, second)
    ]
    threads[0].start()
    assert began.wait(30)
    threads[1].start()
    deadline = time.monotonic() + 120
    while second.pieces < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert second.outcomes[1].status == "busy"
    claims = [path.stem for path in (tmp_path / "pieces" / "claims").glob("*.claim")]
    digest = content_sha256(video)  # `feat cache rm` tells by it that the video is worked on
    assert any(claim.startswith(digest[:CONTENT_DIGITS]) for claim in claims)
    may_end.set()
    for thread in threads:
        thread.join()
    assert sorted(one.status for one in results) == ["done", "skipped"]
    (whole,) = Engine().run(task_of(video, tmp_path / "whole", config(), None))
    assert_same_records(
        records(tmp_path / "whole", whole.sha256), records(tmp_path / "pieces", whole.sha256)
    )


def test_a_video_is_looked_for_once(
    video: VideoSource, tmp_path: Path, register: Registers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of very many shards, each look for what is not there takes longest of all."""
    cache = FeatureCache.create(tmp_path / "cache")
    task = task_of(video, cache.path, config(), None)
    assert task.missing() == (("colour", "motion"), True)  # from now on the cache is open
    listed: list[Path] = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(Path(path)) or listdir(path))
    (done,) = Engine().run(task)
    assert done.status == "done"
    assert listed.count(cache.shards_dir) == 1
    listed.clear()
    (again,) = Engine().run(task)
    assert (again.status, listed.count(cache.shards_dir)) == ("skipped", 0)


class HalfBlind:
    """A cluster of two workers in this process, of which the second does not see the cache."""

    def run(
        self, prepare: Prepare[Item, Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        blind = dataclasses.replace(prepare, mark=Path("not there"))  # type: ignore[type-var]
        workers = cycle([prepare(1), blind(1)])
        for item in items:
            yield item, next(workers).call(item, threading.Event())


def test_workers_that_do_not_see_the_cache_hand_pieces_over(
    video: VideoSource, tmp_path: Path, register: Registers
) -> None:
    (whole,) = Engine().run(task_of(video, tmp_path / "whole", config(), None))
    statuses = []

    def engine(tasks: Sequence[VideoTask]) -> Iterator[VideoOutcome]:
        for outcome in extract_on(HalfBlind(), tasks, resources=Resources(device="cpu")):
            statuses.append(outcome.status)
            yield outcome

    task = task_of(video, tmp_path / "pieces", config())
    (done,) = run_tasks([task], engine, ExtractProgress(num_videos=1, num_bytes=1))
    assert done.status == "done"
    assert statuses.count("long") == statuses.count("done") == 1
    assert statuses.count("piece") == len(statuses) - 2 >= 4
    assert_same_records(
        records(tmp_path / "whole", whole.sha256), records(tmp_path / "pieces", whole.sha256)
    )
