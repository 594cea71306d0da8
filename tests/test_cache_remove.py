"""`feat cache rm`: what was named is gone for good, everything else is there bit for bit."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from cache_samples import make_config, make_record, sha256_of
from click.testing import CliRunner

from cache import FeatureCache, NameEntry, config_digest
from cache.claims import piece_claim
from cache.commands.upkeep import cache_group
from cache.upkeep.compact import compact_cache
from cache.upkeep.gc import collect_garbage
from cache.upkeep.remove import remove_features
from cache.upkeep.verify import verify_cache
from data.errors import CacheError
from data.labels import VideoLabel, write_labels

pytestmark = pytest.mark.usefixtures("one_viewer")

NEW = make_config(clip_stride=8)


def short(config: dict) -> str:
    return config_digest(config)[:8]


def name(content: str) -> NameEntry:
    return NameEntry(sha256=sha256_of(content), size=1, mtime_ns=1)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """a/1.mp4 and a/2.mp4 with rgb in two configurations and flow, all in one shard; b.mp4."""
    cache = FeatureCache.create(tmp_path / "features")
    cache.write(
        [
            make_record(video, stream, config=config, flow_stats=stream == "flow")
            for video in ("a/1.mp4", "a/2.mp4")
            for stream, config in (("rgb", None), ("rgb", NEW), ("flow", None))
        ]
    )
    cache.write([make_record("b.mp4")])
    cache.set_names({video: name(video) for video in ("a/1.mp4", "a/2.mp4", "b.mp4")})
    return cache


def features(cache: FeatureCache) -> dict[str, bytes]:
    again = FeatureCache(cache.path)
    assert again.bad_shards == {}
    return {entry.key: again.read_key(entry.key).tobytes() for entry in again.entries()}


def files(cache: FeatureCache) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for folder in ("shards", "names")
        for path in (cache.path / folder).iterdir()
    }


def run(*args: object) -> str:
    result = CliRunner().invoke(cache_group, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_video_goes_with_its_name_and_the_rest_stays(cache) -> None:
    write_labels(cache.labels_path, [VideoLabel(video="a/1.mp4", split="train")])
    labels = cache.labels_path.read_bytes()
    before = features(cache)
    gone = {entry.key for entry in cache.entries() if entry.source.name == "a/1.mp4"}
    report = json.loads(run("rm", "a/1.mp4", "--cache", cache.path, "--json"))
    assert [(one["video"], one["stream"]) for one in report["records"]] == [
        ("a/1.mp4", "flow"),
        ("a/1.mp4", "rgb"),
        ("a/1.mp4", "rgb"),
    ]
    # 5 clips: 8 float32 and a row of 32 bytes each, three times; 6 float32 of statistics
    assert report["nbytes"] == 5 * (3 * (8 * 4 + 32) + 6 * 4)
    assert report["names"] == ["a/1.mp4"]
    assert features(cache) == {key: data for key, data in before.items() if key not in gone}
    again = FeatureCache(cache.path)
    assert again.videos() == ["a/2.mp4", "b.mp4"]
    assert "a/1.mp4" not in again.names()
    assert cache.labels_path.read_bytes() == labels
    assert verify_cache(again).problems == []
    assert len(list(cache.shards_dir.glob("*.h5"))) == 2


def test_a_dry_run_says_the_same_and_changes_nothing(cache) -> None:
    before = files(cache)
    args = ["rm", "a/1.mp4", "b.mp4", "--cache", cache.path]
    planned = run(*args, "--dry-run")
    assert files(cache) == before
    assert planned.splitlines()[-1].endswith("and 2 names would be removed")
    assert run(*args) == planned.replace("would be removed", "removed")


def test_a_configuration_goes_from_all_videos(cache) -> None:
    before = features(cache)
    report = remove_features(cache, configs=[short(NEW)])
    assert [(one.video, one.config) for one in report.records] == [
        ("a/1.mp4", short(NEW)),
        ("a/2.mp4", short(NEW)),
    ]
    assert report.names == []
    after = features(cache)
    assert len(after) == len(before) - 2
    assert after.items() <= before.items()
    assert cache.configs("rgb") == [make_config()]
    cache.read("a/1.mp4", "rgb")  # no choice is left to make


def test_conditions_narrow_each_other(cache) -> None:
    report = remove_features(cache, videos=["a/1.mp4"], configs=[short(NEW)])
    assert [(one.video, one.stream) for one in report.records] == [("a/1.mp4", "rgb")]
    report = remove_features(cache, videos=["a/2.mp4"], stream="flow")
    assert [(one.video, one.stream) for one in report.records] == [("a/2.mp4", "flow")]
    assert report.names == []
    report = remove_features(cache, stream="flow")
    assert [(one.video, one.stream) for one in report.records] == [("a/1.mp4", "flow")]
    assert len(features(cache)) == 4


def test_second_copies_do_not_come_back(cache) -> None:
    cache.write([make_record("b.mp4"), make_record("c.mp4")])
    report = remove_features(cache, videos=["b.mp4"])
    assert len(report.records) == 1
    assert report.nbytes == 2 * 5 * (8 * 4 + 32)
    assert "b.mp4" not in FeatureCache(cache.path).videos()
    assert "c.mp4" in FeatureCache(cache.path).videos()
    assert len(features(cache)) == 7


def test_gc_drops_second_copies_of_the_unnamed_too(cache) -> None:
    cache.write([make_record("b.mp4"), make_record("a/1.mp4")])
    cache.set_names({"b.mp4": None})
    assert collect_garbage(cache, unnamed=True).unnamed_records == 1
    assert FeatureCache(cache.path).videos() == ["a/1.mp4", "a/2.mp4"]
    assert len(features(cache)) == 6


def test_a_video_by_its_content_and_one_without_a_name(cache) -> None:
    cache.set_names({"b.mp4": None})
    remove_features(cache, videos=[sha256_of("b.mp4")])
    assert len(features(cache)) == 6
    cache.write([make_record("copied.mp4")])  # goes by the name in its record
    report = remove_features(cache, videos=["copied.mp4"])
    assert (len(report.records), report.names) == (1, [])
    assert len(features(cache)) == 6


def test_what_is_not_there_is_an_error_with_near_names(cache) -> None:
    before = files(cache)
    with pytest.raises(
        CacheError, match=r"a/l\.mp4: not in .* has 3 videos: a/[12]\.mp4, a/[12]\.mp4"
    ):
        remove_features(cache, videos=["b.mp4", "a/l.mp4"])
    with pytest.raises(CacheError, match="no stream flo, there is: flow, rgb"):
        remove_features(cache, stream="flo")
    with pytest.raises(CacheError, match="no configuration begins so"):
        remove_features(cache, configs=["0" * 16])
    result = CliRunner().invoke(cache_group, ["rm", "--cache", str(cache.path)])
    assert result.exit_code == 2
    assert "name a VIDEO, a --config or a --stream" in result.stderr
    with pytest.raises(ValueError, match="expected a video"):
        remove_features(cache)
    assert files(cache) == before


def test_of_a_content_with_several_names_only_the_name_goes(cache) -> None:
    cache.set_names({"copy.mp4": name("b.mp4"), "third.mp4": name("b.mp4")})
    with pytest.raises(CacheError, match=r"b\.mp4: the same content as copy\.mp4.*its sha256"):
        remove_features(cache, videos=["b.mp4"], stream="rgb")
    before = features(cache)
    for dry in ("--dry-run", "--json"):
        args = ["rm", "b.mp4", "--cache", str(cache.path), dry]
        done = CliRunner().invoke(cache_group, args, catch_exceptions=False)
        assert done.exit_code == 0
        if dry == "--dry-run":
            assert "b.mp4: only the name, the features are those of copy.mp4, too" in done.stdout
            assert "0 records (0 B) and 1 names would be removed" in done.stdout
    assert json.loads(done.stdout)["shared"] == {"b.mp4": "copy.mp4"}
    left = FeatureCache(cache.path)
    assert left.videos() == ["a/1.mp4", "a/2.mp4", "copy.mp4", "third.mp4"]
    assert features(left) == before
    report = remove_features(left, videos=[" copy.mp4", "third.mp4"])  # as it was typed
    assert report.names == ["copy.mp4", "third.mp4"]
    assert FeatureCache(cache.path).videos() == ["a/1.mp4", "a/2.mp4"]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "a piece of it"])
def test_a_video_that_is_being_extracted_is_left_alone(cache, whole) -> None:
    before = files(cache)
    name = sha256_of("b.mp4") if whole else piece_claim(sha256_of("b.mp4"), "clips 0 to 9")
    with FeatureCache(cache.path).claim(name) as mine:
        assert mine
        with pytest.raises(CacheError, match=r"b\.mp4: .* is extracting it; try later"):
            remove_features(cache, videos=["b.mp4"])
        remove_features(cache, videos=["a/1.mp4"], stream="flow", dry_run=True)
    assert files(cache) == before
    busy = "compacting, repairing or removing; try later"
    with FeatureCache(cache.path).maintenance(), pytest.raises(CacheError, match=busy):
        remove_features(cache, videos=["b.mp4"])
    assert files(cache) == before


def test_a_shard_whose_other_records_are_damaged_is_left_alone(cache) -> None:
    kept = FeatureCache(cache.path).entry(make_record("a/2.mp4").key)
    path = cache.shards_dir / kept.shard
    data = bytearray(path.read_bytes())
    data[kept.offset] ^= 1
    path.write_bytes(data)
    result = CliRunner().invoke(cache_group, ["rm", "a/1.mp4", "b.mp4", "--cache", str(cache.path)])
    assert result.exit_code == 1
    assert "1 damaged shards left alone" in result.stderr
    assert "1 records" in result.stdout  # b.mp4, of the other shard
    assert path.read_bytes() == data
    assert FeatureCache(cache.path).videos() == ["a/1.mp4", "a/2.mp4"]


def test_a_removed_video_may_be_written_again(cache) -> None:
    remove_features(cache, videos=["b.mp4"])
    cache.write([make_record("b.mp4")])
    cache.set_names({"b.mp4": name("b.mp4")})
    assert FeatureCache(cache.path).videos() == ["a/1.mp4", "a/2.mp4", "b.mp4"]


def remove_some(path: Path) -> None:
    """Remove a configuration and ten videos, or what another process has left of them."""
    cache = FeatureCache(path)
    if NEW in cache.configs():
        remove_features(cache, configs=[short(NEW)])
    videos = [video for video in cache.names() if int(video[:-4]) < 10]
    if videos:
        remove_features(cache, videos=videos)


@pytest.mark.parametrize("tries", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_killed_at_any_moment_no_other_record_is_lost(tries, tmp_path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    for number in range(30):
        video = f"{number}.mp4"
        cache.write(
            [make_record(video), make_record(video, config=NEW), make_record(video, "flow")]
        )
        cache.set_names({video: name(video)})
    compact_cache(cache, target_bytes=50_000)
    before = features(cache)
    keep = {
        key: data
        for key, data in before.items()
        if (entry := cache.entry(key)).config != NEW and int(entry.source.name[:-4]) >= 10
    }
    rng = random.Random(0)
    fork = multiprocessing.get_context("fork")
    kills = 0
    for _ in range(tries):
        child = fork.Process(target=remove_some, args=(cache.path,))
        child.start()
        time.sleep(rng.uniform(0.005, 0.08))
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
            kills += 1
        child.join()
        assert keep.items() <= features(cache).items()
        if child.exitcode == 0:
            break
    remove_some(cache.path)
    assert kills > 0
    assert verify_cache(cache).problems == []
    assert features(cache) == keep
    assert FeatureCache(cache.path).videos() == sorted(f"{n}.mp4" for n in range(10, 30))
