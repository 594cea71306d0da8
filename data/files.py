"""Writing files: each appears under its name whole or not at all, on local disks and on NFS.

A file is written under a temporary name in the same folder, synced to disk, then renamed. Its mode
is what the user's umask says, so that in a shared folder the others can read it.
"""

import csv
import errno
import io
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.errors import FeatError
from data.visible import to_cell

#: Temporary names begin so: hidden, and never taken for a video, a shard or a run.
TEMP_PREFIX = ".tmp-"

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room and run the command again",
    errno.EDQUOT: "your disk quota is used up: make room and run the command again",
    errno.EFBIG: "the file would be larger than allowed here (ulimit -f)",
    errno.EROFS: "the file system is read-only: choose a folder on one that can be written",
    errno.EACCES: "no permission: ask the owner, or choose a folder of your own",
    errno.EPERM: "no permission: ask the owner, or choose a folder of your own",
    errno.EIO: "the disk or the network failed: try again, then check the disk",
}


def explain_os_error(action: str, path: Path, error: OSError) -> str:
    """Return one line for what the operating system refused: what, where, what to do."""
    advice = _ADVICE.get(error.errno or 0, "")
    reason = error.strerror or str(error)
    return f"{path}: cannot {action}: {reason}" + (f"; {advice}" if advice else "")


def temp_path(folder: Path) -> Path:
    """Return a new temporary name in `folder`, different for every machine, process and call."""
    host = "".join(c for c in socket.gethostname() if c.isalnum())[:16]
    return folder / f"{TEMP_PREFIX}{host}-{os.getpid()}-{secrets.token_hex(8)}"


@contextmanager
def partial_file(
    partial: Path, *, target: Path, error: type[FeatError] = FeatError
) -> Iterator[None]:
    """Guard the writing of the temporary file `partial`: whatever happens it is gone afterwards.

    To keep the file, call `publish` inside the block.

    Args:
        partial: the temporary file, which the block creates.
        target: what messages name: the file that is written, or the folder it will be in.
        error: raised for what the operating system refuses.
    """
    try:
        yield
    except OSError as cause:
        raise error(explain_os_error("be written", target, cause)) from cause
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def publish(partial: Path, final: Path) -> None:
    """Give a finished and closed temporary file its final name, so that it survives a power cut."""
    _sync(partial)
    partial.replace(final)
    sync_folder(final.parent)


@contextmanager
def new_file(
    path: Path, *, one_writer: bool = False, error: type[FeatError] = FeatError
) -> Iterator[Path]:
    """Yield the temporary name of a file that appears as `path` when the block succeeds.

    Args:
        path: the file; one that is there already is replaced.
        one_writer: no two processes ever write `path` at the same time. The temporary name is
            then a fixed one: the next writer overwrites what a killed one left.
        error: raised where the file cannot be written.
    """
    fixed = path.with_name(f"{TEMP_PREFIX}{path.name}")
    partial = fixed if one_writer else temp_path(path.parent)
    with partial_file(partial, target=path, error=error):
        yield partial
        publish(partial, path)


def write_whole(
    path: Path,
    content: bytes | str,
    *,
    one_writer: bool = False,
    error: type[FeatError] = FeatError,
) -> None:
    """Write bytes, or text as UTF-8, to `path`; the other arguments are those of `new_file`."""
    with new_file(path, one_writer=one_writer, error=error) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, values: Any) -> None:
    """Write `values` as indented JSON.

    Raises:
        FeatError: the file cannot be written.
    """
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows of the same keys as CSV for spreadsheets, under a line of those keys.

    Args:
        path: the file.
        rows: one a line.
        columns: their keys, for a table that may have no row.

    Raises:
        FeatError: the file cannot be written.
    """
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns or (list(rows[0]) if rows else []))
    writer.writeheader()
    writer.writerows({name: to_cell(value) for name, value in row.items()} for row in rows)
    write_whole(path, buffer.getvalue())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` permanent, where the file system knows how."""
    try:
        _sync(folder)
    except OSError as error:
        # some network file systems cannot sync a folder, and need not
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
