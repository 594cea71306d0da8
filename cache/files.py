"""The files of a cache that others may have written: reading them with care, and their clock."""

import errno
import hashlib
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from data.errors import CacheError, StorageError
from data.files import TEMP_PREFIX, explain_os_error, temp_path

logger = logging.getLogger(f"feat.{__name__}")

#: Age at which a temporary file is taken for a dead writer's.
STALE_SECONDS = 24 * 3600

_READ = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def explain(action: str, path: Path, error: OSError) -> StorageError:
    """Return the one-line error for an operating system error: what, where, what to do."""
    return StorageError(explain_os_error(action, path, error))


def open_regular(path: Path) -> int:
    """Open an ordinary file for reading and return its descriptor.

    Symbolic links, pipes and devices are refused: a shared cache is not to be trusted, and what
    it points to need not be in it.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such file.
        CacheError: it is not an ordinary file, or cannot be opened.
    """
    try:
        fd = os.open(path, _READ)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise CacheError(f"{path}: a symbolic link, expected an ordinary file") from error
        raise explain("read", path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CacheError(f"{path}: not an ordinary file; remove it from the cache")
    return fd


def read_limited(path: Path, limit: int) -> bytes:
    """Return the bytes of an ordinary file of at most `limit` bytes.

    Raises:
        FileNotFoundError: there is no such file.
        CacheError: it is not an ordinary file, is larger, or cannot be read.
    """
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise CacheError(f"{path}: {size} bytes, expected at most {limit}")
        return pread_exact(fd, size, 0, path)
    finally:
        os.close(fd)


def pread_exact(fd: int, size: int, offset: int, path: Path) -> bytes:
    """Return exactly `size` bytes from `offset` on.

    Raises:
        CacheError: the file ends before, or cannot be read.
    """
    parts = []
    while size:
        try:
            part = os.pread(fd, size, offset)
        except OSError as error:
            raise explain("read", path, error) from error
        if not part:
            raise CacheError(f"{path}: ends at byte {offset}, expected {size} more")
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def hash_fd(fd: int) -> str:
    """Return the sha256 of a whole open file, 64 hex digits."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_clock(folder: Path) -> float:
    """Return the time by the clock that stamps files in `folder`, in seconds.

    On a network file system that is the server's clock, the one all machines share.
    """
    path = temp_path(folder)
    with open(path, "xb"):
        pass
    try:
        return path.stat().st_mtime
    finally:
        path.unlink(missing_ok=True)


def remove_stale_temps(folder: Path, *, now: float) -> int:
    """Remove temporary files that no living writer can still want; return how many."""
    removed = 0
    for item in os.scandir(folder):
        if not item.name.startswith(TEMP_PREFIX):
            continue
        with suppress(OSError):  # another process may be quicker
            if now - item.stat(follow_symlinks=False).st_mtime > STALE_SECONDS:
                os.unlink(item.path)
                removed += 1
    if removed:
        logger.info("%s: removed %d unfinished files of dead writers", folder, removed)
    return removed
