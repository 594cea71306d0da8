"""Speed of decoding: `extract.decode.open` against ffmpeg alone and against OpenCV.

ffmpeg alone decodes and scales the same frames and throws them away (`-f null`): no reader can be
faster. OpenCV reads and resizes frame by frame, the way people script it. Rounds alternate, so
that other load on the machine hits all sides; the fastest round of each counts. The processor
time of all processes of a side tells what the pipe and Python cost.

Run: python -m bench.bench_decode [VIDEO...] [--rounds N] [--threads N]
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2

from data.ffmpeg import ffmpeg_version, find_ffmpeg, passthrough_options
from data.sample.videos import draw_video
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from extract.decode.video import SCALE_FLAGS

SIZE = 224


@dataclass(frozen=True)
class Row:
    """One video, and the least elapsed and processor seconds of each side."""

    video: str
    num_frames: int
    elapsed: dict[str, float]
    processor: dict[str, float]


def ours(path: Path, threads: int | None) -> int:
    source = VideoSource(video_id=path.name, path=path, kind="file")
    with open_video(source, DecodeConfig(size=SIZE), threads=threads) as stream:
        while len(stream.read(64)[0]):
            pass
        return stream.num_frames


def ffmpeg_alone(path: Path, threads: int | None) -> None:
    ((mode, value),) = passthrough_options(ffmpeg_version()).items()
    decoding = [] if threads is None else ["-threads", str(threads)]
    graph = f"[0:V:0]scale={SIZE}:{SIZE}:flags={SCALE_FLAGS},format=rgb24[o]"
    command = [find_ffmpeg(), "-nostdin", "-v", "quiet", *decoding, "-i", f"file:{path}"]
    command += ["-filter_complex", graph, "-map", "[o]", f"-{mode}", value, "-f", "null", "-"]
    subprocess.run(command, check=False)


def opencv(path: Path) -> None:
    capture = cv2.VideoCapture(str(path))
    while (pair := capture.read())[0]:
        cv2.cvtColor(cv2.resize(pair[1], (SIZE, SIZE), None, 0, 0, cv2.INTER_AREA), 4)
    capture.release()


def measure(path: Path, *, rounds: int = 5, threads: int | None = None) -> Row:
    """Return the fastest of `rounds` rounds of all three sides."""
    num_frames = ours(path, threads)
    sides: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(path, threads),
        "ffmpeg": lambda: ffmpeg_alone(path, threads),
        "opencv": lambda: opencv(path),
    }
    elapsed = dict.fromkeys(sides, float("inf"))
    processor = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        for name, side in sides.items():
            start, used = time.perf_counter(), processor_seconds()
            side()
            elapsed[name] = min(elapsed[name], time.perf_counter() - start)
            processor[name] = min(processor[name], processor_seconds() - used)
    return Row(path.name, num_frames, elapsed, processor)


def processor_seconds() -> float:
    """Return the time that this process and its ended children have computed."""
    return sum(os.times()[:4])


def report(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| video | frames | ours, frames/s | ffmpeg -f null | OpenCV | elapsed, ours / ffmpeg "
        "| processor, ours / ffmpeg |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        rates = " | ".join(f"{row.num_frames / seconds:.0f}" for seconds in row.elapsed.values())
        ratios = (side["ours"] / side["ffmpeg"] for side in (row.elapsed, row.processor))
        cells = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {row.video} | {row.num_frames} | {rates} | {cells} |")
    return "\n".join(lines)


def make_inputs(folder: Path) -> list[Path]:
    """Make a small video like a surveillance camera's, and a large one."""
    small, large = folder / "street-320x240.mp4", folder / "testsrc2-1280x720.mp4"
    draw_video(small, num_frames=400)
    source = ["-f", "lavfi", "-i", "testsrc2=size=1280x720:rate=25", "-frames:v", "300"]
    command = [find_ffmpeg(), "-v", "error", *source, "-pix_fmt", "yuv420p", str(large)]
    subprocess.run(command, check=True)
    return [small, large]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("videos", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = options.videos or make_inputs(Path(folder))
        rows = [measure(v, rounds=options.rounds, threads=options.threads) for v in videos]
    print(f"ffmpeg {ffmpeg_version()}, {SIZE}x{SIZE} RGB, threads {options.threads or 'auto'}")
    print(report(rows))


if __name__ == "__main__":
    main()
