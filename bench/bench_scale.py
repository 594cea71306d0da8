"""Workers of a cluster: two against one, what a call costs on Dask and Ray, and very many videos.

All processes are of this machine: `workers` extracts the drawn videos of `feat sample` with both
networks, in workers of one thread, each on a core of its own. The two sides take turns, and each
has done the same videos once before, so that its networks and kernels are loaded. Time is counted
from the beginning of the first video to the end of the last one, as the workers tell it.

`calls` makes calls that do nothing, on one worker of each engine, in turn: what passes between two
of them is overhead.

`many` is `feat extract` of very many tiny videos, all of it, but for what decodes and computes:
workers return the features of one video, recorded before, in its place. They hash, claim, write
and check as ever. The driver's resident memory is read when so many results have come.

Run: python -m bench.bench_scale workers|calls|many [--videos N] [--rounds N]
"""

import argparse
import dataclasses
import multiprocessing
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.bench_gpu import multiply
from cache import FeatureCache
from data.clusters.dask import DaskCluster
from data.clusters.engine import Cluster, Lost, Prepare, Ready
from data.sample.videos import draw_video, make_samples
from data.videos import find_videos, source_stamp
from extract.config import ExtractConfig
from extract.decode.limits import Limits
from extract.devices import Resources, Share
from extract.run.clusters import extract_on
from extract.run.job import Job
from extract.run.runner import run_extraction
from extract.run.worker import VideoTask
from extract.streaming import VideoFeatures
from extract.weights.resolve import resolve_weights

CONFIG = ExtractConfig()
RESOURCES = Resources(device="cpu", threads=1)


@contextmanager
def dask(workers: int) -> Iterator[tuple[str, psutil.Process]]:
    """Start a scheduler and workers of one thread and core; yield its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    address = f"tcp://{host}:{port}"
    commands = [["scheduler", "--host", host, "--port", str(port), "--no-show"]]
    worker = ["worker", address, "--nthreads", "1", "--no-nanny", "--memory-limit", "0"]
    commands += [worker] * workers
    with ExitStack() as killed:
        processes = []
        for what, *options in commands:
            command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options]
            processes.append(
                subprocess.Popen(
                    [*command, "--dashboard-address", ":0"],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=killed.enter_context(tempfile.TemporaryDirectory()),
                    env={**os.environ, "PYTHONPATH": os.getcwd()},
                )
            )
            killed.callback(processes[-1].wait)
            killed.callback(processes[-1].kill)
        # a core each, with the ffmpeg that it starts: else one alone would have all cores for both
        for worker, core in zip(processes[1:], sorted(os.sched_getaffinity(0)), strict=False):
            os.sched_setaffinity(worker.pid, {core})
        wait_for(host, port)
        yield address, psutil.Process(processes[0].pid)


@contextmanager
def ray() -> Iterator[str]:
    """Start a head that is one worker of a thread; yield its address."""
    with socket.socket() as one, socket.socket() as two:
        ports = []
        for free in (one, two):
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    with tempfile.TemporaryDirectory(prefix="feat-ray-", ignore_cleanup_errors=True) as home:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--port={ports[0]}", f"--ray-client-server-port={ports[1]}"]
        command += ["--node-ip-address=127.0.0.1", "--num-cpus=1", f"--temp-dir={home}"]
        command += ["--include-dashboard=false", "--disable-usage-stats"]
        process = subprocess.Popen(
            [*command, "--object-store-memory=100000000"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.getcwd()},
        )
        try:
            wait_for("127.0.0.1", ports[0])
            yield f"127.0.0.1:{ports[0]}"
        finally:
            process.kill()
            process.wait()


def wait_for(host: str, port: int) -> None:
    for _ in range(600):  # a busy machine takes a while
        with suppress(OSError), socket.create_connection((host, port)):
            return
        time.sleep(0.1)


@dataclasses.dataclass
class Watched:
    """A cluster: when its calls began and ended, and what this process had in memory."""

    cluster: Cluster
    record: VideoFeatures | None = None  # returned for every video, instead of its own
    at: tuple[int, ...] = ()  # memory is read when so many results have come
    began: float = float("inf")
    ended: float = 0.0
    memory: dict[int, int] = dataclasses.field(default_factory=dict)  # bytes

    def run(
        self, prepare: Prepare[Any, Any], items: Iterable[Any]
    ) -> Iterator[tuple[Any, Any | Lost]]:
        prepare_here = partial(prepare_watched, prepare, self.record)
        results = self.cluster.run(prepare_here, items)
        for number, (item, said) in enumerate(results, 1):
            if isinstance(said, Lost):
                raise SystemExit("a worker died")
            began, ended, result = said
            self.began, self.ended = min(began, self.began), max(ended, self.ended)
            if number in self.at:
                print(f"{number}: {time.time() - self.began:.0f} s", file=sys.stderr)
                self.memory[number] = psutil.Process().memory_info().rss
            yield item, result


def prepare_watched(
    prepare: Prepare[Any, Any], record: VideoFeatures | None, threads: int
) -> Ready[Any, Any]:
    ready = prepare(threads)
    if record:
        import extract.run.worker

        extract.run.worker.extractor_of = lambda job: Recorded(record)  # type: ignore[assignment,return-value]
    return Ready(partial(call_watched, ready.call), ready.slots)


def call_watched(call: Any, item: Any, stop: threading.Event) -> tuple[float, float, Any]:
    began = time.time()
    result = call(item, stop)
    return began, time.time(), result


@dataclasses.dataclass
class Recorded:
    features: VideoFeatures

    def extract(self, *_: object, **__: object) -> VideoFeatures:
        return self.features


def bench_workers(root: Path, videos: int, rounds: int) -> None:
    make_samples(root / "clips", num_videos=max(6, videos))
    sources = find_videos(root / "clips")[:videos]
    weights = {s: resolve_weights(s, flow="crossmodal") for s in CONFIG.streams}
    seconds: dict[int, list[float]] = {1: [], 2: []}
    loads = []
    with dask(1) as (one, _), dask(2) as (two, _):
        addresses = {1: one, 2: two}
        for turn in range(rounds + 1):  # the first loads what is needed
            for workers, address in addresses.items():
                cache = FeatureCache.create(root / f"features-{turn}-{workers}")
                job = Job(
                    cache_dir=cache.path, config=CONFIG, weights=weights, devices=("cpu",),
                    share=Share(threads=1, videos=1, batch=1), folder_fps=25.0, limits=Limits(),
                )  # fmt: skip
                tasks = [VideoTask(source=s, stamp=source_stamp(s), job=job) for s in sources]
                watched = Watched(DaskCluster(address))
                print(f"{workers} at work, load {os.getloadavg()}", file=sys.stderr)
                done = list(extract_on(watched, tasks, resources=RESOURCES))
                assert {each.status for each in done} == {"done"}, done
                if turn:
                    seconds[workers].append(watched.ended - watched.began)
                    loads.append(os.getloadavg()[0])
                    print(f"{workers}: {seconds[workers][-1]:.1f} s", file=sys.stderr)
    ratios = [a / b for a, b in zip(seconds[1], seconds[2], strict=True)]
    clips = sum(each.num_clips for each in done)
    print(f"{videos} videos of {clips} clips in all, both streams; {rounds} rounds in turn\n")
    print("| workers of one thread | seconds, start-up apart | clips/s |\n|---|---:|---:|")
    for workers, times in seconds.items():
        middle = statistics.median(times)
        print(
            f"| {workers} | {middle:.1f} ({min(times):.1f} to {max(times):.1f}) | "
            f"{clips / middle:.2f} |"
        )
    print(
        f"\nTwo are {statistics.median(ratios):.2f} times as fast as one ({min(ratios):.2f} to "
        f"{max(ratios):.2f}), at a load of {min(loads):.1f} to {max(loads):.1f} on "
        f"{len(os.sched_getaffinity(0))} cores."
    )


def prepare_nothing(threads: int) -> Ready[int, None]:
    return Ready(lambda number, stop: None, slots=threads)


def bench_calls(calls: int, rounds: int) -> None:
    print("| calls that do nothing, one after the other | ms a call |\n|---|---:|")
    with dask(1) as (scheduler, _), ray() as head:
        from data.clusters.ray import RayCluster

        gaps: dict[str, list[float]] = {"Dask": [], "Ray": []}
        for _ in range(rounds + 1):
            for name, cluster in (("Dask", DaskCluster(scheduler)), ("Ray", RayCluster(head))):
                watched = Watched(cluster)
                assert len(list(watched.run(prepare_nothing, range(calls)))) == calls
                gaps[name].append((watched.ended - watched.began) / (calls - 1) * 1000)
    for name, (_, *each) in gaps.items():  # the first loads what is needed
        print(
            f"| {name}: {calls}, {rounds} rounds | {statistics.median(each):.1f} ({min(each):.1f} "
            f"to {max(each):.1f}) |"
        )
    print(f"\nLoad: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores.")


def extract_here(video: Path) -> VideoFeatures:
    from extract.pipeline import Extractor

    weights = {s: resolve_weights(s, flow="crossmodal") for s in CONFIG.streams}
    extractor = Extractor(CONFIG, weights, device="cpu", num_threads=1, batch=1)
    (source,) = find_videos(video)
    return extractor.extract(source, CONFIG.streams, stage_seconds={}, thumbnails=True)


def bench_many(root: Path, videos: int) -> None:
    draw_video(root / "tiny.mp4", num_frames=20, size=(64, 48))
    # elsewhere: a driver loads neither PyTorch nor kernels
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        record = pool.submit(extract_here, root / "tiny.mp4").result()
    multiply([root / "tiny.mp4"], videos, root / "clips", None)
    at = tuple(sorted({1, videos // 100, videos // 10, videos}))
    with dask(2) as (address, scheduler):
        watched = Watched(DaskCluster(address), record, at)
        before = psutil.Process().memory_info().rss
        report = run_extraction(
            root / "clips", root / "features", CONFIG, weights={"flow": "crossmodal"},
            resources=RESOURCES, cluster=watched,
        )  # fmt: skip
        seconds = watched.ended - watched.began
        assert (report.done, report.failed) == (videos, [])
        scheduler_memory = scheduler.memory_info().rss
    print("| driver | resident memory, MB |\n|---|---:|")
    for number, memory in {0: before, **watched.memory}.items():
        print(f"| after {number:,} videos | {memory / 1e6:.0f} |")
    each = seconds / videos * 1000
    print(
        f"\n{videos:,} videos of two clips in {seconds:.0f} s on two workers, {each:.0f} ms each, "
        "start-up apart: hashed, claimed, written and checked, but neither decoded nor computed.\n"
        f"The scheduler had {scheduler_memory / 1e6:.0f} MB at the end. "
        f"Load: {os.getloadavg()[0]:.1f}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["workers", "calls", "many"])
    parser.add_argument("--videos", type=int, help="or calls")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as root:
        if options.what == "workers":
            bench_workers(Path(root), options.videos or 8, options.rounds)
        elif options.what == "calls":
            bench_calls(options.videos or 2000, options.rounds)
        else:
            bench_many(Path(root), options.videos or 10_000)


if __name__ == "__main__":
    main()
