"""Several `feat extract` processes that fill one new cache at the same time, from real videos.

For each number of processes: all start together on the same folder; afterwards `feat cache verify`
reads everything again, and `feat cache diff` compares with a cache that one process made. Last, the
largest number once more, one of them killed by SIGKILL when a third of the shards are there, and
one more run after the others have ended. How many videos were done twice is what the reports say
they did beyond the number of videos; a killed process leaves no report, so there it is the records
in the cache beyond that number (each extraction writes a shard of its own).

Run: python -m bench.concurrent_extract VIDEOS [--processes 2 4] [--streams rgb] [--threads 1]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILL_AT = 1 / 3
POLL_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What several processes made of one cache."""

    title: str
    seconds: float
    """Until the last process ended."""
    done: tuple[int | None, ...]
    """Videos that each process extracted; None of the killed one."""
    failed: int
    check: dict[str, Any]
    """Of `feat cache verify --json`."""
    diff: dict[str, Any]
    """Of the first stream in `feat cache diff --json`: the one-process cache is A."""

    def done_twice(self, num_videos: int, num_streams: int) -> int:
        """Return how many videos were extracted although another process had them."""
        if None in self.done:
            return int(self.check["records"]) // num_streams - num_videos
        return sum(count or 0 for count in self.done) - num_videos


def feat(*arguments: str | Path) -> list[str]:
    """Return the command of a subcommand of `feat`."""
    return [sys.executable, "-m", "feat", *map(str, arguments)]


def read_json(command: list[str]) -> dict[str, Any]:
    """Return what a command prints; its exit code may be 1 (verify found something)."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def fill(
    cache: Path, reference: Path, extract: list[str], processes: int, *, kill_at: int = 0
) -> Outcome:
    """Let `processes` fill `cache`; kill the first once `kill_at` shards are there (0: never)."""
    command = [*extract, "--cache", str(cache)]
    started = time.monotonic()
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)
    ]
    killed = None
    while kill_at and killed is None:
        if running[0].poll() is not None:
            raise SystemExit("the process to kill had already ended: too few videos")
        if len(list(cache.glob("shards/*.h5"))) >= kill_at:
            running[0].kill()
            killed = running[0]
        time.sleep(POLL_SECONDS)
    printed = [process.communicate()[0] for process in running]
    seconds = time.monotonic() - started
    reports = [
        None if process is killed else json.loads(text)
        for process, text in zip(running, printed, strict=True)
    ]
    title = f"{processes} processes" + (", one killed" if killed else "")
    return Outcome(
        title=title,
        seconds=seconds,
        done=tuple(report and report["done"] for report in reports),
        failed=sum(len(report["failed"]) for report in reports if report),
        check=read_json(feat("cache", "verify", "--json", cache)),
        diff=read_json(feat("cache", "diff", "--json", reference, cache))["streams"][0],
    )


def table_row(outcome: Outcome, num_videos: int, num_streams: int) -> str:
    """Return the outcome as a row of the Markdown table."""
    diff, check = outcome.diff, outcome.check
    cells = (
        outcome.title,
        f"{outcome.seconds:.0f}",
        " + ".join("killed" if count is None else str(count) for count in outcome.done),
        diff["both"],
        len(diff["only_a"]),
        outcome.failed,
        outcome.done_twice(num_videos, num_streams),
        len(check["problems"]),
        f"{diff['min_cosine']:.6f}",
        f"{diff['identical']} of {diff['both']}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--streams", default="rgb")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    options = parser.parse_args()
    num_streams = len(options.streams.split(","))
    extract = feat("-q", "extract", "--videos", options.videos, "--streams", options.streams)
    extract += ["--flow-weights", "crossmodal", "--threads", str(options.threads), "--json"]
    extract += ["--no-thumbnails"]  # a shard is a video then
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as folder:
        alone = Path(folder) / "one"
        report = read_json([*extract, "--cache", str(alone)])
        num_videos = report["done"]
        print(
            f"{num_videos} videos, {report['clips']} clips, streams {options.streams}, "
            f"{options.threads} thread(s) a process. One process: {report['seconds']:.0f} s.\n\n"
            "| | s | done by each | videos in the cache | missing | failed | done twice | "
            "problems found by verify | least cosine with one process | identical |\n"
            f"|{'---|' * 10}"
        )
        for processes in options.processes:
            cache = Path(folder) / str(processes)
            outcome = fill(cache, alone, extract, processes)
            print(table_row(outcome, num_videos, num_streams), flush=True)
        most, cache = max(options.processes), Path(folder) / "killed"
        outcome = fill(cache, alone, extract, most, kill_at=max(1, round(num_videos * KILL_AT)))
        print(table_row(outcome, num_videos, num_streams), flush=True)
        again = read_json([*extract, "--cache", str(cache)])
        print(
            f"\nA run after the kill: {again['done']} done, {again['skipped']} already there, "
            f"{len(again['failed'])} failed."
        )


if __name__ == "__main__":
    main()
