"""The times of a video's frames, on a pipe of their own.

ffmpeg's `metadata` filter prints each frame's presentation time to a pipe that nothing else is
written to. What a file stores with a frame is deleted before, so no text of the file gets there.
"""

import re
from array import array
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

DECODED, DELIVERED = "in", "out"
"""Under which name frames are printed before they are resampled, and as they leave."""

_RECORD = re.compile(
    rb"frame:\d+ +pts:(-?\d{1,20}|NOPTS) +pts_time:(-?[\d.e+-]{1,40}|NOPTS) *\n(in|out)=0\n"
)
_MAX_REST = 200
_NO_TIME = -(1 << 63)  # as ffmpeg's AV_NOPTS_VALUE
# frames whose times have come before they have: none of ffmpeg's queues holds so many
_MAX_AHEAD = 1 << 20


def printing(name: str, fd: int) -> str:
    """Return the filters that print the times of all frames that pass to a pipe."""
    return (
        f"metadata=delete,metadata=add:key={name}:value=0,"
        f"metadata=print:key={name}:direct=1:file='pipe\\:{fd}'"
    )


class FrameTimes:
    """The times that have come and not been taken.

    Attributes:
        longest_gap: seconds between two frames that follow each other, before resampling.
    """

    def __init__(self) -> None:
        self.longest_gap = 0.0
        self._rest = b""
        self._ticks = array("q")
        self._last_seconds: float | None = None

    def __len__(self) -> int:
        return len(self._ticks)

    def feed(self, data: bytes) -> None:
        """Take in what was printed.

        Raises:
            ValueError: it is not what the filters print, or the frames themselves do not come.
        """
        text = self._rest + data
        end = 0
        while record := _RECORD.match(text, end):
            end = record.end()
            pts, seconds, name = record.groups()
            if name == DELIVERED.encode():
                self._ticks.append(_NO_TIME if pts == b"NOPTS" else _ticks(pts))
            elif seconds != b"NOPTS":
                self._note_gap(float(seconds))
        self._rest = text[end:]
        if len(self._rest) > _MAX_REST:
            raise ValueError("the times of the frames cannot be read")
        if len(self._ticks) > _MAX_AHEAD:
            raise ValueError("it tells the times of frames that do not come")

    def take(self, count: int, time_base: Fraction) -> NDArray[np.float64]:
        """Return the next `count` times, (count,) float64 seconds; NaN where the file has none."""
        ticks, self._ticks = self._ticks[:count], self._ticks[count:]
        num, den = time_base.numerator, time_base.denominator
        return np.array([np.nan if t == _NO_TIME else t * num / den for t in ticks], np.float64)

    def _note_gap(self, seconds: float) -> None:
        if self._last_seconds is not None:
            self.longest_gap = max(self.longest_gap, seconds - self._last_seconds)
        self._last_seconds = seconds


def _ticks(pts: bytes) -> int:
    ticks = int(pts)
    if not -(1 << 63) < ticks < 1 << 63:
        raise ValueError("the time of a frame is out of range")
    return ticks
