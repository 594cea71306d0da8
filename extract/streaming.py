"""A video as a stream: clips read ahead, and the rows that come of them."""

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache.records import ClipTable
from extract.clips import clip_table
from extract.config import ExtractConfig
from extract.decode.stream import FrameStream, StreamInfo

READ_AHEAD = 2
FIRST_ROWS = 64  # of a video: a GPU's worker has more than a hundred under way

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]
#: Encoded pictures: (N,) uint8 and the bounds of each, (S + 1,) int64.
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]


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
        thumbnails: an encoded picture of each clip; None if there are none.
    """

    arrays: Arrays
    clips: ClipTable
    frame_seconds: NDArray[np.float64]
    info: StreamInfo
    num_frames: int
    partial: str
    thumbnails: Images | None = None

    @classmethod
    def of(
        cls, stream: FrameStream, config: ExtractConfig, arrays: Arrays, thumbnails: Images | None
    ) -> Self:
        """Return what was extracted from a video that has been read to its end."""
        return cls(
            arrays=arrays,
            clips=clip_table(
                stream.pts_seconds,
                clip_len=config.clip_len,
                clip_stride=config.clip_stride,
                frame_rate=stream.info.frame_rate,
            ),
            frame_seconds=stream.pts_seconds,
            info=stream.info,
            num_frames=stream.num_frames,
            partial=stream.partial,
            thumbnails=thumbnails,
        )

    def with_arrays(self, arrays: Arrays) -> Self:
        """Return the same with other arrays, such as those that a checkpoint completes."""
        return dataclasses.replace(self, arrays=arrays)


class Rows:
    """The rows of a video so far, in blocks that double when they are full.

    Nothing may be kept clip by clip: a few bytes each, between the maps that the networks take
    and free, would stop the C library from joining these again, and memory would grow with the
    video.
    """

    def __init__(self) -> None:
        self._blocks: Arrays = {}
        self._num_rows = 0

    def append(self, rows: Arrays) -> None:
        """Copy in the rows of a clip or more, the same number for each name."""
        first, self._num_rows = self._num_rows, self._num_rows + len(next(iter(rows.values())))
        for name, array in rows.items():
            block = self._blocks.get(name, np.empty((0, *array.shape[1:]), array.dtype))
            if len(block) < self._num_rows:
                larger = np.empty(
                    (max(2 * self._num_rows, FIRST_ROWS), *array.shape[1:]), array.dtype
                )
                larger[:first] = block[:first]
                self._blocks[name] = block = larger
            block[first : self._num_rows] = array

    @property
    def arrays(self) -> Arrays:
        """All rows; {} if there are none."""
        return {name: block[: self._num_rows] for name, block in self._blocks.items()}


def read_ahead(items: Iterator[T]) -> Generator[T]:
    """Yield `items`, produced by a thread that runs at most `READ_AHEAD` of them ahead.

    An exception of the producer is raised here. Closing the generator ends the thread.
    """
    done = object()
    ready: queue.Queue[object] = queue.Queue(maxsize=READ_AHEAD)
    stop = threading.Event()

    def put(item: object) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(done)
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, who raises it
            put(error)

    thread = threading.Thread(target=produce, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not done:
            if isinstance(item, BaseException):
                raise item
            yield item  # type: ignore[misc]
    finally:
        stop.set()
        thread.join()


def timed(work: Callable[[], T], seconds: dict[str, float], stage: str) -> T:
    """Run `work` and add the seconds that it took to `seconds[stage]`."""
    started = time.perf_counter()
    try:
        return work()
    finally:
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - started
