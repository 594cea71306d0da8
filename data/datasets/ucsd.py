"""UCSD Ped1 and Ped2 (Li, Mahadevan, Vasconcelos 2014): frame folders and a MATLAB list.

Both layouts in use are read: the archive's own (`Train/Train001`, `Test/Test001`, with the list in
`Test/UCSDped2.m`) and the re-packed one (`training/frames/01`, `testing/frames/01`, with the list
beside them). The list has one line a test clip, frames from 1 and the last one included:
`TestVideoFile{end+1}.gt_frame = [5:90, 140:200];`
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import click

from data.datasets.command import (
    halves_option,
    out_option,
    partial_option,
    root_option,
    seed_option,
    write_dataset_labels,
)
from data.datasets.dataset_labels import DatasetLabels, count_problems, first_existing
from data.errors import LabelsError
from data.help_text import examples
from data.intervals import Intervals, merge_intervals
from data.labels import Split, VideoLabel
from data.sources import source_of
from data.splits.divide import random_halves, with_splits
from data.videos import find_videos, frame_paths

UcsdSplit = Literal["halves", "official", "weak"]
WEAK_TRAIN = ((7, 8, 14, 15), (2, 6, 9, 10, 11, 12))
"""Numbers of Ped2's training and test clips that the weak split of TEVAD and MSAD trains on."""
LAYOUTS = (("Train", "Test"), ("training/frames", "testing/frames"))
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    # the dataset's README, and its lists as counted by hand
    "ped1": {"training clips": 34, "test clips": 36, "clips in the list": 36},
    "ped2": {
        "training clips": 16,
        "test clips": 12,
        "clips in the list": 12,
        "training frames": 2550,
        "test frames": 2010,
        "abnormal test frames": 1648,
    },
}

_LIST_LINE = re.compile(r"TestVideoFile\{end\s*\+\s*1\}\.gt_frame\s*=\s*\[([^\]]*)\]\s*;?")
_RANGE = re.compile(r"([0-9]{1,12})(?:\s*:\s*([0-9]{1,12}))?")


def prepare_ucsd(
    root: Path, *, name: str, split: UcsdSplit = "halves", seed: int = 0
) -> DatasetLabels:
    """Return the labels of UCSD Ped1 or Ped2.

    Args:
        root: the folder with `Train` and `Test`, or `training` and `testing`.
        name: "ped1" or "ped2".
        split: "halves": half of the abnormal and half of the normal clips to train, drawn by
            `seed` (the paper's section 5.1); "official": normal clips to train, the others to test;
            "weak", for Ped2: four normal and six abnormal clips to train, as in `WEAK_TRAIN`.
        seed: any integer; for "halves" only.

    Raises:
        LabelsError: a folder or the list is absent or does not fit the clips.
    """
    folders = _find_layout(root)
    list_path = first_existing(
        root, _list_places(name, folders[1]), f"the list of abnormal frames of {name}"
    )
    train = _clips(root, folders[0])
    test = _clips(root, folders[1])
    intervals = read_ucsd_list(list_path)
    labels = [_label(video, "train", (), num_frames) for video, num_frames in train.items()]
    lines = Counter(map(_number, test))
    for video, num_frames in test.items():
        line = _number(video)
        if not 1 <= line <= len(intervals) or lines[line] > 1:
            raise LabelsError(
                f"{list_path}: {len(intervals)} clips listed, found {video}, expected folders"
                " numbered as in the list, each once; move away what is none of its clips"
            )
        spans = intervals[line - 1]
        if spans and spans[-1][1] > num_frames:
            raise LabelsError(
                f"{list_path}: abnormal to frame {spans[-1][1]} in {video}, which has"
                f" {num_frames} images; complete the download"
            )
        labels.append(_label(video, "test", spans, num_frames))
    found = {
        "training clips": len(train),
        "test clips": len(test),
        "clips in the list": len(intervals),
        "training frames": sum(train.values()),
        "test frames": sum(test.values()),
        "abnormal test frames": sum(end - start for x in labels for start, end in x.intervals),
    }
    source = source_of(name, list_path)
    labels = [replace(label, source=source) for label in labels]
    if split == "halves":
        labels = random_halves(labels, seed=seed)
    elif split == "weak":
        chosen = {
            clip
            for clips, numbers in zip((train, test), WEAK_TRAIN, strict=True)
            for clip in clips
            if _number(clip) in numbers
        }
        labels = with_splits(
            labels, {x.video: "train" if x.video in chosen else "test" for x in labels}
        )
    return DatasetLabels(
        labels=labels,
        problems=tuple(count_problems(name, found, PUBLISHED[name])),
    )


@examples(
    "feat data ped2 --root UCSDped2 --out labels.csv",
    "feat data ped2 --root UCSDped2 --split official --out official.csv",
    "feat data ped2 --root UCSDped2 --split weak --out weak.csv",
)
@click.command()
@root_option
@out_option
@click.option(
    "--split",
    type=click.Choice(["halves", "official", "weak"]),
    default="halves",
    show_default=True,
    help="halves: random halves, abnormal and normal each, as in the paper. official: normal videos"
    " to train, the rest to test. weak: that of TEVAD and MSAD, 10 clips to train (6 abnormal), 18"
    " to test.",
)
@seed_option
@partial_option
def ped2_command(root: Path, out: Path, split: UcsdSplit, seed: int, partial: bool) -> None:
    """UCSD Ped2: frame folders and UCSDped2.m."""
    write_dataset_labels(
        prepare_ucsd(root, name="ped2", split=split, seed=seed), out, partial=partial
    )


@examples(
    "feat data ped1 --root UCSDped1 --out labels.csv",
    "feat data ped1 --root UCSDped1 --split official --out official.csv",
)
@click.command()
@root_option
@out_option
@halves_option
@seed_option
@partial_option
def ped1_command(
    root: Path, out: Path, split: Literal["halves", "official"], seed: int, partial: bool
) -> None:
    """UCSD Ped1: frame folders and UCSDped1.m."""
    write_dataset_labels(
        prepare_ucsd(root, name="ped1", split=split, seed=seed), out, partial=partial
    )


def read_ucsd_list(path: Path) -> list[Intervals]:
    """Return the abnormal frames of each test clip of a `UCSDped?.m` file, in the file's order.

    Raises:
        LabelsError: the file cannot be read, or a line is not understood.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as text: {error}") from error
    clips = []
    for number, text in enumerate(lines, start=1):
        line = text.split("%")[0].strip()
        if not line or re.fullmatch(r"TestVideoFile\s*=\s*\{\s*\}\s*;?", line):
            continue
        match = _LIST_LINE.fullmatch(line)
        if match is None:
            raise LabelsError(
                f"{path}:{number}: found '{line}', expected"
                " 'TestVideoFile{end+1}.gt_frame = [first:last];'"
            )
        clips.append(_parse_ranges(match[1], path, number))
    return clips


def _parse_ranges(text: str, path: Path, number: int) -> Intervals:
    spans = []
    for part in filter(None, re.split(r"\s*[,;]\s*|(?<=[0-9])\s+(?=[0-9])", text.strip())):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else -1
        if not 1 <= first <= last:
            raise LabelsError(
                f"{path}:{number}: frames '{part}', expected first:last, counted from 1"
            )
        spans.append((first - 1, last))
    return merge_intervals(spans)


def _find_layout(root: Path) -> tuple[str, str]:
    for train, test in LAYOUTS:
        if (root / train).is_dir() and (root / test).is_dir():
            return train, test
    places = " or ".join(f"{train} and {test}" for train, test in LAYOUTS)
    raise LabelsError(f"{root}: neither {places} found; give the folder that holds them as --root")


def _list_places(name: str, test: str) -> list[str]:
    file = f"UCSD{name}.m"
    return [f"{test}/{file}", file, f"{test.split('/')[0]}/{file}"]


def _clips(root: Path, folder: str) -> dict[str, int]:
    """Return video -> number of images; the pixel masks beside the clips (`..._gt`) are none."""
    clips: dict[str, int] = {}
    for source in find_videos(root / folder):
        if source.kind == "frames" and not source.video_id.endswith("_gt"):
            clips[f"{folder}/{source.video_id}"] = len(frame_paths(source))
    return clips


def _number(video: str) -> int:
    """Return the number that a clip's name ends with, its line in the list; 0 if it has none."""
    match = re.fullmatch(r"[A-Za-z_]*([0-9]+)", PurePosixPath(video).name)
    return int(match[1]) if match else 0


def _label(video: str, split: Split, intervals: Intervals, num_frames: int) -> VideoLabel:
    extent: Literal["intervals", "normal"] = "intervals" if intervals else "normal"
    return VideoLabel(
        video=video, split=split, extent=extent, intervals=intervals, num_frames=num_frames
    )
