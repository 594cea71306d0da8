"""Disk full, file too large, read-only: one clear line, and the cache is as it was."""

import multiprocessing
import os
import resource
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cache_samples import make_record, sha256_of
from click.testing import CliRunner

from cache import FeatureCache, NameEntry
from cache.commands.upkeep import cache_group
from cache.exchange.merge import merge_caches
from cache.upkeep.compact import compact_cache
from cache.upkeep.verify import verify_cache
from data.errors import CacheError
from data.labels import VideoLabel, read_labels, write_labels

pytestmark = pytest.mark.usefixtures("one_viewer")

FORK = multiprocessing.get_context("fork")
ENTRY = NameEntry(sha256=sha256_of("x"), size=1, mtime_ns=1)


def in_child(action) -> str:
    """Run an action in a forked child; return the message of its CacheError, "" if none."""
    receiver, sender = FORK.Pipe(duplex=False)

    def run() -> None:
        try:
            action()
            sender.send("")
        except CacheError as error:
            sender.send(str(error))
        except BaseException as error:  # noqa: BLE001 - told to the parent
            sender.send(f"{type(error).__name__}: {error}")

    child = FORK.Process(target=run)
    child.start()
    answer = receiver.recv()
    child.join()
    assert child.exitcode == 0
    return answer


def is_whole(cache: FeatureCache, keys: list[str]) -> bool:
    again = FeatureCache(cache.path)
    leftovers = [name for name in os.listdir(cache.shards_dir) if not name.endswith(".h5")]
    return (
        leftovers == []
        and sorted(entry.key for entry in again.entries()) == sorted(keys)
        and verify_cache(again).problems == []
    )


@pytest.fixture
def cache(tmp_path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "features")
    cache.write([make_record("old.mp4")])
    return cache


@pytest.mark.parametrize("limit", [1, 512, 4096, 5000, 20_000, 300_000])
def test_a_write_that_fails_half_way_leaves_nothing(cache, limit) -> None:
    """The limit of a process's file size stands in for a full disk, at any byte."""
    large = make_record("large.mp4", dim=20_000)

    def action() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        cache.write([large])

    message = in_child(action)
    assert message.startswith(f"{cache.shards_dir}: cannot be written: File too large; ")
    assert "\n" not in message
    assert is_whole(cache, [make_record("old.mp4").key])
    cache.write([large])
    np.testing.assert_array_equal(cache.read_key(large.key), large.features)


@pytest.mark.parametrize("what", ["names", "checkpoint", "compact", "merge"])
def test_other_writes_fail_as_clearly(cache, tmp_path, what) -> None:
    cache.write([make_record("two.mp4")])
    other = FeatureCache.create(tmp_path / "other")
    other.write([make_record("three.mp4")])
    actions = {
        "names": lambda: cache.set_names({"a.mp4": ENTRY}),
        "checkpoint": lambda: cache.checkpoint("0" * 64).save(0, {"rgb": np.zeros((9, 9))}),
        "compact": lambda: compact_cache(cache),
        "merge": lambda: merge_caches([other], cache),
    }

    def action() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60, 60))
        actions[what]()

    message = in_child(action)
    assert "cannot" in message
    assert "File too large" in message
    assert is_whole(cache, [make_record("old.mp4").key, make_record("two.mp4").key])


def test_a_disk_that_is_really_full(small_disk, tmp_path) -> None:
    cache = FeatureCache.create(small_disk / "features")
    written = []

    def fill() -> None:
        for number in range(100):
            record = make_record(f"{number}.mp4", dim=10_000)
            cache.write([record])
            written.append(record.key)

    with pytest.raises(CacheError, match="No space left on device; the disk is full") as caught:
        fill()
    assert "\n" not in str(caught.value)
    assert 0 < len(written) < 100
    assert is_whole(cache, written)
    other = FeatureCache.create(tmp_path / "other")
    other.write([make_record("x.mp4", dim=10_000)])
    args = ["merge", str(other.path), str(cache.path)]
    result = CliRunner().invoke(cache_group, args)
    assert isinstance(result.exception, CacheError)
    assert is_whole(cache, written)
    shutil.rmtree(cache.shards_dir)
    cache.shards_dir.mkdir()
    FeatureCache(cache.path).write([make_record("x.mp4", dim=10_000)])


@pytest.mark.parametrize("transfer", ["push", "pull"])
def test_a_full_tmpdir_moves_nothing_and_is_told(
    small_disk, tmp_path, monkeypatch, transfer
) -> None:
    here, there = (FeatureCache.create(tmp_path / name) for name in ("here", "there"))
    source, target = (here, there) if transfer == "push" else (there, here)
    source.write([make_record("a.mp4")])
    for cache, label in ((here, "a.mp4"), (there, "b.mp4")):
        write_labels(cache.labels_path, [VideoLabel(video=label, split="train")])
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))  # as TMPDIR names it
    with suppress(OSError), (small_disk / "full").open("wb") as file:
        while True:
            file.write(bytes(4096))
    command = [transfer, str(there.path), "--cache", str(here.path)]
    told = str(CliRunner().invoke(cache_group, command).exception)
    assert f"{small_disk}/feat-{transfer}-" in told
    assert "No space left on device; the disk is full: make room" in told
    assert FeatureCache(target.path).videos() == []
    assert [label.video for label in read_labels(target.labels_path)] == [
        "b.mp4" if target is there else "a.mp4"
    ]
    (small_disk / "full").unlink()
    done = CliRunner().invoke(cache_group, command)
    assert done.exit_code == 0, done.output
    assert FeatureCache(target.path).videos() == ["a.mp4"]
    assert list(small_disk.iterdir()) == []


def test_a_folder_that_may_not_be_written() -> None:
    folder = Path(tempfile.mkdtemp(prefix="feat-readonly-"))
    try:
        folder.chmod(0o755)
        cache = FeatureCache.create(folder / "features")
        record = make_record("old.mp4")
        cache.write([record])
        for path in (cache.path, *(item for item in cache.path.iterdir() if item.is_dir())):
            path.chmod(0o555)

        def as_nobody(action):
            def run() -> None:
                if os.geteuid() == 0:
                    os.setuid(65534)  # root may write everywhere
                action()

            return run

        def read() -> None:
            again = FeatureCache(cache.path)
            assert again.read_key(record.key).tobytes() == record.features.tobytes()
            assert again.videos() == ["old.mp4"]

        new = make_record("new.mp4")
        assert in_child(as_nobody(read)) == ""
        for action in (
            lambda: FeatureCache(cache.path).write([new]),
            lambda: FeatureCache(cache.path).set_names({"a.mp4": ENTRY}),
            lambda: FeatureCache(cache.path).claim("0" * 64).acquire(),
            lambda: FeatureCache(cache.path).checkpoint("0" * 64).save(0, {"x": np.zeros(3)}),
            lambda: compact_cache(FeatureCache(cache.path)),
        ):
            message = in_child(as_nobody(action))
            assert "Permission denied; no permission: ask the owner" in message
        assert is_whole(cache, [record.key])
    finally:
        for path in (folder / "features").rglob("*"):
            path.chmod(0o755) if path.is_dir() else None
        (folder / "features").chmod(0o755)
        shutil.rmtree(folder)
