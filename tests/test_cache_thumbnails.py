"""Thumbnails in a cache: kept by what stays at home, left out by what leaves, no features."""

import io
import json
from pathlib import Path

import pytest
from cache_samples import altered, join_bytes, make_clips, make_config, make_other, make_record
from click.testing import CliRunner, Result
from PIL import Image

from cache import FeatureCache, FeatureRecord, NameEntry
from cache.commands.upkeep import cache_group
from cache.exchange.compare import diff_caches
from cache.exchange.exporting import export_npy
from cache.exchange.foreign import ImportConfig
from cache.exchange.importing import import_with_labels
from cache.exchange.merge import merge_caches
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache, push_cache
from cache.facts import video_facts
from cache.shard.read import read_table
from cache.streams import THUMBNAILS
from cache.upkeep.compact import compact_cache
from cache.upkeep.gc import collect_garbage
from cache.upkeep.remove import remove_features
from cache.upkeep.verify import verify_cache

pytestmark = pytest.mark.usefixtures("one_viewer")

VIDEOS = [f"day {number}/door.mp4" for number in range(3)]
MARK = b"a face"  # what must not leave


def jpegs(count: int, seed: int = 0) -> list[bytes]:
    images = []
    for number in range(count):
        file = io.BytesIO()
        colour = (20 * number, 90 + seed, 10)
        Image.new("RGB", (160, 120), colour).save(file, "JPEG", comment=MARK)
        images.append(file.getvalue())
    return images


def thumbnails(video: str, *, num_frames: int = 75, seed: int = 0) -> FeatureRecord:
    array, bounds = join_bytes(jpegs(len(make_clips(num_frames)), seed))
    other = make_other("images", THUMBNAILS, video, num_frames=num_frames)
    return altered(other, features=array, bounds=bounds)


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    """Three videos, each with a shard of features and one of thumbnails."""
    cache = FeatureCache.create(tmp_path / "features")
    for video in VIDEOS:
        cache.write([thumbnails(video)])
        cache.write([make_record(video), make_record(video, "flow", flow_stats=True)])
    return cache


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cache_group, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result


def holds(folder: Path, mark: bytes = MARK) -> bool:
    return any(mark in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def streams(folder: Path) -> dict[str, tuple[str, ...]]:
    cache = FeatureCache(folder)
    return {video: tuple(cache.streams(video)) for video in cache.videos()}


def test_images_are_read_one_a_clip(cache: FeatureCache) -> None:
    entry = cache.find(VIDEOS[0], THUMBNAILS)
    images = cache.read_images(entry.key)
    assert images == jpegs(5)
    assert len(images) == len(cache.read_clips(entry.key))
    with pytest.raises(ValueError, match="rows of features are no strings of bytes"):
        cache.read_images(cache.find(VIDEOS[0], "rgb").key)


def test_push_leaves_pictures_out_and_says_so(cache: FeatureCache, tmp_path: Path) -> None:
    there = tmp_path / "disk"
    text = run("push", there, "--cache", cache.path).stdout
    assert holds(cache.path)
    assert text.startswith("3 shards (")
    assert text.splitlines()[1].startswith("thumbnails of 3 videos left out, ")
    assert streams(there) == dict.fromkeys(VIDEOS, ("flow", "rgb"))
    assert not holds(there)
    again = json.loads(run("push", there, "--cache", cache.path, "--json").stdout)
    assert (again["shards"], again["already"], again["thumbnails_left_out"]) == (0, 3, 3)
    # features are copies of whole shards
    assert FeatureCache(there).shards() < cache.shards()
    assert verify_cache(FeatureCache(there)).problems == []


def test_push_takes_pictures_along_if_that_is_asked_for(
    cache: FeatureCache, tmp_path: Path
) -> None:
    there = tmp_path / "disk"
    push_cache(cache, Remote(str(there)))
    text = run("push", there, "--cache", cache.path, "--thumbnails").stdout
    assert text.startswith("3 shards (")
    assert "left out" not in text
    assert streams(there) == dict.fromkeys(VIDEOS, ("flow", "rgb", THUMBNAILS))
    # what is there already is not said to have stayed here
    assert "left out" not in run("push", there, "--cache", cache.path).stdout
    mine = FeatureCache.create(tmp_path / "mine")
    pull_cache(mine, Remote(str(there)))
    assert mine.read_images(mine.find(VIDEOS[1], THUMBNAILS).key) == jpegs(5)


@pytest.mark.parametrize("reread", [False, True])
def test_a_shard_of_both_leaves_without_its_pictures(tmp_path: Path, reread: bool) -> None:
    """We write no such shard, but others may, and a cache is rsynced from anywhere."""
    cache = FeatureCache.create(tmp_path / "features")
    records = [make_record(video) for video in VIDEOS]
    cache.write([*records, *(thumbnails(video) for video in VIDEOS)])
    there = Remote(str(tmp_path / "disk"))
    first = push_cache(cache, there, reread=reread)
    assert (first.shards, first.thumbnails_left_out) == (1, 3)
    assert streams(tmp_path / "disk") == dict.fromkeys(VIDEOS, ("rgb",))
    assert not holds(tmp_path / "disk")
    copy = FeatureCache(tmp_path / "disk")
    for record in records:
        assert copy.read_key(record.key).tobytes() == record.features.tobytes()
    assert verify_cache(copy).problems == []
    second = push_cache(cache, there)
    assert (second.shards, second.already, second.thumbnails_left_out) == (0, 1, 3)
    push_cache(cache, there, pictures=[THUMBNAILS])
    assert streams(tmp_path / "disk") == dict.fromkeys(VIDEOS, ("rgb", THUMBNAILS))


def test_a_mixed_shard_that_is_damaged_is_not_sent(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    record = make_record()
    path = cache.write([record, thumbnails("a/one.mp4")])
    place = read_table(path).records[record.key].places["features"]
    data = bytearray(path.read_bytes())
    data[place.offset] ^= 1
    path.write_bytes(data)
    report = push_cache(FeatureCache(cache.path), Remote(str(tmp_path / "disk")))
    assert (report.shards, report.damaged) == (0, [path.name])
    assert not list((tmp_path / "disk" / "shards").glob("*"))


@pytest.mark.parametrize("layout", ["npy", "lad", "rtfm", "parquet"])
def test_export_writes_pictures_only_if_that_is_asked_for(
    cache: FeatureCache, tmp_path: Path, layout: str
) -> None:
    if layout == "parquet":
        pytest.importorskip("pyarrow")
    cache.write([make_record("no pictures.mp4"), make_record("no pictures.mp4", "flow")])
    out = tmp_path / "out" / ("all.parquet" if layout == "parquet" else "")
    command = ["export", "--cache", cache.path, "--format", layout, "--out", out]
    text = run(*command).stdout
    assert text.splitlines()[-1].startswith("thumbnails of 3 videos left out, ")
    assert not holds(tmp_path / "out")
    assert "left out" not in run(*command, "--thumbnails").stdout
    folder = tmp_path / "out" / "thumbnails"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")) == [
        f"day {number}/door/{start:06d}.jpg" for number in range(3) for start in range(0, 75, 16)
    ]
    assert (folder / "day 2/door/000032.jpg").read_bytes() == jpegs(5)[2]
    # the features come back as they were
    copy = FeatureCache.create(tmp_path / "copy")
    place = out if layout == "parquet" else tmp_path / "out"
    import_with_labels([place], copy, ImportConfig(stream="", origin=""), None)
    assert streams(copy.path) == dict.fromkeys([*VIDEOS, "no pictures.mp4"], ("flow", "rgb"))


def test_export_of_a_cache_without_pictures_says_nothing(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    cache.write([make_record()])
    assert (
        len(run("export", "--cache", cache.path, "--out", tmp_path / "out").stdout.splitlines())
        == 1
    )
    report = export_npy(cache, tmp_path / "again", thumbnails=True)
    assert (report.thumbnails, report.thumbnails_left_out) == (0, 0)


def test_compaction_keeps_pictures_apart(cache: FeatureCache) -> None:
    report = compact_cache(cache)
    assert (report.shards_before, report.shards_after) == (6, 2)
    found = {
        frozenset(stored.entry.stream for stored in table.records.values())
        for table in (read_table(cache.shards_dir / name) for name in cache.shards())
    }
    assert found == {frozenset({THUMBNAILS}), frozenset({"rgb", "flow"})}
    # the features stay what builds read that know no other kind
    heads = sorted(path.read_bytes()[:15] for path in cache.shards_dir.iterdir())
    assert heads == [b"feat-shard 0001", b"feat-shard 0002"]
    again = FeatureCache(cache.path)
    assert [again.read_images(again.find(v, THUMBNAILS).key) for v in VIDEOS] == [jpegs(5)] * 3
    assert verify_cache(again).problems == []


def test_merge_keeps_pictures_and_other_ones_are_no_conflict(
    cache: FeatureCache, tmp_path: Path
) -> None:
    """Somebody else's are of other clips and from another encoder; the key is the video's."""
    other = FeatureCache.create(tmp_path / "other")
    other.write([thumbnails(VIDEOS[0], num_frames=300, seed=9)])
    other.write([make_record(VIDEOS[0])])
    other.write([thumbnails("night.mp4")])
    report = merge_caches([cache], other)
    assert (report.records, report.duplicates) == (7, 2)
    assert other.read_images(other.find(VIDEOS[0], THUMBNAILS).key) == jpegs(19, 9)
    assert other.read_images(other.find(VIDEOS[1], THUMBNAILS).key) == jpegs(5)
    (found,) = [diff for diff in diff_caches(cache, other) if diff.stream == THUMBNAILS]
    assert (found.both, found.identical, found.other_shape) == (3, 2, [])
    assert (found.mean_cosine, found.config_difference) == (None, "")


def test_pictures_tell_no_frames(cache: FeatureCache) -> None:
    """Those of a resampled video may be of other frames than its features are."""
    cache.write([thumbnails("slow.mp4", num_frames=20), make_record("slow.mp4", num_frames=60)])
    cache.write([thumbnails("bare.mp4")])
    facts = video_facts(cache)
    assert facts["slow.mp4"].num_frames == 60
    assert "bare.mp4" not in facts
    listing = json.loads(run("ls", cache.path, "--json").stdout)["videos"]
    (slow,) = [row for row in listing if row["video"] == "slow.mp4"]
    assert (slow["num_frames"], slow["num_clips"]) == (60, 4)
    assert slow["streams"] == ["rgb", THUMBNAILS]


def test_pictures_are_removed_alone_or_with_their_video(cache: FeatureCache) -> None:
    remove_features(cache, videos=[VIDEOS[0]])
    assert streams(cache.path) == dict.fromkeys(VIDEOS[1:], ("flow", "rgb", THUMBNAILS))
    assert len(remove_features(cache, stream=THUMBNAILS).records) == 2
    assert streams(cache.path) == dict.fromkeys(VIDEOS[1:], ("flow", "rgb"))
    assert not holds(cache.path)


def test_gc_of_unnamed_contents_takes_their_pictures(cache: FeatureCache) -> None:
    kept = cache.content(VIDEOS[2])
    cache.set_names({VIDEOS[2]: NameEntry(sha256=kept, size=1, mtime_ns=1)})
    assert collect_garbage(cache, unnamed=True).unnamed_records == 6
    assert {entry.source.sha256 for entry in cache.entries()} == {kept}


def test_info_and_verify_know_them(cache: FeatureCache) -> None:
    about = json.loads(run("info", "--cache", cache.path, "--json").stdout)
    (config,) = [one for one in about["configs"] if one["stream"] == THUMBNAILS]
    assert (config["videos"], config["clips"]) == (3, 15)
    assert config["config"] == make_config(THUMBNAILS)
    assert "all is well" in run("verify", cache.path).stdout
