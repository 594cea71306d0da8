"""The frames of some labelled videos, mapped from a cache, and windows of them as batches."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from cache import FeatureCache
from cache.streams import FRAMES
from data.errors import ModelError
from data.labels import VideoLabel
from model.features.load import FeatureSet, same_config

READ_AHEAD = 3
"""Batches read while the device computes."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (BT.601)."""


def load_frames(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    streams: Sequence[str],
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> FeatureSet:
    """Return the frames of the labelled videos, each a clip of its own that has no features.

    All are read once, to check them, and none is kept in memory.

    Args:
        cache: where they are.
        labels: one for each video wanted; at least one.
        streams: must be the stream of frames alone.
        configs: its configuration, as a checkpoint names it.

    Raises:
        ModelError: other streams, or frames that the cache does not hold.
        ConfigError: frames of several configurations, or of another than `configs` says.
    """
    if tuple(streams) != (FRAMES,):
        raise ModelError(
            f"streams: found {','.join(streams)}, the method looks at {FRAMES} alone; leave "
            "--streams out"
        )
    entries = [cache.find(label.video, FRAMES, (configs or {}).get(FRAMES)) for label in labels]
    part = same_config(FRAMES, entries, kinds=(FRAMES,))
    counts = np.array([entry.source.num_frames for entry in entries], np.int64)
    start = np.concatenate([np.arange(count) for count in counts])
    return FeatureSet(
        labels=tuple(labels),
        features=np.empty((len(start), 0), np.float32),
        first_clip=np.cumsum([0, *counts]),
        start_frame=start,
        end_frame=start + 1,
        num_frames=counts,
        frame_rate=np.array([entry.source.frame_rate for entry in entries], np.float64),
        sha256=tuple(entry.source.sha256 for entry in entries),
        clip_len=entries[0].clip_len,
        streams=(part,),
        frames=tuple(cache.read_record(entry.key).features for entry in entries),
    )


class FrameWindows:
    """Windows of consecutive frames, none across two videos."""

    def __init__(
        self,
        videos: Sequence[NDArray[np.uint8]],
        *,
        length: int,
        strides: Sequence[int] = (1,),
        kept: Sequence[NDArray[np.bool_]] | None = None,
        kind: str = "",
    ) -> None:
        """Find all windows.

        Args:
            videos: (T, H, W, C) each.
            length: frames of a window.
            strides: frames from one of a window to the next; windows of each are taken.
            kept: (T,) of each video, which frames a window may have; None: all.
            kind: what messages call these frames, such as `normal`.

        Raises:
            ModelError: no video has so many of these frames in a row.
        """
        self._videos = videos
        found = []
        for stride in strides:
            for video, frames in enumerate(videos):
                starts = np.arange(len(frames) - (length - 1) * stride, dtype=np.int32)
                if kept is not None:
                    rows = starts[:, None] + stride * np.arange(length)
                    starts = starts[kept[video][rows].all(axis=1)]
                found.append(np.stack([np.full_like(starts, video), starts, starts * 0 + stride]))
        self._windows = np.concatenate(found, axis=1).T
        if not len(self._windows):
            raise ModelError(
                f"no training video has the {(length - 1) * min(strides) + 1} "
                f"{f'{kind} ' if kind else ''}frames of a window in a row; the longest of "
                f"{len(videos)} has {max(map(len, videos), default=0)} frames in all"
            )
        self._length = length

    def __len__(self) -> int:
        return len(self._windows)

    def read(self, rows: NDArray[np.int64]) -> Tensor:
        """Return (B, length, H, W, C) uint8, the windows of (B,) rows."""
        first = self._videos[0]
        batch = np.empty((len(rows), self._length, *first.shape[1:]), np.uint8)
        for window, (video, start, stride) in zip(batch, self._windows[rows], strict=True):
            window[:] = self._videos[video][start : start + self._length * stride : stride]
        return torch.from_numpy(batch)

    def batches(
        self, *, batch_size: int, steps: int, seed: int, first_step: int = 0
    ) -> Iterator[Tensor]:
        """Yield a batch for each step, read ahead by a thread.

        The windows are shuffled anew for each pass. No window comes twice in one, and those that do
        not fill a last batch are left out of it. What a step gets depends on the seed and its
        number alone.
        """
        each = max(len(self) // batch_size, 1)

        @lru_cache(maxsize=1)
        def order(epoch: int) -> NDArray[np.int64]:
            return np.random.default_rng((seed, 11, epoch)).permutation(len(self))

        def read_step(step: int) -> Tensor:
            epoch, place = divmod(step, each)
            return self.read(order(epoch)[place * batch_size :][:batch_size])

        with ThreadPoolExecutor(1, thread_name_prefix="frames") as pool:
            ready: deque[Future[Tensor]] = deque()
            for step in range(first_step, steps + READ_AHEAD):
                if step < steps:
                    ready.append(pool.submit(read_step, step))
                if step >= first_step + READ_AHEAD:
                    yield ready.popleft().result()


def network_frames(batch: Tensor, *, size: int, gray: bool, device: torch.device) -> Tensor:
    """Return (B, L, C, size, size) float32 in [-1, 1] on a device, of (B, L, H, W, C) uint8.

    Frames of another size are scaled, bilinearly and without aliases.
    """
    if device.type == "cuda":
        batch = batch.pin_memory()  # else the copy waits for the step before
    frames = batch.to(device, non_blocking=True).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    channels = frames.shape[2]
    if gray and channels == 3:
        weights = torch.tensor(LUMA, device=device).view(3, 1, 1)
        frames = (frames * weights).sum(dim=2, keepdim=True)
    elif not gray and channels == 1:
        frames = frames.expand(-1, -1, 3, -1, -1)
    if frames.shape[-2:] != (size, size):
        flat = functional.interpolate(
            frames.flatten(0, 1), (size, size), mode="bilinear", antialias=True
        )
        frames = flat.view(*frames.shape[:3], size, size)
    return frames
