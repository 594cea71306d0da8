"""A video as a stream: clips read ahead, and the rows that come of them."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

READ_AHEAD = 2
FIRST_ROWS = 64  # of a video: a GPU's worker has more than a hundred under way

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]


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


def read_ahead(items: Iterator[T], depth: int = READ_AHEAD) -> Generator[T]:
    """Yield `items`, produced by a thread that runs at most `depth` of them ahead.

    An exception of the producer is raised here. Closing the generator ends the thread.
    """
    done = object()
    ready: queue.Queue[object] = queue.Queue(maxsize=depth)
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
