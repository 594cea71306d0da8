"""What a GPU does for feat, beside the CPU of the same machine.

`extract`: `feat extract` on a folder of videos, once on each device, as a user runs it. MP4 files
are multiplied into as many as are asked for, each with a content of its own; `--size` encodes them
anew first. Start-up is a run over the first video alone, before the others; a rate apart from it is
that of the other videos in the other seconds. Memory and the GPU's use are read every second.

Run: python -m bench.bench_gpu extract [FOLDER] [--count N] [--cpu-count N] [--size 1920x1080]
"""

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.bench_extract import lowest_cosine
from data.ffmpeg import find_ffmpeg
from data.sample.videos import draw_video

_FINISHED = re.compile(r"\[\d+/\d+\] .*: (\d+) clips, (\d+) frames, ")


@dataclass
class Run:
    """One run of `feat extract`, as it was seen from outside.

    Attributes:
        device: `cuda` or `cpu`.
        start_up: a run over the first video alone, after which compiled code is on the disk.
        report: what `feat extract --json` printed.
        wall: seconds of the process.
        finished: seconds since the start and clips of each finished video.
        host: seconds and resident bytes of the Python process.
        card: seconds, bytes used and percent of the time busy, of the GPU as nvidia-smi says.
    """

    device: str
    start_up: "Run | None" = None
    report: dict[str, Any] = field(default_factory=dict)
    wall: float = 0.0
    finished: list[tuple[float, int]] = field(default_factory=list)
    host: list[tuple[float, int]] = field(default_factory=list)
    card: list[tuple[float, int, int]] = field(default_factory=list)

    @property
    def steady_rate(self) -> float:
        """Clips a second apart from start-up; nan where that, compiling anew, took longer."""
        assert self.start_up
        clips = self.report["clips"] - self.start_up.report["clips"]
        seconds = self.wall - self.start_up.wall
        return float(clips / seconds) if seconds > 0 else float("nan")

    def rate(self, begin: float, end: float) -> float:
        """Return clips a second in a part of the time from the first finished video to the last."""
        first, last = self.finished[0][0], self.finished[-1][0]
        start, stop = (first + share * (last - first) for share in (begin, end))
        clips = sum(number for at, number in self.finished if start < at <= stop)
        return clips / max(stop - start, 1e-9)


def multiply(sources: list[Path], count: int, folder: Path, size: str | None) -> None:
    """Fill `folder` with `count` MP4 files of `sources`, no two with the same content."""
    folder.mkdir()
    if size:
        sources = _encode(sources, folder.parent / "encoded", size.replace("x", ":"))
    for number in range(count):
        source = sources[number % len(sources)]
        # a box that every reader of MP4 passes over
        box = struct.pack(">I4sQ", 16, b"free", number)
        (folder / f"{number:05d}-{source.stem}.mp4").write_bytes(source.read_bytes() + box)


def _encode(sources: list[Path], folder: Path, size: str) -> list[Path]:
    folder.mkdir()

    def encode(source: Path) -> Path:
        target = folder / f"{source.stem}.mp4"
        command = [find_ffmpeg(), "-v", "error", "-i", str(source), "-an", "-vf", f"scale={size}"]
        subprocess.run([*command, "-c:v", "libx264", "-threads", "1", str(target)], check=True)
        return target

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(encode, sources))


def run_extract(device: str, folder: Path, cache: Path, options: list[str]) -> Run:
    """Run `feat extract` on a device and watch it."""
    run = Run(device)
    command = [sys.executable, "-m", "feat", "extract", str(folder), "--cache", str(cache)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--device", device, "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(run, process.pid, started, ended))
    watch.start()
    assert process.stderr
    assert process.stdout
    said = []
    for line in process.stderr:
        if found := _FINISHED.search(line):
            run.finished.append((time.perf_counter() - started, int(found[1])))
        else:
            said.append(line)
    printed = process.stdout.read()
    ended.set()
    watch.join()
    run.wall = time.perf_counter() - started
    print("".join(said), end="", file=sys.stderr)
    if process.wait() not in (0, 1):
        raise SystemExit(f"feat extract ended with {process.returncode}")
    run.report = json.loads(printed)
    return run


def _watch(run: Run, pid: int, started: float, ended: threading.Event) -> None:
    query = ["nvidia-smi", "--query-gpu=memory.used,utilization.gpu"]
    while not ended.wait(1):
        now = time.perf_counter() - started
        try:
            status = Path(f"/proc/{pid}/status").read_text()
            run.host.append((now, 1024 * int(status.partition("VmRSS:")[2].split()[0])))
            if run.device.startswith("cuda"):
                text = subprocess.run(
                    [*query, "--format=csv,noheader,nounits"],
                    capture_output=True, text=True, check=True,
                ).stdout  # fmt: skip
                used, busy = text.splitlines()[0].split(",")
                run.card.append((now, int(used) << 20, int(busy)))
        except (OSError, ValueError, IndexError, subprocess.CalledProcessError):
            continue  # it has just ended, or there is no nvidia-smi


def table(runs: list[Run]) -> str:
    """Return what was seen as Markdown."""
    lines = [
        "| device | videos | clips | seconds | start-up | clips/s | apart from start-up | "
        "in the first third | in the last |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        clips = run.report["clips"]
        assert run.start_up
        lines.append(
            f"| {run.device} | {run.report['done']} | {clips} | {run.wall:.1f} | "
            f"{run.start_up.wall:.1f} | {clips / run.wall:.1f} | {run.steady_rate:.1f} | "
            f"{run.rate(0, 1 / 3):.1f} | {run.rate(2 / 3, 1):.1f} |"
        )
    lines += [
        "",
        "| device, all its workers | flow, s | network | waited for decoding | writing | "
        "host memory, in the first and last third | GPU memory | GPU busy (nvidia-smi) |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in runs:
        spent = run.report["stage_seconds"]
        since = run.finished[0][0]
        host = _thirds([used for at, used in run.host if at >= since])
        memory = _thirds([used for at, used, _ in run.card if at >= since])
        busy = [percent for at, _, percent in run.card if at >= since]
        lines.append(
            f"| {run.device} | {spent['flow']:.1f} | {spent['network']:.1f} | "
            f"{spent['decode']:.1f} | {spent['write']:.1f} | "
            f"{_gigabytes(host)} | {_gigabytes(memory)} | "
            f"{f'{np.mean(busy):.0f} %' if busy else ''} |"
        )
    return "\n".join(lines)


def _thirds(values: list[int]) -> list[int]:
    """Return the largest value of the first and of the last third; nothing of nothing."""
    third = -(-len(values) // 3)
    return [max(values[:third]), max(values[-third:])] if values else []


def _gigabytes(values: list[int]) -> str:
    return ", ".join(f"{value / 1e9:.2f}" for value in values) + (" GB" if values else "")


def compare(first: Path, second: Path) -> str:
    """Return how alike the features are that two caches have of the same videos."""
    from cache import FeatureCache

    caches = [FeatureCache(first), FeatureCache(second)]
    videos = sorted(set(caches[0].videos()) & set(caches[1].videos()))
    lines = []
    for stream in caches[0].feature_streams(videos[0]):
        lowest = [lowest_cosine(*(c.read(video, stream) for c in caches)) for video in videos]
        lines.append(f"{stream} {min(lowest):.7f} (median video {np.median(lowest):.7f})")
    return f"Lowest cosine of the features of {len(videos)} videos: {', '.join(lines)}."


def write_weights(path: Path) -> Path:
    """Write random weights: a network's speed does not depend on them."""
    from safetensors.numpy import save_file

    from bench.faults.sound import random_state_dict

    save_file(random_state_dict(), path)
    return path


def extract(arguments: list[str]) -> None:
    """Compare `feat extract` on a GPU and on the CPU beside it."""
    parser = argparse.ArgumentParser(description=extract.__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of MP4 files; else they are drawn")
    parser.add_argument("--count", type=int, default=1000, help="videos in all")
    parser.add_argument("--cpu-count", type=int, default=40, help="of these for the CPU")
    parser.add_argument("--size", help="encode the videos anew, WIDTHxHEIGHT")
    parser.add_argument("--devices", default="cuda,cpu")
    parser.add_argument("--rgb-weights", type=Path, help="else random ones")
    parser.add_argument("--options", default="", help="for feat extract, such as '--batch 32'")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as root:
        home = Path(root)
        sources = sorted(options.folder.rglob("*.mp4")) if options.folder else []
        if not sources:
            sources = [home / f"drawn{seed}.mp4" for seed in range(8)]
            for seed, path in enumerate(sources):
                draw_video(path, num_frames=48 + 8 * seed, seed=seed)
        multiply(sources, options.count, home / "videos", options.size)
        weights = options.rgb_weights or write_weights(home / "random.safetensors")
        given = ["--rgb-weights", str(weights), "--flow-weights", "crossmodal"]
        runs = []
        for device in options.devices.split(","):
            count = options.cpu_count if device == "cpu" else options.count
            more = [*given, "--limit", str(count), *options.options.split()]
            one = ("--limit", "1", "--workers", "1")
            cache = home / f"features-{len(runs)}"
            first = run_extract(device, home / "videos", home / f"first-{len(runs)}", [*more, *one])
            runs.append(run_extract(device, home / "videos", cache, more))
            runs[-1].start_up = first
        print(f"{len(sources)} videos {options.size or 'as they are'}, {options.count} copies\n")
        print(table(runs))
        if len(runs) > 1:
            print("\n" + compare(home / "features-0", home / "features-1"))


SECTIONS: dict[str, Callable[[list[str]], None]] = {"extract": extract}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("section", choices=SECTIONS)
    options, rest = parser.parse_known_args()
    SECTIONS[options.section](rest)


if __name__ == "__main__":
    main()
