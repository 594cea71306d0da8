"""LAD2000 (Wan et al. 2021): 2000 videos, 14 categories, normal videos in every one of them.

What the authors publish: `train_split.txt` and `test_split.txt`, one video name a line, and the
labels, either as `gt_<name>.mat` files (variable `gt`, shape `(1, num_frames)`, for the video
`v_<name>`) in folders named for the categories, or as two pickles by video name,
`GT/frame_label_IET.pickle` and `GT/video_label_IET.pickle` (the category's number).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.anomaly import Extent
from data.datasets.annotations import read_array_pickle, read_lines, read_mat
from data.datasets.command import out_option, partial_option, root_option, write_dataset_labels
from data.datasets.dataset_labels import (
    DatasetLabels,
    count_problems,
    first_existing,
    missing_problems,
)
from data.datasets.locate import VideoNames
from data.errors import LabelsError
from data.help_text import examples
from data.intervals import Intervals, intervals_from_frames
from data.labels import Split, VideoLabel

if TYPE_CHECKING:
    import numpy.typing as npt

# The order is the authors' class index, the spelling theirs.
CATEGORIES = (
    "Crash",
    "Crowd",
    "Destroy",
    "Drop",
    "FallIntoWater",
    "Falling",
    "Fighting",
    "Fire",
    "Hurt",
    "Loitering",
    "Panic",
    "Thiefing",
    "Trampled",
    "Violence",
)
# The paper, section 3.2 and Table 2.
PUBLISHED = {
    "training videos": 1440,
    "normal training videos": 958,
    "test videos": 560,
    "normal test videos": 280,
}


@dataclass(frozen=True, kw_only=True)
class _Truth:
    category: str  # "" if no file tells
    frames: "npt.NDArray[Any] | None"  # (T,) numbers; None if there is no label file


def prepare_lad(root: Path) -> DatasetLabels:
    """Return the labels of LAD2000 with the authors' split.

    Raises:
        LabelsError: the split lists or all labels are absent, or a file is damaged.
    """
    split_of = _read_splits(root)
    files = _label_files(root)
    truths = _read_pickles(*files) if files[0].suffix == ".pickle" else _read_mats(root, files)
    video_of, problems = VideoNames(root).locate(
        split_of, lambda name: f"{truths[name].category}/{name}" if name in truths else name
    )
    labels = []
    doubtful: dict[str, list[str]] = {}
    for name, video in video_of.items():
        truth = truths.get(name) or _Truth(category="", frames=None)
        category = truth.category or _category_in_path(Path(video))
        extent, intervals, num_frames = _read_extent(name, truth.frames)
        for doubt in _doubts(name, truth, category, extent):
            doubtful.setdefault(doubt, []).append(name)
        labels.append(
            VideoLabel(
                video=video,
                split=split_of[name],
                category=category,
                extent=extent,
                intervals=intervals,
                num_frames=num_frames,
            )
        )
    for doubt, names in sorted(doubtful.items()):
        what, _, todo = doubt.partition("; ")
        problems += missing_problems(f"videos {what}", names, todo)
    problems += _count_problems(labels)
    return DatasetLabels(labels=labels, problems=tuple(problems), files=files)


@examples(
    "feat data lad --root LAD2000 --out labels.csv",
    "feat data lad --root LAD2000 --out labels.csv --partial",
)
@click.command()
@root_option
@out_option
@partial_option
def lad_command(root: Path, out: Path, partial: bool) -> None:
    """LAD2000: split lists, and gt_*.mat files or the two pickles."""
    write_dataset_labels(prepare_lad(root), out, partial=partial)


def is_normal_name(name: str) -> bool:
    """Return whether a LAD video's name says that the video is normal."""
    parts = name.split("_")
    return len(parts) >= 3 and parts[-3] == "n"


def _read_splits(root: Path) -> dict[str, Split]:
    split_of: dict[str, Split] = {}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        path = first_existing(
            root, (f"{split}_split.txt", f"GT/{split}_split.txt"), f"LAD's {split} list"
        )
        for line, name in read_lines(path):
            if name in split_of:
                raise LabelsError(f"{path}:{line}: video '{name}' is listed twice; keep one")
            split_of[name] = split
    return split_of


def _label_files(root: Path) -> tuple[Path, ...]:
    """Return the pickles of frames and of categories, or else the .mat files."""
    pickles = (root / "GT" / "frame_label_IET.pickle", root / "GT" / "video_label_IET.pickle")
    files = pickles if pickles[0].exists() else tuple(sorted(root.rglob("gt_*.mat")))
    if not files:
        raise LabelsError(
            f"{root}: no labels found, expected GT/frame_label_IET.pickle and"
            " GT/video_label_IET.pickle, or gt_*.mat files"
        )
    return files


def _read_pickles(frame_path: Path, video_path: Path) -> dict[str, _Truth]:
    numbers = read_array_pickle(video_path)
    return {
        name: _Truth(
            category=_category_by_number(video_path, name, numbers),
            frames=_one_row(frame_path, name, frames),
        )
        for name, frames in read_array_pickle(frame_path).items()
    }


def _category_by_number(path: Path, name: str, numbers: Mapping[str, Any]) -> str:
    number = numbers.get(name)
    if number is None:
        return ""
    import numpy as np

    try:
        index = int(np.asarray(number).item())
    except (TypeError, ValueError, OverflowError) as error:
        raise LabelsError(
            f"{path}: category of '{name}' is {number!r}, expected a number"
        ) from error
    if not 0 <= index < len(CATEGORIES):
        raise LabelsError(
            f"{path}: category of '{name}' is {index}, expected 0 to {len(CATEGORIES) - 1}"
        )
    return CATEGORIES[index]


def _read_mats(root: Path, files: Iterable[Path]) -> dict[str, _Truth]:
    truths: dict[str, _Truth] = {}
    for path in files:
        name = re.sub("^gt_", "v_", path.stem)
        frames = _one_row(path, name, read_mat(path, "gt"))
        # the authors keep a second copy of every file in a folder "all": prefer one with a category
        category = _category_in_path(path.relative_to(root))
        if name not in truths or category:
            truths[name] = _Truth(category=category, frames=frames)
    return truths


def _category_in_path(path: Path) -> str:
    return next((part for part in path.parts[:-1] if part in CATEGORIES), "")


def _one_row(path: Path, name: str, frames: object) -> "npt.NDArray[Any]":
    import numpy as np

    try:
        array = np.asarray(frames)
    except ValueError as error:
        raise LabelsError(f"{path}: labels of '{name}' are no array: {error}") from error
    if array.dtype.kind not in "biuf" or array.ndim == 0 or array.size != max(array.shape):
        raise LabelsError(
            f"{path}: labels of '{name}' are {array.dtype} {array.shape}, expected (1, num_frames)"
        )
    return array.reshape(-1)


def _read_extent(
    name: str, frames: "npt.NDArray[Any] | None"
) -> tuple[Extent, Intervals, int | None]:
    if frames is None or frames.size == 0:
        return ("normal" if is_normal_name(name) else "unknown"), (), None
    intervals = intervals_from_frames(frames)
    return ("intervals" if intervals else "normal"), intervals, int(frames.size)


def _doubts(name: str, truth: _Truth, category: str, extent: Extent) -> list[str]:
    doubts = []
    if not category:
        doubts.append("without a category; put them or their gt_*.mat into the category's folder")
    if truth.frames is None and not is_normal_name(name):
        doubts.append("abnormal by name but without frame labels; by --partial they become '?'")
    if truth.frames is not None and is_normal_name(name) == (extent == "intervals"):
        doubts.append(
            "whose name and frame labels disagree on being normal; by --partial the frames decide"
        )
    return doubts


def _count_problems(labels: list[VideoLabel]) -> list[str]:
    counts = Counter((label.split, label.is_abnormal) for label in labels)
    found = {
        "training videos": counts["train", False] + counts["train", True],
        "normal training videos": counts["train", False],
        "test videos": counts["test", False] + counts["test", True],
        "normal test videos": counts["test", False],
    }
    problems = count_problems("lad", found, PUBLISHED)
    tested = Counter((x.category, x.is_abnormal) for x in labels if x.split == "test")
    for category in CATEGORIES:
        numbers = (tested[category, True], tested[category, False])
        if numbers != (20, 20):
            problems.append(
                f"lad: {category} has {numbers[0]} abnormal and {numbers[1]} normal test videos,"
                " 20 and 20 published; complete the download, or go on by --partial"
            )
    return problems
