"""Times in labels: `1.5s:3s`, `0:01:02-0:01:05.5`, `@2.5s`. No I/O.

A time counts from the start of the video, as a player shows it. A span from a to b holds the frames
whose time t, that at which they appear, has a <= t < b. Times are compared to half a millisecond,
so that a frame's time that was rounded to milliseconds means that frame. A span that begins at 0
holds the first frame, though a file may show it later.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from data.intervals import Intervals, intervals_from_frames

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_HALF_MILLISECOND = 0.0005
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_CLOCK = rf"(?:[0-9]{{1,3}}:)?[0-9]{{1,3}}:{_NUMBER}"
_TIME = rf"(?:{_NUMBER} ?s|{_CLOCK})"
_SPAN = re.compile(rf"\s*({_TIME})\s*[-\u2013]\s*({_TIME})\s*")
_MOMENT = re.compile(rf"\s*@\s*({_TIME})\s*")
_SPAN_WITH_COLON = re.compile(rf"\s*({_NUMBER} ?s)\s*:\s*({_NUMBER} ?s)\s*")


@dataclass(frozen=True)
class TimeSpan:
    """A part of a video, half-open.

    Attributes:
        start: seconds from the start of the video.
        end: seconds; the frame that appears then is not in it.
        text: as it was written.

    Raises:
        ValueError: it is empty.
    """

    start: float
    end: float
    text: str = field(compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"interval {self.text} is empty, expected start < end")

    def holds(self, frame_seconds: "npt.NDArray[np.float64]") -> "npt.NDArray[np.bool_]":
        """Return for each frame, (T,), whether it is in the span.

        Args:
            frame_seconds: (T,) the time of each frame, in any order.
        """
        start = self.start - _HALF_MILLISECOND if self.start else -math.inf
        inside = frame_seconds < self.end - _HALF_MILLISECOND
        return inside & (frame_seconds >= start)


@dataclass(frozen=True)
class Moment(TimeSpan):
    """A click: the frame that is shown at a time, `start`, which is `end`, too."""

    def __post_init__(self) -> None:
        if not 0 <= self.start == self.end:
            raise ValueError(f"click {self.text} is not one time")

    def holds(self, frame_seconds: "npt.NDArray[np.float64]") -> "npt.NDArray[np.bool_]":
        """Return for each frame, (T,), whether it is the one; the first stands from 0 on."""
        appeared = frame_seconds <= self.start + _HALF_MILLISECOND
        latest = frame_seconds[appeared].max() if appeared.any() else frame_seconds.min()
        inside: npt.NDArray[np.bool_] = frame_seconds == latest
        inside[inside.argmax() + 1 :] = False
        return inside


def parse_moment(text: str) -> Moment | None:
    """Return the click that `text` writes, such as `@2.5s` or `@0:01:02`; None if it is none.

    Raises:
        ValueError: it is one, but with more than 59 seconds or minutes on its clock.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        return None
    seconds = _seconds(match[1])
    return Moment(seconds, seconds, text.strip())


def parse_span(text: str) -> TimeSpan | None:
    """Return the span that `text` writes, None if it is none.

    Raises:
        ValueError: it is one, but empty or with more than 59 seconds or minutes on its clock.
    """
    match = _SPAN.fullmatch(text) or _SPAN_WITH_COLON.fullmatch(text)
    if match is None:
        return None
    return TimeSpan(_seconds(match[1]), _seconds(match[2]), text.strip())


def frames_of_spans(
    spans: Iterable[TimeSpan], frame_seconds: "npt.NDArray[np.float64]"
) -> Intervals:
    """Return the frames that are in one of the spans.

    Raises:
        ValueError: a span holds no frame.
    """
    import numpy as np

    marks = np.zeros(len(frame_seconds), dtype=np.bool_)
    for span in spans:
        inside = span.holds(frame_seconds)
        if not inside.any():
            raise ValueError(
                f"no frame appears in {span.text}: the {len(frame_seconds)} frames appear from"
                f" {clock_text(frame_seconds.min())} to {clock_text(frame_seconds.max())}"
            )
        marks |= inside
    return intervals_from_frames(marks)


def end_of_video(frame_seconds: "npt.NDArray[np.float64]") -> float:
    """Return when the last frame was shown for the median time between two, in seconds."""
    import numpy as np

    gap = float(np.median(np.diff(frame_seconds))) if len(frame_seconds) > 1 else 0.0
    return float(frame_seconds.max()) + max(0.0, gap)


def clock_text(seconds: float) -> str:
    """Return seconds as a player shows them, to the millisecond: `0:01:02.500`."""
    thousandths = round(max(0.0, float(seconds)) * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _seconds(text: str) -> float:
    if text.endswith("s"):
        return float(text[:-1])
    *larger, seconds = text.split(":")
    if float(seconds) >= 60 or (len(larger) == 2 and int(larger[1]) >= 60):
        raise ValueError(f"time is '{text}', expected minutes and seconds below 60")
    minutes = int(larger[-1]) + 60 * int(larger[0] if len(larger) == 2 else 0)
    return 60 * minutes + float(seconds)
