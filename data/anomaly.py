"""The text of the column `anomaly` in labels.csv: intervals, clicks or a word. No I/O."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from data.errors import LabelsError
from data.intervals import MAX_FRAMES, Intervals
from data.times import TimeSpan, parse_moment, parse_span

Extent = Literal["normal", "intervals", "all", "unknown", "clicks"]
EXTENT_TEXT: dict[str, Extent] = {"": "normal", "all": "all", "?": "unknown"}

_INTERVAL = re.compile(r"\s*([0-9]{1,12})\s*:\s*([0-9]{1,12})\s*")
_CLICK = re.compile(r"\s*@\s*([0-9]{1,12})\s*")


class FieldError(LabelsError, ValueError):
    """A field of a label breaks a rule; the message tells found and expected, not where."""


def check_intervals(intervals: Intervals) -> None:
    """Raise FieldError unless the intervals are non-empty, ascending and free of overlap."""
    previous_end = 0
    for start, end in intervals:
        if start < 0 or end <= start:
            raise FieldError(
                f"interval {start}:{end} is empty, expected start < end (0-based, end excluded)"
            )
        if end > MAX_FRAMES:
            raise FieldError(f"interval {start}:{end} ends after frame {MAX_FRAMES}")
        if start < previous_end:
            raise FieldError(
                f"interval {start}:{end} begins before the one before it ends ({previous_end}),"
                " expected ascending intervals without overlap"
            )
        previous_end = end


def check_times(times: Sequence[TimeSpan]) -> None:
    """Raise FieldError unless the times are ascending and free of overlap."""
    for before, span in pairwise(times):
        if span.start < before.end:
            raise FieldError(
                f"interval {span.text} begins before the one before it ends ({before.text}),"
                " expected ascending intervals without overlap"
            )


def parse_anomaly(text: str) -> tuple[Extent, Intervals, tuple[TimeSpan, ...]]:
    """Return what the text of the column `anomaly` says: extent, frames and times.

    Raises:
        FieldError: the text is none of the forms.
    """
    text = text.strip()
    if text in EXTENT_TEXT:
        return EXTENT_TEXT[text], (), ()
    intervals: list[tuple[int, int]] = []
    times: list[TimeSpan] = []
    parts = text.split(";")
    are_clicks = [part.strip().startswith("@") for part in parts]
    if any(are_clicks) and not all(are_clicks):
        raise FieldError(
            f"anomaly is '{text}', expected intervals or clicks (@) but not both: clicks are for"
            " a video whose intervals nobody knows"
        )
    for part in parts:
        if match := _CLICK.fullmatch(part):
            intervals.append((int(match[1]), int(match[1]) + 1))
            continue
        if match := _INTERVAL.fullmatch(part):
            intervals.append((int(match[1]), int(match[2])))
            continue
        try:
            span = parse_span(part) or parse_moment(part)
        except ValueError as error:
            raise FieldError(f"anomaly is '{text}': {error}") from error
        if span is None:
            raise FieldError(
                f"anomaly is '{text}', expected frames like '60:180;200:221', times like '1.5s:3s'"
                " or '0:01:02-0:01:05.5', clicks like '@70' or '@2.5s', 'all', '?' or"
                f" nothing{_hint(part.strip())}"
            )
        times.append(span)
    check_intervals(tuple(intervals))
    check_times(times)
    return "clicks" if any(are_clicks) else "intervals", tuple(intervals), tuple(times)


def anomaly_text(extent: Extent, intervals: Intervals, times: Sequence[TimeSpan]) -> str:
    """Return the text that `parse_anomaly` reads."""
    if extent in ("normal", "all", "unknown"):
        return next(text for text, named in EXTENT_TEXT.items() if named == extent)
    if extent == "clicks":
        frames = [f"@{frame}" for start, end in intervals for frame in range(start, end)]
    else:
        frames = [f"{start}:{end}" for start, end in intervals]
    return ";".join([*frames, *(span.text for span in times)])


def _hint(part: str) -> str:
    """Return what may have happened to an interval that cannot be read, "" if that is unclear."""
    if re.fullmatch(r"[0-9]+:[0-9]{2}:[0-9]{2}(\.[0-9]+)?( [AP]M)?|[0-9]+:[0-9]{2} [AP]M", part):
        return (
            f"; '{part}' is one time: a spreadsheet makes times of frames like 60:180, so give the"
            " column the format text before you type, or write seconds like '60s:180s'"
        )
    if re.fullmatch(r"[0-9]+,[0-9]+ ?s?[-:][0-9]+,[0-9]+ ?s?", part):
        return "; decimals need a point, not a comma"
    if re.fullmatch(r"[0-9]+\.[0-9]+[-:][0-9]+(\.[0-9]+)?", part):
        return "; seconds need an 's': '1.5s:3s'"
    if re.fullmatch(r"[0-9]+ *[-\u2013] *[0-9]+", part):
        return "; frames have a colon between them, seconds an 's': '60:180' or '60s-180s'"
    if re.fullmatch(r"[0-9]{1,4}[-./ ]([A-Za-z]{3}|[0-9]{1,2})([-./ ][0-9]{1,4})?", part):
        return "; it looks like a date: give the spreadsheet's column the format text"
    return ""
