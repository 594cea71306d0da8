"""Clips of several videos in one batch: a GPU wants more of them than a short video has."""

import logging
import threading
import traceback
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

logger = logging.getLogger(f"feat.{__name__}")

Kind = TypeVar("Kind", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU had no room: PyTorch's error, or what Triton, CUDA and cuDNN say of it."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in said or "ALLOC_FAILED" in said)
    )


@dataclass(frozen=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    owner: Hashable
    future: Future[Result]


class Merger(Generic[Kind, Item, Result]):
    """One thread that computes what many hand in, as soon as it is free: all that is waiting.

    Nothing waits for a batch to be full, so that a lonely video flows too. No more than a batch
    waits beside the one that is computed: who hands in more is kept until there is room.

    What a batch cannot do does not spoil what is in it: where the GPU's memory does not suffice,
    this and all later batches are halved; after any other error each owner's items are computed
    alone, and only those that fail again get the error.
    """

    def __init__(
        self,
        compute: Callable[[Kind, list[Item]], list[Result]],
        *,
        size: int,
        start: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare the thread.

        Args:
            compute: returns a result an item; called with items of one kind, from one thread.
            size: items that are computed together at most.
            start: called by the thread before all else.
        """
        self._compute = compute
        self._size = size
        self._room = threading.Semaphore(size)
        self._waiting: dict[Kind, deque[_Waiting[Item, Result]]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches", initializer=start)
        self._too_many = 0  # items that the memory did not hold, until that is said

    def submit(self, kind: Kind, owner: Hashable, item: Item) -> Future[Result]:
        """Hand an item in, wait until there is room for it, and return its future.

        Args:
            kind: what it is computed together with.
            owner: whose it is, such as one video.
            item: given to `compute`; not kept when its result is there.
        """
        self._room.acquire()
        future: Future[Result] = Future()
        self._waiting.setdefault(kind, deque()).append(_Waiting(item, owner, future))
        self._thread.submit(self._run, kind)
        return future

    def _run(self, kind: Kind) -> None:
        """Compute a batch of what waits, if an earlier call has left anything."""
        todo = [self._take(kind)]
        while todo:
            batch = todo.pop()
            if len(batch) > self._size:
                todo += [batch[self._size :], batch[: self._size]]
            elif batch:
                todo += self._finish(kind, batch)

    def _take(self, kind: Kind) -> list[_Waiting[Item, Result]]:
        waiting = self._waiting[kind]
        batch: list[_Waiting[Item, Result]] = []
        while waiting and len(batch) < self._size:
            each = waiting.popleft()
            self._room.release()
            if each.future.set_running_or_notify_cancel():
                batch.append(each)
        return batch

    def _finish(
        self, kind: Kind, batch: list[_Waiting[Item, Result]]
    ) -> list[list[_Waiting[Item, Result]]]:
        """Give each item of a batch its result, or return the batches to compute instead."""
        try:
            results = self._compute(kind, [each.item for each in batch])
            pairs = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            # the tensors of the failed call, which the next one needs the memory of
            traceback.clear_frames(error.__traceback__)
            if is_out_of_memory(error) and len(batch) > 1:
                self._too_many = max(self._too_many, len(batch))
                self._size = len(batch) // 2
                return [batch]
            owners = dict.fromkeys(each.owner for each in batch)
            if len(owners) > 1:
                return [[each for each in batch if each.owner == owner] for owner in owners]
            for each in batch:
                each.future.set_exception(error)
            return []
        if self._too_many:
            logger.warning(
                "the GPU's memory does not hold %d clips at a time: going on with %d",
                self._too_many, self._size,
            )  # fmt: skip
            self._too_many = 0
        for each, result in pairs:
            each.future.set_result(result)
        return []
