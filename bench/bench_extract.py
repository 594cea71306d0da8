"""Whole extraction of both streams: `feat extract` against `bench.reference`, video by video.

Each side lives in a process of its own with its networks loaded and its kernels compiled; the two
take turns, a video at a time, with the same threads and weights. All videos in one run of ours, as
people give them, take a turn before the first video and after every second. A ratio is the result.
Ours includes hashing the video and writing the shard. The features are compared twice: as each side
makes them from the file, and with the reference given the frames that we decode, which leaves out
that OpenCV converts and scales them in another way.

Run: python -m bench.bench_extract [VIDEO...] [--threads N] [--count N]
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bench.sides import in_processes
from data.process import ENVIRONMENT, set_up_process
from data.sample.videos import draw_video

if TYPE_CHECKING:
    from extract.run.job import Job

SIDES = ("reference", "ours")
VIDEOS_A_TURN = 2
"""One run of ours with all videos comes after so many one by one."""
STREAMS: tuple[Literal["rgb", "flow"], ...] = ("rgb", "flow")


@dataclass(frozen=True)
class Row:
    """One video: seconds of each side and the lowest cosine between their rows, by stream."""

    video: str
    num_clips: int
    reference: float
    ours: float
    cosine: dict[str, float]
    """From the same file."""
    cosine_frames: dict[str, float]
    """From the same frames."""

    @property
    def ratio(self) -> float:
        return self.reference / self.ours


def serve_reference(pipe: Connection, threads: int) -> None:
    """Answer each video with (seconds, features, features of our frames), until None comes."""
    import cv2
    import torch

    from bench.reference import extract, load_networks, read_frames
    from extract.weights.resolve import resolve_weights

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    networks = load_networks(resolve_weights("rgb").path)
    while (video := pipe.recv()) is not None:
        started = time.perf_counter()
        features = extract(list(read_frames(video)), networks)
        seconds = time.perf_counter() - started
        pipe.send((seconds, features, extract(our_frames(video), networks)))


def our_frames(video: Path) -> list[np.ndarray]:
    """Return the frames (224, 224, 3) uint8 that `feat extract` works on."""
    from data.videos import VideoSource
    from extract.decode.config import DecodeConfig
    from extract.decode.open import open_video

    source = VideoSource(video_id=video.name, path=video, kind="file")
    frames: list[np.ndarray] = []
    with open_video(source, DecodeConfig()) as stream:
        while len(chunk := stream.read(64)[0]):
            frames += list(chunk)
    return frames


def serve_ours(pipe: Connection, threads: int) -> None:
    """Answer each video with (seconds, features) and a list with its seconds, until None comes."""
    from cache import FeatureCache
    from data.videos import VideoSource, source_stamp
    from extract.config import ExtractConfig
    from extract.decode.limits import Limits
    from extract.devices import Share
    from extract.run.job import Job
    from extract.run.worker import VideoTask, extract_one
    from extract.weights.resolve import resolve_weights

    set_up_process()
    weights = {stream: resolve_weights(stream, flow="crossmodal") for stream in STREAMS}
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache.create(Path(folder) / "features")
        job = Job(
            cache_dir=cache.path,
            config=ExtractConfig(),
            weights=weights,
            devices=("cpu",),
            share=Share(threads=threads, videos=1, batch=1),
            folder_fps=25.0,
            limits=Limits(),
            thumbnails=None,
        )
        while (video := pipe.recv()) is not None:
            if isinstance(video, list):
                pipe.send(seconds_together(video, Path(folder), job))
                continue
            source = VideoSource(video_id=video.name, path=video, kind="file")
            started = time.perf_counter()
            result = extract_one(VideoTask(source=source, stamp=source_stamp(source), job=job))
            seconds = time.perf_counter() - started
            cache.refresh()
            rows = {stream: cache.read(result.sha256, stream) for stream in STREAMS}
            pipe.send((seconds, rows))


def seconds_together(videos: list[Path], folder: Path, job: "Job") -> float:
    """Return the seconds that all videos take in one run, into a new cache in `folder`."""
    from cache import FeatureCache
    from data.videos import VideoSource, source_stamp
    from extract.devices import Resources
    from extract.run.runner import extract_videos

    sources = [VideoSource(video_id=video.name, path=video, kind="file") for video in videos]
    stamps = {source.video_id: source_stamp(source) for source in sources}
    cache = FeatureCache.create(folder / str(time.monotonic_ns()))
    started = time.perf_counter()
    done = extract_videos(
        sources, stamps, cache.path, job.config, job.weights,
        resources=Resources(device="cpu", workers=1, threads=job.share.threads),
        thumbnails=job.thumbnails,
    )  # fmt: skip
    assert all(result.status == "done" for result in done)
    return time.perf_counter() - started


def run(videos: list[Path], warm_up: Path, *, threads: int) -> tuple[list[Row], list[float]]:
    """Return a row a video, and our seconds for all of them in one run, as often as its turn came.

    `warm_up` is extracted first and not counted.
    """
    sides = {"reference": (serve_reference, (threads,)), "ours": (serve_ours, (threads,))}
    with in_processes(sides, {"ours": ENVIRONMENT}) as pipes:

        def ask(side: str, video: Path) -> Any:
            pipes[side].send(video)
            return pipes[side].recv()

        rows = []
        for side in SIDES:
            ask(side, warm_up)
        together = []
        for index, video in enumerate(videos):
            if index % VIDEOS_A_TURN == 0:
                together.append(ask("ours", videos))
            (theirs, expected, expected_of_frames), (ours, found) = (
                ask(side, video) for side in SIDES
            )
            rows.append(
                Row(
                    video=video.name,
                    num_clips=len(expected["rgb"]),
                    reference=theirs,
                    ours=ours,
                    cosine={name: lowest_cosine(expected[name], found[name]) for name in STREAMS},
                    cosine_frames={
                        name: lowest_cosine(expected_of_frames[name], found[name])
                        for name in STREAMS
                    },
                )
            )
        together.append(ask("ours", videos))
    return rows, together


def lowest_cosine(a: np.ndarray, b: np.ndarray) -> float:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).min())


def report(rows: list[Row], together: list[float], threads: int) -> str:
    """Return the rows as a Markdown table with the ratios of all below."""
    lines = [
        "| video | clips | reference, s | feat, s | ratio | lowest cosine, same frames: rgb | flow "
        "| same file: rgb | flow |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row.video} | {row.num_clips} | {row.reference:.1f} | {row.ours:.1f} | "
            f"{row.ratio:.1f} | {row.cosine_frames['rgb']:.4f} | {row.cosine_frames['flow']:.4f} | "
            f"{row.cosine['rgb']:.4f} | {row.cosine['flow']:.4f} |"
        )
    ratios = [row.ratio for row in rows]
    reference = sum(row.reference for row in rows)
    whole = reference / sum(row.ours for row in rows)
    at_once = statistics.median(together)
    each = ", ".join(f"{seconds:.1f}" for seconds in together)
    lines += [
        "",
        f"{threads} threads on each side; median ratio {statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f}), of the sums {whole:.1f}.",
        "",
        f"All in one run of ours: {at_once:.1f} s (median of {each}), the reference "
        f"{reference:.1f} s: {reference / at_once:.1f} times "
        f"({reference / max(together):.1f} to {reference / min(together):.1f}).",
    ]
    return "\n".join(lines)


def choose_videos(count: int, folder: Path) -> tuple[list[Path], str]:
    """Return real videos where there are some, else drawn ones, and what they are."""
    data = Path(os.environ.get("FEAT_SHARED_DATA", "../shared/data"))
    real = sorted((data / "fight_surv").glob("*/*.mp4"), key=lambda path: path.stat().st_size)
    if len(real) >= count:
        return real[:: len(real) // count][:count], "Surveillance Camera Fight clips"
    drawn = [folder / f"{index}.mp4" for index in range(count)]
    for index, path in enumerate(drawn):
        draw_video(path, num_frames=48, seed=index)
    return drawn, "drawn videos"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        warm_up = Path(folder) / "warm-up.mp4"
        draw_video(warm_up, num_frames=20)
        videos, kind = options.videos, "given videos"
        if not videos:
            videos, kind = choose_videos(options.count, Path(folder))
        rows, together = run(videos, warm_up, threads=options.threads)
    print(f"{len(rows)} {kind}\n")
    print(report(rows, together, options.threads))


if __name__ == "__main__":
    main()
