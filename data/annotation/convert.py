"""Frame labels in the formats that people pass around, to and from `labels.csv`.

- "ucf": UCF-Crime's text, `NAME  CATEGORY  FIRST LAST ...` a line, from 1, the last included.
- "masks": a folder of `<video>.npy`, one number a frame, as ShanghaiTech's.
- "npy": one array for all videos, one after the other; only a labels file tells where each begins.
- "activitynet": JSON with `database`, in which a video has segments in seconds.
- "boxes": a pickle of video -> rows (path of an image, x1, y1, x2, y2), as the published boxes in
  UCF-Crime's videos (UCFCrime_BoundingBox_Annotation). Only read: they become frames.

Frames survive a round trip in each of the others. What a format has no place for (split, category
of a normal video, scene) is taken from a labels file like it, if one is given.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from data.anomaly import FieldError
from data.datasets.annotations import read_array_pickle, read_frame_mask, read_lines
from data.datasets.ucf_crime import ANNOTATION_LINE, parse_annotation_line
from data.errors import LabelsError
from data.files import new_file, write_whole
from data.intervals import Intervals, clip_intervals, intervals_from_frames, merge_intervals
from data.labels import (
    END_SECONDS,
    LABELS_FILE,
    Split,
    VideoLabel,
    join_problems,
    read_labels,
    write_labels,
)
from data.output_file import Kind, check_outputs
from data.videos import without_suffix

Format = Literal["labels", "ucf", "masks", "npy", "activitynet", "boxes"]
FORMATS: tuple[Format, ...] = get_args(Format)
NO_CATEGORY = "Anomaly"  # what is written for an abnormal video without a category
ARRAY = Kind("an array of one byte a frame", b"\x93NUMPY\x01\x00v\x00{'descr': '|u1'")
UCF_CRIME = Kind(
    "an annotation in UCF-Crime's format",
    first_line=lambda line: ANNOTATION_LINE.fullmatch(line) is not None,
)
ACTIVITYNET = Kind("an ActivityNet file of feat", b'{\n "version": "feat ')
SUBSETS: dict[Split, str] = {"train": "training", "val": "validation", "test": "testing"}


def read_format(
    path: Path,
    kind: Format,
    *,
    split: Split = "test",
    fps: float | None = None,
    like: Sequence[VideoLabel] | None = None,
) -> list[VideoLabel]:
    """Return the labels of a file or folder in one of the formats.

    Args:
        path: the file, or for "masks" the folder.
        kind: the format.
        split: for videos whose split neither the format nor `like` tells.
        fps: frames a second, where an ActivityNet file does not give them or a labels file is in
            seconds.
        like: labels of the same videos, whose names, splits, categories, scenes and numbers of
            frames are taken over, but not their source; the order of "npy" is theirs.

    Raises:
        LabelsError: the file is not in this format, or does not fit `like`.
    """
    if kind == "npy":
        return _read_flat(path, like)
    presumed: dict[str, int] = {}
    readers: Mapping[str, Callable[[], list[VideoLabel]]] = {
        "labels": lambda: [_at_rate(label, fps) for label in read_labels(path)],
        "ucf": lambda: _read_ucf(path, split),
        "masks": lambda: _read_masks(path, split),
        "activitynet": lambda: _read_activitynet(path, split, fps),
        "boxes": lambda: _read_boxes(path, split, presumed),
    }
    try:
        labels = readers[kind]()
    except FieldError as error:
        raise LabelsError(f"{path}: {error}") from error
    return labels if like is None else _take_over(path, labels, like, presumed)


def write_format(
    path: Path,
    labels: Sequence[VideoLabel],
    kind: Format,
    *,
    fps: float | None = None,
    inputs: Iterable[Path] = (),
) -> None:
    """Write labels in one of the formats; "masks" makes or fills a folder.

    Args:
        path: the file or folder.
        labels: what to write.
        kind: the format.
        fps: frames a second of the videos, for "activitynet".
        inputs: files that the labels come from, which must not be written over.

    Raises:
        FeatError: a file of another kind, or an input, would be lost.
        LabelsError: a label has unknown frames (`?`), or the format needs the number of frames
            or the frame rate and it is not known.
    """
    if kind == "boxes":
        raise LabelsError(f"{path}: boxes are only read: labels do not say where in a frame")
    if kind == "labels":
        check_outputs({path: LABELS_FILE}, inputs=inputs)
        write_labels(path, labels)
        return
    weak = [label.video for label in labels if label.is_weak]
    if weak:
        raise LabelsError(
            f"{path}: {len(weak)} videos with unknown frames ('?'), {weak[0]} the first; the"
            f" format {kind} has no word for that"
        )
    if kind == "ucf":
        text = "".join(_ucf_line(label) for label in labels)
        check_outputs({path: UCF_CRIME}, inputs=inputs)
        write_whole(path, text, error=LabelsError)
    elif kind == "activitynet":
        text = _activitynet_text(path, labels, fps)
        check_outputs({path: ACTIVITYNET}, inputs=inputs)
        write_whole(path, text, error=LabelsError)
    elif kind == "npy":
        check_outputs({path: ARRAY}, inputs=inputs)
        frames = [label.frame_labels(_need_frames(label, kind)) for label in labels]
        _write_npy(path, np.concatenate([*frames, np.zeros(0, dtype=np.uint8)]))
    else:
        _write_masks(path, labels, inputs)


def _at_rate(label: VideoLabel, fps: float | None) -> VideoLabel:
    """Return a label in seconds as frames of a constant rate, if the rate is given.

    Raises:
        LabelsError: at this rate the video would have another length than the label says.
    """
    if not label.times or not fps:
        return label
    if label.num_frames is not None:
        seconds, end = label.num_frames / fps, label.times[-1].end
        whole = seconds if label.num_seconds is None else label.num_seconds
        if abs(whole - seconds) > END_SECONDS or end > seconds + END_SECONDS:
            raise LabelsError(
                f"{label.video}: {label.num_frames} frames at {fps:g} a second are {seconds:g} s,"
                f" but the label is for {max(whole, end):g} s: give the video's own rate; if it is"
                " not constant, leave the label in seconds"
            )
    last = math.ceil(label.times[-1].end * fps) + 1
    return label.in_frames(np.arange(label.num_frames or last) / fps)


def _need_frames(label: VideoLabel, kind: Format) -> int:
    if label.num_frames is None:
        raise LabelsError(
            f"{label.video}: number of frames unknown, {kind} needs it; add the column 'frames'"
        )
    return label.num_frames


def _spans(label: VideoLabel, kind: Format) -> Intervals:
    label.require_frames()
    return ((0, _need_frames(label, kind)),) if label.extent == "all" else label.intervals


def _label(
    video: str, split: Split, category: str, intervals: Intervals, num_frames: int | None = None
) -> VideoLabel:
    return VideoLabel(
        video=video,
        split=split,
        category=category,
        extent="intervals" if intervals else "normal",
        intervals=intervals,
        num_frames=num_frames,
    )


# UCF-Crime's text


def _read_ucf(path: Path, split: Split) -> list[VideoLabel]:
    labels = []
    for line, text in read_lines(path):
        video, category, intervals = parse_annotation_line(path, line, text)
        category = "" if category == NO_CATEGORY else category
        labels.append(_label(video, split, category, intervals))
    return labels


def _ucf_line(label: VideoLabel) -> str:
    category = (label.category or NO_CATEGORY) if label.is_abnormal else "Normal"
    if re.search(r"\s", label.video + category):
        raise LabelsError(
            f"{label.video}: blank in name or category '{category}'; UCF-Crime's text has none"
        )
    pairs = [f"{start + 1}  {end}" for start, end in _spans(label, "ucf")]
    pairs += ["-1  -1"] * (2 - len(pairs))  # the official file has two pairs in every line
    return "  ".join([label.video, category, *pairs]) + "\n"


# Arrays


def _read_masks(path: Path, split: Split) -> list[VideoLabel]:
    files = sorted(path.rglob("*.npy"))
    if not files:
        raise LabelsError(f"{path}: no .npy file in this folder")
    labels = []
    for file in files:
        mask = read_frame_mask(file)
        video = file.relative_to(path).with_suffix("").as_posix()
        labels.append(_label(video, split, "", intervals_from_frames(mask), mask.size))
    return labels


def _write_masks(path: Path, labels: Sequence[VideoLabel], inputs: Iterable[Path]) -> None:
    files: dict[Path, VideoLabel] = {}
    for label in labels:
        name = without_suffix(label.video)
        other = files.setdefault(path / f"{name}.npy", label)
        if other is not label:
            raise LabelsError(f"{label.video} and {other.video} would both become {name}.npy")
    check_outputs(dict.fromkeys(files, ARRAY), inputs=inputs)
    for file, label in files.items():
        _write_npy(file, label.frame_labels(_need_frames(label, "masks")))


def _write_npy(path: Path, array: npt.NDArray[np.uint8]) -> None:
    with new_file(path, error=LabelsError) as partial, partial.open("wb") as file:
        np.save(file, array)


def _read_flat(path: Path, like: Sequence[VideoLabel] | None) -> list[VideoLabel]:
    if like is None:
        raise LabelsError(f"{path}: where does each video begin? give a labels file by --like")
    flat = read_frame_mask(path)
    total = sum(_need_frames(label, "npy") for label in like)
    if flat.size != total:
        raise LabelsError(f"{path}: {flat.size} frames, expected {total}, those of --like")
    labels, start = [], 0
    for label in like:
        end = start + _need_frames(label, "npy")
        intervals = intervals_from_frames(flat[start:end])
        labels.append(
            replace(
                label,
                extent="intervals" if intervals else "normal",
                intervals=intervals,
                times=(),
                source="",
            )
        )
        start = end
    return labels


# Boxes


def _read_boxes(path: Path, split: Split, presumed: dict[str, int]) -> list[VideoLabel]:
    """Return the frames with a box as abnormal ones; each stands for those up to the next sample.

    Boxes are drawn in every 16th frame or so: the smallest distance of two is how many a box
    stands for. Image numbers count from 1.

    Args:
        path: the file.
        split: of all videos.
        presumed: how many frames after a video's last box are put into it, which the video need
            not have.
    """
    labels, problems = [], []
    for video, rows in read_array_pickle(path).items():
        try:
            names = [PurePosixPath(str(row[0]).replace("\\", "/")).stem for row in rows]
            frames = sorted({int(re.findall("[0-9]+", name)[-1]) - 1 for name in names})
            if frames and frames[0] < 0:
                raise ValueError("an image of number 0, expected numbers from 1")
        except (TypeError, IndexError, KeyError, ValueError) as error:
            problems.append(
                f"{path}: {video}: {type(error).__name__}: {error}; expected rows of an image's "
                "path with its number and a box"
            )
            continue
        step = min((b - a for a, b in pairwise(frames)), default=1)
        spans = merge_intervals([(frame, frame + step) for frame in frames])
        labels.append(_label(video, split, "", spans))
        presumed[labels[-1].video] = step - 1
    if problems:
        raise LabelsError(join_problems(problems))
    return labels


# ActivityNet's JSON


def _read_activitynet(path: Path, split: Split, fps: float | None) -> list[VideoLabel]:
    try:
        database = json.loads(path.read_text(encoding="utf-8"))["database"]
        items = list(database.items())
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LabelsError(f"{path}: expected JSON with an object 'database'") from error
    labels, problems = [], []
    for video, entry in items:
        try:
            labels.append(_parse_entry(video, entry, split, fps))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            problems.append(f"{path}: {video}: {type(error).__name__}: {error}")
    if problems:
        raise LabelsError(join_problems(problems))
    return labels


def _parse_entry(video: str, entry: Any, split: Split, fps: float | None) -> VideoLabel:
    rate = float(entry["fps"]) if "fps" in entry else fps
    if rate is None or not 0 < rate < float("inf"):
        raise ValueError("frame rate unknown, expected a key 'fps' or --fps")
    annotations = entry.get("annotations") or []
    spans = []
    for annotation in annotations:
        seconds = [float(second) for second in annotation["segment"]]
        start, end = (round(second * rate) for second in seconds)
        if seconds[0] > seconds[1]:
            raise ValueError(f"segment {seconds} ends before it begins, expected [start, end]")
        spans.append((start, max(end, start + 1)))  # shorter than half a frame is still a frame
    num_frames = entry.get("num_frames")
    names = [str(annotation.get("label", "")) for annotation in annotations]
    category = str(entry.get("category", names[0] if names else ""))
    subset = {name: part for part, name in SUBSETS.items()}.get(entry.get("subset", ""), split)
    label = _label(
        video,
        subset,
        "" if category == NO_CATEGORY else category,
        merge_intervals(spans),
        None if num_frames is None else int(num_frames),
    )
    return replace(label, scene=str(entry.get("scene", "")))


def _activitynet_text(path: Path, labels: Sequence[VideoLabel], fps: float | None) -> str:
    if fps is None or not 0 < fps < float("inf"):
        raise LabelsError(f"{path}: segments are in seconds; give the frame rate by --fps")
    database = {}
    for label in labels:
        entry: dict[str, Any] = {"subset": SUBSETS[label.split], "fps": fps}
        if label.num_frames is not None:
            entry |= {"num_frames": label.num_frames, "duration": label.num_frames / fps}
        entry |= {key: getattr(label, key) for key in ("category", "scene") if getattr(label, key)}
        entry["annotations"] = [
            {"segment": [start / fps, end / fps], "label": label.category or NO_CATEGORY}
            for start, end in _spans(label, "activitynet")
        ]
        database[label.video] = entry
    return json.dumps({"version": "feat 1", "database": database}, indent=1) + "\n"


# A labels file that knows more


def _take_over(
    path: Path,
    labels: Iterable[VideoLabel],
    like: Sequence[VideoLabel],
    presumed: Mapping[str, int],
) -> list[VideoLabel]:
    """Return `labels` under the names of `like` and with what only `like` knows, in its order.

    Args:
        path: the file they are from.
        labels: what it says.
        like: labels of the same videos.
        presumed: by video of `labels`, how many of its last frames may be beyond its end.
    """
    read = list(labels)
    exact = {label.video: label for label in read}
    alike: dict[str, list[VideoLabel]] = {}  # by path without suffix, and by name alone
    for label in read:
        path_key, name_key = (
            without_suffix(label.video),
            PurePosixPath(without_suffix(label.video)).name,
        )
        alike.setdefault(path_key, []).append(label)
        if name_key != path_key:
            alike.setdefault(name_key, []).append(label)
    merged, problems, used = [], [], set()
    for row in like:
        candidates = [exact[row.video]] if row.video in exact else []
        candidates = candidates or alike.get(without_suffix(row.video), [])
        candidates = candidates or alike.get(PurePosixPath(without_suffix(row.video)).name, [])
        if len(candidates) != 1:
            found = "not there" if not candidates else f"{len(candidates)} of that name"
            problems.append(f"{path}: {row.video}: {found}, expected one")
            continue
        label = candidates[0]
        used.add(label.video)
        size = label.num_frames if label.num_frames is not None else row.num_frames
        intervals = label.intervals
        if intervals and size and intervals[-1][1] - size <= presumed.get(label.video, 0):
            intervals = clip_intervals(intervals, size)
        try:
            merged.append(
                replace(
                    row,
                    extent=label.extent,
                    intervals=intervals,
                    times=label.times,
                    source=label.source,
                    num_frames=size,
                )
            )
        except FieldError as error:
            problems.append(f"{path}: {row.video}: {error}")
    problems += [f"{path}: {video}: not in --like" for video in exact if video not in used]
    if problems:
        raise LabelsError(join_problems(problems))
    return merged
