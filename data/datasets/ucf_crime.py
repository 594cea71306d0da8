"""UCF-Crime (Sultani, Chen, Shah 2018): 1900 videos, 13 categories, frame labels for tests only.

The official lists: `Anomaly_Train.txt`, one `Category/Name.mp4` a line, and the temporal
annotation, `Name.mp4  Category  first last  first last` with -1 for none. Its frames are taken as
the authors' own evaluation takes them: counted from 1, the last one included.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import click

from data.anomaly import Extent
from data.datasets.annotations import read_lines
from data.datasets.command import (
    FILE,
    clicks_option,
    out_option,
    partial_option,
    root_option,
    write_dataset_labels,
)
from data.datasets.dataset_labels import (
    DatasetLabels,
    count_problems,
    first_existing,
    missing_problems,
)
from data.datasets.locate import VideoNames
from data.errors import LabelsError
from data.help_text import examples
from data.intervals import MAX_FRAMES, Intervals, merge_intervals
from data.labels import Split, VideoLabel
from data.sources import source_of

CATEGORIES = (
    "Abuse",
    "Arrest",
    "Arson",
    "Assault",
    "Burglary",
    "Explosion",
    "Fighting",
    "RoadAccidents",
    "Robbery",
    "Shooting",
    "Shoplifting",
    "Stealing",
    "Vandalism",
)
NORMAL_FOLDERS = ("Training_Normal_Videos_Anomaly", "Testing_Normal_Videos_Anomaly")
# One of the official archives holds 50 videos of those two again, for recognising categories.
EXTRA_FOLDER = "Normal_Videos_for_Event_Recognition"
TEST_LISTS = (
    "Temporal_Anomaly_Annotation.txt",
    "Temporal_Anomaly_Annotation_for_Testing_Videos.txt",
)
PUBLISHED = {
    "training videos": 1610,
    "normal training videos": 800,
    "test videos": 290,
    "normal test videos": 150,
}
# frames, and how many there are in all where the file says so
Marked = tuple[Intervals, int | None]


def prepare_ucf_crime(
    root: Path,
    *,
    train_intervals: Path | None = None,
    train_frames: Literal["all", "unknown"] = "all",
) -> DatasetLabels:
    """Return the labels of UCF-Crime's official split.

    Args:
        root: the folder that holds the lists and, if they are there, the videos.
        train_intervals: frame labels of training videos that somebody supplied, as lines of the
            official annotation format or as JSON lines with `video`, `anomaly_frames` (pairs,
            counted as in the official annotation) and `num_frames`.
        train_frames: an abnormal training video without intervals is abnormal in "all" frames,
            the paper's rule (section 5.1), or it is "unknown" in which (a weak label).

    Raises:
        LabelsError: a list is absent or has a line that is not understood.
    """
    train_list = first_existing(root, ("Anomaly_Train.txt",), "UCF-Crime's training list")
    test_list = first_existing(root, TEST_LISTS, "UCF-Crime's temporal annotation")
    rows: dict[str, tuple[Split, str, str]] = {}  # name -> split, category, path in the list
    marked = read_marked_frames(train_intervals) if train_intervals else {}
    for line, text in read_lines(train_list):
        folder, _, file = text.rpartition("/")
        category = "" if folder in NORMAL_FOLDERS else folder
        _add(rows, f"{train_list}:{line}", file, "train", category, text)
    for line, text in read_lines(test_list):
        file, category, intervals = parse_annotation_line(test_list, line, text)
        folder = category or NORMAL_FOLDERS[1]
        name = _add(rows, f"{test_list}:{line}", file, "test", category, f"{folder}/{file}")
        num_frames = marked.get(name, ((), None))[1]
        if num_frames is not None and intervals and intervals[-1][1] > num_frames:
            raise LabelsError(
                f"{test_list}:{line}: abnormal to frame {intervals[-1][1]}, but {train_intervals}"
                f" gives '{name}' {num_frames} frames; mend or remove that line"
            )
        marked[name] = (intervals, num_frames)
    video_of, problems = VideoNames(root, copies=EXTRA_FOLDER).locate(
        rows, lambda name: rows[name][2]
    )
    lists = {"train": source_of("ucf-crime", train_list), "test": source_of("ucf-crime", test_list)}
    supplied = source_of("ucf-crime", train_intervals) if train_intervals else ""
    labels = []
    for name, video in video_of.items():
        split, category, _ = rows[name]
        label = _label(video, split, category, marked.get(name, ((), None)), train_frames)
        is_supplied = split == "train" and label.extent == "intervals"
        labels.append(replace(label, source=supplied if is_supplied else lists[split]))
    problems += missing_problems(
        "videos with supplied intervals that are in no official list",
        (name for name in marked if name not in rows),
        "mend their names",
    )
    counts = Counter((label.split, label.is_abnormal) for label in labels)
    found = {
        "training videos": counts["train", False] + counts["train", True],
        "normal training videos": counts["train", False],
        "test videos": counts["test", False] + counts["test", True],
        "normal test videos": counts["test", False],
    }
    return DatasetLabels(
        labels=labels, problems=tuple(problems + count_problems("ucf-crime", found, PUBLISHED))
    )


@examples(
    "feat data ucf-crime --root UCF --out labels.csv",
    "feat data ucf-crime --root UCF --weak --train-intervals videos.jsonl --out labels.csv",
)
@click.command()
@root_option
@out_option
@click.option(
    "--train-intervals",
    type=FILE,
    help="Frame labels of training videos: the official annotation's format or JSON lines.",
)
@click.option(
    "--weak",
    is_flag=True,
    help="An abnormal training video without frame labels is abnormal somewhere ('?') instead of"
    " everywhere ('all', the paper's rule).",
)
@clicks_option
@partial_option
def ucf_crime_command(
    root: Path,
    out: Path,
    train_intervals: Path | None,
    weak: bool,
    partial: bool,
    clicks: Path | None,
) -> None:
    """UCF-Crime: the two text files of its authors.

    These are Anomaly_Train.txt and Temporal_Anomaly_Annotation.txt.
    """
    dataset = prepare_ucf_crime(
        root, train_intervals=train_intervals, train_frames="unknown" if weak else "all"
    )
    write_dataset_labels(dataset, out, partial=partial, clicks=clicks)


#: NAME CATEGORY and pairs of the first and the last frame.
ANNOTATION_LINE = re.compile(r"\S+\s+\S+(\s+-?[0-9]{1,12}\s+-?[0-9]{1,12})+")


def parse_annotation_line(path: Path, line: int, text: str) -> tuple[str, str, Intervals]:
    """Return file name, category ("" if normal) and frames of one line of the annotation.

    Raises:
        LabelsError: the line does not have that form.
    """
    if not ANNOTATION_LINE.fullmatch(text.strip()):
        raise LabelsError(
            f"{path}:{line}: found '{text}', expected 'NAME CATEGORY FIRST LAST [FIRST LAST]'"
            " with -1 for none"
        )
    parts = text.split()
    values = [int(number) for number in parts[2:]]
    pairs = list(zip(values[::2], values[1::2], strict=True))
    intervals = _half_open(f"{path}:{line}", (pair for pair in pairs if pair != (-1, -1)))
    return parts[0], "" if parts[1] == "Normal" else parts[1], intervals


def read_marked_frames(path: Path) -> dict[str, Marked]:
    """Return name -> frames from an annotation in the official format or in JSON lines.

    Raises:
        LabelsError: the file cannot be read or a line is not understood.
    """
    marked: dict[str, Marked] = {}
    for line, text in read_lines(path):
        if text.startswith("{"):
            name, content = _parse_json_line(path, line, text)
        else:
            name, _, intervals = parse_annotation_line(path, line, text)
            content = (intervals, None)
        name = PurePosixPath(name).stem
        if marked.setdefault(name, content) != content:
            raise LabelsError(f"{path}:{line}: video '{name}' has other frames above; keep one")
    return marked


def _parse_json_line(path: Path, line: int, text: str) -> tuple[str, Marked]:
    try:
        row: Mapping[str, Any] = json.loads(text)
        pairs = [(int(first), int(last)) for first, last in row["anomaly_frames"] or ()]
        num_frames = row.get("num_frames")
        size = None if num_frames is None else int(num_frames)
        name = str(row["video"])
        if size is not None and not 1 <= size <= MAX_FRAMES:
            raise ValueError(f"num_frames is {size}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise LabelsError(
            f"{path}:{line}: {type(error).__name__}: {error}; expected JSON with 'video',"
            " 'anomaly_frames' [[first, last], ...] and, if known, 'num_frames'"
        ) from error
    intervals = _half_open(f"{path}:{line}", pairs)
    if size is not None and intervals and intervals[-1][1] > size:
        raise LabelsError(f"{path}:{line}: num_frames is {size}, fewer than anomaly_frames needs")
    return name, (intervals, size)


def _half_open(where: str, pairs: Iterable[tuple[int, int]]) -> Intervals:
    spans = []
    for first, last in pairs:
        if not 0 <= first <= last <= MAX_FRAMES:
            raise LabelsError(f"{where}: frames {first} to {last}, expected first <= last, from 1")
        # a few lines of the official file begin at 0; the authors' evaluation takes that for 1
        spans.append((max(first, 1) - 1, max(last, 1)))
    return merge_intervals(spans)


def _add(
    rows: dict[str, tuple[Split, str, str]],
    where: str,
    file: str,
    split: Split,
    category: str,
    listed: str,
) -> str:
    name = PurePosixPath(file).stem
    if category and category not in CATEGORIES:
        raise LabelsError(
            f"{where}: category '{category}', expected Normal or one of {', '.join(CATEGORIES)}"
        )
    if name in rows:
        raise LabelsError(f"{where}: video '{name}' is listed twice, in {rows[name][0]} already")
    rows[name] = (split, category, listed)
    return name


def _label(
    video: str,
    split: Split,
    category: str,
    marked: Marked,
    train_frames: Literal["all", "unknown"],
) -> VideoLabel:
    intervals, num_frames = marked
    extent: Extent = "normal"
    if category:
        extent = "intervals" if intervals else (train_frames if split == "train" else "unknown")
    return VideoLabel(
        video=video,
        split=split,
        category=category,
        extent=extent,
        intervals=intervals if category else (),
        num_frames=num_frames,
    )
