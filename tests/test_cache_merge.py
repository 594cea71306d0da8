import json
from pathlib import Path

import numpy as np
import pytest
from cache_samples import altered, make_config, make_record, sha256_of
from click.testing import CliRunner

from cache import FeatureCache, NameEntry
from cache.commands.upkeep import cache_group
from cache.exchange.compare import Closeness, diff_caches
from cache.exchange.merge import copy_shard, merge_caches
from cache.index import Index
from cache.shard.read import ShardTable, read_table
from cache.upkeep.compact import compact_cache
from cache.upkeep.verify import verify_cache
from data.errors import CacheError
from data.labels import VideoLabel, read_labels, write_labels

pytestmark = pytest.mark.usefixtures("one_viewer")


def name(content: str, mtime_ns: int = 1) -> NameEntry:
    return NameEntry(sha256=sha256_of(content), size=1, mtime_ns=mtime_ns)


@pytest.fixture
def a(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "a")


@pytest.fixture
def b(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "b")


def features(cache: FeatureCache) -> dict[str, bytes]:
    return {entry.key: cache.read_key(entry.key).tobytes() for entry in cache.entries()}


def noisy(record, scale: float):
    rng = np.random.default_rng(0)
    noise = scale * rng.standard_normal(record.features.shape).astype(np.float32)
    return altered(record, features=record.features + noise)


def test_merge_is_the_union_and_doing_it_again_changes_nothing(a, b) -> None:
    records = [make_record(f"{n}.mp4", stream) for n in range(6) for stream in ("rgb", "flow")]
    for record in records[:8]:
        a.write([record])
    b.write(records[4:9])
    b.write(records[9:])
    a.set_names({"0.mp4": name("0.mp4")})
    b.set_names({"5.mp4": name("5.mp4")})
    report = merge_caches([b], a)
    assert (report.shards, report.records, report.duplicates) == (1, 4, 4)
    assert report.names == 1
    again = FeatureCache(a.path)
    assert features(again) == {r.key: r.features.tobytes() for r in records}
    assert again.names()["5.mp4"] == name("5.mp4")
    assert verify_cache(again).problems == []
    before = sorted(path.name for path in a.shards_dir.iterdir())
    assert merge_caches([b], again).records == 0
    assert sorted(path.name for path in a.shards_dir.iterdir()) == before
    assert len(FeatureCache(b.path)) == 8  # the source is only read


def test_work_grows_with_the_number_of_shards_not_of_shards_times_records(
    a, b, monkeypatch
) -> None:
    """Tables of contents do not all stay in memory, as those of a large cache do not."""
    for first in range(0, 60, 5):
        a.write([make_record(f"{number}.mp4") for number in range(first, first + 5)])
    monkeypatch.setattr("cache.tables.MAX_RECORDS", 5)
    read = []

    def read_and_count(path: Path) -> ShardTable:
        read.append(path.name)
        return read_table(path)

    listed = []

    def list_and_count(index: Index) -> set[bytes]:
        listed.append(index)
        return list_shards(index)

    list_shards = Index._list
    monkeypatch.setattr(Index, "_list", list_and_count)
    monkeypatch.setattr("cache.tables.read_table", read_and_count)
    assert len(FeatureCache(a.path).names()) == 60  # recorded ones
    assert len(read) == 12
    read.clear()
    assert merge_caches([FeatureCache(a.path)], b).records == 60
    assert len(read) <= 2 * 12
    assert len(listed) <= 4 * 12
    assert features(b) == features(a)


def test_second_configuration_is_refused_unless_allowed(a, b) -> None:
    a.write([make_record("1.mp4")])
    b.write([make_record("2.mp4", config=make_config(clip_stride=8))])
    with pytest.raises(CacheError, match=r"nothing merged, 1 conflicts: .*clip_stride: 8 here"):
        merge_caches([b], a)
    assert len(FeatureCache(a.path)) == 1
    assert merge_caches([b], a, allow_mixed=True).records == 1


def test_sources_are_checked_against_each_other(a, b, tmp_path) -> None:
    target = FeatureCache.create(tmp_path / "target")
    a.write([make_record("1.mp4")])
    b.write([make_record("2.mp4", config=make_config(clip_stride=8))])
    with pytest.raises(CacheError, match="clip_stride"):
        merge_caches([a, b], target)
    assert len(target) == 0


def test_float_noise_is_no_conflict_but_other_features_are(a, b) -> None:
    record = make_record("1.mp4")
    a.write([record])
    b.write([noisy(record, 1e-6)])
    report = merge_caches([b], a)
    assert (report.records, report.duplicates) == (0, 1)
    np.testing.assert_array_equal(a.read_key(record.key), record.features)


def test_same_key_with_other_features_is_refused(a, b) -> None:
    record = make_record("1.mp4")
    a.write([record])
    b.write([noisy(record, 1.0)])
    with pytest.raises(CacheError, match=r"1\.mp4 rgb: same key, other features.*lowest cosine"):
        merge_caches([b], a)


def test_a_name_for_two_contents_is_refused_unless_the_latest_may_decide(a, b) -> None:
    a.write([make_record("x")])
    b.write([make_record("y")])
    a.set_names({"v.mp4": name("x")})
    b.set_names({"v.mp4": name("y")})
    with pytest.raises(CacheError, match=r"v\.mp4: content .*--latest-names"):
        merge_caches([b], a)
    merge_caches([b], a, latest_names=True)
    assert FeatureCache(a.path).names()["v.mp4"] == name("y")


def label(video: str, split: str = "train") -> VideoLabel:
    return VideoLabel(video=video, split=split, category="c", extent="all")


def test_labels_are_united_and_contradictions_refused(a, b) -> None:
    write_labels(a.labels_path, [label("1.mp4"), label("2.mp4")])
    write_labels(b.labels_path, [label("2.mp4"), label("3.mp4")])
    assert merge_caches([b], a).labels == 1
    assert [row.video for row in read_labels(a.labels_path)] == ["1.mp4", "2.mp4", "3.mp4"]
    write_labels(b.labels_path, [label("1.mp4", "test")])
    with pytest.raises(CacheError, match=r"1\.mp4: test 'c' 'all', in .*: train 'c' 'all'"):
        merge_caches([b], a)


def test_damaged_shards_of_a_source_are_left_out_and_said(a, b) -> None:
    b.write([make_record("good.mp4")])
    bad = b.write([make_record("bad.mp4")])
    for position in (-1, 300):  # in the last array, in the table
        data = bytearray(bad.read_bytes())
        data[position] ^= 1
        bad.write_bytes(data)
        report = merge_caches([FeatureCache(b.path)], a)
        assert [path.rpartition("/")[2] for path in report.damaged] == [bad.name]
        assert a.videos() == ["good.mp4"]
    result = CliRunner().invoke(cache_group, ["merge", str(b.path), str(a.path)])
    assert result.exit_code == 1
    assert bad.name in result.stderr


def test_what_a_compaction_meanwhile_moves_is_counted_once(a, b, monkeypatch) -> None:
    for number in range(5):
        b.write([make_record(f"{number}.mp4")])
    a.write([make_record("4.mp4")])
    source = FeatureCache(b.path)
    copied = []

    def copy_and_compact(path, target) -> None:
        copy_shard(path, target)
        copied.append(path)
        if len(copied) == 2:
            compact_cache(FeatureCache(b.path))

    monkeypatch.setattr("cache.exchange.merge.copy_shard", copy_and_compact)
    report = merge_caches([source], a)
    assert (report.records, report.duplicates) == (4, 1)
    assert features(FeatureCache(a.path)) == features(FeatureCache(b.path))


def test_merge_command_makes_the_target(a, tmp_path) -> None:
    a.write([make_record("1.mp4")])
    result = CliRunner().invoke(
        cache_group, ["merge", "--json", str(a.path), str(tmp_path / "new")]
    )
    assert result.exit_code == 0
    assert json.loads(result.stdout)["records"] == 1
    assert FeatureCache(tmp_path / "new").videos() == ["1.mp4"]


def test_diff_names_what_each_lacks_and_measures_the_rest(a, b) -> None:
    same, near, far = (make_record(f"{n}.mp4") for n in ("same", "near", "far"))
    a.write([same, near, far, make_record("a.mp4")])
    b.write([same, noisy(near, 1e-4), altered(far, features=-far.features), make_record("b.mp4")])
    (diff,) = diff_caches(a, b)
    assert (diff.only_a, diff.only_b) == (["a.mp4"], ["b.mp4"])
    assert (diff.both, diff.identical) == (3, 1)
    assert diff.min_cosine == pytest.approx(-1.0)
    assert diff.min_cosine_video == "far.mp4"
    assert diff.mean_cosine == pytest.approx((1 + 1 - 1) / 3, abs=1e-3)
    assert diff.config_difference == ""


def test_diff_compares_other_configurations_of_the_same_video(a, b) -> None:
    record = make_record("1.mp4")
    half = altered(
        record, features=record.features.astype(np.float16), config=make_config(precision="float16")
    )
    a.write([record])
    b.write([half])
    (diff,) = diff_caches(a, b)
    assert diff.config_difference == "precision: nothing in A, float16 in B"
    assert diff.min_cosine == pytest.approx(1.0, abs=1e-5)
    assert diff.identical == 0
    out = CliRunner().invoke(cache_group, ["diff", str(a.path), str(b.path)]).stdout
    assert "made otherwise: precision" in out


def test_cosine_by_hand() -> None:
    a = np.array([[1, 0], [3, 4], [0, 0]], np.float32)
    b = np.array([[1, 1], [3, 4], [0, 0]], np.float32)
    close = Closeness.of(a, b)
    assert close.min_cosine == pytest.approx(2**-0.5)
    assert close.mean_cosine == pytest.approx((2**-0.5 + 2) / 3)
