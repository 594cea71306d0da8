"""Several processes filling one cache: nothing lost, nothing corrupt, little done twice."""

import multiprocessing
import time
from pathlib import Path

import pytest
from cache_samples import make_record, sha256_of
from marks import quick_first

from cache import FeatureCache, NameEntry
from cache.upkeep.compact import compact_cache
from cache.upkeep.verify import verify_cache

pytestmark = pytest.mark.usefixtures("one_viewer")

NUM_VIDEOS = 60
FORK = multiprocessing.get_context("fork")


def work(path: Path, done, start) -> None:
    """Extract all videos that nobody else has or is at, until all are there."""
    cache = FeatureCache.create(path)
    count = 0
    start.wait()
    todo = [make_record(f"{number}.mp4") for number in range(NUM_VIDEOS)]
    while todo:
        busy = []
        for record in todo:
            if cache.has(record.key):
                continue
            with cache.claim(record.source.sha256) as mine:
                if not mine:
                    busy.append(record)
                    continue
                if cache.has(record.key):
                    continue
                time.sleep(0.005)  # the computation
                cache.write([record])
                name = record.source.name
                cache.set_names({name: NameEntry(sha256=sha256_of(name), size=1, mtime_ns=1)})
                count += 1
        todo = busy
    done.put(count)


@pytest.mark.parametrize("num_processes", quick_first([4, 2]))
def test_processes_share_the_work(tmp_path, num_processes) -> None:
    done, start = FORK.Queue(), FORK.Event()
    children = [
        FORK.Process(target=work, args=(tmp_path / "features", done, start))
        for _ in range(num_processes)
    ]
    for child in children:
        child.start()
    start.set()
    counts = [done.get(timeout=120) for _ in children]
    for child in children:
        child.join()
        assert child.exitcode == 0
    cache = FeatureCache(tmp_path / "features")
    assert verify_cache(cache).problems == []
    assert len(cache.videos()) == NUM_VIDEOS
    for number in range(NUM_VIDEOS):
        record = make_record(f"{number}.mp4")
        assert cache.read(record.source.name, "rgb").tobytes() == record.features.tobytes()
    # Looking again after the claim was got leaves no way to do a video twice on one machine.
    assert sum(counts) == NUM_VIDEOS
    assert sum(count > 0 for count in counts) >= 2


@pytest.mark.slow
def test_processes_share_the_work_while_another_compacts(tmp_path) -> None:
    done, start = FORK.Queue(), FORK.Event()
    FeatureCache.create(tmp_path / "features")
    children = [
        FORK.Process(target=work, args=(tmp_path / "features", done, start)) for _ in range(2)
    ]
    for child in children:
        child.start()
    start.set()
    while any(child.is_alive() for child in children):
        compact_cache(FeatureCache(tmp_path / "features"))
    counts = [done.get(timeout=120) for _ in children]
    cache = FeatureCache(tmp_path / "features")
    assert verify_cache(cache).problems == []
    assert len(cache.videos()) == NUM_VIDEOS
    assert sum(counts) == NUM_VIDEOS
