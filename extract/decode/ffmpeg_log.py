"""Reading what ffmpeg says: the streams of a file, how it is decoded, and every error.

Text that is stored in a file, such as a title, is part of this log, with the line breaks it has.
So nothing is believed because it looks like ffmpeg. What matters carries a word that was made up
for this one process and that no file can hold: ffmpeg puts it between the fields of a stream's
description (`-dump_separator`) and into the name of the filter that tells the time base. The rest
(rotation, duration, start, errors) changes no feature. The times of the frames come by another
way, see `extract.decode.frame_times`.
"""

import re
from fractions import Fraction

from extract.decode.stream import StreamInfo

_OPENING = re.compile(r"^ *Stream #0:(\d{1,5})")
_KIND = re.compile(r".*: (Video|Audio|Subtitle|Data|Attachment): (.*)$")
_MAPPING = re.compile(r"^ *Stream #0:(\d{1,5}) \(.*\) -> (?!#)")
_DURATION = re.compile(r"^ *Duration: (\d{1,7}):(\d\d):(\d\d(?:\.\d{1,9})?),")
_ROTATION = re.compile(r"^ +(?:Display Matrix|displaymatrix): rotation of (-?\d{1,3}\.\d+) degrees")
_TIME_BASE = re.compile(
    r"config in time_base: (\d{1,10})/(\d{1,10}), frame_rate: (\d{1,10})/(\d{1,10})$"
)
# told from the level verbose on; ffmpeg up to 5.1 does not name the input
_CLOCK_START = re.compile(r"Correcting start time (?:of Input #0 )?by (-?\d{1,15})\b")
_FRAME_SIZE = re.compile(r"n: *0 .*? s:(\d{1,9})x(\d{1,9}) ")
# `[h264 @ 0x55d] [error] text`; there may be two contexts, and none for ffmpeg's own messages
_PREFIX = re.compile(r"^((?:\[[^\]]* @ [^\]]*\] )*)\[([a-z]+)\] (.*)$")
LOG_OPTIONS = ("-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+verbose")
"""With which ffmpeg writes what `FFmpegLog` reads."""

_BAD_LEVELS = frozenset(("error", "fatal", "panic"))
# Says that something failed, not what: worth quoting only where nothing better was said.
_VAGUE = ("Error ", "Conversion failed", "Exiting", "Could not ", "Failed to ", "Terminating")
_TOO_LARGE = re.compile(r"Picture size (\d+x\d+) exceeds specified max pixel count (\d+)")
_MAX_LINE = 1 << 16
_MAX_ERRORS = 8
_MAX_ERROR = 300
_MAX_STREAMS = 1000


class FFmpegLog:
    """What one ffmpeg process has said so far.

    Attributes:
        secret: the word that marks what ffmpeg itself says.
        time_base: seconds of one tick of the frames' times; 0 if not told yet.
        clock_start: see `StreamInfo`.
        first_size: width and height of the first frame as it is shown, pixels; None if not told.
        errors: the first few messages of level error and above, oldest first.
        num_errors: how many there were.
    """

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.time_base = Fraction(0)
        self.clock_start = 0.0
        self.first_size: tuple[int, int] | None = None
        self.errors: list[str] = []
        self.num_errors = 0
        self._rest = b""
        self._streams: dict[int, tuple[str, list[str]]] = {}
        self._rotations: dict[int, int] = {}
        self._current = -1
        self._mapped = 0
        self._duration = 0.0
        self._filter_rate = Fraction(0)

    def feed(self, data: bytes) -> None:
        """Take in what was written under `LOG_OPTIONS`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._feed_line(line.decode("utf-8", "replace").rstrip("\r"))

    def _feed_line(self, line: str) -> None:
        prefix = _PREFIX.match(line)
        if prefix is None:
            return
        context, level, text = prefix.groups()
        if level in _BAD_LEVELS:
            self.num_errors += 1
            if len(self.errors) < _MAX_ERRORS:
                self.errors.append(_readable(text))
        elif context.startswith(f"[showinfo@{self.secret}"):
            if not self.time_base and (base := _TIME_BASE.match(text)):
                ticks, seconds, frames, per = (int(number) for number in base.groups())
                self.time_base = Fraction(ticks, seconds or 1)
                self._filter_rate = Fraction(frames, per or 1)
            elif size := _FRAME_SIZE.match(text):
                self.first_size = (int(size[1]), int(size[2]))
        elif level == "verbose" and (start := _CLOCK_START.match(text)):
            self.clock_start = int(start[1]) / 1e6
        elif level == "info" and not context and not self.time_base:
            self._feed_header(text)

    def _feed_header(self, text: str) -> None:
        if self.secret in text:
            self._feed_stream(text)
        elif mapping := _MAPPING.match(text):
            self._mapped = int(mapping[1])
        elif duration := _DURATION.match(text):
            hours, minutes, seconds = (float(part) for part in duration.groups())
            self._duration = hours * 3600 + minutes * 60 + seconds
        elif turn := _ROTATION.match(text):
            # ffmpeg counts anticlockwise
            self._rotations[self._current] = round(-float(turn[1])) % 360

    def _feed_stream(self, text: str) -> None:
        opening, (first, *others) = _OPENING.match(text), text.split(self.secret)
        kind = _KIND.match(first)
        if opening and kind and len(self._streams) < _MAX_STREAMS:
            self._current = int(opening[1])
            fields = [kind[2], *(field for part in others for field in _split_fields(part))]
            self._streams.setdefault(self._current, (kind[1], fields))

    def stream_info(self) -> StreamInfo | None:
        """Return the decoded stream's description, complete once a frame has come.

        None if ffmpeg described no such stream: a line break in the file's text tore the line.
        """
        if self._mapped not in self._streams:
            return None
        _, fields = self._streams[self._mapped]
        frame_rate = self._frame_rate(fields)
        width, height = _size(fields)
        return StreamInfo(
            stream_index=self._mapped,
            width=width,
            height=height,
            codec=_codec(fields),
            pix_fmt=re.split(r"[ (]", fields[1])[0] if len(fields) > 1 else "",
            rotation=self._rotations.get(self._mapped, 0),
            frame_rate=frame_rate,
            expected_frames=round(self._duration * frame_rate),
            sample_aspect=_sample_aspect(fields),
            clock_start=self.clock_start,
        )

    def stream_kinds(self) -> list[str]:
        """Return the input's streams in words, such as `audio aac`, `video png (picture)`."""
        return [
            f"{kind} {_codec(fields)}{' (picture)' if _is_picture(fields) else ''}".lower()
            for kind, fields in self._streams.values()
        ]

    def other_videos(self) -> list[str]:
        """Return the video streams that were not decoded in words, such as `0:1 h264 160x120`."""
        return [
            f"0:{index} {_codec(fields)} {'x'.join(map(str, _size(fields)))}"
            for index, (kind, fields) in self._streams.items()
            if kind == "Video" and index != self._mapped and not _is_picture(fields)
        ]

    def cause(self) -> str:
        """Return the most telling error so far, "" if there was none."""
        telling = [error for error in self.errors if not error.startswith(_VAGUE)]
        return (telling or self.errors or [""])[0]

    def refusal(self) -> str:
        """Return why a limit of ours kept ffmpeg from the file and what to do, "" if none did."""
        for error in self.errors:
            if size := _TOO_LARGE.search(error):
                return (
                    f"frames of {size[1]} pixels, more than --max-pixels {size[2]} admits; raise "
                    "it, or make the video smaller"
                )
            if "Format not on whitelist" in error or "Not detecting m3u8" in error:
                return (
                    "no video, but a playlist, a picture or a format that is not read; expected "
                    "one such as mp4, mkv, avi, mpg or ts; convert it, or replace it by what it "
                    "names"
                )
        return ""

    def _frame_rate(self, fields: list[str]) -> float:
        """Return the average rate where the file states one, else the rate ffmpeg guesses.

        The average is printed with two decimals only, so the guess, which is exact, stands in
        for it where the two agree.
        """
        stated = next(
            (m for f in fields if (m := re.match(r"(\d{1,9}(?:\.\d{1,9})?)(k?) fps$", f))), None
        )
        average = float(stated[1]) * (1000 if stated[2] else 1) if stated else 0.0
        guessed = float(self._filter_rate)
        if average <= 0 or abs(guessed - average) <= 0.01:
            average = guessed
        return average if average > 0 else 25.0


def _codec(fields: list[str]) -> str:
    return re.split("[ ,]", fields[0])[0]


def _size(fields: list[str]) -> tuple[int, int]:
    size = next((m for f in fields if (m := re.match(r"(\d{1,9})x(\d{1,9})\b", f))), None)
    return (int(size[1]), int(size[2])) if size else (0, 0)


def _sample_aspect(fields: list[str]) -> float:
    """Return the shape of a pixel; the container's word, which comes after the codec's, counts."""
    told = [m for f in fields if (m := re.search(r"\bSAR (\d{1,9}):(\d{1,9}) DAR\b", f))]
    width, height = (int(number) for number in told[-1].groups()) if told else (1, 1)
    # 0:1 says that it is not known, and what is far from a square is damage
    return width / height if height and 0.1 < width / height < 10 else 1.0


def _is_picture(fields: list[str]) -> bool:
    return "(attached pic)" in fields[-1]


def _readable(text: str) -> str:
    """Return a message without what could upset a terminal or fill a screen."""
    return "".join(char if char.isprintable() else "?" for char in text.strip()[:_MAX_ERROR])


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
