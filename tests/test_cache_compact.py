import os
import shutil
import time

import numpy as np
import pytest
from cache_samples import make_record, sha256_of
from click.testing import CliRunner

from cache import FeatureCache, NameEntry
from cache.commands.upkeep import cache_group
from cache.upkeep.compact import compact_cache
from cache.upkeep.gc import _leftovers, collect_garbage
from cache.upkeep.verify import verify_cache
from data.errors import CacheError

pytestmark = pytest.mark.usefixtures("one_viewer")


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "features")


def features(cache: FeatureCache) -> dict[str, bytes]:
    return {entry.key: cache.read_key(entry.key).tobytes() for entry in cache.entries()}


def test_small_shards_become_one_and_nothing_else_changes(cache) -> None:
    for number in range(20):
        cache.write([make_record(f"{number}.mp4"), make_record(f"{number}.mp4", "flow")])
    reader = FeatureCache(cache.path)
    before = features(reader)
    report = compact_cache(cache)
    assert (report.shards_before, report.shards_after) == (20, 1)
    assert features(FeatureCache(cache.path)) == before
    assert features(reader) == before  # opened before, its shards are gone
    assert verify_cache(cache).problems == []
    assert compact_cache(cache).shards_after == 1


def test_shards_are_filled_to_the_target_size(cache) -> None:
    for number in range(12):
        cache.write([make_record(f"{number}.mp4", dim=2048)])  # 41 kB and some
    report = compact_cache(cache, target_bytes=200_000)
    sizes = [path.stat().st_size for path in cache.shards_dir.iterdir()]
    assert report.shards_after == len(sizes) == 3
    assert max(sizes) < 220_000
    assert len(FeatureCache(cache.path)) == 12


def test_second_copies_are_dropped_even_from_large_shards(cache) -> None:
    records = [make_record(f"{number}.mp4") for number in range(4)]
    cache.write(records)
    cache.write(records[1:3])
    cache.write([records[0], make_record("new.mp4")])
    report = compact_cache(cache, target_bytes=1)
    assert report.duplicates == 3
    again = FeatureCache(cache.path)
    assert len(again) == 5
    held = [key for path in cache.shards_dir.iterdir() for key in again.keys_of(path.name)]
    assert len(held) == len(set(held)) == 5


def test_the_only_sound_copy_is_never_dropped(cache) -> None:
    record = make_record("1.mp4")
    paths = [cache.write([record]), cache.write([record, make_record("2.mp4")])]
    used = FeatureCache(cache.path).entry(record.key)
    bad = next(path for path in paths if path.name == used.shard)
    data = bytearray(bad.read_bytes())
    data[used.offset] ^= 1
    bad.write_bytes(data)
    compact_cache(FeatureCache(cache.path))
    verify_cache(FeatureCache(cache.path), repair=True)
    again = FeatureCache(cache.path)
    np.testing.assert_array_equal(again.read_key(record.key), record.features)


def test_damaged_shards_are_left_alone(cache) -> None:
    for number in range(3):
        cache.write([make_record(f"{number}.mp4")])
    bad = cache.write([make_record("bad.mp4")])
    bad.write_bytes(bad.read_bytes()[:-10])
    report = compact_cache(FeatureCache(cache.path))
    assert report.damaged == 1
    assert bad.exists()
    assert report.shards_after == 1


def test_only_one_may_remove_shards_at_a_time(cache) -> None:
    with FeatureCache(cache.path).maintenance() as mine:
        assert mine
        with pytest.raises(CacheError, match="is compacting, repairing or removing; try later"):
            compact_cache(cache)
        with pytest.raises(CacheError, match="is compacting, repairing or removing; try later"):
            verify_cache(cache, repair=True)
        with pytest.raises(CacheError, match="is compacting, repairing or removing; try later"):
            collect_garbage(cache)


def test_compact_command(cache) -> None:
    cache.write([make_record("1.mp4")])
    cache.write([make_record("2.mp4")])
    result = CliRunner().invoke(cache_group, ["compact", str(cache.path)])
    assert result.exit_code == 0
    assert result.stdout.startswith("2 shards (")
    assert ") -> 1 (" in result.stdout


def leave(path, days: float) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"leftover")
    past = time.time() - days * 86400
    os.utime(path, (past, past))
    os.utime(path.parent, (past, past)) if path.parent.parent.name == "partial" else None


def test_gc_removes_old_leftovers_only(cache) -> None:
    cache.write([make_record("1.mp4")])
    old = [
        cache.shards_dir / ".tmp-x-1-aa",
        cache.path / "names" / ".tmp-x-2-bb",
        cache.path / "claims" / f"{sha256_of('x')}.claim",
        cache.path / "partial" / sha256_of("y") / "000000000-000000001-aa.block",
    ]
    young = [
        cache.shards_dir / ".tmp-x-3-cc",
        cache.path / "partial" / sha256_of("z") / "000000000-000000001-aa.block",
    ]
    for path in old:
        leave(path, 8)
    for path in young:
        leave(path, 6)
    shards = [path.name for path in cache.shards_dir.glob("*.h5")]
    report = collect_garbage(cache, dry_run=True)
    assert len(report.removed) == 4
    assert all(path.exists() for path in old)
    assert collect_garbage(cache).removed == report.removed
    assert not any(path.exists() for path in old)
    assert not (cache.path / "partial" / sha256_of("y")).exists()
    assert all(path.exists() for path in young)
    assert [path.name for path in cache.shards_dir.glob("*.h5")] == shards


def test_gc_goes_on_where_somebody_cleared_up_meanwhile(cache, monkeypatch) -> None:
    gone = cache.path / "partial" / sha256_of("y") / "000000000-000000001-aa.block"
    stays = cache.path / "claims" / f"{sha256_of('x')}.claim"
    for path in (gone, stays):
        leave(path, 8)

    def find_and_clear_up(*args):
        found = _leftovers(*args)
        shutil.rmtree(gone.parent)
        return found

    monkeypatch.setattr("cache.upkeep.gc._leftovers", find_and_clear_up)
    report = collect_garbage(cache)
    assert report.removed == [stays.relative_to(cache.path).as_posix()]
    assert not stays.exists()


def test_gc_of_contents_that_lost_their_names(cache) -> None:
    def name(content: str) -> NameEntry:
        return NameEntry(sha256=sha256_of(content), size=1, mtime_ns=1)

    cache.write([make_record("old"), make_record("kept")])
    cache.write([make_record("gone")])
    cache.set_names({"v.mp4": name("old"), "k.mp4": name("kept"), "g.mp4": name("gone")})
    cache.set_names({"v.mp4": name("new"), "g.mp4": None})
    assert collect_garbage(cache).unnamed_records == 0
    assert len(FeatureCache(cache.path)) == 3
    report = collect_garbage(cache, unnamed=True)
    assert report.unnamed_records == 2
    again = FeatureCache(cache.path)
    assert again.videos() == ["k.mp4"]
    assert len(again) == 1
    assert verify_cache(again).problems == []


def test_compaction_beside_a_writer_and_a_reader(cache) -> None:
    import threading

    records = [make_record(f"{number}.mp4") for number in range(60)]
    errors: list[BaseException] = []

    def write() -> None:
        own = FeatureCache(cache.path)
        for record in records:
            own.write([record])

    def read() -> None:
        own = FeatureCache(cache.path)
        try:
            for _ in range(4):
                for record in records:
                    if own.has(record.key):
                        np.testing.assert_array_equal(own.read_key(record.key), record.features)
        except (CacheError, OSError, AssertionError) as error:
            errors.append(error)

    threads = [threading.Thread(target=write), *(threading.Thread(target=read) for _ in range(2))]
    for thread in threads:
        thread.start()
    for _ in range(8):
        compact_cache(FeatureCache(cache.path))
    for thread in threads:
        thread.join()
    assert errors == []
    compact_cache(FeatureCache(cache.path))
    again = FeatureCache(cache.path)
    assert features(again) == {r.key: r.features.tobytes() for r in records}
    shutil.rmtree(cache.path)
