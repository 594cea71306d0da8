"""Extracts what its parent hands out: `python -m extract.run.worker_process FD DEVICE`.

`extract.run.pool` starts it. On the pipe it says `None` when it has room for another video, which
is answered with one or with `None` when there is no more, and the outcome of each.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection

from data.errors import CacheError
from data.process import end_in_order_when_stopped, set_up_process
from extract.run.job import use_device
from extract.run.pool import overlapping
from extract.run.worker import VideoTask


def main() -> None:
    """Extract until there is no more, or the parent has gone."""
    set_up_process()
    end_in_order_when_stopped()
    use_device(sys.argv[2])
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError):
        try:
            with Connection(int(sys.argv[1])) as pipe:
                _serve(pipe)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent need not ask: it ends


def _serve(pipe: Connection) -> None:
    tasks = _handed_out(pipe)
    first = next(tasks, None)
    if first is None:
        return
    try:
        for outcome in overlapping(chain([first], tasks), first.job.share, None):
            pipe.send(outcome)
    except CacheError as error:
        pipe.send(error)


def _handed_out(pipe: Connection) -> Iterator[VideoTask]:
    while True:
        pipe.send(None)
        task = pipe.recv()
        if task is None:
            return
        yield task


if __name__ == "__main__":
    main()
