"""One ffmpeg process and its three pipes: frames, their times, and the log."""

import contextlib
import io
import math
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from data.child import Child
from data.errors import DecodeError
from extract.decode.ffmpeg_log import FFmpegLog

_PIPE_BYTES = 1 << 20
_BLOCK = 1 << 16
_LOOK_SECONDS = 0.2


class FFmpegProcess:
    """A running ffmpeg whose frames, times and log are read in turns, by one thread.

    ffmpeg waits where nobody reads, so nothing grows; and a wait ends when no byte of a frame has
    come for `stall_seconds`, whatever else is said meanwhile.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        video_id: str,
        log: FFmpegLog,
        feed_times: Callable[[bytes], None],
        stall_seconds: float,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start ffmpeg.

        Args:
            command: returns the command line, given the descriptor for the times.
            video_id: for messages.
            log: fed with what ffmpeg says.
            feed_times: fed with the times of the frames.
            stall_seconds: see `Limits`.
            pass_fds: more descriptors that the command line names.
        """
        self._video_id = video_id
        self._stall_seconds = stall_seconds
        self._selector = selectors.DefaultSelector()
        reading, writing = os.pipe()
        self._times_pipe = os.fdopen(reading, "rb", buffering=0)
        try:
            self._child = Child(
                command(writing),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(writing, *pass_fds),
            )
        except BaseException:
            self._times_pipe.close()
            self._selector.close()
            raise
        finally:
            os.close(writing)
        self._frames_pipe = cast(io.RawIOBase, self._child.stdout)
        _enlarge_pipe(self._frames_pipe)
        self._selector.register(self._times_pipe, selectors.EVENT_READ, feed_times)
        self._selector.register(cast(Any, self._child.stderr), selectors.EVENT_READ, log.feed)

    def read_into(self, target: memoryview) -> int:
        """Fill `target` with frames; return the number of bytes, fewer only at the end."""
        filled = 0
        deadline = self._deadline()
        self._selector.register(self._frames_pipe, selectors.EVENT_READ)
        try:
            while filled < len(target):
                if self._frames_pipe in self._serve(deadline):
                    count = self._frames_pipe.readinto(target[filled:])
                    if not count:
                        break
                    filled += count
                    deadline = self._deadline()
        finally:
            self._selector.unregister(self._frames_pipe)
        return filled

    def read_until(self, enough: Callable[[], bool]) -> None:
        """Read times and log until that holds or both have ended."""
        deadline = self._deadline()
        while not enough() and self._selector.get_map():
            self._serve(deadline)

    def finish(self) -> int:
        """End ffmpeg once its frames have ended; return its exit status, below 0 for a signal."""
        deadline = self._deadline()
        try:
            while self._selector.get_map():
                ready = self._serve(deadline, _LOOK_SECONDS)
                if not ready and self._child.poll() is not None:
                    break  # something that it left behind holds the pipes
            return self._child.wait(max(deadline - time.monotonic(), _LOOK_SECONDS))
        except subprocess.TimeoutExpired as error:
            raise self._stalled() from error
        finally:
            self.close()

    def close(self) -> None:
        """Kill ffmpeg, if it runs, and what it started; harmless when repeated."""
        self._selector.close()
        self._times_pipe.close()
        self._child.end()

    def _deadline(self) -> float:
        return time.monotonic() + self._stall_seconds

    def _serve(self, deadline: float, most: float = math.inf) -> list[object]:
        """Wait for the pipes, feed what came on all but that of the frames, return them."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise self._stalled()
        ready = [key for key, _ in self._selector.select(min(remaining, most))]
        for key in ready:
            if key.data is None:
                continue
            data = os.read(key.fd, _BLOCK)
            if not data:
                self._selector.unregister(key.fileobj)
            try:
                key.data(data)
            except ValueError as error:
                raise DecodeError(
                    f"{self._video_id}: what ffmpeg says is not understood: {error}; name another "
                    "ffmpeg in FEAT_FFMPEG"
                ) from error
        return [key.fileobj for key in ready]

    def _stalled(self) -> DecodeError:
        return DecodeError(
            f"{self._video_id}: no frame came from ffmpeg for {self._stall_seconds:g} s; check the "
            "file and the disk that it is on, or wait longer: --stall-seconds or FEAT_STALL_SECONDS"
        )


def _enlarge_pipe(pipe: io.RawIOBase) -> None:
    """Let ffmpeg run a few frames ahead instead of waking us up every 64 KiB (Linux only)."""
    try:
        import fcntl

        resize = fcntl.F_SETPIPE_SZ
    except (ImportError, AttributeError):
        return
    # the limit for unprivileged users may be lower or used up: then it stays as it is
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), resize, _PIPE_BYTES)
