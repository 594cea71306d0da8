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

Run: python -m bench.bench_train [--rounds N] [--steps N] [--threads N N]
"""

import argparse
import functools
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.sides import in_processes
from data.labels import VideoLabel
from data.memory import ask_for_huge_pages
from model.config import Precision, choose_preset
from model.features.array import empty_features
from model.features.load import FeatureSet, StreamFeatures
from model.features.standardize import Standardizer
from model.network.multitask import AnomalyNetwork
from model.training.step import Trainer, make_window_data

DIM, CLIPS, CLIP_LEN, VIDEOS, CATEGORIES = 2048, 40, 16, 80, 13
HIDDEN, SIDE, K = 128, 4, 5
PRESETS = ("released", "paper")
OURS = "**`feat train --preset {preset}`**"
LOADED = "the same, batch already in memory"
ROUGH = "the same in bfloat16: `--precision bfloat16`"
WAYS = ("published loop, heads as in `{preset}`", LOADED, OURS, ROUGH)
WARM_UP = 2


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

    def __init__(self, data: FeatureSet, folder: Path, preset: str) -> None:
        config = choose_preset(preset).train
        self._folder, self._half = folder, config.batch_size // 2
        self._rng = np.random.default_rng(0)
        self._labels = [label.frame_labels(CLIPS * CLIP_LEN) for label in data.labels]
        self._categories = [int(label.category or -1) + 1 for label in data.labels]
        for video in range(VIDEOS):
            np.save(folder / f"{video}.npy", data.features[data.rows(video)])
        self.network = PlainNetwork(preset)
        self._optimizer = torch.optim.Adam(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def load(self) -> tuple[Tensor, Tensor, Tensor]:
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
        return features, labels, torch.tensor(categories)

    def step(self, batch: tuple[Tensor, Tensor, Tensor] | None = None) -> None:
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


def make_trainer(data: FeatureSet, name: str, precision: Precision = "float32") -> Trainer:
    """Return our side with a preset, at its first step."""
    preset = choose_preset(name)
    model = replace(preset.model, clip_slots=CLIP_LEN)
    categories = tuple(str(number) for number in range(CATEGORIES))
    torch.manual_seed(0)
    network = AnomalyNetwork(model, feature_dim=DIM, num_categories=CATEGORIES)
    inputs = Standardizer.identity(DIM).inputs(data.features)
    windows = make_window_data(data, inputs, categories, model)
    return Trainer(network, windows, replace(preset.train, precision=precision))


def serve(pipe: Connection, way: str, preset: str, threads: int) -> None:
    """Take as many steps of one of the `WAYS` as each message says; answer (wall, CPU) seconds.

    None ends it.
    """
    if way in (OURS, ROUGH):
        ask_for_huge_pages()  # as `feat train` does
    torch.set_num_threads(threads)
    data = make_data()
    with tempfile.TemporaryDirectory(prefix="feat-bench-") as folder:
        if way in (OURS, ROUGH):
            precision: Precision = "float32" if way == OURS else "bfloat16"
            step: Callable[[], object] = make_trainer(data, preset, precision).train_step
        else:
            loop = PlainLoop(data, Path(folder), preset)
            batch = loop.load() if way == LOADED else None
            step = functools.partial(loop.step, batch)
        for _ in range(WARM_UP):
            step()
        while (steps := pipe.recv()) is not None:
            started = time.perf_counter(), time.process_time()
            for _ in range(steps):
                step()
            pipe.send((time.perf_counter() - started[0], time.process_time() - started[1]))


def race(
    preset: str, threads: int, rounds: int, steps: int
) -> dict[str, list[tuple[float, float]]]:
    """Return wall and CPU seconds a step of each way, one pair a round; they take turns."""
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with in_processes({way: (serve, (way, preset, threads)) for way in WAYS}) as pipes:
        for _ in range(rounds):
            for way, pipe in pipes.items():
                pipe.send(steps)
                wall, cpu = pipe.recv()
                seconds[way].append((wall / steps, cpu / steps))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of each side in a round")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, cores}))
    args = parser.parse_args()
    print(
        f"float32 but for the last row of each, 60 windows of {K} x {DIM} a step; medians of "
        f"{args.rounds} rounds of {args.steps} steps.\n\n"
        "CPU seconds bear other load on the machine better than the clock does; with one thread "
        "they are\nthe arithmetic and the reading alone."
    )
    for threads in args.threads:
        print(
            f"\n{threads} thread(s)\n\n"
            "| | steps a second | s a step | CPU s a step | ours is faster by (clock) | (CPU) |\n"
            "|---|---|---|---|---|---|"
        )
        for preset in PRESETS:
            for row in table(race(preset, threads, args.rounds, args.steps), preset):
                print(row, flush=True)


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
            f"| {name.format(preset=preset)} | {1 / wall:.2f} | {wall:.3f} | {cpu:.3f} | "
            f"{' | '.join(shown)} |"
        )
    return rows


def _ratio(mine: tuple[float, ...], theirs: tuple[float, ...]) -> str:
    """Return the median over rounds and the spread."""
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
