"""Reading what ffmpeg says.

Everything about a decode is learnt from the one ffmpeg process that does it: its log names the
stream, its pixel format and rotation, every frame's presentation time (the `showinfo` filter) and
every error. So no ffprobe is needed, which imageio-ffmpeg does not bundle.
"""

import math
import re
import threading
from array import array
from fractions import Fraction
from typing import BinaryIO

from extract.decode.stream import StreamInfo

_STREAM = re.compile(r"^ *Stream #0:(\d+)(?:\[\w+\])?(?:\([^)]*\))?: (\w+): (.*)$")
_MAPPING = re.compile(r"^ *Stream #0:(\d+) \(.*\) -> (?!#)")
_DURATION = re.compile(r"^ *Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?),")
_ROTATION = re.compile(r"rotation of (-?\d+(?:\.\d+)?) degrees")
_TIME_BASE = re.compile(r"config in time_base: (\d+)/(\d+), frame_rate: (\d+)/(\d+)")
_FRAME = re.compile(r"\[Parsed_showinfo_\d+ @ \w+\] (?:\[info\] )?n: *(\d+) pts: *(-?\d+|NOPTS)\b")
# `[h264 @ 0x55d] [error] text`; there may be two contexts, and none for ffmpeg's own messages
_PREFIX = re.compile(r"^((?:\[[^\]]* @ [^\]]*\] )*)\[([a-z]+)\] (.*)$")
_BAD_LEVELS = frozenset(("error", "fatal", "panic"))
# Says that something failed, not what: worth quoting only where nothing better was said.
_VAGUE = ("Error ", "Conversion failed", "Exiting", "Could not ", "Failed to ", "Terminating")
_LINE_LIMIT = 1 << 16
_MAX_ERRORS = 8


class FFmpegLog:
    """What one ffmpeg process has said so far. `feed` and the readers may be different threads.

    Attributes:
        pts_seconds: presentation time of each frame announced, NaN where the file gives none.
        errors: the first few messages of level error and above, oldest first.
        num_errors: how many there were.
    """

    def __init__(self) -> None:
        self.pts_seconds = array("d")
        self.errors: list[str] = []
        self.num_errors = 0
        self._streams: dict[int, tuple[str, str]] = {}
        self._rotations: dict[int, int] = {}
        self._current: int | None = None
        self._mapped: int | None = None
        self._in_input = False
        self._duration = 0.0
        self._time_base = Fraction(0)
        self._filter_rate = Fraction(0)
        self._first_frame = 0
        self._changed = threading.Condition()
        self._closed = False

    def drain(self, stderr: BinaryIO) -> None:
        """Read the log until it ends: a full pipe would stop ffmpeg."""
        try:
            while line := stderr.readline(_LINE_LIMIT):
                self.feed(line.decode("utf-8", "replace").rstrip("\r\n"))
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()

    def feed(self, line: str) -> None:
        """Take in one line, written under `-loglevel level+info`."""
        frame = _FRAME.search(line)
        if frame:
            self._feed_frame(int(frame[1]), frame[2])
            return
        prefix = _PREFIX.match(line)
        if prefix is None:
            return
        context, level, text = prefix.groups()
        if level in _BAD_LEVELS:
            self.num_errors += 1
            if len(self.errors) < _MAX_ERRORS:
                self.errors.append(text.strip())
        elif level == "info" and not context:
            self._feed_header(text)
        elif level == "info" and (base := _TIME_BASE.search(text)):
            self._time_base = Fraction(int(base[1]), int(base[2]))
            self._filter_rate = Fraction(int(base[3]), int(base[4]) or 1)
            # frames change their size in mid-stream: the filters start anew and count from 0
            self._first_frame = len(self.pts_seconds)

    def _feed_frame(self, number: int, pts: str) -> None:
        with self._changed:
            # a line torn by another thread's message must not shift the times of all that follow
            lost = self._first_frame + number - len(self.pts_seconds)
            self.pts_seconds.extend([math.nan] * lost)
            self.pts_seconds.append(
                math.nan if pts == "NOPTS" else float(int(pts) * self._time_base)
            )
            self._changed.notify_all()

    def _feed_header(self, text: str) -> None:
        if text.startswith(("Input #", "Output #")):
            self._in_input = text.startswith("Input #")
        elif mapping := _MAPPING.match(text):
            self._mapped = int(mapping[1])
        elif self._in_input and (duration := _DURATION.match(text)):
            hours, minutes, seconds = (float(part) for part in duration.groups())
            self._duration = hours * 3600 + minutes * 60 + seconds
        elif self._in_input and (stream := _STREAM.match(text)):
            self._current = int(stream[1])
            self._streams[self._current] = (stream[2], stream[3])
        elif self._in_input and self._current is not None and (turn := _ROTATION.search(text)):
            # ffmpeg counts anticlockwise
            self._rotations[self._current] = round(-float(turn[1])) % 360

    def wait_for_pts(self, count: int) -> None:
        """Return once `count` frames are announced or the log has ended."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.pts_seconds) >= count or self._closed)

    def stream_info(self) -> StreamInfo:
        """Return the decoded stream's description; complete once a frame was announced."""
        index = self._mapped if self._mapped is not None else 0
        fields = _split_fields(self._streams.get(index, ("Video", ""))[1])
        frame_rate = self._frame_rate(fields)
        size = next((m for f in fields if (m := re.match(r"(\d+)x(\d+)\b", f))), None)
        return StreamInfo(
            stream_index=index,
            width=int(size[1]) if size else 0,
            height=int(size[2]) if size else 0,
            codec=fields[0].split(" ")[0] if fields else "",
            pix_fmt=re.split(r"[ (]", fields[1])[0] if len(fields) > 1 else "",
            rotation=self._rotations.get(index, 0),
            frame_rate=frame_rate,
            expected_frames=round(self._duration * frame_rate),
        )

    def stream_kinds(self) -> list[str]:
        """Return the input's streams in words, such as `Audio aac`, `Video png (picture)`."""
        words = []
        for kind, description in self._streams.values():
            codec = description.split(" ")[0].rstrip(",")
            picture = " (picture)" if "(attached pic)" in description else ""
            words.append(f"{kind} {codec}{picture}".lower())
        return words

    def cause(self) -> str:
        """Return the most telling error so far, "" if there was none."""
        telling = [error for error in self.errors if not error.startswith(_VAGUE)]
        return (telling or self.errors or [""])[0]

    def _frame_rate(self, fields: list[str]) -> float:
        """Return the average rate where the file states one, else the rate ffmpeg guesses.

        The average is printed with two decimals only, so the guess, which is exact, stands in
        for it where the two agree.
        """
        stated = next((m for f in fields if (m := re.match(r"([\d.]+)(k?) fps$", f))), None)
        average = float(stated[1]) * (1000 if stated[2] else 1) if stated else 0.0
        guessed = float(self._filter_rate)
        if average <= 0 or abs(guessed - average) <= 0.01:
            average = guessed
        return average if average > 0 else 25.0


def _split_fields(description: str) -> list[str]:
    """Split a stream's description at the commas outside brackets."""
    fields, depth, start = [], 0, 0
    for i, char in enumerate(description):
        if char in "([":
            depth += 1
        elif char in ")]":
            depth -= 1
        elif char == "," and depth == 0:
            fields.append(description[start:i].strip())
            start = i + 1
    return [*fields, description[start:].strip()] if description else []
