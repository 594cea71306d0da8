"""The stream of frames: size and speed of reading, training steps. `python -m bench.bench_frames`.

`storage VIDEOS`: the bytes of a frame and the frames read a second, of windows of five frames drawn
at random, from the cache's mapped frames, from HDF5 datasets that lossless filters compress (a
chunk a frame), from PNG files and from the video, decoded anew for each window. All from the page
cache, rounds alternate, best of three.

`steps`: training steps a second of each method, in float32 with plain layouts, too (rounds
alternate, medians), and the rate at which the loader alone gives the same batches.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from unittest.mock import patch

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cache import FeatureCache
from data.videos import VideoSource, find_videos
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig, FramesConfig
from extract.decode.open import open_video
from extract.devices import Resources
from extract.run.runner import run_extraction
from model.features.frames import FrameWindows
from model.methods.pixels import frames
from model.methods.pixels.frames import FrameMethod
from model.methods.registry import METHODS, choose_method
from model.training.graph import WARM_UP

LENGTH = 5
ROUNDS = 3
FILTERS = {"HDF5, lzf": {"compression": "lzf"}, "HDF5, gzip 4": {"compression": "gzip"}}
Reader = Callable[[int], NDArray[np.uint8]]


def make_sides(
    source: VideoSource, frames: NDArray[np.uint8], folder: Path
) -> dict[str, tuple[float, Reader]]:
    """Return name -> bytes a frame, and what reads the window that begins with a frame."""
    sides: dict[str, tuple[float, Reader]] = {
        "mapped, as the cache keeps them": (
            frames.nbytes / len(frames),
            lambda start: np.array(frames[start : start + LENGTH]),
        )
    }
    for name, options in FILTERS.items():
        path = folder / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("f", data=frames, chunks=(1, *frames.shape[1:]), **options)
        dataset = h5py.File(path)["f"]
        sides[name] = (
            path.stat().st_size / len(frames),
            lambda start, dataset=dataset: dataset[start : start + LENGTH],  # type: ignore[misc]
        )
    pictures = folder / "png"
    pictures.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(pictures / f"{number}.png")
    size = sum(path.stat().st_size for path in pictures.iterdir())

    def read_png(start: int) -> NDArray[np.uint8]:
        rows = range(start, start + LENGTH)
        return np.stack([np.asarray(Image.open(pictures / f"{row}.png")) for row in rows])

    sides["PNG files"] = size / len(frames), read_png

    def decode(start: int) -> NDArray[np.uint8]:
        with open_video(source, DecodeConfig(size=frames.shape[1]), threads=1) as stream:
            stream.read(start)
            return stream.read(LENGTH)[0]

    if source.kind == "file":
        sides["the video, from its start"] = source.path.stat().st_size / len(frames), decode
    return sides


def storage(videos: Path, size: int) -> None:
    """Print the table of one video, the first found."""
    source = find_videos(videos)[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = ExtractConfig(streams=(), frames=FramesConfig(size=size))
        started = time.perf_counter()
        report = run_extraction(
            source.path, folder / "cache", config, resources=Resources(device="cpu")
        )
        seconds = time.perf_counter() - started
        cache = FeatureCache(folder / "cache")
        (entry,) = cache.entries()
        frames = cache.memmap(entry.key)
        print(
            f"{source.video_id}: {len(frames)} frames of {size}x{size}, extracted in "
            f"{seconds:.1f} s ({report.stage_seconds['write']:.1f} s of it to write them)"
        )
        sides = make_sides(source, frames, folder)
        starts = np.random.default_rng(0).integers(0, len(frames) - LENGTH, 40)
        best = dict.fromkeys(sides, float("inf"))
        for _ in range(ROUNDS):
            for side, (_, read) in sides.items():
                count = 3 if "video" in side else len(starts)
                started = time.perf_counter()
                for start in starts[:count]:
                    read(int(start))
                best[side] = min(best[side], (time.perf_counter() - started) / count)
        print(f"{'kept as':34}{'bytes a frame':>14}{'frames/s':>12}")
        for side, (nbytes, _) in sides.items():
            print(f"{side:34}{nbytes:14,.0f}{LENGTH / best[side]:12,.0f}")


def steps(preset: str, device: str, count: int, changes: dict[str, int]) -> None:
    """Print the table of all methods that look at frames."""
    target = torch.device(device)
    print(
        f"{'method':10}{'size':>6}{'batch':>7}{'steps/s':>10}{'float32':>10}{'ratio':>7}"
        f"{'frames/s':>10}{'loader/s':>10}"
    )
    rng = np.random.default_rng(0)
    for name in METHODS:
        method = choose_method(name)
        if not isinstance(method, FrameMethod):
            continue
        method = choose_method(name, preset).changed(changes)  # type: ignore[assignment]
        assert isinstance(method, FrameMethod)
        shape = (300, method.size, method.size, method.channels)
        videos = [rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(2)]
        windows = FrameWindows(videos, length=method.window, strides=method.strides)
        rates = [
            (_rate(method, windows, target, count), _plain(method, windows, target, count))
            for _ in range(ROUNDS)
        ]
        rate, plain = (median(side) for side in zip(*rates, strict=True))
        ratio = median(ours / theirs for ours, theirs in rates)
        started = time.perf_counter()
        many = max(4 * count, 40)
        for _ in windows.batches(batch_size=windows_a_step(method), steps=many, seed=1):
            pass
        alone = many / (time.perf_counter() - started)
        shown = rate * windows_a_step(method) * method.window
        print(
            f"{name:10}{method.size:6}{windows_a_step(method):7}{rate:10.2f}{plain:10.2f}{ratio:7.2f}"
            f"{shown:10.0f}{alone:10.0f}",
            flush=True,
        )


def _rate(method: FrameMethod, windows: FrameWindows, device: torch.device, count: int) -> float:
    """Return steps a second as training takes them, those before a CUDA graph left out."""
    torch.manual_seed(0)
    stepper = frames.Stepper(method, method.network_on(device), device)
    first = WARM_UP if device.type == "cuda" else 0
    batches = windows.batches(batch_size=windows_a_step(method), steps=first + 1 + count, seed=0)
    started = 0.0
    loss = torch.zeros(())
    for number, batch in enumerate(batches):
        loss = stepper.step(method.tensors(batch, device), rate=1.0)
        if number == first:
            loss.item()  # waits for a GPU
            started = time.perf_counter()
    loss.item()
    return count / (time.perf_counter() - started)


def windows_a_step(method: FrameMethod) -> int:
    """Return how many windows a step gets: of margin learning as many abnormal as normal ones."""
    return method.batch_size * (2 if method.name == "mlep" else 1)


def _plain(method: FrameMethod, windows: FrameWindows, device: torch.device, count: int) -> float:
    """Return the same in float32, with weights laid out as PyTorch makes them."""
    with (
        patch.object(frames, "multiplies_bfloat16", lambda device: False),
        patch.object(type(method), "network_on", lambda self, device: self.network().to(device)),
        torch.backends.cudnn.flags(enabled=True, allow_tf32=False),
    ):
        return _rate(method, windows, device, count)


def main() -> None:
    """Run a part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    kept = parts.add_parser("storage")
    kept.add_argument("videos", type=Path)
    kept.add_argument("--size", type=int, default=256)
    trained = parts.add_parser("steps")
    trained.add_argument("--preset", default="small")
    trained.add_argument("--device", default="cpu")
    trained.add_argument("--count", type=int, default=10)
    trained.add_argument("--threads", type=int, default=1)
    trained.add_argument("--size", type=int, help="of the frames, pixels; else the preset's")
    args = parser.parse_args()
    if args.part == "storage":
        storage(args.videos, args.size)
        return
    torch.set_num_threads(args.threads)
    steps(args.preset, args.device, args.count, {"size": args.size} if args.size else {})


if __name__ == "__main__":
    main()
