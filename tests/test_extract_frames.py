"""The stream of frames: real videos decoded into it, and what reading it gives."""

import resource
import shutil
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cache_samples import make_other
from click.testing import CliRunner, Result
from PIL import Image
from test_extract_thumbnails import Colour, colour, grey_video

from cache import FeatureCache
from cache.exchange.merge import merge_caches
from cache.exchange.remote import Remote
from cache.exchange.transfer import push_cache
from cache.records import FeatureRecord
from cache.shard.read import read_record, read_table
from cache.shard.write import write_shard
from cache.streams import FRAMES, PICTURES, THUMBNAILS
from cache.upkeep.summary import iter_videos
from cache.upkeep.verify import verify_cache
from data.errors import CacheError, ConfigError, ShardError
from data.ffmpeg import find_ffmpeg
from data.videos import find_videos
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig, FramesConfig
from extract.decode.limits import Limits
from extract.devices import Resources
from extract.frames import read_frames
from extract.run.runner import run_extraction
from feat import cli

__all__ = ["colour"]  # a fixture
pytestmark = pytest.mark.usefixtures("one_viewer")

CPU = Resources(device="cpu", threads=2)
SIZE = 32


def pictures(num_frames: int, seed: int = 0) -> np.ndarray:
    """Return (T, SIZE, SIZE, 3) uint8 noise, every frame another."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and a video without loss, both of the size that is kept."""
    root = tmp_path_factory.mktemp("videos")
    (root / "folder").mkdir()
    for number, frame in enumerate(pictures(5)):
        Image.fromarray(frame).save(root / "folder" / f"{number:03}.png")
    command = [find_ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{SIZE}x{SIZE}", "-r", "10", "-i", "-", "-c:v", "ffv1", "-pix_fmt", "bgr0"]
    frames = pictures(40, seed=1).tobytes()
    subprocess.run([*command, str(root / "film.mkv")], input=frames, check=True)
    return root


def extract(*words: object) -> Result:
    result = CliRunner().invoke(cli, ["extract", *map(str, words), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("gray", [False, True])
def test_frames_are_kept_as_they_are_decoded(videos: Path, tmp_path: Path, gray: bool) -> None:
    streams = f"frames:{SIZE}x{SIZE}" + gray * ",gray"
    text = extract(videos, "--cache", tmp_path / "c", "--streams", streams).stdout
    assert "2 done" in text
    assert "; 45 frames in" in text  # and not so many clips
    cache = FeatureCache(tmp_path / "c")
    for video, expected in (("folder", pictures(5)), ("film.mkv", pictures(40, seed=1))):
        entry = cache.find(video, FRAMES)
        frames = cache.memmap(entry.key)
        wanted = expected
        if gray:
            wanted = np.stack([cv2.cvtColor(f, cv2.COLOR_RGB2GRAY) for f in expected])[..., None]
        np.testing.assert_array_equal(frames, wanted)
        table = cache.read_clips(entry.key)
        assert table.start_frame.tolist() == list(range(len(wanted)))
        assert (table.end_frame - table.start_frame == 1).all()
        assert cache.feature_streams(video) == []  # no features: other methods pass them by
    # the folder was taken to have 25 frames a second
    np.testing.assert_allclose(
        cache.read_clips(cache.find("folder", FRAMES).key).start_seconds, np.arange(5) / 25
    )
    assert verify_cache(cache).problems == []
    again = extract(videos, "--cache", tmp_path / "c", "--streams", streams).stdout
    assert "0 done, 2 already there" in again


def test_images_have_one_frame_rate_in_a_cache(videos: Path, tmp_path: Path) -> None:
    """Labels in seconds and alarms an hour would else be those of another rate."""
    streams = ("--streams", f"frames:{SIZE}")
    cache = ("--cache", tmp_path / "c")
    said = extract(videos, *cache, *streams).stderr
    assert "1 folders of images, taken to have 25 frames a second (--folder-fps)" in said
    advice = "with 25 frames a second, found 10: give --folder-fps 25, or remove it"
    words = ["extract", videos, *cache, *streams, "--folder-fps", 10, "--device", "cpu"]
    for more in ([], ["--dry-run"]):
        refused = CliRunner().invoke(cli, [*map(str, words), *more])
        assert refused.exit_code == 1
        assert refused.stderr.startswith(f"error: {tmp_path / 'c'}: folder: the cache has frames")
        assert advice in refused.stderr
    # the same images under another name, which the cache does not know yet
    shutil.copytree(videos / "folder", tmp_path / "others" / "copy")
    words[1] = tmp_path / "others"
    refused = CliRunner().invoke(cli, [*map(str, words)])
    assert refused.exit_code == 1
    assert f"copy: the cache has frames of these images {advice}" in refused.output
    assert "copy" not in FeatureCache(tmp_path / "c").videos()
    words[-3] = 25
    assert "1 already there" in extract(*words[1:-2]).stdout
    # a video file has a rate of its own
    shutil.copy(videos / "film.mkv", tmp_path / "others")
    shutil.rmtree(tmp_path / "others" / "copy")
    words[-3] = 10
    assert "1 already there" in extract(*words[1:-2]).stdout


def test_frames_stand_beside_features_and_are_made_only_where_they_lack(
    tmp_path: Path, colour: Colour
) -> None:
    videos = tmp_path / "videos"
    grey_video(videos / "a.mkv", 40, 0)
    alone = ExtractConfig(streams=("colour",), decode=DecodeConfig(size=64))
    both = ExtractConfig(
        streams=("colour",), decode=DecodeConfig(size=64), frames=FramesConfig(size=16)
    )
    cache_dir = tmp_path / "c"
    assert run_extraction(videos, cache_dir, alone, resources=CPU).done == 1
    before = {path.name for path in (cache_dir / "shards").iterdir()}
    report = run_extraction(videos, cache_dir, both, resources=CPU)
    assert (report.done, report.clips, report.frames) == (1, 0, 40)
    assert colour.loaded == 1  # the network was not needed again
    cache = FeatureCache(cache_dir)
    assert cache.streams("a.mkv") == ["colour", FRAMES, THUMBNAILS]
    assert before < {path.name for path in (cache_dir / "shards").iterdir()}
    levels = cache.memmap(cache.find("a.mkv", FRAMES).key).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(levels, 3 * np.arange(40), atol=2)
    # of features and frames of one video, decoded in two goes, all that is known is the same
    assert cache.find("a.mkv", FRAMES).source == cache.find("a.mkv", "colour").source
    # and both at once give the same bytes
    run_extraction(videos, tmp_path / "d", both, resources=CPU)
    at_once = FeatureCache(tmp_path / "d")
    for entry in cache.entries():
        ours, theirs = cache.read_record(entry.key), at_once.read_record(entry.key)
        assert ours.features.tobytes() == theirs.features.tobytes()


def test_what_a_key_was_made_of_makes_it_again() -> None:
    for config in (
        ExtractConfig(streams=(), frames=FramesConfig(size=64, gray=True)),
        ExtractConfig(streams=(), decode=DecodeConfig(fps=5.0), frames=FramesConfig()),
    ):
        configs = config.stream_configs({})
        assert ExtractConfig.from_stream_configs(configs) == config
    configs[FRAMES]["frames"]["version"] += 1
    with pytest.raises(ConfigError, match="cannot make the recorded features"):
        ExtractConfig.from_stream_configs(configs)


@pytest.mark.parametrize(
    ("text", "size", "gray"),
    [
        ("frames", 256, False),
        ("frames:64x64", 64, False),
        ("frames:64", 64, False),
        ("frames:227x227,gray", 227, True),
    ],
)
def test_size_and_colours_are_read(text: str, size: int, gray: bool) -> None:
    assert FramesConfig.parse(text) == FramesConfig(size=size, gray=gray)


@pytest.mark.parametrize(
    "text",
    ["frames:", "frames:64x32", "frames:0x0", "frames:-1", "frames:64x64x64", "frames:64x64,grey"],
)
def test_another_size_or_colour_is_refused(text: str, tmp_path: Path, videos: Path) -> None:
    result = CliRunner().invoke(cli, ["extract", str(videos), "--streams", f"{text},rgb"])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "expected frames, frames:256x256 or frames:256x256,gray" in line


def test_frames_leave_only_if_that_is_asked_for(videos: Path, tmp_path: Path) -> None:
    extract(videos, "--cache", tmp_path / "c", "--streams", f"frames:{SIZE}")
    cache = FeatureCache(tmp_path / "c")
    there = Remote(str(tmp_path / "there"))
    report = push_cache(cache, there, pictures=[THUMBNAILS])
    assert (report.shards, report.frames_left_out, report.thumbnails_left_out) == (0, 2, 0)
    refused = CliRunner().invoke(
        cli, ["cache", "export", "--cache", str(tmp_path / "c"), "--out", str(tmp_path / "e")]
    )
    assert refused.exit_code == 1
    assert "no features to export, there is: frames; run" in refused.stderr
    assert [row.num_clips for row in iter_videos(cache)] == [0, 0]
    text = CliRunner().invoke(
        cli, ["cache", "push", str(tmp_path / "there"), "--cache", str(tmp_path / "c")]
    )
    assert "frames of 2 videos left out" in text.stdout
    assert push_cache(cache, there, pictures=PICTURES).shards == 2
    copy = FeatureCache(tmp_path / "there")
    np.testing.assert_array_equal(copy.memmap(copy.find("folder", FRAMES).key), pictures(5))


def test_a_full_disk_loses_nothing_and_says_so(videos: Path, tmp_path: Path) -> None:
    source = next(one for one in find_videos(videos) if one.video_id == "film.mkv")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * SIZE * SIZE * 3 + 7, before[1]))
    try:
        with pytest.raises(CacheError, match="cannot keep frames"):
            read(source, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
    assert len(read(source, tmp_path).arrays[FRAMES]) == 40


def read(source: Any, folder: Path) -> Any:
    return read_frames(
        source,
        FramesConfig(size=SIZE),
        folder,
        fps=None,
        threads=1,
        folder_fps=25.0,
        limits=Limits(),
        on_frames=lambda *_: None,
    )


MANY = 200  # frames of 256x256: 39 MB


def large_record(folder: Path) -> FeatureRecord:
    """Return a record whose frames lie in a file."""
    frames = np.memmap(folder / "frames", np.uint8, "w+", shape=(MANY, 256, 256, 3))
    frames[::10] = np.arange(256, dtype=np.uint8)[:, None]
    record = make_other(FRAMES, FRAMES, "a.mkv", num_frames=MANY)
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return FeatureRecord(**values | {"features": frames})


def test_memory_does_not_grow_with_the_frames(tmp_path: Path) -> None:
    """They are mapped: written, read, checked and merged without being held."""
    record = large_record(tmp_path)
    cache = FeatureCache.create(tmp_path / "c")
    tracemalloc.start()
    try:
        cache.write([record])
        assert verify_cache(cache).problems == []
        merge_caches([cache], FeatureCache.create(tmp_path / "merged"))
        again = FeatureCache(tmp_path / "merged").read_record(record.key)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < record.features.nbytes / 2
    np.testing.assert_array_equal(again.features, record.features)
    with pytest.raises(ValueError, match="read-only"):
        again.features[0] = 0


def test_a_changed_frame_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = write_shard(tmp_path, [large_record(tmp_path)])
    table = read_table(path)
    ((key, stored),) = table.records.items()
    for place in (0, stored.places["features"].nbytes - 1):
        with path.open("r+b") as file:
            file.seek(stored.entry.offset + place)
            byte = file.read(1)
            file.seek(stored.entry.offset + place)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(ShardError, match="checksum"):
            read_record(table, key)
        with path.open("r+b") as file:
            file.seek(stored.entry.offset + place)
            file.write(byte)
    read_record(table, key)
