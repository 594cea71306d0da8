"""The sides of a comparison, each in a process of its own, answering in turn."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


@contextmanager
def in_processes(
    sides: Mapping[str, tuple[Callable[..., None], tuple[Any, ...]]],
) -> Iterator[dict[str, Connection]]:
    """Start every side and give a pipe to each; at the end send None to all and wait for them.

    Args:
        sides: name -> a function and its arguments after the first, which is its end of the pipe.
            It answers what comes until None does. If it dies, reading its pipe raises EOFError.
    """
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    workers = []
    for side, (serve, arguments) in sides.items():
        pipes[side], far = context.Pipe()
        worker = context.Process(target=serve, args=(far, *arguments), daemon=True)
        worker.start()
        far.close()
        workers.append(worker)
    yield pipes
    for pipe in pipes.values():
        pipe.send(None)
    for worker in workers:
        worker.join()
