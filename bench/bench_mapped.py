"""Training steps a second from features in memory and from features mapped from a file.

Both sides train the default model on the same random features of two streams; the second's lie in
a file, as they do when they do not fit into memory. Where the machine keeps the file in its page
cache, this is what mapping costs alone; under a memory limit (a container's, `systemd-run -p
MemoryMax=2G`) `--only mapped` shows what the disk costs, too. Resident memory is that of the
process and without the file's pages.

Run: python -m bench.bench_mapped [--gigabytes N] [--rounds N] [--steps N] [--only SIDE]
"""

import argparse
import statistics
import time
from multiprocessing.connection import Connection

import psutil
import torch

from bench.bench_train import CLIP_LEN, make_data
from bench.sides import in_processes
from data.process import ENVIRONMENT, set_up_process
from model.features.standardize import Standardizer
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import choose_method
from model.network.multitask import AnomalyNetwork
from model.training.step import Trainer, make_window_data

DIM, CLIPS = 4096, 250
SIDES = {"in memory": 1 << 60, "mapped": 0}
"""Side -> bytes that its features may take in memory."""


def serve(pipe: Connection, num_videos: int, memory_bytes: int) -> None:
    """Take as many steps as each message says; answer seconds and resident bytes. None ends it."""
    set_up_process()
    torch.set_num_threads(1)
    method = choose_method("convlstm").changed({"clip_slots": CLIP_LEN})
    assert isinstance(method, ConvLSTMMethod)
    data = make_data(videos=num_videos, clips=CLIPS, dim=DIM, memory_bytes=memory_bytes)
    network = AnomalyNetwork(method, feature_dim=DIM, num_categories=0)
    inputs = Standardizer.fit(data.features, limit=method.feature_clip).inputs(data.features)
    trainer = Trainer(network, make_window_data(data, inputs, (), method), method, seed=0)
    while (steps := pipe.recv()) is not None:
        started = time.perf_counter()
        for _ in range(steps):
            trainer.train_step()
        memory = psutil.Process().memory_info()
        pipe.send((time.perf_counter() - started, memory.rss - getattr(memory, "shared", 0)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--only", choices=SIDES)
    options = parser.parse_args()
    videos = max(2, round(options.gigabytes * 1e9 / (CLIPS * DIM * 4)))
    sides = [options.only] if options.only else list(SIDES)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    resident = dict.fromkeys(sides, 0)
    environments = dict.fromkeys(sides, ENVIRONMENT)
    starts = {side: (serve, (videos, SIDES[side])) for side in sides}
    with in_processes(starts, environments) as pipes:
        for round_ in range(options.rounds + 1):
            for side, pipe in pipes.items():
                pipe.send(options.steps)
                taken, resident[side] = pipe.recv()
                if round_:  # the first one warms up
                    seconds[side].append(taken / options.steps)
    print(f"{videos * CLIPS} clips of {DIM} values, {options.gigabytes:g} GB; 1 thread\n")
    print("| features | ms a step | resident memory, MB |\n|---|---:|---:|")
    for side in sides:
        print(f"| {side} | {statistics.median(seconds[side]) * 1e3:.1f} | ", end="")
        print(f"{resident[side] / 1e6:.0f} |")
    if len(sides) == 2:
        rates = [a / b for a, b in zip(*seconds.values(), strict=True)]
        print(
            f"\nMapped: {statistics.median(rates):.2f} times the steps a second "
            f"({min(rates):.2f} to {max(rates):.2f})."
        )


if __name__ == "__main__":
    main()
