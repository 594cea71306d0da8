"""XD-Violence (Wu et al. 2020): 4754 videos, six kinds of violence, frame labels for tests only.

A video's name ends in its labels: `..._label_A` is normal, `..._label_B2-G-0` has shooting and an
explosion. `annotations.txt` lists the violent test videos, a name and `start end start end ...` a
line, frames from 0 with the end excluded, as the authors' own ground truth is made from it. Train
and test are told apart by folder (a path with "train" or "test" in it) or by lists of names, for
which the feature lists that are passed around (`..._label_A__0.npy`) will do.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import click

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
from data.intervals import Intervals, merge_intervals
from data.labels import Split, VideoLabel

CATEGORIES: Mapping[str, str] = {
    "B1": "Fighting",
    "B2": "Shooting",
    "B4": "Riot",
    "B5": "Abuse",
    "B6": "CarAccident",
    "G": "Explosion",
}
PUBLISHED = {
    "training videos": 3954,
    "test videos": 800,
    "violent test videos": 500,
}


def prepare_xd_violence(
    root: Path, *, train_list: Path | None = None, test_list: Path | None = None
) -> DatasetLabels:
    """Return the labels of XD-Violence; a video with several kinds has the first as category.

    Violent training videos become weak labels: their frames were never published.

    Args:
        root: the folder that holds `annotations.txt` and, if they are there, the videos.
        train_list: names of the training videos, a line each; default: by folder.
        test_list: the same for the test videos.

    Raises:
        LabelsError: the annotation is absent or a line or name is not understood.
    """
    annotation = first_existing(root, ("annotations.txt",), "XD-Violence's annotations")
    intervals = read_annotations(annotation)
    names = VideoNames(root)
    split_of: dict[str, Split] = _by_folder(names)
    trained = _read_names(train_list) if train_list is not None else []
    tested = _read_names(test_list) if test_list is not None else []
    if both := set(trained) & set(tested):
        raise LabelsError(
            f"{test_list}: video '{min(both)}' is in {train_list}, too; keep it in one of them"
        )
    split_of |= dict.fromkeys(trained, "train")
    split_of |= dict.fromkeys(tested, "test")
    if not split_of:
        raise LabelsError(
            f"{root}: neither videos in a train and a test folder nor lists; give --train-list"
            " and --test-list"
        )
    problems = missing_problems(
        "annotated videos that are not in the test part",
        (name for name in intervals if split_of.get(name) != "test"),
        "complete the test part",
    )
    unmarked = []
    video_of, missing = names.locate(split_of, lambda name: f"{name}.mp4")
    labels = []
    for name, video in video_of.items():
        label = _label(name, video, split_of[name], intervals.get(name, ()))
        if label.split == "test" and label.is_weak:
            unmarked.append(name)
        labels.append(label)
    problems += missing + missing_problems(
        "violent test videos without a line in annotations.txt",
        unmarked,
        "by --partial their frames become '?'",
    )
    counts = Counter((label.split, label.is_abnormal) for label in labels)
    found = {
        "training videos": counts["train", False] + counts["train", True],
        "test videos": counts["test", False] + counts["test", True],
        "violent test videos": counts["test", True],
    }
    problems += count_problems("xd-violence", found, PUBLISHED)
    return DatasetLabels(labels=labels, problems=tuple(problems), files=(annotation,))


@examples(
    "feat data xd-violence --root XD --out labels.csv",
    "feat data xd-violence --root XD --train-list train.txt --test-list test.txt --out labels.csv",
)
@click.command()
@root_option
@out_option
@click.option("--train-list", type=FILE, help="Names of training videos, if not told by folder.")
@click.option("--test-list", type=FILE, help="Names of test videos, if not told by folder.")
@clicks_option
@partial_option
def xd_violence_command(
    root: Path,
    out: Path,
    train_list: Path | None,
    test_list: Path | None,
    partial: bool,
    clicks: Path | None,
) -> None:
    """XD-Violence: annotations.txt and the videos or their lists."""
    dataset = prepare_xd_violence(root, train_list=train_list, test_list=test_list)
    write_dataset_labels(dataset, out, partial=partial, clicks=clicks)


def parse_name(name: str) -> list[str]:
    """Return the categories in a video's name, none for a normal one.

    Raises:
        LabelsError: the name does not end in labels, or in unknown ones.
    """
    match = re.search(r"_label_([A-Z0-9]+(?:-[A-Z0-9]+)*)$", name)
    codes = match[1].split("-") if match else []
    kinds = [code for code in codes if code != "0"]
    if not kinds or (kinds != ["A"] and not set(kinds) <= set(CATEGORIES)):
        raise LabelsError(
            f"XD-Violence video '{name}': expected a name that ends in '_label_A' or"
            f" '_label_' and some of {', '.join(CATEGORIES)}"
        )
    return [] if kinds == ["A"] else [CATEGORIES[code] for code in kinds]


def read_annotations(path: Path) -> dict[str, Intervals]:
    """Return name -> frames of `annotations.txt`.

    Raises:
        LabelsError: the file cannot be read, or a line is not understood.
    """
    intervals: dict[str, Intervals] = {}
    for line, text in read_lines(path):
        # a few names hold blanks, so the numbers are taken from the end
        match = re.fullmatch(r"(.+?_label_\S+)((?:\s+[0-9]{1,12}\s+[0-9]{1,12})+)", text)
        numbers = [int(number) for number in match[2].split()] if match else []
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        if match is None or any(start >= end for start, end in pairs):
            raise LabelsError(f"{path}:{line}: found '{text}', expected 'NAME START END ...'")
        name = _bare(match[1])
        if name in intervals:
            raise LabelsError(f"{path}:{line}: video '{name}' is listed twice; keep one")
        intervals[name] = merge_intervals(pairs)
    return intervals


def _bare(name: str) -> str:
    """Return a name without folder, video suffix, and the crop number of a feature file."""
    name = PurePosixPath(name).name
    return re.sub(r"(__[0-9]+)?\.(npy|mp4)$", "", name)


def _read_names(path: Path) -> list[str]:
    return list(dict.fromkeys(_bare(text) for _, text in read_lines(path)))


def _by_folder(names: VideoNames) -> dict[str, Split]:
    split_of: dict[str, Split] = {}
    for name, video in names.names().items():
        folders = video.lower().split("/")[:-1]
        if any(re.search("(^|[^a-z])test", folder) for folder in folders):
            split_of[name] = "test"
        elif any("train" in folder or re.fullmatch("[0-9]+-[0-9]+", folder) for folder in folders):
            split_of[name] = "train"  # the archives unpack to 1-1004, 1005-2004, ...
    return split_of


def _label(name: str, video: str, split: Split, intervals: Intervals) -> VideoLabel:
    kinds = parse_name(name)
    if not kinds:
        return VideoLabel(video=video, split=split)
    return VideoLabel(
        video=video,
        split=split,
        category=kinds[0],
        extent="intervals" if intervals else "unknown",
        intervals=intervals,
    )
