"""What the HDF5 library sees in a shard, looked at in a process that may crash.

Our reader uses the table of contents alone. Somebody who opens a shard with h5py sees the HDF5
structure instead; `feat cache verify` makes sure that the two tell the same. The library was not
written for hostile files, so it runs in a child process, with its memory and time limited.

    python -P -m cache.shard.hdf5_view < paths

The child prints one JSON object a line: {"difference": "" or what is wrong}, its verdict, or
{"failure": why it could not look}, which is none.
"""

import json
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from cache.records import kind_json
from data.child import child_command, last_line, limit_memory
from data.errors import CheckerError, FeatError

logger = logging.getLogger(f"feat.{__name__}")

MAX_MEMORY_BYTES = 4 << 30
MAX_SECONDS = 60.0
EXIT_SECONDS = 5.0


class Hdf5Viewer:
    """A child process that compares shards' HDF5 structure with their tables; restarted if lost."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS) -> None:
        """Start nothing yet."""
        self._max_seconds = max_seconds
        self._child: subprocess.Popen[bytes] | None = None
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the viewer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._stderr.close()

    def compare(self, path: Path) -> str:
        """Return how the HDF5 structure of a shard differs from its table, "" if it does not.

        Raises:
            CheckerError: the child failed, so that nothing is known about the shard.
        """
        child = self._child or self._start()
        if child.stdin is None or child.stdout is None:
            raise RuntimeError("the HDF5 viewer was started without pipes")
        try:
            child.stdin.write(json.dumps(os.fspath(path)).encode() + b"\n")
            child.stdin.flush()
            ready, _, _ = select.select([child.stdout], [], [], self._max_seconds)
            answer = child.stdout.readline() if ready else b""
        except BrokenPipeError:
            answer, ready = b"", [child.stdout]
        if answer:
            try:
                return _difference(answer)
            except CheckerError:
                self.close()  # a new one is in step again, and has its memory free
                raise
        if ready:
            with suppress(subprocess.TimeoutExpired):  # its pipes close before it has ended
                child.wait(EXIT_SECONDS)
        self.close()
        if ready:
            raise CheckerError(f"the process that opens it with h5py {self._end(child.returncode)}")
        raise CheckerError(f"h5py was not done with it in {self._max_seconds:.0f} s")

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        with suppress(OSError):
            child.kill() if child.poll() is None else None
        child.communicate()

    def _start(self) -> "subprocess.Popen[bytes]":
        command, environment = child_command("cache.shard.hdf5_view")
        self._stderr.seek(0)
        self._stderr.truncate()
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=environment,
            )
        except OSError as error:
            raise CheckerError(f"cannot start a process to open it with h5py: {error}") from error
        return self._child

    def _end(self, returncode: int) -> str:
        """Return how the child ended, with the last line it wrote to stderr."""
        if returncode < 0:
            return f"was ended by {signal.Signals(-returncode).name}"
        self._stderr.seek(max(0, self._stderr.seek(0, os.SEEK_END) - 4096))
        last = last_line(self._stderr.read()) or "no message"
        return f"ended with exit status {returncode}: {last[:200]}"


def _difference(line: bytes) -> str:
    """Return the verdict in one line of the child.

    Raises:
        CheckerError: the line is none.
    """
    try:
        answer = json.loads(line)
    except ValueError as error:
        raise CheckerError(f"its checker said {line[:80]!r}") from error
    if "failure" in answer:
        raise CheckerError(answer["failure"])
    return str(answer["difference"])


def find_difference(path: Path) -> str:
    """Return how the HDF5 structure of a shard differs from its table, "" if it does not.

    The library may crash on a hostile file: call this in a child process.
    """
    import h5py

    from cache.shard.read import read_table

    table = read_table(path)
    with h5py.File(path, "r", locking=False) as file:
        if set(file) != set(table.records):
            return "its HDF5 groups are not its table's records"
        for key, stored in table.records.items():
            problem = _compare_group(h5py, file, key, stored)
            if problem:
                return f"HDF5 group {key[:12]}...: {problem}"
    return ""


def _compare_group(h5py: Any, file: Any, key: str, stored: Any) -> str:
    if not isinstance(file.get(key, getlink=True), h5py.HardLink):
        return "not a hard link"
    group = file[key]
    about = json.loads(group.attrs["record"])
    entry = stored.entry
    expected = {
        "key": key,
        "stream": entry.stream,
        "config": dict(entry.config),
        "source": entry.source.to_json(),
        "provenance": dict(entry.provenance),
        "clip_len": entry.clip_len,
        **kind_json(entry.kind),
    }
    if about != expected:
        return "its record attribute is not the table's"
    if set(group) != set(stored.places):
        return f"it holds {sorted(group)!s:.80}, the table {sorted(stored.places)}"
    for name, place in stored.places.items():
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return f"{name} is not a hard link"
        dataset = group[name]
        if dataset.is_virtual or dataset.external or dataset.chunks is not None:
            return f"{name} is not stored contiguously in this file"
        seen = (dataset.shape, dataset.dtype, dataset.id.get_offset())
        if seen != (place.shape, place.dtype, place.offset):
            return f"{name} is {seen}, the table says {place.shape} {place.dtype} {place.offset}"
    return ""


def main() -> None:
    """Answer the paths on stdin, one a line, until it ends."""
    limit_memory(MAX_MEMORY_BYTES)
    for line in sys.stdin.buffer:
        sys.stdout.write(json.dumps(_answer(Path(json.loads(line)))) + "\n")
        sys.stdout.flush()


def _answer(path: Path) -> dict[str, str]:
    try:
        return {"difference": find_difference(path)}
    except (FeatError, MemoryError) as error:  # the caller could read its table
        return {"failure": _one_line(error)}
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, RecursionError,
    ) as error:  # fmt: skip
        if isinstance(error, OSError) and error.errno:  # not the library's, the system's
            return {"failure": _one_line(error)}
        return {"difference": f"h5py cannot read it: {_one_line(error)}"}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


if __name__ == "__main__":
    main()
