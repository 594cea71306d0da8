"""One video -> its features, streaming: decode -> clips -> TV-L1 flow -> networks.

Memory does not grow with the video: a reader thread keeps a few batches of clips decoded while
those before go through flow and network. On a CPU every core takes a clip's stream of its own and
computes it alone: cores that share one convolution or one pair of frames spend a third of their
time waiting for each other, and the result would depend on how many they are.
"""

import contextlib
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cache import ClipTable
from data.process import release_freed_memory
from data.videos import VideoSource
from extract.backbones import BACKBONES
from extract.clips import Clip, clip_table, iter_clips
from extract.config import ExtractConfig
from extract.decode.limits import Limits
from extract.decode.open import open_video
from extract.decode.stream import FrameStream, StreamInfo
from extract.flow.statistics import flow_statistics
from extract.flow.tvl1 import compile_kernels, rgb_to_gray, tvl1_flow
from extract.flow.tvl1_torch import tvl1_flow_torch
from extract.kernels.choice import use_kernels
from extract.streaming import Arrays, Rows, batches_of, read_ahead
from extract.weights.resolve import Weights

# Clips that go through flow and network together on a GPU: enough to fill its multiprocessors, few
# enough for their activations to stay under 4 GB.
CLIPS_PER_GPU_BATCH = 16
BATCHES_PER_RELEASE = 64  # half a minute on two cores, and the memory of a video of such a length

T = TypeVar("T")
_StreamRows = tuple[Arrays, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class VideoFeatures:
    """What was extracted from one video.

    Attributes:
        arrays: (S, ...) for each stream, such as (S, 1024) float32 of I3D; `flow_stats` (S, 6)
            float32 if one of them needs flow.
        clips: frames and seconds of each row.
        info: of the video stream that was decoded.
        num_frames: frames that were delivered.
        partial: why decoding stopped early, empty if it did not.
        frame_seconds: (T,) float64, the time of each frame.
    """

    arrays: Arrays
    clips: ClipTable
    frame_seconds: NDArray[np.float64]
    info: StreamInfo
    num_frames: int
    partial: str

    def with_arrays(self, arrays: Arrays) -> "VideoFeatures":
        """Return the same with other arrays, such as those that a checkpoint completes."""
        return dataclasses.replace(self, arrays=arrays)


class Extractor:
    """The networks and buffers of one worker; extracts one video after the other."""

    def __init__(
        self,
        config: ExtractConfig,
        weights: Mapping[str, Weights],
        *,
        device: str,
        num_threads: int,
    ) -> None:
        """Load the networks of `config.streams` and compile the flow kernels.

        Args:
            config: how features are made.
            weights: of each stream.
            device: torch device of the networks and, on a GPU, of the flow.
            num_threads: CPU threads for decoding, and on a CPU for flow and networks.
        """
        self.config = config
        self.device = torch.device(device)
        self.num_threads = num_threads
        on_cpu = self.device.type == "cpu"
        self._batch_size = 1 if on_cpu else CLIPS_PER_GPU_BATCH
        self._num_workers = num_threads if on_cpu else 1
        self._pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="clips")
        self.networks = {
            stream: BACKBONES[stream].load(
                weights[stream], device=self.device, precision=config.precision
            )
            for stream in config.streams
        }
        if any(BACKBONES[stream].needs == "flow" for stream in config.streams):
            compile_kernels()

    def extract(
        self,
        source: VideoSource,
        streams: Sequence[str],
        *,
        stage_seconds: dict[str, float],
        skip_clips: int = 0,
        folder_fps: float = 25.0,
        limits: Limits | None = None,
        on_batch: Callable[[int, int, Arrays], None] = lambda *_: None,
        on_read: Callable[[], None] = lambda: None,
    ) -> VideoFeatures:
        """Return the features of one video.

        Two threads may be in here at the same time; their clips take turns.

        Args:
            source: the video.
            streams: which to extract, of those this extractor has networks for.
            stage_seconds: what this video took is added to it: seconds waited for `decode`, and
                seconds that `flow` and `network` kept all threads busy.
            skip_clips: leading clips that need no features because a checkpoint has them; their
                frames are decoded and counted all the same, and their rows are not returned.
            folder_fps: frame rate that a folder of images is taken to have.
            limits: what the video may cost; None for the defaults.
            on_batch: told after every batch: frames done so far, frames expected in all (0 if
                that is not known), all rows so far.
            on_read: called when the last clips are under way, so that cores are soon free.

        Raises:
            DecodeError: no frame can be decoded, or ffmpeg was killed.
        """
        kept = Rows()
        with open_video(
            source,
            self.config.decode,
            threads=self.num_threads,
            folder_fps=folder_fps,
            limits=limits,
        ) as stream:
            clips = iter_clips(
                stream, clip_len=self.config.clip_len, clip_stride=self.config.clip_stride
            )
            batches = read_ahead(batches_of(clips, self._batch_size, skip=skip_clips))
            with (
                contextlib.closing(batches),
                contextlib.closing(
                    self._work_through(batches, streams, stage_seconds, on_read)
                ) as done,
            ):
                for count, (batch, rows) in enumerate(done, 1):
                    if count % BATCHES_PER_RELEASE == 0:
                        release_freed_memory()
                    num_frames = batch[-1].start_frame + batch[-1].num_real
                    kept.append(rows)
                    on_batch(num_frames, stream.info.expected_frames, kept.arrays)
            return VideoFeatures(
                arrays=kept.arrays,
                clips=self._clip_table(stream),
                frame_seconds=stream.pts_seconds,
                info=stream.info,
                num_frames=stream.num_frames,
                partial=stream.partial,
            )

    def _clip_table(self, stream: FrameStream) -> ClipTable:
        return clip_table(
            stream.pts_seconds,
            clip_len=self.config.clip_len,
            clip_stride=self.config.clip_stride,
            frame_rate=stream.info.frame_rate,
        )

    def _work_through(
        self,
        batches: Iterator[list[Clip]],
        streams: Sequence[str],
        stage_seconds: dict[str, float],
        on_read: Callable[[], None],
    ) -> Generator[tuple[list[Clip], Arrays]]:
        """Yield each batch with its rows, in order, while the pool works on those behind it."""
        underway: deque[tuple[list[Clip], list[Future[_StreamRows]]]] = deque()
        # flow first: it takes longest, and a long task left to the end keeps one core waiting
        on_flow = [stream for stream in streams if BACKBONES[stream].needs == "flow"]
        on_frames = [[stream] for stream in streams if BACKBONES[stream].needs == "frames"]
        tasks = [on_flow, *on_frames] if on_flow else on_frames
        try:
            while True:
                while len(underway) <= self._num_workers:
                    batch = timed(lambda: next(batches, None), stage_seconds, "decode")
                    if not batch:
                        on_read()
                        break
                    futures = [self._pool.submit(self._rows, batch, task) for task in tasks]
                    underway.append((batch, futures))
                if not underway:
                    return
                batch, futures = underway.popleft()
                rows: Arrays = {}
                for future in futures:
                    arrays, seconds = future.result()
                    rows |= arrays
                    for stage, spent in seconds.items():
                        share = spent / self._num_workers
                        stage_seconds[stage] = stage_seconds.get(stage, 0.0) + share
                yield batch, rows
        finally:
            for _, futures in underway:
                for future in futures:
                    future.cancel()

    def _rows(self, batch: list[Clip], streams: Sequence[str]) -> _StreamRows:
        """Return the rows of a batch, and the seconds that flow and networks took."""
        started = time.perf_counter()
        seconds: dict[str, float] = {}
        frames = np.stack([clip.frames for clip in batch])  # (B, clip_len + 1, H, W, 3) uint8
        tensors = self.compute(streams, frames, [clip.num_real for clip in batch], seconds)
        # the one place that waits for a GPU, but for the looks at the flow's stopping rule
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        seconds["network"] = time.perf_counter() - started - seconds.get("flow", 0.0)
        return arrays, seconds

    @torch.inference_mode()
    def compute(
        self,
        streams: Sequence[str],
        frames: NDArray[np.uint8],
        num_real: list[int],
        stage_seconds: dict[str, float],
    ) -> dict[str, Tensor]:
        """Return the rows of some streams on the device, (B, ...) each.

        Args:
            streams: which; they need the same, frames or flow. With flow, `flow_stats` (B, 6)
                float32 is given too.
            frames: (B, clip_len + 1, H, W, 3) uint8; each clip and its successor frame.
            num_real: how many of each clip's frames are real, for the statistics.
            stage_seconds: the seconds of the flow are added to it.
        """
        if BACKBONES[streams[0]].needs == "frames":
            clips = self._to_device(frames[:, :-1])
            return {stream: self._forward(stream, clips) for stream in streams}
        flow = timed(lambda: self._flow(frames), stage_seconds, "flow")
        clips = scale_flow(flow, self.config.flow_clamp)
        rows = {stream: self._forward(stream, clips) for stream in streams}
        return {**rows, "flow_stats": flow_statistics(flow, num_real)}

    def _to_device(self, array: NDArray[np.uint8]) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda":  # only pinned memory is copied while the host goes on
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _flow(self, frames: NDArray[np.uint8]) -> Tensor:
        """Return (B, clip_len, H, W, 2) float32 pixels: from every frame to the next one.

        Args:
            frames: (B, clip_len + 1, H, W, 3) uint8; each clip and its successor frame.
        """
        if self.config.clip_stride == self.config.clip_len:
            # each clip's successor is the next one's first frame: all are one run of frames
            runs = [np.concatenate([*frames[:, :-1], frames[-1, -1:]])]
        else:
            runs = list(frames)
        pairs = torch.cat([self._flow_of_run(run) for run in runs])
        return pairs.reshape(len(frames), -1, *pairs.shape[1:])

    def _flow_of_run(self, frames: NDArray[np.uint8]) -> Tensor:
        tvl1 = self.config.tvl1
        gray = rgb_to_gray(frames)
        if self.device.type == "cpu" and use_kernels():
            return torch.from_numpy(tvl1_flow(gray, config=tvl1))
        return tvl1_flow_torch(self._to_device(gray), config=tvl1)

    def _forward(self, stream: str, clips: Tensor) -> Tensor:
        """Return the rows (B, ...) of clips (B, T, H, W, C); see `extract.backbones.Network`."""
        rows = self.networks[stream](clips)
        expected = (len(clips), *BACKBONES[stream].shape), BACKBONES[stream].dtype
        if (tuple(rows.shape), str(rows.dtype).removeprefix("torch.")) != expected:
            raise RuntimeError(
                f"the network of {stream} gave {tuple(rows.shape)} {rows.dtype}, declared are "
                f"{expected[0]} {expected[1]}"
            )
        return rows


def scale_flow(flow: Tensor, clamp: float) -> Tensor:
    """Return flow, pixels per frame, clamped to +-`clamp` and scaled to [-1, 1]."""
    return flow.clamp(-clamp, clamp) / clamp


def timed(work: Callable[[], T], seconds: dict[str, float], stage: str) -> T:
    """Run `work` and add the seconds that it took to `seconds[stage]`."""
    started = time.perf_counter()
    try:
        return work()
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started
