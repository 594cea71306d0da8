"""A cache of a million entries: opened, looked up in, listed, merged, verified in parts.

The first shard is written as any other. The rest are its bytes under other names: each video's
name, digest and key are replaced in the shard's table, which is all that feat reads of a shard
but for the arrays; the HDF5 groups keep the first shard's keys. So `verify`, which also looks at
those, is measured on a hundredth of the whole that was written, in a cache of its own. Features
have four numbers, so that the cache is about what there are many of: records, names, shards.

Shards are copied without waiting for the disk, whose fsync is all that a merge of so many would
show. Every step is a process of its own. Its peak is the resident memory that the kernel noted.

Run: python -m bench.bench_million [--records N] [--a-shard N] [--dir FOLDER]
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.bench_cache import make_record
from cache import FeatureCache, NameEntry
from cache.keys import KeyMaker, canonical_json
from cache.shard.read import HEADER, HEADER_LEN, shard_name


def video_name(number: int) -> str:
    return f"camera{number % 97:02d}/video{number:06d}.mp4"


def write(cache: FeatureCache, first: int, count: int) -> Path:
    return cache.write([make_record(number, "rgb", 1, 4) for number in range(first, first + count)])


def copy_shard(data: bytes, folder: Path, first: int) -> None:
    """Write the bytes of a shard as one of other videos, those from number `first` on."""
    version, length = int(data[11:15]), int(data[16:26])
    table = json.loads(data[HEADER_LEN : HEADER_LEN + length])
    (config,) = table["configs"].values()
    maker = KeyMaker(config)
    for number, row in enumerate(table["records"], first):
        name = video_name(number)
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        row["source"] |= {"name": name, "sha256": sha256}
        row["key"] = maker.key(sha256)
    text = canonical_json(table).ljust(length)
    header = HEADER.format(
        version=version, table_len=length, table_sha256=hashlib.sha256(text).hexdigest()
    )
    data = header.encode() + text + data[HEADER_LEN + length :]
    (folder / shard_name(hashlib.sha256(data).hexdigest())).write_bytes(data)


def make_cache(path: Path, records: int, a_shard: int) -> None:
    cache = FeatureCache.create(path)
    pattern = write(cache, 0, a_shard).read_bytes()
    for first in range(a_shard, records, a_shard):
        copy_shard(pattern, cache.shards_dir, first)
    names = {}
    for number in range(records):
        name = video_name(number)
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        names[name] = NameEntry(
            sha256=sha256, size=10**7, mtime_ns=10**18 + number, origin="0123456789abcdef"
        )
    cache.set_names(names)


START = """
import os, resource, sys, time
from pathlib import Path
from cache import FeatureCache
from cache.exchange.merge import merge_caches
from cache.upkeep.summary import iter_videos
from cache.upkeep.verify import verify_cache
sys.path.insert(0, ".")
from bench.bench_million import video_name
place, other, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
start = time.perf_counter()
def stop():
    now = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(now - start, time.process_time(), peak)
"""
OPEN = f"cache = FeatureCache(place); cache.read({video_name(1)!r}, 'rgb'); "
#: What is done -> how; those that look up begin with an open cache.
STEPS = {
    "opened, every shard read": OPEN + "stop()",
    "opened, by its index": OPEN + "stop()",
    "10,000 looked up by name": OPEN + "start = time.perf_counter()\n"
    "for one in range(10_000): cache.find(video_name(one * 7919 % count), 'rgb')\n"
    "stop()",
    "listed": "print(sum(1 for _ in iter_videos(FeatureCache(place))), file=sys.stderr); stop()",
    "a hundredth verified": "verify_cache(FeatureCache(other / 'part')); stop()",
    "1,000 others merged into it": "merge_caches([FeatureCache(other)], FeatureCache(place)); "
    "stop()",
    "merged into an empty one, without fsync": "os.fsync = lambda fd: None; "
    "empty = FeatureCache.create(other / 'empty'); "
    "merge_caches([FeatureCache(place)], empty); stop()",
}


def measure(what: str, place: Path, other: Path, records: int) -> None:
    command = [sys.executable, "-c", START + STEPS[what], str(place), str(other), str(records)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, cpu, peak = map(float, done.stdout.split())
    print(f"| {what} | {seconds:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--a-shard", type=int, default=100)
    parser.add_argument("--dir", type=Path, help="where the caches are made")
    parser.add_argument("--only", nargs="*", help="parts of what is done")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="feat-bench-", dir=options.dir))
    try:
        place, other = root / "features", root / "other"
        started = time.perf_counter()
        make_cache(place, options.records, options.a_shard)
        write(FeatureCache.create(other), options.records, 1000)
        part = FeatureCache.create(other / "part")
        for first in range(0, options.records // 100, options.a_shard):
            write(part, first, options.a_shard)
        size = sum(path.stat().st_size for path in place.glob("shards/*.h5")) / 1e9
        print(
            f"{options.records} records in {options.records // options.a_shard} shards, "
            f"{size:.1f} GB, made in {time.perf_counter() - started:.0f} s\n"
        )
        print("| | seconds | of processor | peak memory, MB |\n|---|---:|---:|---:|")
        for what in STEPS:
            if not options.only or any(part in what for part in options.only):
                measure(what, place, other, options.records)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
