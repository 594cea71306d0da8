"""Kinds of streams besides features (S, D), through all that a cache does with a record."""

import json
import re
import struct
import zlib

import h5py
import numpy as np
import pytest
from cache_samples import altered, join_bytes, make_other, make_record, reseal, reseal_structure
from click.testing import CliRunner

from cache import FeatureCache, FeatureRecord
from cache.commands.upkeep import cache_group
from cache.exchange.compare import diff_caches
from cache.exchange.exporting import export_npy
from cache.exchange.merge import merge_caches
from cache.shard.hdf5_view import find_difference
from cache.shard.read import read_record, read_table
from cache.shard.write import write_shard
from cache.streams import KINDS, StreamKind, order_streams
from cache.upkeep.compact import compact_cache
from cache.upkeep.verify import find_flaws, verify_cache
from data.errors import CacheError, ShardError

pytestmark = pytest.mark.usefixtures("one_viewer")

OTHERS = {"crops": "ten-crop", "frames": "frames", "images": "thumbnails"}


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind that the program does not know: what another kind costs is this one line."""
    kind = StreamKind(axes=("S", "C", "H", "W"), dtypes=("float16",))
    monkeypatch.setitem(KINDS, "maps", kind)
    return "maps"


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    """One video with features of two streams and one stream of each other kind."""
    cache = FeatureCache.create(tmp_path / "features")
    cache.write([make_record(), make_record(stream="flow", flow_stats=True)])
    cache.write([make_other(kind, stream) for kind, stream in OTHERS.items()])
    return cache


def assert_same(a: FeatureRecord, b: FeatureRecord) -> None:
    assert (a.key, a.stream, a.kind, a.source) == (b.key, b.stream, b.kind, b.source)
    np.testing.assert_array_equal(a.features, b.features, strict=True)
    np.testing.assert_array_equal(a.clips.to_array(), b.clips.to_array(), strict=True)
    assert (a.bounds is None) == (b.bounds is None)
    if a.bounds is not None and b.bounds is not None:
        np.testing.assert_array_equal(a.bounds, b.bounds, strict=True)


@pytest.mark.parametrize(("kind", "stream"), OTHERS.items())
def test_a_record_of_every_kind_comes_back(cache, kind, stream) -> None:
    record = make_other(kind, stream)
    again = FeatureCache(cache.path)
    assert_same(again.read_record(record.key), record)
    np.testing.assert_array_equal(again.read("a/one.mp4", stream), record.features, strict=True)
    np.testing.assert_array_equal(again.memmap(record.key), record.features)
    entry = again.entry(record.key)
    assert (entry.kind, entry.feature_shape, entry.num_clips) == (kind, record.features.shape, 5)
    assert entry.nbytes == record.features.nbytes


def test_images_are_the_bytes_that_were_given(tmp_path) -> None:
    images = [b"RIFF\0", b"\xff\xd8\xff", b"x", b"\0" * 700, b"last"]
    array, bounds = join_bytes(images)
    record = altered(make_other("images", "thumbnails"), features=array, bounds=bounds)
    table = read_table(write_shard(tmp_path, [record]))
    assert read_record(table, record.key).strings() == images
    with pytest.raises(ValueError, match="rows of features are no strings of bytes"):
        make_record().strings()


def test_a_new_kind_takes_one_line(maps, tmp_path) -> None:
    record = make_other(maps, "i3d-maps")
    cache = FeatureCache.create(tmp_path / "features")
    path = cache.write([make_record(), record])
    assert_same(FeatureCache(cache.path).read_record(record.key), record)
    assert find_difference(path) == ""
    assert list(find_flaws(record)) == []
    broken = record.features.copy()
    broken[3, 1, 6, 6] = np.nan
    (flaw,) = find_flaws(altered(record, features=broken))
    assert flaw == "1 of 5 rows (first: row 3) with NaN or infinity"
    other = FeatureCache.create(tmp_path / "other")
    merge_caches([cache], other)
    assert_same(other.read_record(record.key), record)


def test_a_build_without_the_kind_says_so_and_does_not_call_for_quarantine(
    maps, tmp_path, monkeypatch
) -> None:
    path = write_shard(tmp_path, [make_other(maps, "i3d-maps")])
    monkeypatch.delitem(KINDS, maps)
    with pytest.raises(ShardError, match=r"kind 'maps' that is unknown here; upgrade feat$"):
        read_table(path)


def test_features_are_written_as_layout_1_and_other_kinds_as_layout_2(tmp_path) -> None:
    # earlier builds read layout 1 and refuse a newer one instead of misreading it
    for records, layout in (
        ([make_record(), make_record(stream="flow", flow_stats=True)], 1),
        ([make_record(), make_other("crops", "ten-crop")], 2),
    ):
        path = write_shard(tmp_path, records)
        data = path.read_bytes()
        assert data[:16] == b"feat-shard %04d " % layout
        rows = json.loads(data[92 : 92 + int(data[16:26])])["records"]
        assert [row.get("kind") for row in rows] == [None, None if layout == 1 else "crops"]
        with h5py.File(path) as shard:
            assert shard.attrs["layout"] == layout
            about = [json.loads(shard[record.key].attrs["record"]) for record in records]
        assert [each.get("kind") for each in about] == [row.get("kind") for row in rows]


def test_verify_and_compact_leave_all_kinds_whole(cache) -> None:
    assert verify_cache(cache).problems == []
    compact_cache(cache)
    assert len(cache.shards()) == 1
    report = verify_cache(FeatureCache(cache.path))
    assert (report.problems, report.records) == ([], 5)
    for kind, stream in OTHERS.items():
        assert_same(cache.read_record(make_other(kind, stream).key), make_other(kind, stream))


def test_verify_finds_a_flipped_byte_in_any_array_of_any_kind(cache) -> None:
    for kind, stream in OTHERS.items():
        key = make_other(kind, stream).key
        path = cache.shards_dir / cache.entry(key).shard
        sound = path.read_bytes()
        for place in read_table(path).records[key].places.values():
            data = bytearray(sound)
            data[place.offset + place.nbytes // 2] ^= 1
            path.write_bytes(data)
            assert verify_cache(FeatureCache(cache.path)).problems
            path.write_bytes(sound)


def test_verify_says_where_crops_are_broken_and_lets_dark_images_be(tmp_path) -> None:
    crops, frames = make_other("crops", "ten-crop"), make_other("frames", "frames")
    features = crops.features.copy()
    features[4] = 0
    cache = FeatureCache.create(tmp_path / "features")
    cache.write([altered(crops, features=features), altered(frames, features=frames.features * 0)])
    (problem,) = verify_cache(cache).problems
    assert (problem.stream, problem.problem) == ("ten-crop", "1 of 5 rows (first: row 4) all zero")


def test_merge_refuses_other_crops_under_one_key_but_not_other_images(tmp_path) -> None:
    ours, theirs = (FeatureCache.create(tmp_path / name) for name in ("ours", "theirs"))
    for seed, cache in ((1, ours), (2, theirs)):
        cache.write([make_other("images", "thumbnails", seed=seed)])
    report = merge_caches([theirs], ours)
    assert (report.records, report.duplicates) == (0, 1)
    assert_same(
        ours.read_record(make_other("images", "thumbnails").key),
        make_other("images", "thumbnails", seed=1),
    )
    for seed, cache in ((1, ours), (2, theirs)):
        cache.write([make_other("crops", "ten-crop", seed=seed)])
    with pytest.raises(CacheError, match=r"a/one\.mp4 ten-crop: same key, other features"):
        merge_caches([theirs], ours)
    diffs = {diff.stream: diff for diff in diff_caches(ours, theirs)}
    assert diffs["ten-crop"].min_cosine is not None
    assert diffs["thumbnails"].min_cosine is None
    assert (diffs["ten-crop"].identical, diffs["thumbnails"].identical) == (0, 0)


def test_export_takes_features_only(cache, tmp_path) -> None:
    report = export_npy(cache, tmp_path / "out")
    assert (report.videos, report.dim) == (1, 16)
    with pytest.raises(
        CacheError, match=r"no stream thumbnails, there is: rgb, flow \(only features"
    ):
        export_npy(cache, tmp_path / "out", streams=["thumbnails"])


def test_ls_and_info_tell_of_other_kinds(cache) -> None:
    options = ["--cache", str(cache.path), "--json"]
    listing = json.loads(CliRunner().invoke(cache_group, ["ls", *options]).stdout)
    assert listing["videos"][0]["num_clips"] == 5
    assert listing["videos"][0]["streams"] == ["flow", "frames", "rgb", "ten-crop", "thumbnails"]
    about = json.loads(CliRunner().invoke(cache_group, ["info", "a/one.mp4", *options]).stdout)
    kinds = {stream["stream"]: stream["kind"] for stream in about["streams"]}
    assert kinds == {"rgb": "features", "flow": "features"} | {v: k for k, v in OTHERS.items()}


def test_known_streams_come_first_and_others_by_name() -> None:
    assert order_streams({"c3d", "flow", "b", "rgb"}) == ("rgb", "flow", "b", "c3d")


def row_of(table, kind):
    return next(row for row in table["records"] if row.get("kind") == kind)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("crops", lambda row: row["features"].update(shape=[5, 80])),
        ("crops", lambda row: row["features"].update(shape=[4, 10, 10])),
        ("crops", lambda row: row["features"].update(shape=[5, 10, 2**40])),
        ("crops", lambda row: row["features"].update(shape=[5, 0, 8])),
        ("crops", lambda row: row["features"].update(dtype="uint8")),
        ("crops", lambda row: row.update(kind="features")),
        ("crops", lambda row: row.pop("kind")),
        ("crops", lambda row: row.update(kind=["crops"])),
        ("crops", lambda row: row.update(kind="images")),
        ("crops", lambda row: row["clips"].update(shape=[4])),
        ("crops", lambda row: row["clips"].update(shape=[])),
        ("frames", lambda row: row["features"].update(shape=[74, 4, 5, 3])),
        ("frames", lambda row: row["source"].update(num_frames=74)),
        ("images", lambda row: row.pop("bounds")),
        ("images", lambda row: row["bounds"].update(offset=0)),
        ("images", lambda row: row["features"].update(shape=[2**40])),
        ("images", lambda row: row["features"].update(shape=[])),
    ],
)
def test_hostile_tables_of_other_kinds_are_refused(tmp_path, kind, change) -> None:
    path = write_shard(tmp_path, [make_other(kind, OTHERS[kind])])
    reseal(path, lambda table: change(row_of(table, kind)))
    with pytest.raises(ShardError, match=re.escape(str(path))) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [(0, 1), (1, 0), (3, -5), (5, 2**40), (5, 1)])
def test_bounds_that_make_no_sense_are_refused(tmp_path, bad) -> None:
    record = make_other("images", "thumbnails")
    path = write_shard(tmp_path, [record])
    place = read_table(path).records[record.key].places["bounds"]
    data = bytearray(path.read_bytes())
    row, value = bad
    struct.pack_into("<q", data, place.offset + 8 * row, value)
    path.write_bytes(data)
    piece = bytes(data[place.offset : place.offset + place.nbytes])
    reseal(
        path,
        lambda table: table["records"][0]["bounds"].update(crc32=zlib.crc32(piece), xxh3=""),
    )
    with pytest.raises(ShardError, match="bounds must"):
        read_record(read_table(path), record.key)


def test_an_hdf5_group_of_another_kind_than_the_table_says_is_found(cache) -> None:
    (shard,) = {cache.entry(make_other(k, s).key).shard for k, s in OTHERS.items()}
    path = cache.shards_dir / shard
    key = make_other("crops", "ten-crop").key
    with h5py.File(path, "r+") as file:
        about = file[key].attrs["record"]
        file[key].attrs["record"] = np.bytes_(about.replace(b'"kind":"crops"', b'"kind":"bogus"'))
    path = reseal_structure(path)
    assert "record attribute is not the table's" in find_difference(path)
