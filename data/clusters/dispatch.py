"""Which worker gets which item, and how often: the same on every engine.

Each call is made for one worker, when that has room: an engine that placed them itself would blame
all that waits at a worker for its death.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from data.clusters.engine import RETRIES, Item, Lost, Prepare, Ready, Result
from data.errors import FeatError

logger = logging.getLogger(f"feat.{__name__}")

POLL_SECONDS = 1.0  # how soon a worker that came or went is noticed
NO_FEAT = "cannot load this feat ({}): install it in the workers' environment"

Call = TypeVar("Call", bound=Hashable)


class Workers(Protocol[Call]):
    """The worker processes that an engine reaches, by name, and calls on them."""

    def names(self) -> set[str]:
        """Return those that live."""
        ...

    def states(self, names: Sequence[str]) -> dict[str, int | str | None]:
        """Return how many calls each has room for, or why it gets none; None: it is not ready."""
        ...

    def submit(self, name: str, item: Any) -> Call:
        """Begin a call on a worker."""
        ...

    def cancel(self, call: Call) -> None:
        """Forget a call whose worker is dead."""
        ...

    def finished(self, calls: Sequence[Call], seconds: float) -> Iterator[tuple[Call, Any]]:
        """Yield calls with their results, or Lost; after so many seconds at most, perhaps none."""
        ...


def prepared(prepare: Prepare[Item, Result], threads: int) -> Ready[Item, Result] | str:
    """Return this worker as it may begin, or why it gets no work: else it would be waited for."""
    try:
        return prepare(threads)
    except FeatError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - told by the driver
        return f"cannot be prepared: {type(error).__name__}: {error}"


def gone(address: str, what: str) -> FeatError:
    """Return what is said where an engine can do no more."""
    return FeatError(
        f"{address}: the {what} is gone; what is finished is kept: with another {what} the same "
        "command goes on"
    )


@dataclass
class _Tried(Generic[Item]):
    item: Item
    tries: int = 0
    worker: str = ""


class Dispatch(Generic[Call]):
    """Items on their way through workers."""

    def __init__(self, workers: Workers[Call]) -> None:
        self._workers = workers
        self._names: set[str] = set()
        self._slots: dict[str, int] = {}  # of those that are fit
        self._refused: set[str] = set()
        self._looked = -POLL_SECONDS
        self._waits = False

    def results(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        """Yield each item with its result, or Lost, as it is completed.

        Raises:
            FeatError: there are workers, and none is fit. What a call raises comes too.
        """
        waiting = deque(map(_Tried, items))
        underway: dict[Call, _Tried[Item]] = {}
        while waiting or underway:
            self._look()
            for call, tried in [*underway.items()]:
                if tried.worker not in self._names:
                    self._workers.cancel(call)
                    del underway[call]
                    if tried.tries <= RETRIES:
                        waiting.append(tried)  # behind the others: it may kill the next one too
                    else:
                        yield tried.item, Lost(tried.tries)
            for worker in self._free_slots(underway.values())[: len(waiting)]:
                tried = waiting.popleft()
                tried.worker, tried.tries = worker, tried.tries + 1
                underway[self._workers.submit(worker, tried.item)] = tried
            if underway:
                for call, result in self._workers.finished(list(underway), POLL_SECONDS):
                    yield underway.pop(call).item, result
            else:
                time.sleep(POLL_SECONDS)

    def _free_slots(self, underway: Iterable[_Tried[Item]]) -> list[str]:
        """Return a worker for each call that may begin, taking turns."""
        taken = Counter(tried.worker for tried in underway)
        turns = [
            (turn, worker)
            for worker, slots in self._slots.items()
            for turn in range(taken[worker], slots)
        ]
        return [worker for _, worker in sorted(turns)]

    def _look(self) -> None:
        """Notice workers that came or went, and those that are not fit."""
        if time.monotonic() < self._looked + POLL_SECONDS:
            return
        self._names = self._workers.names()
        self._slots = {one: self._slots[one] for one in self._names & self._slots.keys()}
        self._refused &= self._names  # another process may get the name
        new = sorted(self._names - self._slots.keys() - self._refused)
        refusal = ""
        for worker, state in (self._workers.states(new) if new else {}).items():
            if isinstance(state, str):
                refusal = f"{worker}: {state}"
                logger.warning("%s: this worker gets no work: %s", worker, state)
                self._refused.add(worker)
            elif state is not None:
                self._slots[worker] = state
        if refusal and self._refused.issuperset(self._names):
            raise FeatError(f"no worker is fit: {refusal}")
        if not self._slots and not self._waits:
            there = len(self._names)
            logger.info("waiting for workers: %d are there, none of them prepared", there)
        self._waits = not self._slots
        self._looked = time.monotonic()
