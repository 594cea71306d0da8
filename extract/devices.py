"""What a run computes on: torch devices, workers and threads."""

import os
from dataclasses import dataclass

from data.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run may use. Nothing of it changes features beyond rounding.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` and `cuda` use every GPU there is.
        workers: videos at a time; None for one a GPU, else one for every four cores.
        threads: CPU threads in all, shared out among the workers; None for all cores.
    """

    device: str = "auto"
    workers: int | None = None
    threads: int | None = None

    def share(self, devices: tuple[str, ...], num_videos: int) -> tuple[int, int]:
        """Return (workers, threads a worker) such that their product never exceeds the cores."""
        cores = self.threads or len(os.sched_getaffinity(0))
        workers = self.workers
        if workers is None:
            # four cores a worker: more would share one decoder, and wait for a video's last clip
            workers = len(devices) if devices != ("cpu",) else max(1, cores // 4)
        workers = max(1, min(workers, num_videos, cores))
        return workers, max(1, cores // workers)


def list_devices(device: str) -> tuple[str, ...]:
    """Return the torch devices to use, one worker each."""
    if device == "cpu":
        return ("cpu",)
    import torch

    count = torch.cuda.device_count()
    if device == "auto" and not count:
        return ("cpu",)
    if not device.startswith("cuda") and device != "auto":
        raise ConfigError(f"--device: found {device}, expected auto, cpu, cuda or cuda:N")
    if not count:
        raise ConfigError(f"--device {device}: torch finds no CUDA GPU here; use --device cpu")
    if ":" in device:
        return (device,)
    return tuple(f"cuda:{index}" for index in range(count))
