"""Programs that feat runs: none outlives it, however it ends.

A program that is started here leads a process group of its own, so that what it starts in turn
can be ended with it. One watchdog a process knows these groups: a shell that reads a pipe, which
the kernel closes when this process ends, and then kills them. That holds after SIGKILL too, on
every POSIX system and whichever thread started the program.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

# It keeps the last line it has read: the groups that are alive, by their numbers.
_WATCH = 'while read -r line; do groups=$line; done; for g in $groups; do kill -9 -"$g"; done'


class Child(subprocess.Popen[bytes]):
    """A running program; its input is empty and its output unbuffered.

    Ctrl-C does not reach it: ffmpeg would end in good order, and a video would seem shorter than
    it is.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: int | IO[Any],
        stderr: int | IO[Any],
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            bufsize=0,
            start_new_session=True,
            pass_fds=pass_fds,
            env=env,
        )
        _watchdog.add(self.pid)

    def end(self) -> int:
        """Kill the program, if it runs, and whatever it started; return its exit status."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self.wait()
        _watchdog.remove(self.pid)
        for pipe in (self.stdout, self.stderr):
            if pipe:
                pipe.close()
        return status


class _Watchdog:
    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._lock = threading.Lock()
        self._shell: subprocess.Popen[bytes] | None = None

    def add(self, group: int) -> None:
        with self._lock:
            self._groups.add(group)
            if self._shell is None or self._shell.poll() is not None:
                self._start()
            self._tell()

    def remove(self, group: int) -> None:
        with self._lock:
            self._groups.discard(group)
            self._tell()

    def _start(self) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        atexit.register(self._stop, self._shell)

    def _tell(self) -> None:
        shell = self._shell
        if shell and shell.stdin:
            # somebody killed the watchdog: the next program gets a new one
            with contextlib.suppress(BrokenPipeError):
                shell.stdin.write(f"{' '.join(map(str, sorted(self._groups)))}\n".encode())

    @staticmethod
    def _stop(shell: subprocess.Popen[bytes]) -> None:
        if shell.stdin:
            shell.stdin.close()
        # a process that was forked from this one, and still runs, holds the pipe as well
        with contextlib.suppress(subprocess.TimeoutExpired):
            shell.wait(1)


_watchdog = _Watchdog()


def child_command(module: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a child process that runs one of our modules."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    # -P: a json.py in the current folder, which may be somebody's cache, is not run
    return [sys.executable, "-P", "-m", module], {**os.environ, "PYTHONPATH": path}


def last_line(stderr: bytes) -> str:
    """Return the last line of text that a program wrote to stderr; empty if there is none."""
    lines = stderr.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return "".join(char if char.isprintable() else "?" for char in last)


def limit_memory(max_bytes: int) -> None:
    """Let this process take so much memory at most, where the system knows how; keep no core."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
