"""Speed and accuracy of TV-L1: `extract.flow.tvl1` against OpenCV's DualTVL1OpticalFlow.

Both sides get the same number of threads and the same pairs, in alternating rounds, so that other
load on the machine hits both; a ratio is the result. A round's ratio uses elapsed time; next to it
stands the ratio of the processor time of both, which other programs hardly touch (one thread only:
threads that wait in OpenCV's loops would count there). Accuracy is the distance of both flows on
pairs of several videos, beside the distance of OpenCV with its vector code switched off
from OpenCV itself: two roundings of the same algorithm.

Run: python -m bench.bench_tvl1 [--runs N] [--pairs N]
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numba import njit

from data.sample.videos import draw_video
from extract.flow.pair import solve_pair
from extract.flow.sweep import dual_then_flow, num_vectors, row_stride
from extract.flow.tvl1 import TVL1Config, _Solver, compile_kernels, rgb_to_gray, tvl1_flow
from extract.kernels import simd

SIZE = 224


@dataclass(frozen=True)
class Speed:
    """One comparison; seconds a pair, elapsed and of the processors, one entry a round."""

    what: str
    slow: list[float]
    fast: list[float]
    slow_processor: list[float]
    fast_processor: list[float]

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.slow, self.fast, strict=True)]

    @property
    def processor_ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.slow_processor, self.fast_processor, strict=True)]

    def line(self) -> str:
        ratios, others = self.ratios, self.processor_ratios
        return (
            f"{self.what:<42} {statistics.median(self.slow) * 1e3:8.1f} ms "
            f"{statistics.median(self.fast) * 1e3:7.1f} ms   "
            f"{statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})   "
            f"of processor time {statistics.median(others):.2f}"
        )


@dataclass(frozen=True)
class Accuracy:
    """End-point differences to OpenCV on one video, pixels: (mean, 99th percentile, maximum)."""

    video: str
    mean_flow: float
    ours: tuple[float, float, float]
    opencv_without_vectors: tuple[float, float, float]

    def line(self) -> str:
        ours, other = self.ours, self.opencv_without_vectors
        return (
            f"{self.video:<28} {self.mean_flow:6.3f}   {ours[0]:.4f} {ours[1]:.3f} {ours[2]:5.2f}"
            f"   {other[0]:.4f} {other[1]:.3f} {other[2]:5.2f}"
        )


@dataclass(frozen=True)
class Rate:
    """Nanoseconds a pixel iteration: a whole pair, its sweeps, their square roots alone."""

    pair: float
    sweep: float
    limit: float
    pixel_iterations: float

    def line(self) -> str:
        return (
            f"{self.pixel_iterations / 1e6:.1f} M pixel iterations a pair: "
            f"{self.pair:.2f} ns each all in all, {self.sweep:.2f} in the sweep; two square roots "
            f"and a reciprocal alone take {self.limit:.2f} ({simd.LANES} lanes)"
        )


def read_video(path: Path, num_frames: int) -> np.ndarray:
    """Frames from the middle of a video file or frame folder, (T, SIZE, SIZE) uint8 gray."""
    if path.is_dir():
        names = sorted(path.glob("*.jpg"))
        middle = len(names) // 2
        images = [cv2.imread(str(name)) for name in names[middle : middle + num_frames]]
    else:
        capture = cv2.VideoCapture(str(path))
        images = []
        while (pair := capture.read())[0]:
            images.append(pair[1])
        middle = max(0, (len(images) - num_frames) // 2)
        images = images[middle : middle + num_frames]
    rgb = [cv2.resize(i, (SIZE, SIZE), interpolation=cv2.INTER_AREA)[..., ::-1] for i in images]
    return rgb_to_gray(np.stack(rgb))


def find_videos() -> list[Path]:
    """Ten real videos of the shared data; empty where they are absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("FEAT_SHARED_DATA", default))
    fights = sorted((root / "fight_surv").glob("*/*.mp4"))
    folders = [root / "ped2/testing/frames/01", root / "ped2/training/frames/05"]
    return [*fights[::8][:8], *(folder for folder in folders if folder.is_dir())]


def load_videos(num_frames: int) -> dict[str, np.ndarray]:
    """The start of each real video, or of one that is drawn."""
    paths = find_videos()
    if paths:
        return {"/".join(path.parts[-2:]): read_video(path, num_frames) for path in paths}
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "drawn.mp4"
        draw_video(video)
        return {"drawn": read_video(video, num_frames)}


def opencv_flow(gray: np.ndarray, num_threads: int) -> np.ndarray:
    cv2.setNumThreads(num_threads)
    solver = cv2.optflow.createOptFlow_DualTVL1()
    return np.stack([solver.calc(a, b, None) for a, b in itertools.pairwise(gray)])


def timed(function: Callable[[], object]) -> tuple[float, float]:
    start, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - processor


def compare(
    what: str, slow: Callable[[], object], fast: Callable[[], object], runs: int, pairs: int
) -> Speed:
    """Time both sides in turn, `runs` times."""
    times = [(timed(slow), timed(fast)) for _ in range(runs)]
    return Speed(
        what,
        [s[0] / pairs for s, _ in times],
        [f[0] / pairs for _, f in times],
        [s[1] / pairs for s, _ in times],
        [f[1] / pairs for _, f in times],
    )


def speed(gray: np.ndarray, many: np.ndarray, runs: int) -> Iterator[Speed]:
    """OpenCV against ours with one and two threads on `gray`; ours one against two on `many`."""
    for n in (1, 2):
        what = f"OpenCV, ours: {n} thread{'s' if n > 1 else ''} each"
        fast = lambda n=n: tvl1_flow(gray, num_threads=n)  # noqa: E731
        yield compare(what, lambda n=n: opencv_flow(gray, n), fast, runs, len(gray) - 1)
    one, two = (lambda n=n: tvl1_flow(many, num_threads=n) for n in (1, 2))
    yield compare("ours: 1 thread, 2 threads", one, two, runs, len(many) - 1)


def differences(flow: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    error = np.linalg.norm(flow - other, axis=-1)
    return float(error.mean()), float(np.percentile(error, 99)), float(error.max())


def accuracy(videos: dict[str, np.ndarray], pairs: int) -> Iterator[Accuracy]:
    for name, frames in videos.items():
        gray = frames[: pairs + 1]
        theirs = opencv_flow(gray, 2)
        cv2.setUseOptimized(False)
        plain = opencv_flow(gray, 2)
        cv2.setUseOptimized(True)
        mean = float(np.linalg.norm(theirs, axis=-1).mean())
        ours = tvl1_flow(gray, num_threads=2)
        yield Accuracy(name, mean, differences(ours, theirs), differences(plain, theirs))


@njit
def _divide(count: int) -> float:
    """Square roots and reciprocals as the sweep has them, 4 vectors at a time, nothing else."""
    one = simd.splat(np.float32(1))
    a = b = c = d = simd.splat(np.float32(1.5))
    for _ in range(count):
        a = simd.reciprocal(simd.sqrt(a) * simd.sqrt(a + one))
        b = simd.reciprocal(simd.sqrt(b) * simd.sqrt(b + one))
        c = simd.reciprocal(simd.sqrt(c) * simd.sqrt(c + one))
        d = simd.reciprocal(simd.sqrt(d) * simd.sqrt(d + one))
    return simd.total(simd.add_to(simd.no_sum(), a + b + c + d))


def rate(gray: np.ndarray, runs: int) -> Rate:
    """Measure one thread's processor time, the least of several rounds."""
    solver = _Solver(gray[:2], TVL1Config())
    for i in range(2):
        solver.prepare(i)
    arguments = (*solver.frames, solver.buffers.shapes)
    count = 20
    pair = sweep = limit = np.inf
    inside = simd.aligned_zeros(row_stride(SIZE))
    inside[:SIZE] = 1
    steps = np.float32(0.25), np.float32(0.25 / 0.3)
    _divide(1)
    with solver.buffers.workspace() as (state, scratch):
        dual_then_flow(state, SIZE, SIZE, inside, *steps)
        for _ in range(max(runs, 10)):
            start = time.thread_time()
            solver.iterations[:] = 0
            solve_pair(
                *(*arguments, state, scratch, solver.numbers, solver.counts),
                *(solver.flow[0], solver.iterations[0]),
            )
            pair = min(pair, time.thread_time() - start)
            start = time.thread_time()
            for _ in range(count):  # on the finest level, as the pair left it
                dual_then_flow(state, SIZE, SIZE, inside, *steps)
            sweep = min(sweep, (time.thread_time() - start) / count)
            start = time.thread_time()
            _divide(25_000)
            limit = min(limit, (time.thread_time() - start) / 100_000)
    iterations = solver.iterations[0].sum(1) @ solver.buffers.shapes.prod(1)
    pixels = num_vectors(SIZE) * simd.LANES * SIZE
    return Rate(
        pair * 1e9 / iterations, sweep * 1e9 / pixels, limit * 1e9 / simd.LANES, float(iterations)
    )


def typical(videos: dict[str, np.ndarray]) -> np.ndarray:
    """The video whose frames change as much as the middle one's."""
    change = {n: float(np.abs(np.diff(v.astype(int), axis=0)).mean()) for n, v in videos.items()}
    return videos[sorted(change, key=lambda name: change[name])[len(change) // 2]]


def run(
    runs: int = 5, pairs: int = 6, show: Callable[[str], None] = lambda line: None
) -> tuple[list[Speed], Rate, list[Accuracy]]:
    """Measure everything, showing each line as soon as it is known."""
    start = time.perf_counter()
    compile_kernels()
    show(f"kernels loaded or compiled in {time.perf_counter() - start:.1f} s (not counted)")
    videos = load_videos(33)
    many = typical(videos)
    show(
        f"\n{SIZE}x{SIZE}, {runs} rounds{'':<22} slow, a pair  fast, a pair   ratio (least to most)"
    )
    speeds = []
    for row in speed(many[: pairs + 1], many, runs):
        speeds.append(row)
        show(row.line())
    ns = rate(many, runs)
    show(f"\n{ns.line()}\n")
    show("difference to OpenCV, px      flow    ours: mean, p99, max  OpenCV without vector code")
    accuracies = []
    for line in accuracy(videos, 2):
        accuracies.append(line)
        show(line.line())
    return speeds, ns, accuracies


def on_card(runs: int) -> Iterator[str]:
    """The flow of a GPU against that of all cores beside it, on clips of 17 frames."""
    import torch

    from extract.flow.tvl1_torch import tvl1_flow_clips

    compile_kernels()
    kinds = {name: frames for name, frames in load_videos(17).items() if len(frames) == 17}
    moving = next(iter(kinds.values()))
    kinds["a scene cut"] = np.concatenate([moving[:8], moving[::-1][:9].transpose(0, 2, 1)])
    kinds["a still picture"] = moving[:1].repeat(17, 0)
    kinds["noise"] = np.random.default_rng(0).integers(0, 256, moving.shape, dtype=np.uint8)
    clips = np.stack(list(kinds.values()))
    cores = len(os.sched_getaffinity(0))
    start = time.perf_counter()
    found = tvl1_flow_clips(torch.from_numpy(clips).cuda()).cpu().numpy()
    yield f"First result after {time.perf_counter() - start:.1f} s.\n"
    yield "| clips of 16 pairs | equal pairs | mean difference, px | 99th percentile | largest |"
    yield "|---|---:|---:|---:|---:|"
    seconds = []
    for name, clip, flow in zip(kinds, clips, found, strict=True):
        start = time.perf_counter()
        expected = tvl1_flow(clip, num_threads=cores)
        seconds.append(time.perf_counter() - start)
        equal = sum(np.array_equal(a, b) for a, b in zip(flow, expected, strict=True))
        mean, p99, most = differences(flow, expected)
        yield f"| {name} | {equal} | {mean:.6f} | {p99:.6f} | {most:.6f} |"
    yield f"\n| pairs at once, {SIZE}x{SIZE} | pairs a second |"
    yield "|---|---:|"
    videos = len(kinds) - 3  # the made-up ones are not typical
    yield f"| {cores} CPU cores, 16 | {16 * videos / sum(seconds[:videos]):.0f} |"
    for count in (4, 16, 64):
        batch = torch.from_numpy(clips[np.arange(count) % videos]).cuda()
        times = []
        for _ in range(runs + 1):  # the first one makes room
            torch.cuda.synchronize()
            start = time.perf_counter()
            tvl1_flow_clips(batch)
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
        yield f"| {16 * count} | {16 * count / statistics.median(times[1:]):.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=6, help="pairs a round, at least 2")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    if options.device == "cuda":
        for line in on_card(options.runs):
            print(line, flush=True)
        return
    run(options.runs, options.pairs, lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
