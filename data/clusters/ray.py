"""Calls on the nodes of a Ray cluster, by actors: each is one worker process, prepared once.

Ray's tasks would not do: they begin in any process of a node, which would load its own networks.
An actor reserves a GPU with its share of the node's cores, or about four cores of one without.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

# read as Ray is loaded: it tells its makers nothing, and nothing on stdout of a worker that died
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.clusters.dispatch import NO_FEAT, Dispatch, gone, prepared
from data.clusters.engine import Item, Lost, Prepare, Result
from data.errors import FeatError

_CONNECT_SECONDS = 10
_STOP_SECONDS = 10  # a call under way lets go of its claim meanwhile
_CORES = 4  # of an actor without a GPU


class RayCluster:
    """The nodes of the cluster at `host:6379`, or `auto`; this machine is one of them."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(
        self, prepare: Prepare[Item, Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        """Yield each item with its result; see `data.clusters.engine.Cluster`."""
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        address = (
            os.environ.get("RAY_ADDRESS", "auto") if self._address == "auto" else self._address
        )
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if address != "auto":
                _connect(address)
            ray.init(address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise FeatError(f"{self._address}: no Ray cluster answers: {why}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)
        workers = _RayWorkers(self._address, ray.put(prepare))
        try:
            yield from Dispatch(workers).results(items)
        finally:
            workers.stop()
            ray.shutdown()


def _connect(address: str) -> None:
    """Raise an OSError where nobody listens: Ray itself would wait, and then end this process."""
    host, _, port = address.rpartition(":")
    if "/" in host or not port.isdecimal():
        raise ValueError("expected auto, or an address such as host:6379")
    socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()


class _RayWorkers:
    """Actors by node and number; one whose process died is followed by another."""

    def __init__(self, address: str, prepare: Any) -> None:
        self._address = address
        self._prepare = prepare
        self._actors: dict[str, tuple[Any, Any]] = {}  # each with the result of its preparation
        self._died: set[str] = set()
        self._calls: dict[Any, str] = {}  # under way, each with its worker

    def names(self) -> set[str]:
        try:
            _connect(ray.get_runtime_context().gcs_address)
        except OSError as error:
            raise gone(self._address, "head") from error
        there = set()
        for node in ray.nodes():
            cores, gpus = (int(node["Resources"].get(kind, 0)) for kind in ("CPU", "GPU"))
            count = gpus or max(1, cores // _CORES)
            for number in range(count if node["Alive"] and cores >= count else 0):
                name = f"{node['NodeManagerAddress']} {node['NodeID'][:6]} #{number}"
                there.add(name)
                if name not in self._actors:
                    self._actors[name] = self._start(node["NodeID"], cores // count, min(gpus, 1))
        self._actors = {name: self._actors[name] for name in there}
        died, self._died = self._died, set()
        return there - died

    def _start(self, node: str, cores: int, gpus: int) -> tuple[Any, Any]:
        actor = ray.remote(
            num_cpus=cores,
            num_gpus=gpus,
            max_concurrency=cores,
            concurrency_groups={"stop": 1},
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )(_Actor).remote()
        return actor, actor.prepare.remote(self._prepare, cores)

    def states(self, names: Sequence[str]) -> dict[str, int | str | None]:
        return {name: _state(self._actors[name][1]) for name in names}

    def submit(self, name: str, item: Any) -> Any:
        call = self._actors[name][0].call.remote(item)
        self._calls[call] = name
        return call

    def cancel(self, call: Any) -> None:
        del self._calls[call]

    def finished(self, calls: Sequence[Any], seconds: float) -> Iterator[tuple[Any, Any]]:
        for call in ray.wait(calls, timeout=seconds)[0]:
            try:
                result = ray.get(call)
            except RayTaskError as error:
                raise error.cause from error
            except RayError:  # its process died
                self._died.add(self._calls[call])
                self._actors.pop(self._calls[call], None)
                time.sleep(0.1)
            else:
                del self._calls[call]
                yield call, result

    def stop(self) -> None:
        with suppress(RayError):
            actors = [actor for actor, _ in self._actors.values()]
            stops = [actor.stop.options(concurrency_group="stop").remote() for actor in actors]
            calls = [*self._calls, *stops]
            if calls:
                ray.wait(calls, num_returns=len(calls), timeout=_STOP_SECONDS)


def _state(ready: Any) -> int | str | None:
    if not ray.wait([ready], timeout=0)[0]:
        return None
    try:
        state: int | str = ray.get(ready)
        return state
    except RayTaskError as error:
        return NO_FEAT.format(_last_line(error))
    except RayActorError as error:
        return f"its process died as it was prepared: {_last_line(error)}"


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


class _Actor:
    def __init__(self) -> None:
        self._stop = threading.Event()

    def prepare(self, prepare: Prepare[Any, Any], threads: int) -> int | str:
        ready = prepared(prepare, threads)
        if isinstance(ready, str):
            return ready
        self._ready = ready
        return ready.slots

    def call(self, item: Any) -> Any:
        try:
            return self._ready.call(item, self._stop)
        except KeyboardInterrupt:  # told to stop: nobody waits for it, and it would end the worker
            return None

    def stop(self) -> None:
        self._stop.set()
