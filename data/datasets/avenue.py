"""CUHK Avenue (Lu, Shi, Jia 2013): 16 normal training videos, 21 test videos with pixel masks.

Two label conventions are in use and they differ. Ours is "masks", the authors' own: a frame is
abnormal if its mask in `<n>_label.mat` (variable `volLabel`, one mask a frame) has a pixel set:
3712 frames. The other, "list", is what frame prediction papers share: start and end frames in
`avenue.mat` (variable `gt`, from 1, end included) or one number a frame over all test videos in
`frame_labels_avenue.npy`: 3867 frames.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from data.datasets.annotations import read_frame_mask, read_mat
from data.datasets.command import (
    halves_option,
    out_option,
    partial_option,
    root_option,
    seed_option,
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
from data.intervals import Intervals, intervals_from_frames, merge_intervals
from data.labels import VideoLabel
from data.splits.divide import random_halves

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Convention = Literal["masks", "list"]
PUBLISHED: Mapping[Convention, Mapping[str, int]] = {
    "masks": {"training videos": 16, "test videos": 21, "abnormal test frames": 3712},
    "list": {"training videos": 16, "test videos": 21, "abnormal test frames": 3867},
}


def prepare_avenue(
    root: Path,
    *,
    convention: Convention = "masks",
    split: Literal["halves", "official"] = "halves",
    seed: int = 0,
) -> DatasetLabels:
    """Return the labels of CUHK Avenue.

    Training videos are those with "train" in their path; the others are test videos, and the
    number in their name is that of their mask. The list convention needs the masks as well: they
    tell how many frames a test video has.

    Args:
        root: the folder that holds the videos (or frame folders) and the label files.
        convention: "masks" or "list", see above.
        split: "halves": half of the abnormal and half of the normal videos to train, drawn by
            `seed` (19 and 18, the paper's section 5.1); "official": normal videos to train.
        seed: any integer; for "halves" only.

    Raises:
        LabelsError: no label files, or one is damaged or does not fit the videos.
    """
    names = VideoNames(root)
    train = names.names(_is_training)
    test = _numbered(names.names(lambda video: not _is_training(video)))
    files = sorted(root.rglob("*_label.mat"))
    masks = _read_masks(files)
    if not masks:
        raise LabelsError(
            f"{root}: no *_label.mat found; give the folder that holds them as --root"
        )
    spans = {number: intervals_from_frames(mask) for number, mask in masks.items()}
    sizes = {number: mask.size for number, mask in masks.items()}
    if convention == "list":
        listed = _list_file(root)
        spans = _read_list(listed, sizes)
        files.append(listed)
    problems = missing_problems(
        "masks without a test video",
        (str(number) for number in spans if number not in test) if names else (),
        "put the videos beside them",
    ) + missing_problems(
        "test videos without a mask",
        (video for number, video in test.items() if number not in spans),
        "they are left out by --partial; find the missing *_label.mat",
    )
    if not names:
        test = {number: f"testing_videos/{number:02d}.avi" for number in spans}
        train = {f"{number:02d}": f"training_videos/{number:02d}.avi" for number in range(1, 17)}
    labels = [VideoLabel(video=video, split="train") for video in train.values()]
    for number, video in sorted(test.items()):
        if number in spans:
            labels.append(
                VideoLabel(
                    video=video,
                    split="test",
                    extent="intervals" if spans[number] else "normal",
                    intervals=spans[number],
                    num_frames=sizes[number],
                )
            )
    found = {
        "training videos": len(train),
        "test videos": len(labels) - len(train),
        "abnormal test frames": sum(b - a for label in labels for a, b in label.intervals),
    }
    problems += count_problems(f"avenue ({convention})", found, PUBLISHED[convention])
    if split == "halves":
        labels = random_halves(labels, seed=seed)
    return DatasetLabels(labels=labels, problems=tuple(problems), files=tuple(files))


@examples(
    "feat data avenue --root Avenue --out labels.csv",
    "feat data avenue --root Avenue --convention list --split official --out labels.csv",
)
@click.command()
@root_option
@out_option
@halves_option
@click.option(
    "--convention",
    type=click.Choice(["masks", "list"]),
    default="masks",
    show_default=True,
    help="masks: the authors' pixel masks (3712 abnormal frames). list: avenue.mat or"
    " frame_labels_avenue.npy (3867).",
)
@seed_option
@partial_option
def avenue_command(
    root: Path,
    out: Path,
    split: Literal["halves", "official"],
    convention: Literal["masks", "list"],
    seed: int,
    partial: bool,
) -> None:
    """CUHK Avenue: videos and *_label.mat masks."""
    dataset = prepare_avenue(root, convention=convention, split=split, seed=seed)
    write_dataset_labels(dataset, out, partial=partial)


def _is_training(video: str) -> bool:
    return "train" in video.lower()


def _numbered(names: Mapping[str, str]) -> dict[int, str]:
    numbered: dict[int, str] = {}
    for name, video in names.items():
        if not re.fullmatch("[0-9]{1,9}", name):
            continue
        other = numbered.setdefault(int(name), video)
        if other != video:
            raise LabelsError(
                f"{other} and {video} both have the number {int(name)}, expected one; move away"
                " what is no test video"
            )
    return numbered


def _read_masks(files: Iterable[Path]) -> dict[int, "npt.NDArray[np.bool_]"]:
    """Return number -> (T,) bool: whether any pixel of the frame is abnormal."""
    import numpy as np

    masks: dict[int, npt.NDArray[np.bool_]] = {}
    for path in files:
        match = re.fullmatch("([0-9]{1,9})_label", path.stem)
        if match is None:
            continue
        cells = read_mat(path, "volLabel").ravel()
        if cells.dtype != object or cells.size == 0:
            raise LabelsError(f"{path}: volLabel is {cells.dtype}, expected a cell of masks")
        if any(np.asarray(cell).dtype.kind not in "biuf" for cell in cells):
            raise LabelsError(f"{path}: volLabel holds something else than masks of numbers")
        mask = np.array([bool(np.any(cell)) for cell in cells])
        if not np.array_equal(masks.setdefault(int(match[1]), mask), mask):
            raise LabelsError(f"{path}: another file of this number has other frames; keep one")
    return masks


def _list_file(root: Path) -> Path:
    names = ("avenue.mat", "frame_labels_avenue.npy")
    return first_existing(root, names, "the frame list of the convention 'list'")


def _read_list(path: Path, sizes: Mapping[int, int]) -> dict[int, Intervals]:
    import numpy as np

    if path.suffix == ".npy":
        return _cut_flat_list(path, sizes)
    cells = read_mat(path, "gt").ravel()
    if cells.dtype != object or cells.size != len(sizes):
        raise LabelsError(
            f"{path}: gt has {cells.size} videos, expected {len(sizes)}, one for each *_label.mat"
        )
    spans = {}
    for number, cell in zip(sorted(sizes), cells, strict=True):
        pairs = np.asarray(cell) if np.size(cell) else np.empty((2, 0))
        if pairs.size == 2:
            pairs = pairs.reshape(2, 1)
        if pairs.dtype.kind not in "iuf" or pairs.ndim != 2 or len(pairs) != 2:
            raise LabelsError(
                f"{path}: gt of video {number} is {pairs.dtype} {pairs.shape}, expected two rows:"
                " the first and the last frames"
            )
        for first, last in pairs.T:
            if not 1 <= first <= last <= sizes[number]:
                raise LabelsError(
                    f"{path}: video {number} is abnormal from {first:g} to {last:g}, but has"
                    f" {sizes[number]} frames"
                )
        spans[number] = merge_intervals((int(a) - 1, int(b)) for a, b in pairs.T)
    return spans


def _cut_flat_list(path: Path, sizes: Mapping[int, int]) -> dict[int, Intervals]:
    flat = read_frame_mask(path)
    if flat.size != sum(sizes.values()):
        raise LabelsError(
            f"{path}: {flat.size} frames, expected {sum(sizes.values())}, those of all *_label.mat"
        )
    spans, start = {}, 0
    for number in sorted(sizes):
        spans[number] = intervals_from_frames(flat[start : start + sizes[number]])
        start += sizes[number]
    return spans
