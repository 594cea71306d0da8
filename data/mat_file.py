"""MATLAB's files, read in a process that may crash: one changed byte can crash scipy's reader."""

import faulthandler
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from data.child import limit_memory

MAX_SECONDS = 60.0
MAX_MEMORY_BYTES = 2 << 30

# a forked child needs neither start-up nor imports; where there is no fork, it is a new process
_CONTEXT: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
_child: tuple[BaseProcess, Connection] | None = None


def read_mat_file(path: Path, variable: str) -> Mapping[str, Any]:
    """Return what `scipy.io.loadmat` finds under a variable's name; nothing if it is not there.

    Raises:
        ValueError: the file is damaged, or reading it took too much time or memory.
        NotImplementedError: it is of version 7.3, which is HDF5.
    """
    global _child
    if _child is None:
        ours, theirs = _CONTEXT.Pipe()
        process = _CONTEXT.Process(target=_serve, args=(ours, theirs), daemon=True)
        process.start()
        theirs.close()
        _child = process, ours
    connection = _child[1]
    answer = None
    try:
        connection.send((str(path), variable))
        if connection.poll(MAX_SECONDS):
            answer = connection.recv()
    except (EOFError, OSError):
        pass  # it is gone
    except BaseException:
        _end()  # an answer that nobody waited for would be taken for the next one
        raise
    if answer is None:
        _end()
        raise ValueError(f"scipy's reader crashed, or took more than {MAX_SECONDS:.0f} s")
    if isinstance(answer, Exception):
        raise answer
    found: Mapping[str, Any] = answer
    return found


def _end() -> None:
    global _child
    if _child:
        process, connection = _child
        _child = None
        process.kill()
        process.join()
        connection.close()


def _serve(theirs: Connection, ours: Connection) -> None:
    """Answer each (path, variable) with what is there, or with the error."""
    theirs.close()  # the parent's end, which would keep this process from seeing the parent's end
    faulthandler.disable()  # a crash is expected, and told in a line
    # of a forked child both would raise in here, and it would end with a traceback
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its parent
    with suppress(OSError):  # beyond what the parent had taken, where the system tells
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit_memory(pages * os.sysconf("SC_PAGE_SIZE") + MAX_MEMORY_BYTES)
    import scipy.io

    with suppress(EOFError):
        while True:
            path, variable = ours.recv()
            try:
                content = scipy.io.loadmat(path, variable_names=[variable])
                ours.send({variable: content[variable]} if variable in content else {})
            except NotImplementedError as error:
                ours.send(NotImplementedError(str(error)))
            except Exception as error:  # noqa: BLE001 - scipy raises many kinds on a damaged file
                ours.send(ValueError(" ".join(f"{type(error).__name__}: {error}".split())[:200]))
