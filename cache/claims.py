"""Leases on work, so that two workers seldom do the same video.

A claim is a file that only one process can create. Its modification time is the time of the last
renewal, by the clock of the machine that holds the files; a claim not renewed for its lease is
dead, and the next worker takes it over. Nothing depends on claims for correctness: if two workers
do hold the same one (a paused machine, a takeover in the same instant), a video is done twice.
"""

import hashlib
import json
import logging
import os
import secrets
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

from cache.files import explain, folder_clock, read_limited
from data.errors import CacheError
from data.files import temp_path

logger = logging.getLogger(f"feat.{__name__}")

SUFFIX = ".claim"
#: Of a content's sha256, with which claims on work on it or a piece of it begin.
CONTENT_DIGITS = 32
DEFAULT_LEASE_SECONDS = 300.0
_MAX_LEASE_SECONDS = 7 * 24 * 3600.0
_MAX_BYTES = 4096


def piece_claim(sha256: str, piece: str) -> str:
    """Return what to claim for work on a piece of a content; it begins as the content's digest."""
    rest = hashlib.sha256(piece.encode()).hexdigest()
    return sha256[:CONTENT_DIGITS] + rest[CONTENT_DIGITS:]


class Claim:
    """Exclusive use of one name for a while; a context manager that is true if we have it.

        with cache.claim(sha256) as mine:
            if mine:
                ...

    While held it renews itself from a background thread, four times a lease.
    """

    def __init__(self, folder: Path, name: str, lease_seconds: float) -> None:
        """Prepare a claim; nothing is taken before `acquire` or `with`.

        Raises:
            ValueError: the lease is not between 1 second and 7 days.
        """
        if not 1.0 <= lease_seconds <= _MAX_LEASE_SECONDS:
            raise ValueError(f"a lease lasts 1 second to 7 days, got {lease_seconds} s")
        self.owner = ""  # who has it, if we have not: "machine, process 123"
        self.path = folder / (name + SUFFIX)
        self._lease_seconds = lease_seconds
        self._token = secrets.token_hex(16)
        self._held = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __bool__(self) -> bool:
        return self._held

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> bool:
        """Take the claim if nobody living has it; return whether we have it now.

        Raises:
            CacheError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(exist_ok=True)
            self._held = self._create() or (self._bury_dead() and self._create())
        except OSError as error:
            raise explain("claim work", self.path.parent, error) from error
        if self._held:
            self._thread = threading.Thread(target=self._keep_renewing, daemon=True)
            self._thread.start()
        return self._held

    def renew(self) -> bool:
        """Start the lease anew; return False if the claim has been lost to somebody else."""
        if self._held:
            try:
                self._held = self._read().get("token") == self._token
                if self._held:
                    os.utime(self.path)
            except FileNotFoundError:
                self._held = False
            except (OSError, CacheError) as error:
                # a server that is away for a minute: keep trying until the lease is over
                logger.debug("%s: not renewed: %s", self.path, error)
        return self._held

    def release(self) -> None:
        """Give the claim back; does nothing if we have not got it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self.renew():
            with suppress(OSError):
                self.path.unlink()
        self._held = False

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._lease_seconds / 4):
            if not self.renew():
                logger.warning("%s: the claim was lost to another worker", self.path.name)
                return

    def _create(self) -> bool:
        """Create the claim's file, complete at once; return False if there is one."""
        temp = temp_path(self.path.parent)
        temp.write_bytes(json.dumps(self._content()).encode())
        try:
            os.link(temp, self.path)  # atomic, on NFS too, and fails if the name is taken
        except FileExistsError:
            return False
        except OSError as error:
            logger.debug("no hard links here (%s): creating the claim directly", error)
            return self._create_directly()
        finally:
            temp.unlink(missing_ok=True)
        return True

    def _create_directly(self) -> bool:
        try:
            with open(self.path, "xb") as file:
                file.write(json.dumps(self._content()).encode())
        except FileExistsError:
            return False
        return True

    def _content(self) -> dict[str, object]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "started": _started(os.getpid()),
            "lease_seconds": self._lease_seconds,
        }

    def _read(self) -> dict[str, object]:
        try:
            value = json.loads(read_limited(self.path, _MAX_BYTES))
        except (ValueError, RecursionError):
            return {}  # being written, or not ours: the lease decides
        return value if isinstance(value, dict) else {}

    def _bury_dead(self) -> bool:
        """Move a dead worker's claim away; return whether the name is free now."""
        try:
            content = self._read()
            age = folder_clock(self.path.parent) - self.path.stat().st_mtime
        except FileNotFoundError:
            return True  # given back this moment
        self.owner = f"{content.get('host', '?')!s:.64}, process {content.get('pid', '?')!s:.16}"
        lease = content.get("lease_seconds")
        if not isinstance(lease, int | float) or not 1 <= lease <= _MAX_LEASE_SECONDS:
            lease = DEFAULT_LEASE_SECONDS
        if age <= lease and not _is_dead(content):
            return False
        grave = temp_path(self.path.parent)
        try:
            os.rename(self.path, grave)
        except FileNotFoundError:
            return True  # another worker was quicker; creating decides
        if Claim._token_of(grave) != content.get("token"):
            # In the meantime another worker had buried it and claimed anew: put that back.
            with suppress(OSError):
                os.link(grave, self.path)
            grave.unlink(missing_ok=True)
            return False
        grave.unlink(missing_ok=True)
        logger.info("took over the claim of a dead worker (%s)", self.owner)
        return True

    @staticmethod
    def _token_of(path: Path) -> object:
        try:
            value = json.loads(read_limited(path, _MAX_BYTES))
        except (ValueError, RecursionError, FileNotFoundError, CacheError):
            return None
        return value.get("token") if isinstance(value, dict) else None


def _is_dead(content: dict[str, object]) -> bool:
    """Return whether the claim's process ran on this machine and is no more."""
    pid, machine = content.get("pid"), _machine()
    if not machine or content.get("machine") != machine or not isinstance(pid, int):
        return False
    return _started(pid) != content.get("started")


def _machine() -> str:
    """Return what tells this boot of this machine (and its process numbers) from any other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot; "" if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    # a killed process that nobody waited for is as dead as one that is gone
    return "" if fields[0] in "ZX" else fields[19]
