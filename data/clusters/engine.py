"""What every cluster's engine does: it makes one call an item, on workers elsewhere.

No scheduler, queue or transport is ours. An engine hands calls to one that exists and says what
came back; which calls these are, and whether a worker is fit for them, its caller decides.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: An item is tried again so often when its worker dies; an engine says which it gave up.
RETRIES = 3


@dataclass(frozen=True)
class Ready(Generic[Item, Result]):
    """A worker process that may begin.

    Attributes:
        call: makes the result of an item; raises a KeyboardInterrupt soon after the event is set.
        slots: items that it works on at a time.
    """

    call: Callable[[Item, threading.Event], Result]
    slots: int


@dataclass(frozen=True)
class Lost:
    """In the place of a result: each worker that tried the item died."""

    tries: int

    @property
    def reason(self) -> str:
        """What its caller says of the item."""
        return (
            f"its worker died each of the {self.tries} times it was tried, most likely for want "
            "of memory; give workers more, or start fewer on a machine"
        )


#: Called once in every worker process before all else, with its number of processor threads;
#: picklable. Whatever FeatError it raises is why this worker gets no work.
Prepare = Callable[[int], Ready[Item, Result]]


class Cluster(Protocol):
    """Workers that an engine reaches."""

    def run(
        self, prepare: Prepare[Item, Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        """Yield each item with its result as it is completed; who stops iterating cancels.

        Raises:
            FeatError: no worker is fit, or the scheduler is gone. What a call raises comes too.
        """
        ...
