"""`labels.csv`: which frames of which video are abnormal, and what each video is used for.

Columns: `video` (path under the videos folder), `split` (train, val, test), `category`, `anomaly`
and, if wanted, `scene` and `frames`. `anomaly` holds frames, 0-based and half-open:
`60:180;200:221`; empty for a normal video, `all` for the whole of one, `?` for abnormal somewhere,
frames unknown. `frames` is how many frames the annotators saw, which tells a shifted or cut video.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from data.errors import LabelsError
from data.files import write_whole
from data.intervals import Intervals, clip_intervals, frames_from_intervals

Split = Literal["train", "val", "test"]
Extent = Literal["normal", "intervals", "all", "unknown"]
SPLITS: tuple[Split, ...] = get_args(Split)
COLUMNS = ("video", "split", "category", "anomaly")
OPTIONAL_COLUMNS = ("scene", "frames")
EXTENT_TEXT: dict[str, Extent] = {"": "normal", "all": "all", "?": "unknown"}
MAX_PROBLEMS_SHOWN = 100

_INTERVAL = re.compile(r"\s*([0-9]{1,12})\s*:\s*([0-9]{1,12})\s*")


class FieldError(LabelsError, ValueError):
    """A field of a label breaks a rule; the message tells found and expected, not where."""


@dataclass(frozen=True, kw_only=True)
class VideoLabel:
    """One row of `labels.csv`.

    Attributes:
        video: POSIX path relative to the videos folder.
        split: the part this video belongs to.
        category: "" if none is given; a normal video may have one, as LAD's do.
        extent: which frames are abnormal: none, those in `intervals`, all, or nobody knows which.
        intervals: frames, 0-based, half-open, ascending, not overlapping; for "intervals" only.
        scene: "" if not given; videos of one scene should not be divided over two splits.
        num_frames: frames of the video the label was made for; None if not given.

    Raises:
        FieldError: a field breaks one of these rules.
    """

    video: str
    split: Split
    category: str = ""
    extent: Extent = "normal"
    intervals: Intervals = ()
    scene: str = ""
    num_frames: int | None = None

    def __post_init__(self) -> None:
        check_video_path(self.video)
        if self.split not in SPLITS:
            raise FieldError(f"split is '{self.split}', expected train, val or test")
        for column in ("category", "scene"):
            check_text(column, getattr(self, column))
        if self.extent not in get_args(Extent):
            raise FieldError(f"extent is '{self.extent}', expected one of {get_args(Extent)}")
        if (self.extent == "intervals") != bool(self.intervals):
            raise FieldError(f"extent '{self.extent}' with {len(self.intervals)} intervals")
        check_intervals(self.intervals)
        if self.num_frames is not None:
            if self.num_frames < 1:
                raise FieldError(f"frames is {self.num_frames}, expected a positive number")
            if self.intervals and self.intervals[-1][1] > self.num_frames:
                raise FieldError(
                    f"anomaly '{self.anomaly}' goes to frame {self.intervals[-1][1]}, but frames"
                    f" is {self.num_frames}"
                )

    @property
    def is_abnormal(self) -> bool:
        """True if some frame is abnormal, known or not."""
        return self.extent != "normal"

    @property
    def is_weak(self) -> bool:
        """True if the video is abnormal somewhere but the frames are unknown."""
        return self.extent == "unknown"

    @property
    def anomaly(self) -> str:
        """The text of the column `anomaly`."""
        if self.extent == "intervals":
            return ";".join(f"{start}:{end}" for start, end in self.intervals)
        return next(text for text, extent in EXTENT_TEXT.items() if extent == self.extent)

    def frame_labels(self, num_frames: int) -> npt.NDArray[np.uint8]:
        """Return `(num_frames,)` uint8, 1 where a frame is abnormal.

        Raises:
            LabelsError: the frames are unknown (`?`), or an interval ends after the last frame.
        """
        if self.extent == "unknown":
            raise LabelsError(
                f"{self.video}: anomaly is '?' (frames unknown), expected frame intervals, 'all' or"
                " nothing; use a weakly supervised method or give the frames"
            )
        if self.extent == "all":
            return np.ones(num_frames, dtype=np.uint8)
        if self.intervals and self.intervals[-1][1] > num_frames:
            raise LabelsError(
                f"{self.video}: anomaly '{self.anomaly}' goes to frame {self.intervals[-1][1]},"
                f" but the video has {num_frames} frames; run `feat data check`"
            )
        return frames_from_intervals(self.intervals, num_frames)

    def clipped(self, num_frames: int) -> "VideoLabel":
        """Return this label without what lies after frame `num_frames`.

        Raises:
            LabelsError: no abnormal frame would be left, which would turn the video normal.
        """
        kept = clip_intervals(self.intervals, num_frames)
        if self.intervals and not kept:
            raise LabelsError(
                f"{self.video}: anomaly '{self.anomaly}' lies wholly after the last of its"
                f" {num_frames} frames; mend the label or the video"
            )
        known = None if self.num_frames is None else min(self.num_frames, num_frames)
        return replace(self, intervals=kept, num_frames=known)


def check_video_path(video: str) -> None:
    """Raise FieldError unless `video` is a clean relative POSIX path."""
    if not video:
        raise FieldError("video is empty, expected a path under the videos folder")
    check_text("video", video)
    if "\\" in video:
        raise FieldError(f"video is '{video}', expected '/' between folders, not '\\'")
    if video.startswith("/") or re.match(r"[A-Za-z]:/", video):
        raise FieldError(f"video is '{video}', expected a path relative to the videos folder")
    if any(part in ("", ".", "..") for part in video.split("/")):
        raise FieldError(f"video is '{video}', expected a path without empty, '.' or '..' parts")


def check_text(column: str, text: str) -> None:
    """Raise FieldError if `text` would not survive a CSV file and a reader that trims cells."""
    if text != text.strip() or any(
        ord(char) < 32 or char in "\x7f\x85\u2028\u2029" for char in text
    ):
        raise FieldError(f"{column} is {text!r}, expected no control character or outer blank")


def check_intervals(intervals: Intervals) -> None:
    """Raise FieldError unless the intervals are non-empty, ascending and free of overlap."""
    previous_end = 0
    for start, end in intervals:
        if start < 0 or end <= start:
            raise FieldError(
                f"interval {start}:{end} is empty, expected start < end (0-based, end excluded)"
            )
        if start < previous_end:
            raise FieldError(
                f"interval {start}:{end} begins before the one before it ends ({previous_end}),"
                " expected ascending intervals without overlap"
            )
        previous_end = end


def parse_anomaly(text: str) -> tuple[Extent, Intervals]:
    """Return what the text of the column `anomaly` says.

    Raises:
        FieldError: the text is none of the four forms.
    """
    text = text.strip()
    if text in EXTENT_TEXT:
        return EXTENT_TEXT[text], ()
    intervals = []
    for part in text.split(";"):
        match = _INTERVAL.fullmatch(part)
        if match is None:
            raise FieldError(
                f"anomaly is '{text}', expected frames like '60:180;200:221', 'all', '?' or nothing"
            )
        intervals.append((int(match[1]), int(match[2])))
    check_intervals(tuple(intervals))
    return "intervals", tuple(intervals)


def read_labels(path: Path) -> list[VideoLabel]:
    """Return the rows of a labels file, in its order.

    Raises:
        LabelsError: the file cannot be read or has bad rows; every one of them is in the message,
            a line each, with file, line, found and expected.
    """
    rows = _read_rows(path)
    columns = _check_header(path, rows)
    problems: list[str] = []
    labels: list[VideoLabel] = []
    first_seen: dict[str, tuple[int, str]] = {}
    for line, cells in rows[1:]:
        try:
            label = _parse_row(columns, cells)
            _check_unseen(label, first_seen)
        except FieldError as error:
            problems.append(f"{path}:{line}: {error}")
            continue
        first_seen[label.video] = (line, label.split)
        labels.append(label)
    if problems:
        raise LabelsError(join_problems(problems))
    if not labels:
        raise LabelsError(f"{path}: no rows below the header, expected one for each video")
    return labels


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line, cells) for every row that is not blank; lines count from 1."""
    try:
        text = path.read_bytes().decode("utf-8-sig")  # spreadsheets put a byte order mark first
    except FileNotFoundError as error:
        raise LabelsError(f"{path}: no such labels file; write one or see `feat data`") from error
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise LabelsError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8 CSV") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, line = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise LabelsError(f"{path}:{line}: not valid CSV: {error}") from error
    return rows


def _check_header(path: Path, rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    expected = f"expected '{','.join(COLUMNS)}', if wanted also {' and '.join(OPTIONAL_COLUMNS)}"
    if not rows:
        raise LabelsError(f"{path}: empty file, {expected} in the first line")
    line, header = rows[0]
    known = {*COLUMNS, *OPTIONAL_COLUMNS}
    if not set(COLUMNS) <= set(header) <= known or len(set(header)) != len(header):
        raise LabelsError(f"{path}:{line}: header is '{','.join(header)}', {expected}")
    return header


def _parse_row(columns: Sequence[str], cells: Sequence[str]) -> VideoLabel:
    if len(cells) != len(columns):
        hint = " (a name with a comma needs quotes)" if len(cells) > len(columns) else ""
        raise FieldError(f"{len(cells)} cells, expected {len(columns)}: {','.join(columns)}{hint}")
    row = dict(zip(columns, cells, strict=True))
    extent, intervals = parse_anomaly(row["anomaly"])
    return VideoLabel(
        video=row["video"],
        split=cast(Split, row["split"]),
        category=row["category"],
        extent=extent,
        intervals=intervals,
        scene=row.get("scene", ""),
        num_frames=_parse_frames(row.get("frames", "")),
    )


def _parse_frames(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise FieldError(f"frames is '{text}', expected a number of frames or nothing")
    return int(text)


def _check_unseen(label: VideoLabel, first_seen: dict[str, tuple[int, str]]) -> None:
    if label.video not in first_seen:
        return
    line, split = first_seen[label.video]
    if split != label.split:
        raise FieldError(
            f"video '{label.video}' is in split {label.split} here and in {split} at line {line},"
            " expected one split for a video"
        )
    raise FieldError(f"video '{label.video}' is listed at line {line} already, expected it once")


def join_problems(problems: Sequence[str]) -> str:
    """Return the problems a line each, and how many more there are if they are very many."""
    shown = list(problems[:MAX_PROBLEMS_SHOWN])
    if len(problems) > len(shown):
        shown.append(f"... and {len(problems) - len(shown)} more")
    return "\n".join(shown)


def write_labels(path: Path, labels: Iterable[VideoLabel]) -> None:
    """Write `labels` as `path`, whole or not at all; optional columns only where a row needs them.

    Raises:
        LabelsError: a video is in it twice, or the file cannot be written.
    """
    rows = list(labels)
    seen: dict[str, str] = {}
    for row in rows:
        if row.video in seen:
            raise LabelsError(f"{path}: video '{row.video}' is in the labels twice; keep one")
        seen[row.video] = row.split
    columns = [*COLUMNS, *(name for name in OPTIONAL_COLUMNS if any(_cell(r, name) for r in rows))]
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row, column) for column in columns] for row in rows)
    write_whole(path, buffer.getvalue(), error=LabelsError)


def _cell(row: VideoLabel, column: str) -> str:
    if column == "frames":
        return "" if row.num_frames is None else str(row.num_frames)
    return str(getattr(row, column))
