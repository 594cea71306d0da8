"""Calls on the workers of a Dask scheduler, which come and go as they like.

A plugin prepares every worker process, those that join later too. Dask's resources would not do:
a task whose resource all workers lacked once is left for ever, even if it comes back.
"""

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from distributed import Client, Future, KilledWorker, Worker, WorkerPlugin, get_worker, wait
from distributed.comm import CommClosedError

from data.clusters.dispatch import NO_FEAT, POLL_SECONDS, Dispatch, gone, prepared
from data.clusters.engine import Item, Lost, Prepare, Result
from data.errors import FeatError

_CONNECT_SECONDS = 10


class DaskCluster:
    """The workers of the scheduler at an address, such as `tcp://host:8786`."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(
        self, prepare: Prepare[Item, Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        """Yield each item with its result; see `data.clusters.engine.Cluster`."""
        # Dask tells of each lost connection at length; what a user should know is said elsewhere
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
            yield from Dispatch(_DaskWorkers(client, name)).results(items)
        except FeatError:
            raise
        except Exception as error:
            # with the scheduler each call of Dask fails in a way of its own, some before the client
            # itself has noticed
            lost = isinstance(error, CancelledError | CommClosedError | ConnectionError)
            if client.status == "running" and not lost:
                raise
            raise gone(self._address, "scheduler") from error
        finally:
            if client.status == "running":
                with suppress(OSError, ValueError):  # one that was started again knows nothing
                    client.unregister_worker_plugin(name)
            client.close(timeout=1)


class _DaskWorkers:
    """Worker processes by address; each has the plugin of this name."""

    def __init__(self, client: Client, name: str) -> None:
        self._client = client
        self._name = name

    def names(self) -> set[str]:
        return set(self._client.scheduler_info()["workers"])

    def states(self, names: Sequence[str]) -> dict[str, int | str | None]:
        said = self._client.run(_state, self._name, workers=names, on_error="return")
        return {
            worker: NO_FEAT.format(state)
            if isinstance(state, ImportError | AttributeError)
            else state
            for worker, state in said.items()
        }

    def submit(self, name: str, item: Any) -> Future:
        return self._client.submit(_call, self._name, item, pure=False, workers=[name])

    def cancel(self, call: Future) -> None:
        call.cancel()

    def finished(self, calls: Sequence[Future], seconds: float) -> Iterator[tuple[Future, Any]]:
        with suppress(TimeoutError), self._client.as_current():
            wait(calls, timeout=seconds, return_when="FIRST_COMPLETED")
        for future in [future for future in calls if future.done()]:
            try:
                yield future, future.result(timeout=seconds)
            except TimeoutError:  # its worker died before it had handed the result over
                continue
            except KilledWorker as killed:  # again and again at the same address
                yield future, Lost(killed.allowed_failures + 1)


class _Preparation(WorkerPlugin):  # type: ignore[misc]  # distributed has no types
    def __init__(self, name: str, prepare: Prepare[Any, Any]) -> None:
        self.name = name
        self.state: int | str | None = None  # its slots, or why it is not fit
        self._prepare = prepare

    async def setup(self, worker: Worker) -> None:
        self.stop = threading.Event()
        ready = await asyncio.to_thread(prepared, self._prepare, worker.state.nthreads)
        if isinstance(ready, str):
            self.state = ready
        else:
            self.ready, self.state = ready, ready.slots

    def teardown(self, worker: Worker) -> None:
        self.stop.set()


def _state(name: str, dask_worker: Worker) -> int | str | None:
    """Return how many calls a worker has room for, or why it gets none; None: it is not ready."""
    plugin: _Preparation | None = dask_worker.plugins.get(name)
    return plugin.state if plugin else None


def _call(name: str, item: Any) -> Any:
    plugin = get_worker().plugins[name]
    while plugin.state is None:  # a worker that died is here again
        time.sleep(POLL_SECONDS)
    if isinstance(plugin.state, str):
        raise FeatError(plugin.state)
    try:
        return plugin.ready.call(item, plugin.stop)
    except KeyboardInterrupt:  # told to stop: nobody waits for it, and it would end the worker
        return None
