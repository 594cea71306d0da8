"""Training steps a second: `Trainer` against a plain re-creation of the loop that the paper's
authors published (wanboyang/anomaly_detection_LAD2000: train.py, model.py and the data set).

Both train on windows of 5 x 2048 features, 60 a step, two ConvLSTM layers of 128 channels on 4x4
maps, float32, Adam with weight decay, the same heads: of `--preset released` (the authors' code:
one layer of 1024, then 512 for each output) or of `--preset paper` (2048, 1024, 512, shared). The
plain loop reads one `.npy` (a whole video) a sample from disk, joins samples one by one, and
convolves input and hidden state together at every time step. It has no peepholes: nor has
`released`, while `paper` computes them in addition. Each side lives in a process of its own, as
`feat train` and the published script would; they take turns, some steps each, as a training takes
them one after the other, and each round gives one ratio.

Then the default model's steps with one thread and with one a core, on the machine as it is and
beside busy processes, two a core: how OpenMP's threads wait (`OMP_WAIT_POLICY`) decides there. A
thread that waits actively does so between two turns, too: here each turn has a process of its own.

With `--device cuda` the networks, and a batch already in memory, are on a GPU. PyTorch's defaults
let the plain loop convolve in TF32 there; ours stays in float32.

Run: python -m bench.bench_train [--rounds N] [--steps N] [--threads N N] [--only PART]
     python -m bench.bench_train --device cuda --rounds 5 --steps 200
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.sides import in_processes
from data.labels import VideoLabel
from data.process import ENVIRONMENT, set_up_process
from model.features.array import empty_features
from model.features.load import FeatureSet, StreamFeatures
from model.features.standardize import Standardizer
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import choose_method
from model.network.multitask import AnomalyNetwork
from model.training.step import Trainer, make_window_data

DIM, CLIPS, CLIP_LEN, VIDEOS, CATEGORIES = 2048, 40, 16, 80, 13
HIDDEN, SIDE, K = 128, 4, 5
PRESETS = ("released", "paper")
OURS = "**`feat train --preset {preset}`**"
LOADED = "the same, batch already in memory"
WAYS = ("published loop, heads as in `{preset}`", LOADED, OURS)
WARM_UP = 5  # after which a step on a GPU is a graph
CORES = len(os.sched_getaffinity(0))
DEFAULT = f"**{CORES} threads, `feat train`'s default**"
OWN = f"{CORES} threads, OpenMP's own default"
WAITS = {
    "1 thread": (1, ENVIRONMENT),
    DEFAULT: (CORES, ENVIRONMENT),
    OWN: (CORES, {k: v for k, v in ENVIRONMENT.items() if k != "OMP_WAIT_POLICY"}),
    f"{CORES} threads, `OMP_WAIT_POLICY=ACTIVE`": (
        CORES,
        {**ENVIRONMENT, "OMP_WAIT_POLICY": "ACTIVE"},
    ),
}
"""Name -> threads and environment."""
BUSY = 2
"""Busy processes a core."""


class PlainCell(nn.Module):
    """A ConvLSTM cell without peepholes: one convolution of input and hidden state a time step."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(in_channels + HIDDEN, 4 * HIDDEN, 3, padding=1)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        i, f, o, g = self.gates(torch.cat((x, hidden), 1)).chunk(4, 1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell


class PlainNetwork(nn.Module):
    """Two cells step by step, then the heads of a preset on the last hidden state."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.cells = nn.ModuleList((PlainCell(DIM // SIDE**2), PlainCell(HIDDEN)))
        branched = preset == "released"
        widths = (HIDDEN * SIDE**2, 1024) if branched else (HIDDEN * SIDE**2, 2048, 1024, 512)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.scores, self.categories = (
            nn.Sequential(
                nn.Linear(1024, 512, bias=False), nn.ReLU(), nn.Linear(512, outputs, bias=False)
            )
            if branched
            else nn.Linear(512, outputs)
            for outputs in (K * CLIP_LEN, CATEGORIES + 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.view(*x.shape[:2], -1, SIDE, SIDE)  # (K, B, C, 4, 4)
        state = [x.new_zeros(x.shape[1], HIDDEN, SIDE, SIDE) for _ in range(4)]
        for frame in x:
            state[0], state[1] = self.cells[0](frame, state[0], state[1])
            state[2], state[3] = self.cells[1](state[0], state[2], state[3])
        shared = self.trunk(state[2].flatten(1))
        return self.scores(shared), self.categories(shared)


class PlainLoop:
    """The published way to make a batch and take a step, with torch's defaults."""

    def __init__(self, data: FeatureSet, folder: Path, preset: str, device: str = "cpu") -> None:
        config = choose_method("convlstm", preset)
        self._device = device
        self._folder, self._half = folder, config.batch_size // 2
        self._rng = np.random.default_rng(0)
        self._labels = [label.frame_labels(CLIPS * CLIP_LEN) for label in data.labels]
        self._categories = [int(label.category or -1) + 1 for label in data.labels]
        for video in range(VIDEOS):
            np.save(folder / f"{video}.npy", data.features[data.rows(video)])
        self.network = PlainNetwork(preset).to(device)
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def load(self) -> tuple[Tensor, ...]:
        """Return features (60, K, D), frame labels (60, 80) and categories (60,)."""
        features, labels, categories = torch.zeros(0), torch.zeros(0), []
        for kind in (0, 1):
            for video in self._rng.choice(VIDEOS // 2, self._half, replace=False) * 2 + kind:
                whole = np.load(self._folder / f"{video}.npy")
                start = int(self._rng.integers(CLIPS - K + 1))
                frames = self._labels[video][start * CLIP_LEN : (start + K) * CLIP_LEN]
                sample = torch.from_numpy(whole[start : start + K])
                features = torch.cat((features, sample[None]))
                labels = torch.cat((labels, torch.from_numpy(frames)[None].float()))
                categories.append(self._categories[video])
        batch = features, labels, torch.tensor(categories)
        return tuple(tensor.to(self._device) for tensor in batch)

    def step(self, batch: tuple[Tensor, ...] | None = None) -> None:
        features, labels, categories = batch or self.load()
        scores, logits = self.network(features.permute(1, 0, 2))
        loss = F.cross_entropy(logits, categories) + 10 * F.smooth_l1_loss(scores.sigmoid(), labels)
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()


def make_data(
    *, videos: int = VIDEOS, clips: int = CLIPS, dim: int = DIM, memory_bytes: int | None = None
) -> FeatureSet:
    """Return random features of videos of which every other one is abnormal, in two streams.

    Args:
        videos: how many.
        clips: of each.
        dim: values a clip.
        memory_bytes: as of `empty_features`.
    """
    frames = clips * CLIP_LEN
    start = np.tile(np.arange(clips) * CLIP_LEN, videos)
    features = empty_features((videos * clips, dim), memory_bytes=memory_bytes)
    np.random.default_rng(0).random(out=features, dtype=np.float32)
    labels = tuple(
        VideoLabel(
            video=f"{video}.mp4",
            split="train",
            category=str(video // 2 % CATEGORIES) if video % 2 else "",
            extent="intervals" if video % 2 else "normal",
            intervals=((100, 400),) if video % 2 else (),
        )
        for video in range(videos)
    )
    return FeatureSet(
        labels=labels,
        features=features,
        first_clip=np.arange(videos + 1) * clips,
        start_frame=start,
        end_frame=start + CLIP_LEN,
        num_frames=np.full(videos, frames),
        frame_rate=np.full(videos, 25.0),
        sha256=tuple(str(video) for video in range(videos)),
        clip_len=CLIP_LEN,
        streams=tuple(StreamFeatures(name=n, dim=dim // 2, config={}) for n in ("rgb", "flow")),
    )


def make_trainer(data: FeatureSet, name: str, device: str = "cpu") -> Trainer:
    """Return our side with a preset, at its first step."""
    method = choose_method("convlstm", name).changed({"clip_slots": CLIP_LEN})
    assert isinstance(method, ConvLSTMMethod)
    categories = tuple(str(number) for number in range(CATEGORIES))
    torch.manual_seed(0)
    network = AnomalyNetwork(method, feature_dim=DIM, num_categories=CATEGORIES).to(device)
    inputs = Standardizer.identity(DIM).inputs(data.features, device)
    windows = make_window_data(data, inputs, categories, method)
    return Trainer(network, windows, method, seed=0)


def serve(pipe: Connection, way: str, preset: str, threads: int, device: str) -> None:
    """Take as many steps of one of the `WAYS` as each message says; answer (wall, CPU) seconds.

    None ends it.
    """
    if way == OURS:
        set_up_process()
    torch.set_num_threads(threads)
    data = make_data()
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as folder:
        if way == OURS:
            step: Callable[[], object] = make_trainer(data, preset, device).train_step
        else:
            loop = PlainLoop(data, Path(folder), preset, device)
            batch = loop.load() if way == LOADED else None
            step = functools.partial(loop.step, batch)
        for _ in range(WARM_UP):
            step()
        finish = torch.cuda.synchronize if device == "cuda" else (lambda: None)
        finish()
        while (steps := pipe.recv()) is not None:
            started = time.perf_counter(), time.process_time()
            for _ in range(steps):
                step()
            finish()
            pipe.send((time.perf_counter() - started[0], time.process_time() - started[1]))


def race(
    preset: str, threads: int, rounds: int, steps: int, device: str
) -> dict[str, list[tuple[float, float]]]:
    """Return wall and CPU seconds a step of each way, one pair a round; they take turns."""
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    sides = {way: (serve, (way, preset, threads, device)) for way in WAYS}
    with in_processes(sides, {OURS: ENVIRONMENT}) as pipes:
        for _ in range(rounds):
            for way, pipe in pipes.items():
                pipe.send(steps)
                wall, cpu = pipe.recv()
                seconds[way].append((wall / steps, cpu / steps))
    return seconds


def waiting(rounds: int, steps: int) -> dict[str, list[float]]:
    """Return seconds a step of the default model for each of `WAITS`, one a round."""
    seconds: dict[str, list[float]] = {name: [] for name in WAITS}
    for _ in range(rounds):
        for name, (threads, environment) in WAITS.items():
            side = {name: (serve, (OURS, "default", threads, "cpu"))}
            with in_processes(side, {name: environment}) as pipes:
                pipes[name].send(steps)
                seconds[name].append(pipes[name].recv()[0] / steps)
    return seconds


@contextlib.contextmanager
def busy_machine() -> Iterator[None]:
    """Keep `BUSY` processes a core computing."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_spin, daemon=True) for _ in range(BUSY * CORES)]
    for worker in workers:
        worker.start()
    yield
    for worker in workers:
        worker.terminate()
        worker.join()


def _spin() -> None:
    while True:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of each side in a round")
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, CORES}))
    parser.add_argument("--only", choices=("loop", "waiting"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    if args.only != "waiting":
        print_races(args.threads, args.rounds, args.steps, args.device)
    if args.only != "loop" and args.device == "cpu":
        print_waiting(args.rounds, args.steps)


def print_races(numbers: list[int], rounds: int, steps: int, device: str) -> None:
    """Print ours against the published loop, a table for each number of threads."""
    on_gpu = device == "cuda"
    if on_gpu:
        on = f"{torch.cuda.get_device_name()} (the published loop convolves in TF32 there)"
    else:
        on = torch.backends.cpu.get_cpu_capability()
    print(
        f"float32, {on}, 60 windows of {K} x {DIM} a step; "
        f"medians of {rounds} rounds of {steps} steps."
        "\n\nCPU seconds bear other load on the machine better than the clock does; with one "
        "thread they are\nthe arithmetic and the reading alone."
    )
    for threads in [CORES] if on_gpu else numbers:
        print(
            f"\n{threads} thread(s)\n\n"
            "| | steps a second | s a step | CPU s a step | ours is faster by (clock) | (CPU) |\n"
            "|---|---|---|---|---|---|"
        )
        for preset in PRESETS:
            for row in table(race(preset, threads, rounds, steps, device), preset):
                print(row, flush=True)


def print_waiting(rounds: int, steps: int) -> None:
    """Print how long a step takes by number of threads and way to wait, quiet and busy."""
    quiet = waiting(rounds, steps)
    with busy_machine():
        busy = waiting(rounds, steps)
    best = min((statistics.median(times), name) for name, times in busy.items())[1]
    print(
        f"\nThe default model, on the machine as it is and beside {BUSY * CORES} busy processes "
        f"on {CORES} cores\n\n| | as it is, s a step | busy, s a step |\n|---|---|---|"
    )
    for name in WAITS:
        print(f"| {name} | {_spread(quiet[name])} | {_spread(busy[name])} |")
    print(
        f"\nThe default takes {_ratio(busy[best], busy[DEFAULT])} times as long as the best of the "
        f"busy column and, on the machine\nas it is, {_ratio(quiet[OWN], quiet[DEFAULT])} times as "
        "long as OpenMP's own default."
    )


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} to {max(seconds):.3f})"


def table(seconds: dict[str, list[tuple[float, float]]], preset: str) -> list[str]:
    """Return the rows for one network."""
    rows = []
    for name, times in seconds.items():
        walls, cpus = ([pair[kind] for pair in times] for kind in (0, 1))
        shown = [
            _ratio(mine, theirs)
            for mine, theirs in zip(
                zip(*seconds[OURS], strict=True), zip(*times, strict=True), strict=True
            )
        ]
        wall, cpu = statistics.median(walls), statistics.median(cpus)
        rows.append(
            f"| {name.format(preset=preset)} | {1 / wall:.2f} | {wall:.4f} | {cpu:.4f} | "
            f"{' | '.join(shown)} |"
        )
    return rows


def _ratio(mine: Sequence[float], theirs: Sequence[float]) -> str:
    """Return the median over rounds and the spread."""
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
