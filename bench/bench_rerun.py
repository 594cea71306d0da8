"""Running `feat extract` again where all is there: 1,000 videos. `python -m bench.bench_rerun`.

Each run is a new process, timed from outside, start of Python included. The videos are files of
random bytes with features of their own in the cache, under the keys that the default settings
give: nothing on this path opens a video. After `touch` every file must be hashed once.
"""

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cache import ClipTable, FeatureCache, FeatureRecord, NameEntry, SourceRecord
from data.videos import VideoSource, source_stamp
from extract.config import ExtractConfig
from extract.weights.resolve import resolve_weights

CONFIG = ExtractConfig()
NUM_CLIPS, DIM = 20, 1024
FILE_SIZE = 1_000_000


def make_videos(folder: Path, count: int, cache: FeatureCache) -> None:
    """Make files, and features of them as one shard a video, the way extraction leaves them."""
    weights = {s: resolve_weights(s, flow="crossmodal") for s in CONFIG.streams}
    configs = CONFIG.stream_configs(weights)
    start = np.arange(NUM_CLIPS) * 16
    clips = ClipTable(
        start_frame=start, end_frame=start + 16, start_seconds=start / 25,
        end_seconds=(start + 16) / 25, clip_len=16,
    )  # fmt: skip
    names = {}
    for number in range(count):
        rng = np.random.default_rng(number)
        path = folder / f"camera{number % 7}" / f"{number:05d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.bytes(FILE_SIZE))
        video_id = path.relative_to(folder).as_posix()
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        stamp = source_stamp(VideoSource(video_id=video_id, path=path, kind="file"))
        source = SourceRecord(
            name=video_id, kind="file", size=stamp.size, sha256=sha256, num_frames=NUM_CLIPS * 16,
            frame_rate=25.0, width=640, height=360, codec="h264", pix_fmt="yuv420p",
        )  # fmt: skip
        records = [
            FeatureRecord(
                stream=stream, config=config, source=source, clips=clips,
                features=rng.standard_normal((NUM_CLIPS, DIM), np.float32),
            )
            for stream, config in configs.items()
        ]  # fmt: skip
        cache.write(records)
        names[video_id] = NameEntry(sha256=sha256, size=stamp.size, mtime_ns=stamp.mtime_ns)
    cache.set_names(names)


def seconds_of_a_run(videos: Path, cache: Path, count: int) -> float:
    """Return the seconds of one `feat extract` that finds everything in the cache."""
    command = [sys.executable, "-m", "feat", "extract", "--videos", str(videos)]
    command += ["--cache", str(cache), "--flow-weights", "crossmodal", "--json"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - started
    skipped = json.loads(done.stdout)["skipped"]
    if skipped != count:
        raise SystemExit(f"{skipped} of {count} videos were found in the cache")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as root:
        videos, cache = Path(root) / "videos", FeatureCache.create(Path(root) / "features")
        make_videos(videos, options.count, cache)
        runs = [
            seconds_of_a_run(videos, cache.path, options.count) for _ in range(options.rounds + 1)
        ]
        for path in videos.rglob("*.mp4"):
            path.touch()
        touched = seconds_of_a_run(videos, cache.path, options.count)
    first, later = runs[0], runs[1:]
    megabytes = options.count * FILE_SIZE / 1e6
    print("| `feat extract` on videos that are all in the cache | seconds |")
    print("|---|---:|")
    print(f"| {options.count} videos, the first time (writes the index) | {first:.2f} |")
    print(
        f"| {options.count} videos, again, median of {len(later)} | {statistics.median(later):.2f} "
        f"({min(later):.2f} to {max(later):.2f}) |"
    )
    print(f"| after `touch`: {megabytes:.0f} MB hashed | {touched:.2f} |")


if __name__ == "__main__":
    main()
