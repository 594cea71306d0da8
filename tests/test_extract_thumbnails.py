"""Thumbnails at extraction: real videos, real shards, and a backbone of one line as the network."""

import io
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cache_samples import make_record
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cache import FeatureCache, feature_key
from cache.streams import THUMBNAILS
from cache.upkeep.remove import remove_features
from cache.upkeep.verify import verify_cache
from data.errors import WeightsError
from data.ffmpeg import find_ffmpeg
from data.videos import VideoSource, content_sha256, find_videos, source_stamp
from extract.backbones import BACKBONES
from extract.clips import Clip
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig
from extract.decode.limits import Limits
from extract.decode.stream import StreamInfo
from extract.devices import Resources, Share
from extract.run.job import Job
from extract.run.runner import extract_videos, run_extraction
from extract.run.worker import Turn, VideoTask, extract_one
from extract.thumbnails import CONFIG, LONGEST_SIDE, MAX_BYTES, Thumbnails, encode
from extract.weights.resolve import Weights
from feat import cli

CPU = Resources(device="cpu", threads=2)
NUM_FRAMES = {"a.mkv": 40, "sub/b.mkv": 17}
MIDDLES = {"a.mkv": [8, 24, 36], "sub/b.mkv": [8, 16]}  # of clips 0:16 16:32 32:40; 0:16 16:17
OFFSET = {"a.mkv": 0, "sub/b.mkv": 120}


@dataclass
class Colour:
    """Mean colours as a network; `has_weights` as on a machine with and without the file."""

    has_weights: bool = True
    loaded: int = 0
    identity = {"name": "colour", "version": 1, "layer": "only"}  # noqa: RUF012
    needs = "frames"
    clip_lens = range(1, 99)
    sizes = range(1, 999)
    resizes = ("squash", "crop", "short-side")
    kind = "features"
    shape = (3,)
    dtype = "float32"

    def find_weights(self, choices: Any, *, present: Any = (), recorded: Any = None) -> Weights:
        if not self.has_weights:
            raise WeightsError("there are no weights")
        return Weights(stream="colour", kind="file", name="none", digest="0" * 64, path=Path())

    def load(self, weights: Weights, *, device: torch.device, precision: str) -> Any:
        self.loaded += 1
        return lambda clips: clips.float().mean(dim=(1, 2, 3)) + torch.arange(3.0)


@pytest.fixture
def colour(monkeypatch: pytest.MonkeyPatch) -> Iterator[Colour]:
    backbone = Colour()
    monkeypatch.setitem(BACKBONES, "colour", backbone)  # type: ignore[misc]
    threads = torch.get_num_threads()
    yield backbone
    torch.set_num_threads(threads)


@pytest.fixture
def config(colour: Colour) -> ExtractConfig:
    return ExtractConfig(streams=("colour",), decode=DecodeConfig(size=64))


def grey_video(path: Path, num_frames: int, offset: int, *options: str) -> Path:
    """Write a video without loss, 64x48, whose frame i has the brightness 3 i + offset all over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = 3 * np.arange(num_frames) + offset
    frames = np.broadcast_to(levels[:, None, None], (num_frames, 48, 64)).astype(np.uint8)
    command = [find_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray"]
    command += ["-s", "64x48", "-r", "10", "-i", "-", *options, "-c:v", "ffv1", str(path)]
    subprocess.run(command, input=frames.tobytes(), check=True)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name, num_frames in NUM_FRAMES.items():
        grey_video(root / name, num_frames, OFFSET[name])
    return root


def pictures(cache: FeatureCache, video: str) -> list[Image.Image]:
    cache.refresh()  # a run has a cache object of its own
    key = cache.find(video, THUMBNAILS).key
    return [Image.open(io.BytesIO(data)) for data in cache.read_images(key)]


def levels(cache: FeatureCache, video: str) -> list[int]:
    return [round(float(np.asarray(image).mean())) for image in pictures(cache, video)]


def assert_has_pictures(cache: FeatureCache) -> None:
    for video, middles in MIDDLES.items():
        expected = [3 * frame + OFFSET[video] for frame in middles]
        assert levels(cache, video) == pytest.approx(expected, abs=2)
        entry, features = cache.find(video, THUMBNAILS), cache.find(video, "colour")
        assert cache.read_clips(entry.key).to_array().tolist() == (
            cache.read_clips(features.key).to_array().tolist()
        )
        assert (entry.source, entry.kind) == (features.source, "images")
    assert verify_cache(cache).problems == []


pytestmark = pytest.mark.usefixtures("one_viewer")


def test_the_middle_frame_of_each_clip_is_kept(
    videos: Path, tmp_path: Path, config: ExtractConfig
) -> None:
    report = run_extraction(videos, tmp_path / "c", config, resources=CPU)
    assert (report.done, report.failed) == (2, [])
    cache = FeatureCache(tmp_path / "c")
    assert_has_pictures(cache)
    assert {image.format for image in pictures(cache, "a.mkv")} == {"JPEG"}
    assert {image.size for image in pictures(cache, "a.mkv")} == {(160, 120)}
    assert cache.feature_streams("a.mkv") == ["colour"]
    # features alone in their shards, which every build reads
    assert {path.read_bytes()[:15] for path in cache.shards_dir.iterdir()} == {
        b"feat-shard 0001",
        b"feat-shard 0002",
    }


@pytest.mark.parametrize("batch", [None, 4])
def test_features_and_keys_are_the_same_without_thumbnails(
    videos: Path, tmp_path: Path, config: ExtractConfig, batch: int | None
) -> None:
    """With a batch the clips of both videos go through one merger, as on a GPU."""
    caches = []
    for name, thumbnails in (("with", None), ("without", False)):
        run_extraction(
            videos,
            tmp_path / name,
            config,
            resources=replace(CPU, batch=batch),
            thumbnails=thumbnails,
        )
        caches.append(FeatureCache(tmp_path / name))
    with_pictures, without = caches
    assert_has_pictures(with_pictures)
    assert without.streams("a.mkv") == ["colour"]
    for entry in without.entries():
        ours, theirs = with_pictures.read_record(entry.key), without.read_record(entry.key)
        assert ours.features.tobytes() == theirs.features.tobytes()
        assert (ours.source, ours.config) == (theirs.source, theirs.config)


def test_thumbnails_are_added_only_if_that_is_asked_for_and_need_no_weights(
    videos: Path, tmp_path: Path, config: ExtractConfig, colour: Colour
) -> None:
    run_extraction(videos, tmp_path / "c", config, resources=CPU, thumbnails=False)
    before = {path.name for path in (tmp_path / "c" / "shards").iterdir()}
    again = run_extraction(videos, tmp_path / "c", config, resources=CPU)
    assert (again.done, again.skipped) == (0, 2)
    assert {path.name for path in (tmp_path / "c" / "shards").iterdir()} == before
    colour.has_weights, colour.loaded = False, 0
    added = run_extraction(videos, tmp_path / "c", config, resources=CPU, thumbnails=True)
    assert (added.done, added.skipped, added.failed, added.clips) == (2, 0, [], 5)
    cache = FeatureCache(tmp_path / "c")
    assert_has_pictures(cache)
    assert before < cache.shards()
    assert colour.loaded == 0
    done = run_extraction(videos, tmp_path / "c", config, resources=CPU, thumbnails=True)
    assert (done.done, done.skipped) == (0, 2)
    with pytest.raises(WeightsError, match="there are no weights"):  # features that are missing
        run_extraction(
            videos, tmp_path / "c", replace(config, clip_len=8, clip_stride=8), thumbnails=True
        )


def test_an_interrupted_video_has_all_its_pictures_when_it_goes_on(
    videos: Path, tmp_path: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extract.run.worker.CHECKPOINT_SECONDS", 0.0)
    cache = FeatureCache.create(tmp_path / "c")
    source = find_videos(videos)[0]
    turn = Turn(threading.Event())
    monkeypatch.setattr(turn, "progress", StopAt(turn.stop, num_frames=32))
    with pytest.raises(KeyboardInterrupt):
        extract_one(task_of(source, cache, config), turn)
    assert list((cache.path / "partial").rglob("*.block"))
    assert not list(cache.shards_dir.iterdir())
    report = run_extraction(videos, cache.path, config, resources=CPU)
    assert (report.done, report.failed) == (2, [])
    assert_has_pictures(cache)
    assert not list((cache.path / "partial").rglob("*.block"))


class StopAt:
    """Progress that ends the video at a frame."""

    def __init__(self, stop: threading.Event, *, num_frames: int) -> None:
        self._stop, self._num_frames = stop, num_frames

    def underway(self, _: str, *, num_frames: int, **__: int) -> None:
        if num_frames >= self._num_frames:
            self._stop.set()


def task_of(
    source: VideoSource, cache: FeatureCache, config: ExtractConfig, thumbnails: bool | None = None
) -> VideoTask:
    job = Job(
        cache_dir=cache.path,
        config=config,
        weights={name: BACKBONES[name].find_weights({}) for name in config.streams},
        devices=("cpu",),
        share=Share(threads=1, videos=1, batch=1),
        folder_fps=25.0,
        limits=Limits(),
        thumbnails=thumbnails,
    )
    return VideoTask(source=source, stamp=source_stamp(source), job=job)


def test_adding_pictures_can_be_stopped(
    videos: Path, tmp_path: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache.create(tmp_path / "c")
    run_extraction(videos, cache.path, config, resources=CPU, thumbnails=False)
    turn = Turn(threading.Event())
    monkeypatch.setattr(turn, "progress", StopAt(turn.stop, num_frames=16))
    with pytest.raises(KeyboardInterrupt):
        extract_one(task_of(find_videos(videos)[0], cache, config, True), turn)
    assert THUMBNAILS not in cache.streams("a.mkv")


def test_a_kill_between_pictures_and_features_costs_the_features_only(
    videos: Path, tmp_path: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = FeatureCache.create(tmp_path / "c")
    run_extraction(videos, cache.path, config, resources=CPU)
    for video in NUM_FRAMES:
        (cache.shards_dir / cache.find(video, "colour").shard).unlink()
    before = {path.name for path in cache.shards_dir.iterdir()}
    monkeypatch.setattr("extract.run.job._caches", {})  # as in a process that begins
    report = run_extraction(videos, cache.path, config, resources=CPU)
    assert (report.done, report.failed) == (2, [])
    assert_has_pictures(FeatureCache(cache.path))
    assert len({path.name for path in cache.shards_dir.iterdir()} - before) == 2


def test_features_are_written_last_for_they_say_that_a_video_is_done(
    videos: Path, tmp_path: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = FeatureCache.write, []

    def noted(cache: FeatureCache, records: Any) -> Path:
        written.append([record.stream for record in records])
        return write(cache, records)

    monkeypatch.setattr(FeatureCache, "write", noted)
    run_extraction(videos / "sub", tmp_path / "c", config, resources=CPU)
    assert written == [[THUMBNAILS], ["colour"]]


def test_other_features_of_a_video_want_no_other_pictures(
    videos: Path, tmp_path: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are they refused for the pictures' sake, whose clips are others."""
    cache = FeatureCache.create(tmp_path / "c")
    run_extraction(videos, cache.path, config, resources=CPU)
    other = replace(config, clip_len=8, clip_stride=8)
    report = run_extraction(videos, cache.path, other, resources=CPU, allow_mixed=True)
    assert (report.done, report.failed) == (2, [])
    assert levels(cache, "a.mkv") == pytest.approx([24, 72, 108], abs=2)
    assert len(cache.find_all("a.mkv", "colour")) == 2
    assert len(remove_features(cache, stream=THUMBNAILS).records) == 2
    monkeypatch.setattr("extract.run.job._caches", {})  # as in a process that begins
    run_extraction(videos, cache.path, other, resources=CPU, thumbnails=True)
    assert levels(cache, "a.mkv") == pytest.approx([12, 36, 60, 84, 108], abs=2)


@pytest.mark.slow
def test_workers_of_their_own_add_them(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes, which know no backbone of a test: the features are as if of `rgb`."""
    monkeypatch.setenv("FEAT_KERNELS", "0")  # they start sooner
    config = ExtractConfig(streams=("rgb",))
    none = Weights(stream="rgb", kind="file", name="none", digest="0" * 64, path=Path())
    weights = {"rgb": none}
    cache = FeatureCache.create(tmp_path / "c")
    sources = find_videos(videos)
    for source in sources:
        made = config.stream_configs(weights)["rgb"]
        name, digest = source.video_id, content_sha256(source)
        cache.write([make_record(name, config=made, dim=1024, sha256=digest)])
    found = extract_videos(
        sources,
        {source.video_id: source_stamp(source) for source in sources},
        cache.path,
        config,
        weights,
        resources=replace(CPU, workers=2),
        thumbnails=True,
    )
    assert {result.video_id: result.status for result in found} == dict.fromkeys(NUM_FRAMES, "done")
    for video, middles in MIDDLES.items():
        expected = [3 * frame + OFFSET[video] for frame in middles]
        assert levels(cache, video) == pytest.approx(expected, abs=2)


def test_a_folder_of_frames_and_a_video_that_ends_early(
    tmp_path: Path, config: ExtractConfig, make_video: Any
) -> None:
    frames = tmp_path / "videos" / "frames"
    frames.mkdir(parents=True)
    for index in range(20):
        Image.new("RGB", (60, 30), (10 * index,) * 3).save(frames / f"{index}.png")
    whole = make_video(tmp_path / "whole.mkv", num_frames=60, size="96x64").read_bytes()
    (tmp_path / "videos" / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    report = run_extraction(tmp_path / "videos", tmp_path / "c", config, resources=CPU)
    assert [each["video"] for each in report.partial] == ["cut.mkv"]
    cache = FeatureCache(tmp_path / "c")
    assert levels(cache, "frames") == pytest.approx([80, 180], abs=2)
    assert {image.size for image in pictures(cache, "frames")} == {(160, 80)}
    assert len(pictures(cache, "cut.mkv")) == cache.find("cut.mkv", "colour").num_clips > 1
    assert cache.find("cut.mkv", THUMBNAILS).source.partial


def test_a_video_that_is_damaged_by_now_fails_alone(
    videos: Path, tmp_path: Path, config: ExtractConfig
) -> None:
    shutil.copytree(videos, tmp_path / "videos")
    run_extraction(tmp_path / "videos", tmp_path / "c", config, resources=CPU, thumbnails=False)
    cache = FeatureCache(tmp_path / "c")
    path = tmp_path / "videos" / "a.mkv"
    stamp, entry = path.stat(), cache.names()["a.mkv"]
    path.write_bytes(bytes(stamp.st_size))
    cache.set_names({"a.mkv": replace(entry, mtime_ns=path.stat().st_mtime_ns)})
    report = run_extraction(
        tmp_path / "videos", tmp_path / "c", config, resources=CPU, thumbnails=True
    )
    assert [each["video"] for each in report.failed] == ["a.mkv"]
    assert report.done == 1
    assert levels(FeatureCache(tmp_path / "c"), "sub/b.mkv") == pytest.approx([144, 168], abs=2)


@pytest.mark.parametrize(
    ("options", "resize", "size"),
    [
        (("-vf", "transpose"), "squash", (120, 160)),
        (("-vf", "setsar=2"), "squash", (160, 60)),
        (("-vf", "setsar=1/3"), "squash", (71, 160)),
        (("-vf", "setsar=2"), "crop", (160, 160)),
    ],
)
def test_pictures_have_the_proportions_that_a_player_shows(
    tmp_path: Path, config: ExtractConfig, options: tuple[str, ...], resize: Any, size: Any
) -> None:
    grey_video(tmp_path / "videos" / "v.mkv", 5, 0, *options)
    config = replace(config, decode=DecodeConfig(size=64, resize=resize))
    run_extraction(tmp_path / "videos", tmp_path / "c", config, resources=CPU)
    (picture,) = pictures(FeatureCache(tmp_path / "c"), "v.mkv")
    assert picture.size == size


def test_a_video_that_is_turned_for_showing_has_turned_pictures(
    tmp_path: Path, config: ExtractConfig, make_video: Any
) -> None:
    upright = make_video(tmp_path / "v.mp4", num_frames=5)
    (tmp_path / "videos").mkdir()
    command = [find_ffmpeg(), "-v", "error", "-display_rotation", "90", "-i", str(upright)]
    subprocess.run([*command, "-c", "copy", str(tmp_path / "videos" / "t.mp4")], check=True)
    run_extraction(tmp_path / "videos", tmp_path / "c", config, resources=CPU)
    (picture,) = pictures(FeatureCache(tmp_path / "c"), "t.mp4")
    assert picture.size == (120, 160)
    shown = tmp_path / "shown.png"  # the third frame as ffmpeg turns it
    command = [find_ffmpeg(), "-v", "error", "-i", str(tmp_path / "videos" / "t.mp4")]
    subprocess.run([*command, "-vf", "select=eq(n\\,2)", "-frames:v", "1", str(shown)], check=True)
    expected = np.asarray(Image.open(shown).convert("RGB").resize((120, 160)), np.float64)
    assert np.abs(np.asarray(picture) - expected).mean() < 25
    assert np.abs(np.asarray(picture)[::-1, ::-1] - expected).mean() > 40


@given(
    width=st.integers(1, 9000),
    height=st.integers(1, 9000),
    rotation=st.sampled_from([0, 90, 180, 270]),
    num_real=st.integers(1, 4),
)
@settings(max_examples=40)
def test_any_shape_fits_and_the_middle_real_frame_is_taken(
    width: int, height: int, rotation: int, num_real: int
) -> None:
    info = StreamInfo(
        stream_index=0, width=width, height=height, codec="", pix_fmt="", rotation=rotation,
        frame_rate=25.0,
    )  # fmt: skip
    frames = np.broadcast_to(np.arange(0, 250, 50)[:, None, None, None], (5, 8, 8, 3))
    clip = Clip(start_frame=0, num_real=num_real, frames=frames.astype(np.uint8))
    thumbnails = Thumbnails(info, DecodeConfig())
    assert list(thumbnails.watch([clip])) == [clip]
    data, bounds = thumbnails.images
    assert bounds.tolist() == [0, len(data)]
    picture = Image.open(io.BytesIO(data.tobytes()))
    assert np.asarray(picture).mean() == pytest.approx(50 * (num_real // 2), abs=2)
    shown = (height, width) if rotation in (90, 270) else (width, height)
    scale = LONGEST_SIDE / max(shown)
    assert max(picture.size) == LONGEST_SIDE
    for side, real in zip(picture.size, shown, strict=True):
        assert abs(side - max(1, real * scale)) <= 0.5 + 1e-9


def test_noise_stays_below_the_limit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    data = encode(noise, (LONGEST_SIDE, LONGEST_SIDE))
    assert 2000 < len(data) <= MAX_BYTES
    smooth = encode(np.full((224, 224, 3), 90, np.uint8), (160, 120))
    assert len(smooth) < 1500


def feat_extract(*arguments: object) -> Result:
    options = ["--streams", "colour", "--device", "cpu", "--json"]
    return CliRunner().invoke(cli, ["extract", *map(str, arguments), *options])


def test_the_commands_options(videos: Path, tmp_path: Path, colour: Colour) -> None:
    place = ("--cache", tmp_path / "c")
    none = feat_extract(videos, *place, "--no-thumbnails")
    assert none.exit_code == 0, none.output
    cache = FeatureCache(tmp_path / "c")
    assert cache.streams("a.mkv") == ["colour"]
    plan = json.loads(feat_extract(videos, *place, "--thumbnails", "--dry-run").stdout)
    assert (plan["thumbnails"], plan["new"], plan["there"]) == (list(NUM_FRAMES), [], [])
    assert json.loads(feat_extract(videos, *place, "--dry-run").stdout)["thumbnails"] == []
    one = json.loads(feat_extract(videos, *place, "--thumbnails", "--limit", 1).stdout)
    assert (one["done"], one["left"]) == (1, 1)
    rest = json.loads(feat_extract(videos, *place, "--thumbnails").stdout)
    assert (rest["done"], rest["skipped"]) == (1, 1)
    assert_has_pictures(cache)
    default = feat_extract(videos, "--cache", tmp_path / "d")
    assert default.exit_code == 0, default.output
    assert_has_pictures(FeatureCache(tmp_path / "d"))


def test_a_video_has_one_key_for_pictures_whatever_its_features() -> None:
    assert feature_key("0" * 64, CONFIG) == (
        "d168492fbb7032b975bd16e5c47da236ba1318865cb3a0f618c408b472ba7e2b"
    )
