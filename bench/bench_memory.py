"""Peak memory of `feat extract`, both streams: a short and a long 1080p video.

The long one is the short one over and over, so both hold the same frames. The peak is the resident
memory of the whole process tree (Python and ffmpeg), read every tenth of a second, and beside it
that of Python alone.

At 5 frames a second, as recorders of surveillance cameras often have it, half an hour takes
minutes; --frame-rate 25 gives five times as many frames.

Run: python -m bench.bench_memory [--short SECONDS] [--long SECONDS] [--frame-rate N] [--threads N]
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from data.ffmpeg import find_ffmpeg
from data.sample.videos import draw_video


@dataclass(frozen=True)
class Row:
    """One extraction; bytes."""

    video: str
    num_frames: int
    seconds: float
    tree_peak: int
    python_peak: int


def tree_memory(root: psutil.Process) -> int:
    """Return the resident bytes of a process and all its descendants."""
    total = 0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended meanwhile
            total += process.memory_info().rss
    return total


def measure(video: Path, cache: Path, num_frames: int, threads: int) -> Row:
    """Extract one video in a process of its own and watch it."""
    command = [sys.executable, "-m", "feat", "extract", "--videos", str(video.parent)]
    command += ["--cache", str(cache), "--flow-weights", "crossmodal", "--threads", str(threads)]
    command += ["--device", "cpu"]
    started = time.perf_counter()
    with (video.parent / "log").open("w") as log:
        process = psutil.Popen(command, stdout=log, stderr=log)
        peak = python_peak = 0
        while process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                peak = max(peak, tree_memory(process))
                python_peak = max(python_peak, process.memory_info().rss)
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit((video.parent / "log").read_text())
    return Row(video.name, num_frames, time.perf_counter() - started, peak, python_peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=30, help="seconds")
    parser.add_argument("--long", type=int, default=1800, help="seconds")
    parser.add_argument("--frame-rate", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as root:
        drawn = Path(root) / "drawn.mp4"
        num_frames = options.short * options.frame_rate
        draw_video(drawn, num_frames=num_frames, size=(1920, 1080))
        for seconds in (options.short, options.long):
            video = Path(root) / f"{seconds}" / f"{seconds}-seconds-1080p.mp4"
            video.parent.mkdir()
            times = seconds // options.short
            command = [find_ffmpeg(), "-v", "error", "-stream_loop", str(times - 1)]
            command += ["-i", str(drawn), "-vf", f"setpts=N/({options.frame_rate}*TB)"]
            command += ["-r", str(options.frame_rate), "-preset", "ultrafast", str(video)]
            subprocess.run(command, check=True)
            cache = Path(root) / f"features-{seconds}"
            rows.append(measure(video, cache, times * num_frames, options.threads))
            print(rows[-1], file=sys.stderr)
    print("| video | frames | extraction, s | peak of all processes, MB | of Python, MB |")
    print("|---|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.video} | {row.num_frames} | {row.seconds:.0f} | {row.tree_peak / 1e6:.0f} | "
            f"{row.python_peak / 1e6:.0f} |"
        )
    print(f"\nlong / short: {rows[1].tree_peak / rows[0].tree_peak:.3f}")


if __name__ == "__main__":
    main()
