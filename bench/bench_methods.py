"""Time of a training step of the weakly supervised methods, with features of UCF-Crime's size.

Of the processor on a CPU, one thread; by the clock on a GPU. Made features, 1,610 videos of 200
clips of 1,024 values (the real ones are longer on average; no method but AR-Net sees more than 200
of a video in a step), default settings. What a step takes is the difference of two trainings; what
they do once is left out.

Run: python -m bench.bench_methods [--methods NAME,...] [--steps N] [--device cuda]
"""

import argparse
import time

import torch

from bench.bench_train import make_data
from data.process import set_up_process
from model.methods.base import Material
from model.methods.registry import choose_method
from model.methods.weak.mil import BagMethod
from model.training.session import FitSession

VIDEOS, CLIPS, DIM = 1610, 200, 1024
METHODS = "deepmil,ar-net,pel4vad,rtfm,ur-dmu,bn-wvad"


def seconds(
    method: BagMethod[torch.nn.Module], material: Material, steps: int, device: torch.device
) -> float:
    """Return the time of a training, whose weights are on the CPU in the end."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begun = clock()
    method.changed({"steps": steps}).fit(material, FitSession(seed=0, device=device))
    return clock() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", default=METHODS)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options = parser.parse_args()
    device = options.device
    set_up_process()
    torch.set_num_threads(1)
    material = Material(train=make_data(videos=VIDEOS, clips=CLIPS, dim=DIM), val=None)
    print("| method | ms a step | default steps | minutes |\n|---|---:|---:|---:|")
    for name in options.methods.split(","):
        method = choose_method(name)
        assert isinstance(method, BagMethod)
        seconds(method, material, 2, device)  # what is loaded at the first use
        first = seconds(method, material, 1, device)
        step = (seconds(method, material, 1 + options.steps, device) - first) / options.steps
        minutes = step * method.steps / 60
        print(f"| {name} | {1000 * step:.1f} | {method.steps} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
