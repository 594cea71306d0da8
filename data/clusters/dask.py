"""Calls on the workers of a Dask scheduler, which come and go as they like.

A plugin prepares every worker process, those that join later too. Each call is made for one of
them, when that has room: Dask would blame all that waits at a worker for its death, and leaves a
task for ever whose resource all workers lacked once, even if it comes back.
"""

import asyncio
import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic

from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, get_worker, wait
from distributed.comm import CommClosedError

from data.clusters.engine import RETRIES, Item, Lost, Prepare, Result
from data.errors import FeatError

logger = logging.getLogger(f"feat.{__name__}")

_CONNECT_SECONDS = 10
_POLL_SECONDS = 1.0  # how soon a worker that came or went is noticed


class DaskCluster:
    """The workers of the scheduler at an address, such as `tcp://host:8786`."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(
        self, prepare: Prepare[Item, Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        """Yield each item with its result; see `data.clusters.engine.Cluster`."""
        # Dask tells of each lost connection at length; what a user should know is said here
        for logger_name in list(logging.root.manager.loggerDict):
            if logger_name.split(".")[0] == "distributed":
                logging.getLogger(logger_name).setLevel(logging.CRITICAL)
        try:
            client = Client(self._address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise FeatError(f"{self._address}: no Dask scheduler answers: {error}") from error
        name = f"feat-{secrets.token_hex(8)}"
        try:
            with suppress(ImportError, AttributeError):  # a worker's: `_look` says whose
                client.register_plugin(_Preparation(name, prepare))
            yield from _Run(client, name).results(items)
        except FeatError:
            raise
        except Exception as error:
            # with the scheduler each call of Dask fails in a way of its own, some before the client
            # itself has noticed
            lost = isinstance(error, CancelledError | CommClosedError | ConnectionError)
            if client.status == "running" and not lost:
                raise
            raise FeatError(
                f"{self._address}: the scheduler is gone; what is finished is kept: with another "
                "scheduler the same command goes on"
            ) from error
        finally:
            if client.status == "running":
                with suppress(OSError, ValueError):  # one that was started again knows nothing
                    client.unregister_worker_plugin(name)
            client.close(timeout=1)


@dataclass
class _Call(Generic[Item]):
    item: Item
    tries: int = 0
    worker: str = ""


class _Run:
    """One call of `DaskCluster.run`; its name is that of its plugin."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name
        self._workers: set[str] = set()  # addresses
        self._slots: dict[str, int] = {}  # of those that are fit
        self._refused: set[str] = set()
        self._looked = -_POLL_SECONDS
        self._waits = False

    def results(self, items: Iterable[Item]) -> Iterator[tuple[Item, Any]]:
        waiting = deque(map(_Call, items))
        underway: dict[Future, _Call[Item]] = {}
        while waiting or underway:
            self._look()
            for future, call in [*underway.items()]:
                if call.worker not in self._workers:
                    future.cancel()
                    del underway[future]
                    if call.tries <= RETRIES:
                        waiting.append(call)  # behind the others: it may kill the next one too
                    else:
                        yield call.item, Lost(call.tries)
            for worker in self._free_slots(underway.values())[: len(waiting)]:
                call = waiting.popleft()
                underway[self._submit(call, worker)] = call
            if underway:
                yield from self._finished(underway)
            else:
                time.sleep(_POLL_SECONDS)

    def _free_slots(self, underway: Iterable[_Call[Item]]) -> list[str]:
        """Return a worker for each call that may begin, taking turns."""
        taken = Counter(call.worker for call in underway)
        turns = [
            (turn, worker)
            for worker, slots in self._slots.items()
            for turn in range(taken[worker], slots)
        ]
        return [worker for _, worker in sorted(turns)]

    def _submit(self, call: _Call[Item], worker: str) -> Future:
        call.worker, call.tries = worker, call.tries + 1
        return self._client.submit(_call, self._name, call.item, pure=False, workers=[worker])

    def _finished(self, underway: dict[Future, _Call[Item]]) -> Iterator[tuple[Item, Any]]:
        with suppress(TimeoutError), self._client.as_current():
            wait(list(underway), timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
        for future in [future for future in underway if future.done()]:
            try:
                result = future.result(timeout=_POLL_SECONDS)
            except TimeoutError:  # its worker died before it had handed the result over
                continue
            except KilledWorker as killed:  # again and again at the same address
                result = Lost(killed.allowed_failures + 1)
            yield underway.pop(future).item, result

    def _look(self) -> None:
        """Notice workers that came or went, and those that are not fit.

        Raises:
            FeatError: there are workers, and none is fit.
        """
        if time.monotonic() < self._looked + _POLL_SECONDS:
            return
        self._workers = set(self._client.scheduler_info()["workers"])
        self._slots = {one: self._slots[one] for one in self._workers & self._slots.keys()}
        self._refused &= self._workers  # another process may get the address
        new = sorted(self._workers - self._slots.keys() - self._refused)
        said = {}
        if new:
            said = self._client.run(_state, self._name, workers=new, on_error="return")
        refusal = ""
        for worker, state in said.items():
            if isinstance(state, ImportError | AttributeError):
                state = f"cannot load this feat ({state}): install it in the workers' environment"
            if isinstance(state, str):
                refusal = f"{worker}: {state}"
                logger.warning("%s: this worker gets no work: %s", worker, state)
                self._refused.add(worker)
            elif isinstance(state, int):
                self._slots[worker] = state
        if refusal and self._refused.issuperset(self._workers):
            raise FeatError(f"no worker is fit: {refusal}")
        if not self._slots and not self._waits:
            there = len(self._workers)
            logger.info("waiting for workers: %d are there, none of them prepared", there)
        self._waits = not self._slots
        self._looked = time.monotonic()


class _Preparation(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    def __init__(self, name: str, prepare: Prepare[Any, Any]) -> None:
        self.name = name
        self.state: int | str | None = None  # its slots, or why it is not fit
        self._prepare = prepare

    async def setup(self, worker: Worker) -> None:
        self.stop = threading.Event()
        try:
            self.ready = await asyncio.to_thread(self._prepare, worker.state.nthreads)
        except FeatError as error:
            self.state = str(error)
        else:
            self.state = self.ready.slots

    def teardown(self, worker: Worker) -> None:
        self.stop.set()


def _state(name: str, dask_worker: Worker) -> int | str | None:
    """Return how many calls a worker has room for, or why it gets none; None: it is not ready."""
    plugin: _Preparation | None = dask_worker.plugins.get(name)
    return plugin.state if plugin else None


def _call(name: str, item: Any) -> Any:
    plugin = get_worker().plugins[name]
    while plugin.state is None:  # a worker that died is here again
        time.sleep(_POLL_SECONDS)
    if isinstance(plugin.state, str):
        raise FeatError(plugin.state)
    try:
        return plugin.ready.call(item, plugin.stop)
    except KeyboardInterrupt:  # told to stop: nobody waits for it, and it would end the worker
        return None
