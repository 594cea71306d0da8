import errno
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
from cache_samples import make_config, make_record, sha256_of

from cache import FeatureCache, NameEntry
from cache.contents import FOLDERS
from cache.files import STALE_SECONDS
from cache.index import Index
from cache.keys import is_newer
from data.errors import CacheError


def name_entry(name: str) -> NameEntry:
    return NameEntry(sha256=sha256_of(name), size=1, mtime_ns=2)


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "features")


def test_what_fails_leaves_no_new_cache_behind(tmp_path) -> None:
    path = tmp_path / "new"

    def fail(action) -> None:
        with suppress(ZeroDivisionError), FeatureCache.creating(path) as cache:
            action(cache)
            raise ZeroDivisionError

    fail(lambda cache: None)
    assert not path.exists()
    for action in (
        lambda cache: cache.write([make_record()]),
        lambda cache: cache.set_names({"one.mp4": name_entry("one.mp4")}),
        lambda cache: cache.claim(sha256_of("one")).acquire(),  # somebody else works there
        lambda cache: (cache.path / "partial" / "half").touch(),
    ):
        fail(action)
        FeatureCache(path)  # what was kept, or is at work, stays, and all folders with it
        assert {folder.name for folder in path.iterdir() if folder.is_dir()} == {*FOLDERS}
        shutil.rmtree(path)
    FeatureCache.create(path)
    fail(lambda cache: None)
    FeatureCache(path)  # it was there before


def test_missing_cache_is_named_with_the_next_step(tmp_path) -> None:
    with pytest.raises(
        CacheError, match=r"nowhere: no feature cache here.*feat extract, or name another folder"
    ):
        FeatureCache(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="a file, expected the folder"):
        FeatureCache(tmp_path / "file")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('{"format": "feat cache", "version": 2}', "cache format 2, .* up to 1; upgrade feat"),
        ('{"format": "feat cache", "version": "1"}', "version '1'"),
        ('{"format": "other", "version": 1}', "no feature cache"),
        ("[]", "no feature cache"),
        ("{", "not JSON"),
    ],
)
def test_marker_of_another_version_or_kind_is_refused(cache, text, match) -> None:
    (cache.path / "feat-cache.json").write_text(text)
    with pytest.raises(CacheError, match=match):
        FeatureCache(cache.path)


def test_what_is_written_is_read_by_the_same_and_by_a_new_process(cache) -> None:
    rgb, flow = make_record(), make_record(stream="flow")
    cache.write([rgb, flow])
    cache.set_names({"a/one.mp4": name_entry("a/one.mp4")})
    for other in (cache, FeatureCache(cache.path), pickle.loads(pickle.dumps(cache))):
        assert other.has(rgb.key)
        assert other.videos() == ["a/one.mp4"]
        assert other.streams("a/one.mp4") == ["flow", "rgb"]
        assert len(other) == 2
        np.testing.assert_array_equal(other.read("a/one.mp4", "rgb"), rgb.features, strict=True)
        np.testing.assert_array_equal(other.read_key(flow.key), flow.features, strict=True)
        np.testing.assert_array_equal(other.memmap(flow.key), flow.features)
        assert len(other.read_clips(rgb.key)) == 5
        assert other.find(sha256_of("a/one.mp4"), "flow").source == flow.source
        assert other.find("a/one.mp4", "rgb", rgb.config).key == rgb.key
        assert sorted(c["stream"] for c in other.configs()) == ["flow", "rgb"]
        assert other.configs("rgb") == [rgb.config]
    code = "import sys; from cache import FeatureCache as F; c = F(sys.argv[1]); "
    code += "print(c.read('a/one.mp4', 'rgb').tobytes().hex())"
    out = subprocess.run(
        [sys.executable, "-c", code, str(cache.path)], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == rgb.features.tobytes().hex()


def test_a_shard_another_process_wrote_is_found_without_reopening(cache) -> None:
    other = FeatureCache(cache.path)
    record = make_record()
    assert not other.has(record.key)
    cache.write([record])
    cache.set_names({"a/one.mp4": name_entry("a/one.mp4")})
    assert other.has(record.key)
    assert other.read("a/one.mp4", "rgb").shape == (5, 8)


def test_keys_that_others_write_or_take_away_are_looked_for_together(cache) -> None:
    records = [make_record(f"{number}.mp4") for number in range(4)]
    keys = [record.key for record in records]
    cache.write(records[:1])
    assert cache.lacking(keys) == keys[1:]
    path = FeatureCache(cache.path).write(records[1:3])
    assert cache.lacking(keys) == keys[3:]
    path.unlink()
    # a key that is not there makes it look again, and what has gone is noticed
    assert cache.lacking(keys[3:]) == keys[3:]
    assert cache.lacking(keys) == keys[1:]
    assert cache.lacking([]) == []


def test_find_says_what_there_is(cache) -> None:
    cache.write([make_record()])
    with pytest.raises(CacheError, match=r"a/two\.mp4: not in .* has 1 videos: a/one\.mp4"):
        cache.find("a/two.mp4", "rgb")
    with pytest.raises(CacheError, match=r"a/one\.mp4: no stream flow .* there is: rgb"):
        cache.find("a/one.mp4", "flow")
    with pytest.raises(CacheError, match="clip_len: 8 here, 16 in the cache"):
        cache.find("a/one.mp4", "rgb", make_config(clip_len=8))
    with pytest.raises(CacheError, match="no features of key"):
        cache.read_key("0" * 64)


def test_two_configurations_and_none_chosen_is_an_error(cache) -> None:
    a, b = make_record(), make_record(config=make_config(clip_stride=8))
    cache.write([a])
    cache.write([b])
    with pytest.raises(CacheError, match=r"2 configurations of rgb.*clip_stride"):
        cache.read("a/one.mp4", "rgb")
    np.testing.assert_array_equal(cache.read("a/one.mp4", "rgb", b.config), b.features)
    assert len(cache.configs("rgb")) == 2


def test_of_versions_the_newest_counts_unless_another_is_asked_for(cache) -> None:
    old, new, newer = (
        make_record(config=make_config(flow={"version": n, "tau": 0.25})) for n in (2, 3, 10)
    )
    cache.write([old])
    cache.write([newer])
    cache.write([new])
    np.testing.assert_array_equal(cache.read("a/one.mp4", "rgb"), newer.features)
    np.testing.assert_array_equal(cache.read("a/one.mp4", "rgb", old.config), old.features)
    cache.write([make_record(config=make_config(flow={"version": 10, "tau": 0.2}))])
    with pytest.raises(CacheError, match="4 configurations of rgb"):
        cache.read("a/one.mp4", "rgb")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"x": {"version": 2}}, {"x": {"version": 1}}, True),
        ({"x": {"version": 1}}, {"x": {"version": 2}}, False),
        ({"x": {"version": 1}}, {"x": {"version": 1}}, False),
        ({"x.version": 2, "y.version": 1}, {"x.version": 1, "y.version": 2}, False),
        ({"x": {"version": 2, "tau": 1}}, {"x": {"version": 1, "tau": 2}}, False),
        ({"x": {"version": 2}}, {"x": {"version": 1, "tau": 2}}, False),
        ({"x": {"version": "2.1"}}, {"x": {"version": "2.0"}}, False),
    ],
)  # fmt: skip
def test_newer_means_nothing_but_versions_differ(a: dict, b: dict, expected: bool) -> None:
    assert is_newer(a, b) is expected


def test_two_names_share_one_content_and_a_rename_costs_nothing(cache) -> None:
    record = make_record()
    cache.write([record])
    entry = name_entry("a/one.mp4")
    cache.set_names({"a/one.mp4": entry, "copy.mp4": entry})
    assert cache.videos() == ["a/one.mp4", "copy.mp4"]
    cache.set_names({"a/one.mp4": None, "new.mp4": entry})
    again = FeatureCache(cache.path)
    assert again.videos() == ["copy.mp4", "new.mp4"]
    np.testing.assert_array_equal(again.read("new.mp4", "rgb"), record.features)


def test_a_name_whose_bytes_changed_stands_for_the_new_content(cache) -> None:
    cache.write([make_record()])
    cache.set_names({"a/one.mp4": name_entry("a/one.mp4")})
    cache.set_names({"a/one.mp4": name_entry("other bytes")})
    with pytest.raises(CacheError, match=r"no stream rgb.*there is: nothing"):
        FeatureCache(cache.path).read("a/one.mp4", "rgb")


def test_copied_shards_are_merged_and_go_by_their_recorded_names(cache, tmp_path) -> None:
    other = FeatureCache.create(tmp_path / "other")
    ours, theirs = make_record("ours.mp4"), make_record("theirs.mp4")
    cache.write([ours])
    path = other.write([theirs])
    shutil.copy(path, cache.shards_dir)
    cache.refresh()
    assert cache.videos() == ["ours.mp4", "theirs.mp4"]
    np.testing.assert_array_equal(cache.read("theirs.mp4", "rgb"), theirs.features)


def test_copied_folders_are_a_merge(cache, tmp_path) -> None:
    other = FeatureCache.create(tmp_path / "other")
    for number in range(20):
        for target, name in ((cache, f"ours/{number}.mp4"), (other, f"theirs/{number}.mp4")):
            target.write([make_record(name)])
            target.set_names({name: name_entry(name)})
    FeatureCache(other.path).videos()  # makes an index segment
    shutil.copytree(other.path, cache.path, dirs_exist_ok=True)
    merged = FeatureCache(cache.path)
    assert len(merged.videos()) == 40
    assert {merged.read(name, "rgb").shape for name in merged.videos()} == {(5, 8)}


def test_lost_or_corrupt_index_loses_nothing(cache) -> None:
    records = [make_record(f"{number}.mp4") for number in range(40)]
    for record in records:
        cache.write([record])
    FeatureCache(cache.path).videos()
    segments = list((cache.path / "index").iterdir())
    assert segments
    for segment in segments:
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
    assert all(FeatureCache(cache.path).has(record.key) for record in records)
    shutil.rmtree(cache.path / "index")
    assert all(FeatureCache(cache.path).has(record.key) for record in records)


def test_an_index_that_lies_is_found_out(cache) -> None:
    records = [make_record(f"{number}.mp4") for number in range(20)]
    for record in records:
        cache.write([record])
    FeatureCache(cache.path).videos()
    from cache.index import read_segment, write_segment

    for path in (cache.path / "index").iterdir():
        rows = read_segment(path).copy()
        rows["shard"] = rows["shard"][::-1]
        path.unlink()
        write_segment(cache.path / "index", rows)
    again = FeatureCache(cache.path)
    for record in records:
        np.testing.assert_array_equal(again.read_key(record.key), record.features)


def test_index_segments_do_not_pile_up(cache) -> None:
    for number in range(12):
        for inner in range(16):
            cache.write([make_record(f"{number}-{inner}.mp4", num_frames=16)])
        assert len(FeatureCache(cache.path)) == 16 * (number + 1)
    assert len(list((cache.path / "index").iterdir())) <= 9
    assert len(FeatureCache(cache.path)) == 192


def test_a_damaged_shard_does_not_hide_the_others(cache, caplog) -> None:
    cache.write([make_record("good.mp4")])
    bad = cache.write([make_record("bad.mp4")])
    data = bytearray(bad.read_bytes())
    data[200] ^= 1
    bad.write_bytes(data)
    again = FeatureCache(cache.path)
    assert again.videos() == ["good.mp4"]
    assert list(again.bad_shards) == [bad.name]
    assert bad.name in caplog.text
    with pytest.raises(CacheError, match="1 shards are damaged, see feat cache verify"):
        again.read("bad.mp4", "rgb")


def test_a_shard_that_could_not_be_read_once_is_read_later(cache, monkeypatch, caplog) -> None:
    cache.write([make_record()])
    again = FeatureCache(cache.path)
    real = os.open

    def fail(path, *args, **more):
        if str(path).endswith(".h5"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        for _ in range(2):
            assert not again.has(make_record().key)
            again.refresh()
    assert len(caplog.records) == 1
    again.refresh()
    assert again.has(make_record().key)
    assert again.bad_shards == {}


def test_reader_follows_a_record_that_moved_to_another_shard(cache) -> None:
    a, b = make_record("a.mp4"), make_record("b.mp4")
    old = [cache.write([a]), cache.write([b])]
    reader = FeatureCache(cache.path)
    assert reader.read_key(a.key).shape == (5, 8)
    cache.write([a, b])
    for path in old:
        path.unlink()
    np.testing.assert_array_equal(reader.read_key(a.key), a.features)
    np.testing.assert_array_equal(reader.read_record(b.key).features, b.features)


def test_symbolic_links_out_of_the_cache_are_refused(cache, tmp_path) -> None:
    shutil.rmtree(cache.path / "names")
    (tmp_path / "elsewhere").mkdir()
    (cache.path / "names").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="names: a symbolic link"):
        FeatureCache(cache.path)


def test_a_hostile_index_does_no_more_than_cost_time(cache) -> None:
    from cache.index import read_segment, write_segment

    records = [make_record(f"{number}.mp4") for number in range(20)]
    for record in records:
        cache.write([record])
    FeatureCache(cache.path).videos()
    (path,) = (cache.path / "index").iterdir()
    rows = read_segment(path).copy()
    rows["stream"] = b"\xff\x1b"
    rows["num_clips"] = -1
    path.unlink()
    write_segment(cache.path / "index", rows)
    again = FeatureCache(cache.path)
    for record in records:
        np.testing.assert_array_equal(again.read_key(record.key), record.features)
    assert len(again.videos()) == 20


def test_checkpoints_do_not_follow_links(cache, tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (cache.path / "partial" / ("0" * 64)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CacheError, match="a symbolic link"):
        cache.checkpoint("0" * 64).save(0, {"rgb": np.zeros((1, 1))})
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_stale_temporary_files_are_ignored_then_removed(cache) -> None:
    cache.write([make_record()])
    old = cache.shards_dir / ".tmp-host-1-aa"
    new = cache.shards_dir / ".tmp-host-2-bb"
    for path in (old, new):
        path.write_bytes(b"half a shard")
    past = time.time() - STALE_SECONDS - 60
    os.utime(old, (past, past))
    again = FeatureCache.create(cache.path)
    assert len(again) == 1
    assert not old.exists()
    assert new.exists()


def _read_in_child(cache: FeatureCache, name: str, results) -> None:
    results.put(cache.read(name, "rgb").sum().item())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_one_object_serves_child_processes(cache, method) -> None:
    record = make_record()
    cache.write([record])
    context = multiprocessing.get_context(method)
    results = context.Queue()
    children = [
        context.Process(target=_read_in_child, args=(cache, "a/one.mp4", results)) for _ in range(2)
    ]
    for child in children:
        child.start()
    sums = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert sums == [record.features.sum().item()] * 2


def test_threads_share_one_object(cache) -> None:
    records = [make_record(f"{number}.mp4") for number in range(30)]
    errors = []

    def work(part) -> None:
        try:
            for record in part:
                cache.write([record])
                cache.set_names({record.source.name: name_entry(record.source.name)})
                for other in records:
                    if cache.has(other.key):
                        assert cache.read_key(other.key).tobytes() == other.features.tobytes()
        except (CacheError, OSError, AssertionError, RuntimeError) as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(records[k::3],)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(FeatureCache(cache.path).videos()) == 30


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, cache, cache.commands; "
    code += "print([m for m in ('numpy', 'h5py', 'fsspec', 'pyarrow') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_index_of_an_empty_folder(tmp_path) -> None:
    index = Index(tmp_path / "shards", tmp_path / "index")
    index.refresh()
    assert len(index) == 0
    assert index.get("0" * 64) is None
