"""SIGKILL at random moments: whatever was finished stays whole, the rest is done by the next."""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from cache_samples import make_record, sha256_of

from cache import FeatureCache, NameEntry
from cache.exchange.merge import merge_caches
from cache.exchange.remote import Remote
from cache.exchange.transfer import pull_cache, push_cache
from cache.upkeep.compact import compact_cache
from cache.upkeep.gc import collect_garbage
from cache.upkeep.verify import verify_cache

pytestmark = pytest.mark.usefixtures("one_viewer")

NUM_VIDEOS = 40
BLOCK = 2  # clips a checkpoint
FORK = multiprocessing.get_context("fork")


def record_of(number: int):
    return make_record(f"v/{number}.mp4", num_frames=16 * 9 - 5, dim=256)


def extract(root: Path) -> None:
    """Do what `feat extract` does, with features from a random generator for the network."""
    cache = FeatureCache.create(root / "cache")
    for number in range(NUM_VIDEOS):
        record = record_of(number)
        if cache.has(record.key):
            continue
        with cache.claim(record.source.sha256) as mine:
            if not mine or cache.has(record.key):
                continue
            checkpoint = cache.checkpoint(record.key)
            saved = checkpoint.load().get("rgb", record.features[:0])
            np.testing.assert_array_equal(saved, record.features[: len(saved)])
            for first in range(len(saved), len(record.features), BLOCK):
                checkpoint.save(first, {"rgb": record.features[first : first + BLOCK]})
            cache.write([record])
            name = record.source.name
            cache.set_names({name: NameEntry(sha256=sha256_of(name), size=1, mtime_ns=number)})
            checkpoint.clear()


def compact(root: Path) -> None:
    cache = FeatureCache.create(root / "cache")
    compact_cache(cache, target_bytes=100_000)
    compact_cache(cache, target_bytes=1_000_000)


def merge(root: Path) -> None:
    merge_caches([FeatureCache(root / "other")], FeatureCache.create(root / "cache"))


def push(root: Path) -> None:
    push_cache(FeatureCache.create(root / "cache"), Remote(str(root / "remote")))


def pull(root: Path) -> None:
    push(root)
    pull_cache(FeatureCache.create(root / "pulled"), Remote(str(root / "remote")))


def check(root: Path) -> None:
    """Verify every cache there is; what is finished must be right, bit for bit."""
    for name in ("cache", "remote", "pulled"):
        if not (root / name / "feat-cache.json").exists():
            continue
        cache = FeatureCache(root / name)
        assert verify_cache(cache).problems == []
        for entry in cache.entries():
            number = int(Path(entry.source.name).stem)
            assert cache.read_key(entry.key).tobytes() == record_of(number).features.tobytes()


def kill_in_the_middle(job, root: Path, rng: random.Random, longest: float) -> bool:
    """Run a job in a child and kill it; return whether it was still at work."""
    child = FORK.Process(target=job, args=(root,))
    child.start()
    time.sleep(rng.uniform(0, longest))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def run_kills(tmp_path: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    other = FeatureCache.create(tmp_path / "other")
    for number in range(0, NUM_VIDEOS, 3):
        other.write([record_of(number)])
    jobs = [extract, compact, merge, push, pull]
    longest = dict.fromkeys(jobs, 0.3)
    killed = attempts = 0
    while killed < kills:
        has_cache = (tmp_path / "cache" / "feat-cache.json").exists()
        job = jobs[attempts % len(jobs)] if has_cache else extract
        attempts += 1
        if kill_in_the_middle(job, tmp_path, rng, longest[job]):
            killed += 1
            longest[job] = min(2.0, longest[job] * 1.2)
        else:  # it was done before: kill it sooner next time
            longest[job] = max(0.005, longest[job] * 0.7)
        if attempts % 5 == 0:
            check(tmp_path)
        if attempts % 20 == 0:  # take away finished work now and then, so that there is some to do
            for path in (tmp_path / "cache" / "shards").glob("[0-9a-f]*.h5"):
                path.unlink() if rng.random() < 0.7 else None
    for job in jobs:
        job(tmp_path)
    check(tmp_path)
    expected = {record_of(n).key: record_of(n).features.tobytes() for n in range(NUM_VIDEOS)}
    for name in ("cache", "remote", "pulled"):
        cache = FeatureCache(tmp_path / name)
        assert {e.key: cache.read_key(e.key).tobytes() for e in cache.entries()} == expected
        assert len(cache.videos()) == NUM_VIDEOS
    # a worker killed between writing a video and clearing its checkpoint leaves that behind
    collect_garbage(FeatureCache(tmp_path / "cache"), days=0)
    assert os.listdir(tmp_path / "cache" / "partial") == []


def test_a_few_kills(tmp_path) -> None:
    run_kills(tmp_path, 3, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes on a busy machine
def test_100_kills(tmp_path) -> None:
    run_kills(tmp_path, 100, seed=2)
