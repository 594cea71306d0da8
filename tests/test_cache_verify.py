import errno
import hashlib
import json
import os
import re
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_samples import altered, make_clips, make_record, reseal, reseal_structure, sha256_of
from click.testing import CliRunner
from marks import quick_first

from cache import ClipTable, FeatureCache, FeatureRecord, NameEntry
from cache.commands.upkeep import cache_group
from cache.shard.hdf5_view import Hdf5Viewer
from cache.upkeep.verify import verify_cache
from data.errors import CacheError, CheckerError

pytestmark = pytest.mark.usefixtures("one_viewer")


@pytest.fixture
def new_viewer(one_viewer, monkeypatch) -> None:
    """For what the child is started with, and where."""
    monkeypatch.setattr("cache.upkeep.verify.Hdf5Viewer", Hdf5Viewer)


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "features")
    cache.write([make_record("good.mp4"), make_record("good.mp4", "flow", flow_stats=True)])
    return cache


def problems(cache: FeatureCache) -> list[str]:
    return [str(problem) for problem in verify_cache(FeatureCache(cache.path)).problems]


def test_a_sound_cache_has_no_problems(cache) -> None:
    cache.write([make_record("a.mp4"), make_record("b.mp4", num_frames=1)])
    cache.set_names({"a.mp4": NameEntry(sha256=sha256_of("a.mp4"), size=1, mtime_ns=1)})
    report = verify_cache(cache)
    assert report.problems == []
    assert (report.shards, report.records) == (2, 4)
    assert report.nbytes == sum(path.stat().st_size for path in cache.shards_dir.iterdir())


@pytest.mark.parametrize("position", ["table", "padding", "structure", "features"])
def test_flipped_bytes_are_named_with_their_shard(cache, position) -> None:
    path = cache.write([make_record("bad.mp4")])
    data = bytearray(path.read_bytes())
    end = data.rindex(b" ", 0, 4096) if position == "padding" else 0
    offset = json.loads(data[92 : 92 + int(data[16:26])])["records"][0]["features"]["offset"]
    where = {"table": 300, "padding": end, "structure": offset - 40, "features": offset + 5}
    data[where[position]] ^= 0x20
    path.write_bytes(data)
    found = problems(cache)
    assert found
    assert all(line.startswith(f"shards/{path.name}: ") for line in found)


def set_rows(record, rows, value) -> FeatureRecord:
    features = record.features.copy()
    features[rows] = value
    return altered(record, features=features)


STATS = np.array([[1.0, 1.0, 9.0, 1.0, 2.0, 3.0]] * 5, np.float32)
STILL = np.array([[0.0, 0.0, 0.0, 1.0, 0.0, 0.0]] * 5, np.float32)


def shifted(start, end, clip_len=16) -> ClipTable:
    start, end = np.array(start), np.array(end)
    return ClipTable(
        start_frame=start, end_frame=end, start_seconds=start / 25, end_seconds=end / 25,
        clip_len=clip_len,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: set_rows(r, [1, 3], np.nan), "2 of 5 rows (first: row 1) with NaN or infinity"),
        (lambda r: set_rows(r, 4, np.inf), "1 of 5 rows (first: row 4) with NaN or infinity"),
        (lambda r: set_rows(r, 2, 0), "1 of 5 rows (first: row 2) all zero"),
        (lambda r: set_rows(r, 0, 0.25), "1 of 5 rows (first: row 0) of one constant value"),
        (
            lambda r: altered(r, flow_stats=STATS),
            "flow whose x equals its y: one component was read twice",
        ),
        (
            lambda r: altered(r, flow_stats=-STATS),
            "flow statistics that are negative or not finite",
        ),
        (
            lambda r: altered(r, clips=shifted([5, 16, 32, 48, 64], [16, 32, 48, 64, 75])),
            "the first clip starts at frame 5, not 0",
        ),
        (
            lambda r: altered(r, clips=shifted([0, 16, 33, 48, 64], [16, 32, 48, 64, 75])),
            "no clip covers frame 32",
        ),
        (
            lambda r: altered(r, clips=shifted([0, 16, 32, 48, 64], [16, 32, 48, 64, 74])),
            "clips end at frame 74, the video has 75",
        ),
        (
            lambda r: altered(r, clips=make_clips(80)),
            "clips end at frame 80, the video has 75",
        ),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_right_are_named(cache, change, expected) -> None:
    path = cache.write([change(make_record("bad.mp4"))])
    assert problems(cache) == [f"shards/{path.name}: bad.mp4 rgb: {expected}"]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: altered(r, flow_stats=STILL),  # nothing moves: equal, and rightly so
        lambda r: altered(r, clips=shifted([0, 8, 16, 24, 59], [16, 24, 32, 59, 75], 0)),
        lambda r: altered(r, clips=shifted([0, 18, 36, 54, 72], [16, 34, 52, 70, 75])),
    ],
)
def test_unusual_but_right_is_no_problem(cache, change) -> None:
    cache.write([change(make_record("odd.mp4"))])
    assert problems(cache) == []


def test_files_that_do_not_belong_are_named(cache) -> None:
    (cache.shards_dir / "evil.h5").write_bytes(b"x")
    (cache.shards_dir / ("0" * 64 + ".h5")).symlink_to("/etc/passwd")
    found = problems(cache)
    assert any(line.startswith("shards/evil.h5: no shard's name") for line in found)
    assert any("a symbolic link" in line for line in found)
    assert len(found) == 2


def test_a_sound_shard_under_another_name_is_named(cache) -> None:
    path = cache.write([make_record("a.mp4")])
    path.rename(cache.shards_dir / ("0" * 64 + ".h5"))
    assert problems(cache) == [
        f"shards/{'0' * 64}.h5: its bytes' sha256 is not its name: damaged or exchanged"
    ]


def test_a_damaged_names_file_is_named(cache) -> None:
    cache.set_names({"a.mp4": NameEntry(sha256=sha256_of("a.mp4"), size=1, mtime_ns=1)})
    (path,) = (cache.path / "names").iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    (line,) = problems(cache)
    assert line.startswith(f"names/{path.name}: damaged")


def external_link(group, key) -> None:
    del group["features"]
    group["features"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_link(group, key) -> None:
    group.move("features", "elsewhere")
    group["features"] = h5py.SoftLink(f"/{key}/elsewhere")


def external_storage(group, key) -> None:
    del group["features"]
    group.create_dataset(
        "features", (5, 8), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    )


def virtual(group, key) -> None:
    del group["features"]
    layout = h5py.VirtualLayout((5, 8), "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", (5, 8))
    group.create_virtual_dataset("features", layout)


def objects(group, key) -> None:
    del group["features"]
    group.create_dataset("features", (5,), h5py.string_dtype())


def absurd(group, key) -> None:
    del group["features"]
    group.create_dataset("features", (10**12, 1024), "f4", chunks=(1, 1024))


def bomb(group, key) -> None:
    del group["features"]
    group.create_dataset("features", (10**6, 8), "f4", compression="gzip", fillvalue=0)


def renamed(group, key) -> None:
    text = group.attrs["record"].replace(b"a.mp4", b"b.mp4")
    group.attrs["record"] = np.bytes_(text)


def extra(group, key) -> None:
    group.create_dataset("more", data=np.zeros(3))


@pytest.mark.parametrize(
    "tamper",
    [external_link, soft_link, external_storage, virtual, objects, absurd, bomb, renamed, extra],
)
def test_hdf5_that_tells_other_than_the_table_is_refused(cache, tamper) -> None:
    """The strongest attacker: every checksum and the name are right, only h5py sees a lie."""
    record = make_record("a.mp4")
    path = cache.write([record])
    with h5py.File(path, "r+") as file:
        tamper(file[record.key], record.key)
    # what somebody gets who only tampers: the structure's checksum is wrong
    assert any("structure is wrong" in line or "truncated" in line for line in problems(cache))
    path = reseal_structure(path)
    (line,) = problems(cache)
    assert line.startswith(f"shards/{path.name}: HDF5 group {record.key[:12]}...: ")
    # our own reader does not look at the HDF5 structure, and gets what the table says
    np.testing.assert_array_equal(FeatureCache(cache.path).read_key(record.key), record.features)


def test_a_child_that_crashes_or_hangs_gives_no_verdict(cache, tmp_path) -> None:
    good = next(cache.shards_dir.iterdir())
    with Hdf5Viewer() as viewer:
        child = viewer._start()
        child.kill()
        child.wait()
        with pytest.raises(CheckerError, match="was ended by SIGKILL"):
            viewer.compare(good)
        assert viewer.compare(good) == ""  # started anew
        with pytest.raises(CheckerError, match=r"(?i)no such file"):
            viewer.compare(tmp_path / "absent")
    with (
        Hdf5Viewer(max_seconds=0.0) as viewer,
        pytest.raises(CheckerError, match=r"done .* in 0 s"),
    ):
        viewer.compare(good)


def contents(cache: FeatureCache) -> dict[str, bytes]:
    """All that can be read of a cache, by key."""
    again = FeatureCache(cache.path)
    return {
        entry.key: again.read_key(entry.key).tobytes()
        + again.read_clips(entry.key).to_array().tobytes()
        for entry in again.entries()
    }


@pytest.mark.usefixtures("new_viewer")
@pytest.mark.parametrize(
    ("code", "cause"),
    quick_first(
        [
            ("raise ImportError('a stray h5py')", "exit status 1: ImportError: a stray h5py"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "was ended by SIGSEGV"),
            ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
            ("raise MemoryError", "could not be checked: MemoryError"),
            ("raise OSError(24, 'Too many open files')", "[Errno 24] Too many open files"),
            ("print('hello', flush=True)", "its checker said b'hello"),
        ],
        2,
    ),
)
def test_a_checker_that_fails_is_no_fault_of_the_shards(
    cache, tmp_path, monkeypatch, code, cause
) -> None:
    cache.write([make_record("other.mp4")])
    damaged = cache.write([make_record("bad.mp4")])
    damaged.write_bytes(damaged.read_bytes()[:-10])
    sound = {path.name for path in cache.shards_dir.iterdir()} - {damaged.name}
    before = contents(cache)
    assert len(before) == 3
    (tmp_path / "stray").mkdir()
    (tmp_path / "stray" / "h5py.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "stray"))

    result = CliRunner().invoke(cache_group, ["verify", str(cache.path), "--repair"])

    assert result.exit_code == 1
    for name in sound:
        (line,) = [line for line in result.stdout.splitlines() if name in line]
        assert line.startswith(f"shards/{name}: could not be checked: ")
        assert cause in line
    assert "kept" not in result.stdout
    # the verdicts that need no HDF5 are still acted on
    assert f"set aside: quarantine/{damaged.name}" in result.stdout
    assert {path.name for path in cache.shards_dir.iterdir()} == sound
    assert contents(cache) == before
    monkeypatch.delenv("PYTHONPATH")
    assert problems(cache) == []


@pytest.mark.usefixtures("new_viewer")
def test_nothing_in_the_current_folder_is_run(cache, tmp_path, monkeypatch) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)"
    for folder in (tmp_path / "elsewhere", cache.path):
        folder.mkdir(exist_ok=True)
        for module in ("json", "h5py", "numpy", "tempfile", "cache", "data"):
            (folder / f"{module}.py").write_text(code)
        monkeypatch.chdir(folder)
        report = verify_cache(FeatureCache(cache.path), repair=True)
        assert report.problems == []
        assert report.shards == 1
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_cannot_be_read_now_is_not_damaged(cache) -> None:
    cache.set_names({"a.mp4": NameEntry(sha256=sha256_of("a.mp4"), size=1, mtime_ns=1)})
    (shard,), (names,) = cache.shards_dir.iterdir(), (cache.path / "names").iterdir()
    for path in (shard, names):
        path.chmod(0)
    report = verify_cache(cache, repair=True)
    assert [problem.checked for problem in report.problems] == [False, False]
    assert report.quarantined == []
    for path in (shard, names):
        path.chmod(0o600)
    assert problems(cache) == []


def test_a_failing_disk_is_not_taken_for_damage(cache, monkeypatch) -> None:
    """The arrays of the second record cannot be read; those of the first can."""
    before = contents(cache)
    place = sorted(cache.entry(key).offset for key in before)[1]
    preadv = os.preadv

    def fail(fd, buffers, offset):
        if offset == place:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return preadv(fd, buffers, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        report = verify_cache(cache, repair=True)
    (problem,) = report.problems
    assert "could not be checked: cannot read: Input/output error" in str(problem)
    assert report.quarantined == []
    assert contents(cache) == before


def test_a_shard_of_a_newer_build_stays(cache) -> None:
    path = cache.write([make_record("new.mp4")])
    path.write_bytes(path.read_bytes().replace(b"feat-shard 0001", b"feat-shard 0003", 1))
    final = path.with_name(sha256_of_bytes(path) + ".h5")
    path.rename(final)
    report = verify_cache(FeatureCache(cache.path), repair=True)
    (line,) = map(str, report.problems)
    assert line.startswith(f"shards/{final.name}: could not be checked: layout 3")
    assert final.exists()
    # under another name it was damaged or exchanged, whoever wrote it
    final.rename(path)
    assert verify_cache(FeatureCache(cache.path), repair=True).quarantined


def test_repair_loses_nothing_where_shards_bear_each_others_names(cache) -> None:
    (first,) = cache.shards_dir.iterdir()
    second = cache.write([make_record("a.mp4"), make_record("b.mp4")])
    before = contents(cache)
    assert len(before) == 4
    other = first.with_name("other")
    first.rename(other)
    second.rename(first)
    other.rename(second)

    report = verify_cache(FeatureCache(cache.path), repair=True)

    assert report.salvaged == 4
    assert sorted(report.quarantined) == sorted(f"quarantine/{p.name}" for p in (first, second))
    assert contents(cache) == before
    assert problems(cache) == []


@pytest.mark.usefixtures("new_viewer")
def test_a_shard_that_would_be_written_the_same_again_stays(cache, tmp_path, monkeypatch) -> None:
    """A verdict that this build's own shard is wrong is no reason to move it."""
    before = contents(cache)
    (tmp_path / "h5py.py").write_text("class File:\n def __init__(*a, **k): raise ValueError('no')")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        report = verify_cache(cache, repair=True)
    assert "h5py cannot read it: no" in str(report.problems[0])
    assert (report.quarantined, report.salvaged) == ([], 0)
    assert contents(cache) == before
    assert problems(cache) == []


def test_nothing_set_aside_earlier_is_overwritten(cache) -> None:
    path = cache.write([make_record("bad.mp4")])
    data = path.read_bytes()
    for damage in (data[:-10], data[:-20]):
        path.write_bytes(damage)
        verify_cache(cache, repair=True)
    kept = {item.name: item.read_bytes() for item in (cache.path / "quarantine").iterdir()}
    assert kept == {path.name: data[:-10], f"{path.name}.2": data[:-20]}


def test_a_full_disk_moves_nothing(cache, monkeypatch) -> None:
    sound, bad = make_record("sound.mp4"), make_record("bad.mp4")
    path = cache.write([sound, bad])
    damage(path, cache.entry(bad.key).offset)
    names = set(os.listdir(cache.shards_dir))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="disk is full"):
        verify_cache(cache, repair=True)
    assert set(os.listdir(cache.shards_dir)) == names
    np.testing.assert_array_equal(FeatureCache(cache.path).read_key(sound.key), sound.features)


def damage(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def sha256_of_bytes(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_repair_sets_aside_what_is_bad_and_keeps_what_is_sound(cache) -> None:
    sound, bad = make_record("sound.mp4"), make_record("bad.mp4")
    path = cache.write([sound, bad])
    entry = cache.entry(bad.key)
    data = bytearray(path.read_bytes())
    data[entry.offset] ^= 1
    path.write_bytes(data)
    before = path.read_bytes()

    report = verify_cache(cache, repair=True)

    assert report.quarantined == [f"quarantine/{path.name}"]
    assert report.salvaged == 1
    assert (cache.path / "quarantine" / path.name).read_bytes() == before
    again = FeatureCache(cache.path)
    assert verify_cache(again).problems == []
    assert again.has(sound.key)
    assert not again.has(bad.key)
    assert not cache.has(bad.key)
    np.testing.assert_array_equal(again.read_key(sound.key), sound.features)


def test_repair_of_a_names_file_that_is_damaged(cache) -> None:
    cache.set_names({"a.mp4": NameEntry(sha256=sha256_of("a.mp4"), size=1, mtime_ns=1)})
    (path,) = (cache.path / "names").iterdir()
    path.write_bytes(b"x")
    assert verify_cache(cache, repair=True).quarantined == [f"quarantine/{path.name}"]
    assert problems(cache) == []


def test_an_index_that_hides_a_record_is_reported(cache) -> None:
    for number in range(20):
        cache.write([make_record(f"{number}.mp4"), make_record(f"{number}.mp4", "flow")])
    FeatureCache(cache.path).videos()
    from cache.index import read_segment, write_segment

    for path in (cache.path / "index").iterdir():
        rows = read_segment(path)
        path.unlink()
        write_segment(cache.path / "index", rows[rows["stream"] == b"rgb"])
    assert problems(cache) == ["index: 21 records are missing; delete the folder"]


def test_forged_clip_table_is_named(cache) -> None:
    record = make_record("bad.mp4")
    path = cache.write([record])
    table = json.loads(path.read_bytes()[92 : 92 + int(path.read_bytes()[16:26])])
    place = table["records"][0]["clips"]
    data = bytearray(path.read_bytes())
    struct.pack_into("<q", data, place["offset"], 7)
    path.write_bytes(data)
    size = place["shape"][0] * 32
    crc = zlib.crc32(bytes(data[place["offset"] : place["offset"] + size]))
    reseal(path, lambda t: t["records"][0]["clips"].update(crc32=crc, xxh3=""))
    path = reseal_structure(path)
    assert problems(cache) == [
        f"shards/{path.name}: bad.mp4 rgb: the first clip starts at frame 7, not 0"
    ]


@pytest.mark.usefixtures("new_viewer")
def test_command_prints_problems_and_exits_1(cache) -> None:
    runner = CliRunner()
    good = runner.invoke(cache_group, ["verify", str(cache.path)])
    assert good.exit_code == 0
    assert "1 shards, 2 records" in good.output
    assert "all is well" in good.output
    cache.write([set_rows(make_record("bad.mp4"), 0, 0)])
    bad = runner.invoke(cache_group, ["verify", "--cache", str(cache.path), "--json"])
    assert bad.exit_code == 1
    report = json.loads(bad.stdout)
    assert not report["ok"]
    assert report["problems"][0]["video"] == "bad.mp4"


def test_every_checksum_is_looked_at(cache) -> None:
    path = cache.write([make_record("bad.mp4")])
    reseal(path, lambda t: t["records"][0]["features"].update(crc32=1))
    path = reseal_structure(path)
    (line,) = problems(cache)
    assert re.search(r"checksum of \d+ bytes at \d+ is wrong", line)


def test_parts_cover_every_shard_once_and_the_first_the_names(cache) -> None:
    for number in range(12):
        cache.write([make_record(f"part-{number}.mp4")])
    (cache.path / "names" / "x.jsonl").write_text("damaged")
    whole = verify_cache(cache)
    parts = [verify_cache(cache, part=(number, 3)) for number in (1, 2, 3)]
    assert sum(part.shards for part in parts) == whole.shards
    assert sum(part.records for part in parts) == whole.records
    assert all(0 < part.shards < whole.shards for part in parts)
    assert [len(part.problems) for part in parts] == [1, 0, 0]
    done = CliRunner().invoke(cache_group, ["verify", str(cache.path), "--part", "2/3", "--json"])
    assert json.loads(done.stdout)["shards"] == parts[1].shards
    assert CliRunner().invoke(cache_group, ["verify", "--part", "4/3"]).exit_code == 2
