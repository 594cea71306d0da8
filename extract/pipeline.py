"""One video -> its features, streaming: decode -> clips -> TV-L1 flow -> networks.

Memory does not grow with the video: a reader thread keeps a few clips decoded while those before
go through flow and network. On a CPU every core takes a clip's stream of its own and computes it
alone: cores that share one convolution or one pair of frames spend a third of their time waiting
for each other, and the result would depend on how many they are. A GPU takes clips of all videos
that are open, in batches. Then five clips of each open video are decoded at most, and those of two
batches and one a video lie in pinned memory: 0.8 GB for 16 videos and batches of 64, at 2.6 MB a
clip, which pinning rounds up to 4.2.
"""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from data.errors import FeatError
from data.process import release_freed_memory
from data.videos import VideoSource
from extract.backbones import BACKBONES
from extract.clips import ALL_CLIPS, Clip, iter_clips
from extract.config import ExtractConfig
from extract.crops import cut_crops
from extract.decode.limits import Limits
from extract.decode.open import open_video
from extract.decode.stream import StreamInfo
from extract.flow.gray_torch import rgb_to_gray_torch
from extract.flow.statistics import flow_statistics
from extract.flow.tvl1 import compile_kernels, rgb_to_gray, tvl1_flow
from extract.flow.tvl1_torch import tvl1_flow_clips
from extract.kernels.choice import use_kernels
from extract.merging import Merger
from extract.streaming import Arrays, Rows, VideoFeatures, read_ahead, timed
from extract.thumbnails import Thumbnails
from extract.weights.resolve import Weights

# half a minute, and the memory of a video of such a length, on two cores or on a GPU
BATCHES_PER_RELEASE = 64

T = TypeVar("T")
_StreamRows = tuple[Arrays, dict[str, float]]
# clips of the same streams whose frames are of one shape
_Kind = tuple[tuple[str, ...], tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class _Uploading:
    """A clip on its way to the device.

    Attributes:
        frames: (clip_len + 1, H, W, 3) uint8 on the host, pinned for a GPU.
        num_real: see `Clip`.
        since: when its video was opened, by `time.perf_counter`.
    """

    frames: Tensor
    num_real: int
    since: float


class Extractor:
    """The networks and buffers of one worker; extracts its videos."""

    def __init__(
        self,
        config: ExtractConfig,
        weights: Mapping[str, Weights],
        *,
        device: str,
        num_threads: int,
        batch: int = 1,
    ) -> None:
        """Load the networks of `config.streams` and compile the flow kernels.

        Args:
            config: how features are made.
            weights: of each stream.
            device: torch device of the networks and, on a GPU, of the flow.
            num_threads: CPU threads for decoding, and on a CPU for flow and networks.
            batch: clips, of one or several videos, that the device computes together at most, of
                several crops each crop. On a CPU those of a batch of 1 are computed by threads of
                their own.
        """
        self.config = config
        self.device = torch.device(device)
        self.num_threads = num_threads
        self._on_gpu = self.device.type == "cuda"
        self._batch = batch
        together = max(1, batch // config.crops)
        self._merger: Merger[_Kind, _Uploading, _StreamRows] | None = None
        if batch > 1 or self._on_gpu:
            start = partial(torch.cuda.set_device, self.device) if self._on_gpu else lambda: None
            self._merger = Merger(self._rows_of_many, size=together, start=start)
            self._computed = 0.0
            # those that wait and those that are computed
            self._clips_ahead = 2 * together
        else:
            self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="clips")
            self._clips_ahead = num_threads
        self._clips_per_release = BATCHES_PER_RELEASE * batch
        self._clip_numbers = count(1)
        with torch.cuda.device(self.device) if self._on_gpu else contextlib.nullcontext():
            self.networks = {
                stream: config.backbone(stream).load(
                    weights[stream], device=self.device, precision=config.precision
                )
                for stream in config.streams
            }
        if self.device.type == "cpu" and any(
            BACKBONES[stream].needs == "flow" for stream in config.streams
        ):
            compile_kernels()

    def extract(
        self,
        source: VideoSource,
        streams: Sequence[str],
        *,
        stage_seconds: dict[str, float],
        clips: range = ALL_CLIPS,
        folder_fps: float = 25.0,
        limits: Limits | None = None,
        thumbnails: bool = False,
        decode_threads: int | None = None,
        on_open: Callable[[StreamInfo], None] = lambda _: None,
        on_clip: Callable[[int, int, Arrays], None] = lambda *_: None,
        on_read: Callable[[], None] = lambda: None,
    ) -> VideoFeatures:
        """Return the features of one video.

        Several threads may be in here at the same time; their clips take turns.

        Args:
            source: the video.
            streams: which to extract, of those this extractor has networks for.
            stage_seconds: what this video took is added to it: seconds waited for `decode`, and
                seconds that `flow` and `network` kept all threads or the GPU busy, its share of
                them where clips of several videos are computed together.
            clips: whose rows to return, of those that the video has. The frames before them are
                decoded and counted all the same; behind them nothing is read, so that what is
                returned beside the rows is of the video's beginning.
            folder_fps: frame rate that a folder of images is taken to have.
            limits: what the video may cost; None for the defaults.
            thumbnails: keep a picture of every clip, the leading ones included.
            decode_threads: of the video's decoder; None for all.
            on_open: told what the video is; what it raises ends the work.
            on_clip: told after every clip: frames done so far, frames expected in all (0 if
                that is not known), all rows so far.
            on_read: called when the last clips are under way, so that decoders or cores are free.

        Raises:
            DecodeError: no frame can be decoded, or ffmpeg was killed.
        """
        kept = Rows()
        since = time.perf_counter()
        with open_video(
            source,
            self.config.decode,
            threads=decode_threads or self.num_threads,
            folder_fps=folder_fps,
            limits=limits,
        ) as stream:
            on_open(stream.info)
            every = iter_clips(
                stream, clip_len=self.config.clip_len, clip_stride=self.config.clip_stride
            )
            pictures = Thumbnails(stream.info, self.config.decode) if thumbnails else None
            if pictures:
                every = pictures.watch(every)
            ahead = read_ahead(islice(every, clips.start, clips.stop))
            with (
                contextlib.closing(ahead),
                contextlib.closing(
                    self._work_through(ahead, tuple(streams), since, stage_seconds, on_read)
                ) as done,
            ):
                for num_frames, rows in done:
                    if next(self._clip_numbers) % self._clips_per_release == 0:
                        release_freed_memory()
                    kept.append(rows)
                    on_clip(num_frames, stream.info.expected_frames, kept.arrays)
            images = pictures.images if pictures else None
            return VideoFeatures.of(stream, self.config, kept.arrays, images)

    def _work_through(
        self,
        clips: Iterator[Clip],
        streams: tuple[str, ...],
        since: float,
        stage_seconds: dict[str, float],
        on_read: Callable[[], None],
    ) -> Generator[tuple[int, Arrays]]:
        """Yield the frames done and the rows of each clip, in order, while others are computed."""
        underway: deque[tuple[int, list[Future[_StreamRows]]]] = deque()
        # a GPU waits for whichever decoder is first: see `_rows_of_many`
        waited = {} if self._merger else stage_seconds
        try:
            while True:
                while len(underway) <= self._clips_ahead and not _is_done(underway):
                    clip = timed(lambda: next(clips, None), waited, "decode")
                    if clip is None:
                        on_read()
                        break
                    num_frames = clip.start_frame + clip.num_real
                    underway.append((num_frames, self._submit(clip, streams, id(clips), since)))
                if not underway:
                    return
                num_frames, futures = underway.popleft()
                rows: Arrays = {}
                for future in futures:
                    arrays, seconds = future.result()
                    rows |= arrays
                    for stage, spent in seconds.items():
                        stage_seconds[stage] = stage_seconds.get(stage, 0.0) + spent
                yield num_frames, rows
        finally:
            for _, futures in underway:
                for future in futures:
                    future.cancel()

    def _submit(
        self, clip: Clip, streams: tuple[str, ...], video: int, since: float
    ) -> list[Future[_StreamRows]]:
        """Have the rows of a clip of a video computed."""
        if self._merger:
            frames = torch.empty(clip.frames.shape, dtype=torch.uint8, pin_memory=self._on_gpu)
            np.copyto(frames.numpy(), clip.frames)
            item = _Uploading(frames=frames, num_real=clip.num_real, since=since)
            return [self._merger.submit((streams, clip.frames.shape), video, item)]
        # flow first: it takes longest, and a long task left to the end keeps one core waiting
        on_flow = [stream for stream in streams if BACKBONES[stream].needs == "flow"]
        on_frames = [[stream] for stream in streams if BACKBONES[stream].needs == "frames"]
        tasks = [on_flow, *on_frames] if on_flow else on_frames
        return [self._pool.submit(self._rows_of_one, clip, task) for task in tasks]

    def _rows_of_one(self, clip: Clip, streams: Sequence[str]) -> _StreamRows:
        """Return the rows of a clip, and the seconds that flow and networks kept all threads."""
        frames = torch.from_numpy(clip.frames[None].copy())
        arrays, seconds = self._rows(streams, frames, [clip.num_real])
        return arrays, {stage: spent / self.num_threads for stage, spent in seconds.items()}

    def _rows_of_many(self, kind: _Kind, clips: list[_Uploading]) -> list[_StreamRows]:
        """Return the rows of each clip, and its share of the seconds of their batch."""
        started = time.perf_counter()
        streams, shape = kind
        frames = torch.empty((len(clips), *shape), dtype=torch.uint8, device=self.device)
        for row, clip in zip(frames, clips, strict=True):
            row.copy_(clip.frames, non_blocking=True)
        arrays, seconds = self._rows(streams, frames, [clip.num_real for clip in clips])
        # between two runs nobody waits
        idle_since = max(self._computed, min(clip.since for clip in clips))
        seconds["decode"] = max(started - idle_since, 0.0)
        self._computed = time.perf_counter()
        share = {stage: spent / len(clips) for stage, spent in seconds.items()}
        return [
            ({name: array[i : i + 1] for name, array in arrays.items()}, share)
            for i in range(len(clips))
        ]

    def _rows(self, streams: Sequence[str], frames: Tensor, num_real: list[int]) -> _StreamRows:
        """Return the rows of a batch, and the seconds that flow and networks took."""
        started = time.perf_counter()
        seconds: dict[str, float] = {}
        try:
            tensors = self.compute(streams, frames, num_real, seconds)
        except Exception as error:
            # Triton's errors, and those of the compilers it calls, are of no common kind
            if not type(error).__module__.startswith(("triton", "subprocess")):
                raise
            said = str(error).strip().splitlines() or ["no more is known"]
            raise FeatError(
                f"Triton: {said[0][:300]}; set FEAT_KERNELS=0 to go without it"
            ) from error
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items()}
        seconds["network"] = time.perf_counter() - started - seconds.get("flow", 0.0)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise FeatError(
                    f"{name}: features that are no finite numbers, in {self.config.precision} on "
                    f"{self.device.type}; other weights overflow there: try --precision float32, "
                    "then FEAT_KERNELS=0 or --device cpu"
                )
        return arrays, seconds

    @torch.inference_mode()
    def compute(
        self,
        streams: Sequence[str],
        frames: Tensor,
        num_real: list[int],
        stage_seconds: dict[str, float],
    ) -> dict[str, Tensor]:
        """Return the rows of some streams on the device, (B, ...) each.

        Args:
            streams: which. If one needs flow, `flow_stats` (B, 6) float32 is given too.
            frames: (B, clip_len + 1, H, W, 3) uint8 on the device; each clip and its successor
                frame.
            num_real: how many of each clip's frames are real, for the statistics.
            stage_seconds: the seconds of the flow are added to it.
        """
        rows: dict[str, Tensor] = {}
        on_flow = [stream for stream in streams if BACKBONES[stream].needs == "flow"]
        if on_flow:
            flow = timed(lambda: self._flow(frames), stage_seconds, "flow")
            scaled = scale_flow(flow, self.config.flow_clamp)
            # first, for it waits for what is under way, and that is nothing now
            rows["flow_stats"] = flow_statistics(flow, num_real)
            rows |= {stream: self._forward(stream, scaled) for stream in on_flow}
            del flow, scaled  # the largest tensors, before the next network's
        for stream in streams:
            if BACKBONES[stream].needs == "frames":
                rows[stream] = self._forward(stream, frames[:, :-1])
        return rows

    def _flow(self, frames: Tensor) -> Tensor:
        """Return (B, clip_len, H, W, 2) float32 pixels: from every frame to the next one.

        Args:
            frames: (B, clip_len + 1, H, W, 3) uint8; each clip and its successor frame.
        """
        tvl1 = self.config.tvl1
        if self.device.type == "cpu" and use_kernels():
            clips = [tvl1_flow(rgb_to_gray(clip.numpy()), config=tvl1) for clip in frames]
            return torch.from_numpy(np.stack(clips))
        flow = tvl1_flow_clips(rgb_to_gray_torch(frames), config=tvl1)
        if self._on_gpu:  # so that the seconds of the flow are not counted as the network's
            torch.cuda.current_stream(self.device).synchronize()
        return flow

    def _forward(self, stream: str, clips: Tensor) -> Tensor:
        """Return the rows (B, ...) of clips (B, T, H, W, C), or (B, crops, ...) of their crops."""
        count = self.config.crops
        crops = cut_crops(clips, count, self.config.decode.size)
        if count == 1:
            return self._network_rows(stream, next(crops))
        rows = []
        while group := list(islice(crops, max(1, self._batch // len(clips)))):
            found = self._network_rows(stream, torch.cat(group))
            rows.append(found.view(len(group), len(clips), -1))
        return torch.cat(rows).transpose(0, 1)

    def _network_rows(self, stream: str, clips: Tensor) -> Tensor:
        """Return the rows (B, ...) of clips (B, T, H, W, C); see `extract.backbones.Network`."""
        rows = self.networks[stream](clips)
        backbone = self.config.backbone(stream)
        expected = (len(clips), *backbone.shape), backbone.dtype
        if (tuple(rows.shape), str(rows.dtype).removeprefix("torch.")) != expected:
            raise RuntimeError(
                f"the network of {stream} gave {tuple(rows.shape)} {rows.dtype}, declared are "
                f"{expected[0]} {expected[1]}"
            )
        return rows


def _is_done(underway: deque[tuple[int, list[Future[_StreamRows]]]]) -> bool:
    """Whether the first clip has all its rows: they are handed out before more is read."""
    return bool(underway) and all(future.done() for future in underway[0][1])


def scale_flow(flow: Tensor, clamp: float) -> Tensor:
    """Return flow, pixels per frame, clamped to +-`clamp` and scaled to [-1, 1]."""
    return flow.clamp(-clamp, clamp) / clamp
