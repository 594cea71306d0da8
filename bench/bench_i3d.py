"""Speed of I3D: `prepare_network` against the eager network of `bench.reference`.

Each side runs in a process of its own, ours set up as `feat extract` sets itself up; rounds
alternate, so that other load on the machine hits both. A ratio is the result. The machine's matrix
product, measured in every round too, is the limit both could reach.

With `--device cuda` the sides are the kernels and PyTorch's operators on a GPU, in every precision:
frames as uint8, already on the card; errors are those against the plain network in float64.

Run: python -m bench.bench_i3d [--runs N] [--threads N] [--clips N] [--precision NAME]
     python -m bench.bench_i3d --device cuda [--runs N]
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from bench.reference import load_networks
from bench.sides import in_processes
from data.process import ENVIRONMENT, set_up_process
from extract.i3d.folded import FoldedI3D
from extract.i3d.layers import conv_units
from extract.i3d.network import I3D
from extract.i3d.precision import PRECISIONS, precision_for
from extract.i3d.prepared import prepare_network
from extract.weights.resolve import load_state_dict, resolve_weights

# output cells of the stages of the network, for 16 frames of 224x224
CELLS = {"conv1a": 8 * 112**2, "conv2": 8 * 56**2, "mixed3": 8 * 28**2, "mixed4": 4 * 14**2}
CELLS["mixed5"] = 2 * 7**2
MATRIX = 2048
GPU_BATCHES = (1, 4, 16, 64)


@dataclass(frozen=True)
class Row:
    """One comparison; times in seconds a clip, one entry a round."""

    what: str
    threads: int
    eager: list[float]
    prepared: list[float]
    matmul_flops: list[float]
    error: float
    cosine: float

    @property
    def ratios(self) -> list[float]:
        return [a / b for a, b in zip(self.eager, self.prepared, strict=True)]

    @property
    def gflops(self) -> float:
        """GFLOP/s of the prepared network, counting every multiplication as published."""
        return clip_flops() / statistics.median(self.prepared) / 1e9

    def line(self) -> str:
        ratios = self.ratios
        peak = statistics.median(self.matmul_flops) / 1e9
        return (
            f"{self.what:<24} {self.threads} threads  eager {statistics.median(self.eager):.3f} s  "
            f"prepared {statistics.median(self.prepared):.3f} s  "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})  "
            f"{self.gflops:.0f} GFLOP/s, matrix product {peak:.0f}  "
            f"relative error {self.error:.1e}, cosine {self.cosine:.5f}"
        )


def clip_flops() -> float:
    """Return the floating-point operations of one 16-frame RGB clip: 2 a multiplication."""
    total = 0
    for unit in conv_units("rgb"):
        cells = next(cells for name, cells in CELLS.items() if unit.name.startswith(name))
        d, h, w = unit.kernel
        total += 2 * cells * unit.in_channels * unit.out_channels * d * h * w
    return float(total)


def serve(pipe: Connection, side: str, threads: int, precision: str, weights: Path) -> None:
    """Answer each batch of clips with (seconds, features), until None comes."""
    torch.set_num_threads(threads)
    network: Callable[[Any], Any]
    if side == "eager":
        eager = load_networks(weights)["rgb"]
        network = lambda clips: torch.cat([eager(clip[None]) for clip in clips])  # noqa: E731
    else:
        set_up_process()
        state = load_state_dict(resolve_weights("rgb"))
        network = prepare_network(state, "rgb", device="cpu", precision=precision)
    with torch.no_grad():
        while (clips := pipe.recv()) is not None:
            started = time.perf_counter()
            features = network(clips)
            pipe.send((time.perf_counter() - started, features))


def matmul_flops(threads: int) -> float:
    """Return the floating-point operations per second of a float32 matrix product."""
    torch.set_num_threads(threads)
    a = torch.rand(MATRIX, MATRIX)
    a @ a
    started = time.perf_counter()
    a @ a
    return 2 * MATRIX**3 / (time.perf_counter() - started)


def run(runs: int = 5, *, threads: int = 0, clips: int = 2, precision: str = "auto") -> list[Row]:
    """Return one row: batches of `clips` random clips through both networks, `runs` rounds."""
    threads = threads or len(os.sched_getaffinity(0))
    precision = precision_for("cpu", precision)
    weights = resolve_weights("rgb").path
    batch = torch.rand(clips, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1

    sides = {side: (serve, (side, threads, precision, weights)) for side in ("eager", "prepared")}
    with in_processes(sides, {"prepared": ENVIRONMENT}) as pipes:

        def timed(side: str) -> tuple[float, torch.Tensor]:
            pipes[side].send(batch)
            seconds, features = pipes[side].recv()
            return seconds / clips, features

        expected, found = timed("eager")[1], timed("prepared")[1]  # the warm-up
        rounds = [
            (timed("eager")[0], timed("prepared")[0], matmul_flops(threads)) for _ in range(runs)
        ]
    error = ((found - expected).norm() / expected.norm()).item()
    cosine = torch.cosine_similarity(found, expected).min().item()
    eager, prepared, peaks = (list(column) for column in zip(*rounds, strict=True))
    return [Row(f"I3D {precision}, {clips} clips", threads, eager, prepared, peaks, error, cosine)]


def gpu_lines(device: str, runs: int) -> Iterator[str]:
    """Yield a line for each way and precision: clips a second in batches, and the error."""
    state = load_state_dict(resolve_weights("rgb"))
    generator = torch.Generator().manual_seed(0)
    clips = torch.randint(0, 256, (64, 3, 16, 224, 224), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        plain = I3D.from_state_dict(state, "rgb").double()
        expected = plain.extract_features(clips[:2].double() / 127.5 - 1)
    clips = clips.to(device)
    yield f"I3D on {torch.cuda.get_device_name(device)}, clips/s in batches of {GPU_BATCHES}"
    for precision in PRECISIONS[1:]:
        ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "PyTorch": FoldedI3D(state, "rgb", device=torch.device(device), precision=precision),
            "kernels": prepare_network(state, "rgb", device=device, precision=precision),
        }
        for way, network in ways.items():
            error = (network(clips[:2]).cpu() - expected).norm() / expected.norm()
            rates = [batch / gpu_seconds(network, clips[:batch], runs) for batch in GPU_BATCHES]
            figures = "  ".join(f"{rate:6.0f}" for rate in rates)
            yield f"{precision:<8} {way}  {figures}  relative error {error:.1e}"


def gpu_seconds(
    network: Callable[[torch.Tensor], torch.Tensor], clips: torch.Tensor, runs: int
) -> float:
    """Return the median time of `runs` batches, of events on the card, after two for warming up."""
    seconds = []
    for _ in range(runs + 2):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        network(clips)
        end.record()
        end.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000)
    return statistics.median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--clips", type=int, default=2)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    print(f"{clip_flops() / 1e9:.1f} GFLOP a clip")
    if args.device != "cpu":
        for line in gpu_lines(args.device, args.runs):
            print(line, flush=True)
        return
    for row in run(args.runs, threads=args.threads, clips=args.clips, precision=args.precision):
        print(row.line())


if __name__ == "__main__":
    main()
