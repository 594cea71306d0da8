"""The sides of a comparison, each in a process of its own, answering in turn."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


@contextmanager
def in_processes(
    sides: Mapping[str, tuple[Callable[..., None], tuple[Any, ...]]],
    environments: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[dict[str, Connection]]:
    """Start every side and give a pipe to each; at the end send None to all and wait for them.

    Args:
        sides: name -> a function and its arguments after the first, which is its end of the pipe.
            It answers what comes until None does. If it dies, reading its pipe raises EOFError.
        environments: name -> what is put into that side's environment, which libraries read when
            they are loaded; `data.process.ENVIRONMENT` for one that stands for a command of ours.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers = []
    for side, (serve, arguments) in sides.items():
        pipes[side], far = context.Pipe()
        worker = context.Process(target=serve, args=(far, *arguments), daemon=True)
        with _in_environment((environments or {}).get(side, {})):
            worker.start()
        far.close()
        workers.append(worker)
    yield pipes
    for pipe in pipes.values():
        pipe.send(None)
    for worker in workers:
        worker.join()


@contextmanager
def _in_environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
