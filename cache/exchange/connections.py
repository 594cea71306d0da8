"""Many small transfers over several connections at once: most of their time is waiting."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from cache.exchange.remote import Remote
from data.errors import CacheError, ShardError

S = TypeVar("S")
T = TypeVar("T")

CONNECTIONS = 8
HTTP_CONNECTIONS = 4
"""Fewer: each may hold 64 MiB."""
_END_SECONDS = 3.0
"""What transfers that are given up have to remove what they began."""


def over_connections(
    remote: Remote, items: Sequence[S], work: Callable[[Remote, S], T]
) -> Iterator[tuple[S, T | ShardError]]:
    """Yield each item, in their order, with what `work` gives for it, doing several at once.

    A damaged shard spoils nothing of the others: its ShardError is given, not raised. A server that
    admits fewer connections is worked on with those.

    Args:
        remote: the server; it is connected to anew.
        items: what is to be done.
        work: does it, with a connection of its own, in any thread.

    Raises:
        CacheError: one of them fails, or no connection can be made; the others are given up.
    """

    def outcome(connection: Remote, item: S) -> T | ShardError:
        try:
            return work(connection, item)
        except ShardError as error:
            return error

    most = HTTP_CONNECTIONS if remote.is_http else 1 if remote.protocol == "file" else CONNECTIONS
    count = min(len(items), most)
    if count <= 1:
        yield from ((item, outcome(remote, item)) for item in items)
        return
    team = _Team(remote, items, outcome, count)
    try:
        for number, item in enumerate(items):
            yield item, team.result(number)
    finally:
        team.end()


class _Team(Generic[S, T]):
    """Threads that take one item after the other, each with a connection of its own."""

    def __init__(
        self, remote: Remote, items: Sequence[S], work: Callable[[Remote, S], T], size: int
    ) -> None:
        self._remote = remote
        self._items = items
        self._work = work
        self._size = size
        self._changed = threading.Condition()
        self._next = 0
        self._members = size
        self._connections: list[Remote] = []
        self._results: dict[int, tuple[T, None] | tuple[None, BaseException]] = {}
        self._no_connection: CacheError | None = None
        # daemons: a server that does not answer keeps nobody from ending
        self._threads = [
            threading.Thread(target=self._run, daemon=True, name=f"feat-connection-{number}")
            for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def result(self, number: int) -> T:
        """Wait for an item and return what its work gave, or raise what it raised."""
        with self._changed:
            self._changed.wait_for(lambda: number in self._results or self._no_connection)
            if self._no_connection:
                raise self._no_connection
            value, error = self._results.pop(number)
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def end(self) -> None:
        """Give up what is under way, and wait a moment until it has cleared up."""
        with self._changed:
            self._next = len(self._items)
            connections = list(self._connections)
        for connection in connections:
            connection.close()
        until = time.monotonic() + _END_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        try:
            connection = self._remote.another(share=self._size)
        except CacheError as error:
            with self._changed:
                self._members -= 1
                if not self._members and self._next < len(self._items):
                    self._no_connection = error
                    self._changed.notify_all()
            return
        with self._changed:
            self._connections.append(connection)
        try:
            while (number := self._take()) is not None:
                found: tuple[T, None] | tuple[None, BaseException]
                try:
                    found = (self._work(connection, self._items[number]), None)
                except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                    found = (None, error)
                with self._changed:
                    self._results[number] = found
                    self._changed.notify_all()
        finally:
            connection.close()

    def _take(self) -> int | None:
        with self._changed:
            if self._next >= len(self._items):
                return None
            self._next += 1
            return self._next - 1
