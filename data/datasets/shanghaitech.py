"""ShanghaiTech Campus (Luo, Liu, Gao 2017): 437 videos of 13 scenes, frame masks for the tests.

`test_frame_mask/<video>.npy` holds one number a frame for the 107 videos that are not all normal.
Two splits are in use: "one-class", the authors' (330 normal videos to train), and "weak" (Zhong et
al. 2019; the paper uses it), 238 and 199, as `SH_Train.txt` and `SH_Test_NEW.txt` (or
`SH_Test.txt`) give it: one name a line, in the last file with a label and, for a normal video,
its number of frames.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from data.datasets.annotations import read_frame_mask, read_lines
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
from data.intervals import intervals_from_frames
from data.labels import Split, VideoLabel

if TYPE_CHECKING:
    import numpy.typing as npt

ShanghaiSplit = Literal["weak", "one-class"]
Masks = Mapping[str, "npt.NDArray[Any]"]
PUBLISHED: Mapping[ShanghaiSplit, Mapping[str, int]] = {
    "weak": {
        "masks": 107,
        "masked frames": 40791,
        "abnormal frames": 17326,
        "training videos": 238,
        "normal training videos": 175,  # the paper, Table 2
        "test videos": 199,
    },
    "one-class": {
        "masks": 107,
        "masked frames": 40791,
        "abnormal frames": 17326,
        "training videos": 330,
        "test videos": 107,
    },
}


def prepare_shanghaitech(root: Path, *, split: ShanghaiSplit = "weak") -> DatasetLabels:
    """Return the labels of ShanghaiTech Campus; the scene is the number before the underscore.

    Args:
        root: the folder that holds `test_frame_mask` (or `testing/test_frame_mask`), the lists of
            the weakly supervised split, and the videos or frame folders.
        split: "weak": 238 and 199 videos; "one-class": normal videos to train, 330 and 107.

    Raises:
        LabelsError: the masks or the lists are absent or damaged.
    """
    folder = first_existing(
        root, ("test_frame_mask", "testing/test_frame_mask"), "the folder of frame masks"
    )
    files = tuple(sorted(folder.glob("*.npy")))
    masks = {path.stem: read_frame_mask(path) for path in files}
    names = VideoNames(root)
    listed, sizes, problems = _read_lists(root, masks, needed=split == "weak")
    if split == "weak":
        split_of = listed
    else:
        known = {*listed, *masks, *names.names()}
        split_of = {name: "test" if name in masks else "train" for name in sorted(known)}
    video_of, missing = names.locate(split_of, lambda name: name)
    labels = [_label(name, video, split_of[name], masks, sizes) for name, video in video_of.items()]
    counts = Counter((label.split, label.is_abnormal) for label in labels)
    found = {
        "masks": len(masks),
        "masked frames": sum(mask.size for mask in masks.values()),
        "abnormal frames": sum(int((mask != 0).sum()) for mask in masks.values()),
        "training videos": counts["train", False] + counts["train", True],
        "normal training videos": counts["train", False],
        "test videos": counts["test", False] + counts["test", True],
    }
    counted = count_problems(f"shanghaitech ({split})", found, PUBLISHED[split])
    return DatasetLabels(labels=labels, problems=tuple(problems + missing + counted), files=files)


@examples(
    "feat data shanghaitech --root ShanghaiTech --out labels.csv",
    "feat data shanghaitech --root ShanghaiTech --split one-class --out labels.csv",
)
@click.command()
@root_option
@out_option
@click.option(
    "--split",
    type=click.Choice(["weak", "one-class"]),
    default="weak",
    show_default=True,
    help="weak: 238 and 199 videos, as in the paper. one-class: 330 normal videos to train, 107 to"
    " test.",
)
@partial_option
def shanghaitech_command(
    root: Path, out: Path, split: Literal["weak", "one-class"], partial: bool
) -> None:
    """ShanghaiTech Campus: test_frame_mask/*.npy and two lists."""
    write_dataset_labels(prepare_shanghaitech(root, split=split), out, partial=partial)


def _label(
    name: str, video: str, split: Split, masks: Masks, sizes: Mapping[str, int]
) -> VideoLabel:
    mask = masks.get(name)
    intervals = () if mask is None else intervals_from_frames(mask)
    return VideoLabel(
        video=video,
        split=split,
        extent="intervals" if intervals else "normal",
        intervals=intervals,
        scene=name.split("_")[0],
        num_frames=sizes.get(name) if mask is None else mask.size,
    )


def _read_lists(
    root: Path, masks: Masks, *, needed: bool
) -> tuple[dict[str, Split], dict[str, int], list[str]]:
    """Return the weakly supervised split, the frame counts it gives, and where it doubts a mask."""
    if not needed and not (root / "SH_Train.txt").exists():
        return {}, {}, []
    train = first_existing(root, ("SH_Train.txt",), "the training list of the 238/199 split")
    test = first_existing(root, ("SH_Test_NEW.txt", "SH_Test.txt"), "its test list")
    split_of: dict[str, Split] = {}
    sizes: dict[str, int] = {}
    unlike = []
    for path, split in ((train, "train"), (test, "test")):
        for line, text in read_lines(path):
            match = re.fullmatch(r"([0-9]+_[0-9]+)(?:,([01]),(-?[0-9]{1,12}))?", text)
            if match is None:
                raise LabelsError(
                    f"{path}:{line}: found '{text}', expected 'SCENE_NUMBER' or"
                    " 'SCENE_NUMBER,0 or 1,frames'"
                )
            name = match[1]
            if name in split_of:
                raise LabelsError(f"{path}:{line}: video '{name}' is listed twice; keep one")
            split_of[name] = "train" if split == "train" else "test"
            if match[2] is not None and (match[2] == "1") != (name in masks):
                unlike.append(name)
            if match[3] is not None and int(match[3]) > 0:
                sizes[name] = int(match[3])
    problems = missing_problems(
        f"videos whose label in {test.name} and whose mask disagree",
        unlike,
        "find the missing masks",
    )
    absent = [name for name in masks if name not in split_of]
    problems += missing_problems("masks of videos in no list", absent, "complete the lists")
    return split_of, sizes, problems
