"""`labels.csv`: which frames of which video are abnormal, and what each video is used for.

Columns: `video` (path under the videos folder), `split` (train, val, test), `category`, `anomaly`
and, if wanted, `scene`, `frames`, `seconds` and `source` (who says so). `anomaly` holds frames,
0-based and half-open:
`60:180;200:221`, or times: `1.5s:3s;0:01:02-0:01:05.5`; empty for a normal video, `all` for the
whole of one, `?` for abnormal somewhere, frames unknown, `@70;@0:01:03` for clicks, one in each
event, its bounds unknown. Which frames times stand for is known once the video was decoded:
`VideoLabel.in_frames`. `frames` is how many frames the annotators saw, which
tells a shifted or cut video, and `seconds` how long the video is.
"""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast, get_args

from data.anomaly import (
    Extent,
    FieldError,
    anomaly_text,
    check_intervals,
    check_times,
    parse_anomaly,
)
from data.errors import LabelsError
from data.files import write_whole
from data.intervals import (
    MAX_FRAMES,
    Intervals,
    clip_intervals,
    frames_from_intervals,
    merge_intervals,
)
from data.names import nearest_names, video_name
from data.output_file import table
from data.times import TimeSpan, clock_text, frames_of_spans

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
COLUMNS = ("video", "split", "category", "anomaly")
OPTIONAL_COLUMNS = ("scene", "frames", "seconds", "source")
LABELS_FILE = table(COLUMNS)
MAX_PROBLEMS_SHOWN = 100
MAX_NAMES_SHOWN = 5
#: A player may show the length of a video in whole seconds, rounded up.
END_SECONDS = 1.0

_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True, kw_only=True)
class VideoLabel:
    """One row of `labels.csv`.

    Attributes:
        video: POSIX path relative to the videos folder, as `data.names.video_name` has it.
        split: the part this video belongs to.
        category: "" if none is given; a normal video may have one, as LAD's do.
        extent: which frames are abnormal: none, those in `intervals` and `times`, all, nobody
            knows which, or of each event one frame is known, its click.
        intervals: frames, 0-based, half-open, ascending, not overlapping; for "intervals", and for
            "clicks", where each frame in them is one.
        times: the same in seconds, until `in_frames` tells which frames they are.
        scene: "" if not given; videos of one scene should not be divided over two splits.
        num_frames: frames of the video the label was made for; None if not given.
        num_seconds: how long that video is; None if not given.
        source: who or what file says so; "" if not given. Labels that say the same are equal.

    Raises:
        FieldError: a field breaks one of these rules.
    """

    video: str
    split: Split
    category: str = ""
    extent: Extent = "normal"
    intervals: Intervals = ()
    times: tuple[TimeSpan, ...] = ()
    scene: str = ""
    num_frames: int | None = None
    num_seconds: float | None = None
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "video", video_name(self.video))
        check_video_path(self.video)
        if self.split not in SPLITS:
            raise FieldError(f"split is '{self.split}', expected train, val or test")
        for column in ("category", "scene", "source"):
            check_text(column, getattr(self, column))
        if self.extent not in get_args(Extent):
            raise FieldError(f"extent is '{self.extent}', expected one of {get_args(Extent)}")
        num_intervals = len(self.intervals) + len(self.times)
        if (self.extent in ("intervals", "clicks")) != bool(num_intervals):
            raise FieldError(f"extent '{self.extent}' with {num_intervals} intervals")
        check_intervals(self.intervals)
        check_times(self.times)
        if self.num_frames is not None:
            if not 1 <= self.num_frames <= MAX_FRAMES:
                raise FieldError(f"frames is {self.num_frames}, expected 1 to {MAX_FRAMES}")
            if self.intervals and self.intervals[-1][1] > self.num_frames:
                raise FieldError(
                    f"anomaly '{self.anomaly}' goes to frame {self.intervals[-1][1]}, but frames"
                    f" is {self.num_frames}"
                )
        if self.num_seconds is not None:
            if self.num_seconds <= 0:
                raise FieldError(f"seconds is {self.num_seconds}, expected a positive number")
            self._check_end(self.num_seconds)

    def _check_end(self, num_seconds: float) -> None:
        if self.times and self.times[-1].end > num_seconds + END_SECONDS:
            raise FieldError(
                f"anomaly '{self.times[-1].text}' ends after the video, which has"
                f" {num_seconds:g} seconds ({clock_text(num_seconds)})"
            )

    @property
    def is_abnormal(self) -> bool:
        """True if some frame is abnormal, known or not."""
        return self.extent != "normal"

    @property
    def is_weak(self) -> bool:
        """True if the video is abnormal somewhere but the frames are unknown."""
        return self.extent in ("unknown", "clicks")

    @property
    def clicks(self) -> tuple[int, ...]:
        """One frame of each event of a video whose frames are otherwise unknown, ascending.

        Raises:
            LabelsError: some are in seconds.
        """
        if self.extent != "clicks":
            return ()
        self.require_frames()
        return tuple(frame for start, end in self.intervals for frame in range(start, end))

    @property
    def anomaly(self) -> str:
        """The text of the column `anomaly`."""
        return anomaly_text(self.extent, self.intervals, self.times)

    def frame_labels(self, num_frames: int) -> "npt.NDArray[np.uint8]":
        """Return `(num_frames,)` uint8, 1 where a frame is abnormal.

        Raises:
            LabelsError: the frames are unknown (`?`, clicks, or times that were not converted), or
                an interval ends after the last frame.
        """
        if self.is_weak:
            raise LabelsError(
                f"{self.video}: anomaly is '{self.anomaly:.80}' (frames unknown), expected frame"
                " intervals, 'all' or nothing; use a weakly supervised method or give the frames"
            )
        self.require_frames()
        if self.extent == "all":
            return frames_from_intervals([(0, num_frames)] if num_frames else [], num_frames)
        if self.intervals and self.intervals[-1][1] > num_frames:
            raise LabelsError(
                f"{self.video}: anomaly '{self.anomaly}' goes to frame {self.intervals[-1][1]},"
                f" but the video has {num_frames} frames; run `feat data check`"
            )
        return frames_from_intervals(self.intervals, num_frames)

    def require_frames(self) -> None:
        """Do nothing if the label says which frames it means.

        Raises:
            LabelsError: it says so in times.
        """
        if self.times:
            raise LabelsError(
                f"{self.video}: anomaly '{self.anomaly}' is in seconds, expected frames here;"
                " `feat data convert --fps N` makes them, if the video's frame rate is constant"
            )

    def in_frames(self, frame_seconds: "npt.NDArray[np.float64]") -> "VideoLabel":
        """Return this label with the frames that its times stand for; see `data.times`.

        Frames after the last of `num_frames` are left out.

        Args:
            frame_seconds: (T,) the time of each frame of the video.

        Raises:
            LabelsError: a time span holds no frame, or no abnormal frame would be left.
        """
        try:
            frames = frames_of_spans(self.times, frame_seconds)
        except ValueError as error:
            raise LabelsError(f"{self.video}: {error}; mend the label or the video") from error
        intervals = merge_intervals([*self.intervals, *frames])
        label = replace(self, intervals=intervals, times=(), num_frames=None)
        if self.num_frames is None:
            return label
        return replace(label.clipped(self.num_frames), num_frames=self.num_frames)

    def clipped(self, num_frames: int) -> "VideoLabel":
        """Return this label without what lies after frame `num_frames`.

        Raises:
            LabelsError: no abnormal frame would be left, which would turn the video normal, or it
                is in seconds.
        """
        self.require_frames()
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
    if video.startswith("/") or re.match(r"[A-Za-z]:/", video):
        raise FieldError(f"video is '{video}', expected a path relative to the videos folder")
    if any(part in ("", ".", "..") for part in video.split("/")):
        raise FieldError(f"video is '{video}', expected a path without empty, '.' or '..' parts")


def check_text(column: str, text: str) -> None:
    """Raise FieldError if `text` would not survive a CSV file and a reader that trims cells."""
    if text != text.strip() or re.search("[\0-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]", text):
        raise FieldError(f"{column} is {text!r}, expected no control character or outer blank")


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
        content = path.read_bytes()
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise LabelsError(f"{path}: UTF-16 text, expected UTF-8; save it as 'CSV UTF-8'")
        text = content.decode("utf-8-sig")  # spreadsheets put a byte order mark first
    except FileNotFoundError as error:
        raise LabelsError(f"{path}: no such labels file; write one or see `feat data`") from error
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise LabelsError(f"{path}:{line}: not UTF-8 text; save it as 'CSV UTF-8'") from error
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
    expected = f"expected '{','.join(COLUMNS)}', if wanted also {', '.join(OPTIONAL_COLUMNS)}"
    if not rows:
        raise LabelsError(f"{path}: empty file, {expected} in the first line")
    line, header = rows[0]
    known = {*COLUMNS, *OPTIONAL_COLUMNS}
    if not set(COLUMNS) <= set(header) <= known or len(set(header)) != len(header):
        hint = ""
        if len(header) == 1 and re.search(r"[;\t]", header[0]):
            hint = "; cells are divided by commas: save it as CSV with commas"
        raise LabelsError(f"{path}:{line}: header is '{','.join(header)}', {expected}{hint}")
    return header


def _parse_row(columns: Sequence[str], cells: Sequence[str]) -> VideoLabel:
    if len(cells) != len(columns):
        hint = " (a name with a comma needs quotes)" if len(cells) > len(columns) else ""
        raise FieldError(f"{len(cells)} cells, expected {len(columns)}: {','.join(columns)}{hint}")
    row = dict(zip(columns, cells, strict=True))
    extent, intervals, times = parse_anomaly(row["anomaly"])
    return VideoLabel(
        video=row["video"],
        split=cast(Split, row["split"]),
        category=row["category"],
        extent=extent,
        intervals=intervals,
        times=times,
        scene=row.get("scene", ""),
        num_frames=_parse_frames(row.get("frames", "")),
        num_seconds=_parse_seconds(row.get("seconds", "")),
        source=row.get("source", ""),
    )


def _parse_frames(text: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,12}", text):
        raise FieldError(f"frames is '{text}', expected a number of frames or nothing")
    return int(text)


def _parse_seconds(text: str) -> float | None:
    if not text:
        return None
    if not _SECONDS.fullmatch(text):
        raise FieldError(f"seconds is '{text}', expected a number of seconds or nothing")
    return float(text)


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


def name_problems(labels: Sequence[VideoLabel], videos: Collection[str]) -> list[str]:
    """Return which labelled videos are not there, the first few with names that may be meant.

    Args:
        labels: the rows of a labels file.
        videos: the names of the videos that are there.
    """
    there = set(videos)
    absent = [label.video for label in labels if label.video not in there]
    unlabelled = there - {label.video for label in labels}
    problems = []
    for video in absent[:MAX_NAMES_SHOWN]:
        near = nearest_names(video, unlabelled)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        problems.append(f"no video '{video}' there{meant}")
    if len(absent) > len(problems):
        problems.append(f"{len(absent)} of {len(labels)} labelled videos are not there in all")
    return problems


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


class NewRow(NamedTuple):
    """A video that is to be labelled: a row whose split and anomaly somebody must fill in."""

    video: str
    num_frames: int
    num_seconds: float | None = None


def labelled_videos(path: Path) -> set[str]:
    """Return the videos that a labels file names, whether or not their rows are filled in.

    Raises:
        LabelsError: the file cannot be read or is no labels file.
    """
    rows = _read_rows(path)
    column = _check_header(path, rows).index("video")
    return {video_name(cells[column]) for _, cells in rows[1:] if len(cells) > column}


def add_rows(path: Path, rows: Iterable[NewRow]) -> None:
    """Add videos to a labels file, which is made if it is not there; its rows keep every byte.

    Raises:
        LabelsError: the file cannot be read or written, or is no labels file.
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    content, columns = b"", [*COLUMNS, "frames", "seconds"]
    if path.exists():
        content, columns = path.read_bytes(), _check_header(path, _read_rows(path))
        if content and not content.endswith(b"\n"):
            buffer.write("\n")
    else:
        writer.writerow(columns)
    for row in rows:
        seconds = "" if row.num_seconds is None else _seconds_text(row.num_seconds)
        cells = {"video": row.video, "frames": str(row.num_frames), "seconds": seconds}
        writer.writerow([cells.get(column, "") for column in columns])
    write_whole(path, content + buffer.getvalue().encode(), error=LabelsError)


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


def _cell(row: VideoLabel, column: str) -> str:
    if column == "frames":
        return "" if row.num_frames is None else str(row.num_frames)
    if column == "seconds":
        return "" if row.num_seconds is None else _seconds_text(row.num_seconds)
    return str(getattr(row, column))
