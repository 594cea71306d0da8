"""What a run computes on: torch devices, workers and threads."""

import os
from dataclasses import dataclass

from data.errors import ConfigError

#: Clips that a GPU computes together: a thousand pairs of frames fill it.
CLIPS_PER_GPU_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one worker process has of the machine.

    Attributes:
        threads: CPU threads.
        videos: that it reads at a time; each has its decoder.
        batch: clips that are computed together at most; 1 on a CPU, where each has a thread.
    """

    threads: int
    videos: int
    batch: int

    @property
    def decode_threads(self) -> int:
        """Threads of one video's decoder."""
        return max(1, self.threads // self.videos)

    @property
    def videos_underway(self) -> int:
        """Videos that are read or whose last clips are waited for.

        Of each of the latter at least one clip waits or is computed.
        """
        return self.videos + 2 * self.batch - 1


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run may use. Nothing of it changes features beyond rounding.

    Attributes:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` and `cuda` use every GPU there is.
        workers: processes; None for one a GPU, else one for every four cores. One on a CPU works
            on a video at a time, one on a GPU on as many as it has threads.
        threads: CPU threads in all, shared out among the workers; None for all cores.
        batch: clips that are computed together at most; None for what is fast on the device.
    """

    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    batch: int | None = None

    def share(self, devices: tuple[str, ...], num_videos: int) -> tuple[int, Share]:
        """Return the number of workers and what each has; their threads never exceed the cores."""
        cores = self.threads or len(os.sched_getaffinity(0))
        workers = self.workers
        if workers is None:
            # four cores a worker: more would share one decoder, and wait for a video's last clip
            workers = len(devices) if devices != ("cpu",) else max(1, cores // 4)
        workers = max(1, min(workers, num_videos, cores))
        threads = max(1, cores // workers)
        batch = self.batch or (1 if devices == ("cpu",) else CLIPS_PER_GPU_BATCH)
        # what computes clips of several videos together wants several decoders
        videos = 1 if batch == 1 else min(threads, -(-num_videos // workers))
        return workers, Share(threads=threads, videos=videos, batch=batch)


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
