"""Class folders: `root/Fighting/a.mp4` is a video of the class Fighting, the whole of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import click

from data.anomaly import Extent
from data.datasets.command import out_option, root_option, seed_option, write_dataset_labels
from data.datasets.dataset_labels import DatasetLabels
from data.errors import LabelsError
from data.help_text import examples
from data.labels import VideoLabel
from data.splits.divide import k_fold
from data.splits.options import fold_option, folds_option, require_fold
from data.videos import find_videos


def prepare_folders(
    root: Path,
    *,
    normal: Sequence[str],
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
    abnormal_frames: Literal["all", "unknown"] = "all",
) -> DatasetLabels:
    """Return labels for a folder with one subfolder for each class; the class is the category.

    Args:
        root: the folder that holds the class folders.
        normal: the names of the classes whose videos are normal.
        folds: how many parts the videos are divided into, each class evenly.
        fold: the part to test on, from 0; the others are for training.
        seed: any integer; steers the division only.
        abnormal_frames: for the other classes: "all" frames are abnormal, or it is "unknown"
            which of them are (a weak label).

    Raises:
        LabelsError: a video lies in no class folder, or a name in `normal` is not a class.
    """
    labels = []
    extent: Extent = abnormal_frames
    for source in find_videos(root):
        category, _, rest = source.video_id.partition("/")
        if not rest:
            raise LabelsError(
                f"{root}: {source.video_id} lies in no class folder, expected"
                " CLASS/VIDEO; move it into one"
            )
        labels.append(
            VideoLabel(
                video=source.video_id,
                split="train",
                category=category,
                extent="normal" if category in normal else extent,
            )
        )
    categories = sorted({label.category for label in labels})
    unknown = sorted(set(normal) - set(categories))
    if unknown:
        raise LabelsError(
            f"{root}: no class folder named {', '.join(unknown)}, found {', '.join(categories)};"
            " mend --normal"
        )
    return DatasetLabels(labels=k_fold(labels, folds=folds, fold=fold, seed=seed))


@examples(
    "feat data folders --root clips/ --normal walking --out labels.csv",
    "feat data folders --root clips/ --normal walking --normal standing --fold 2 --out fold2.csv",
)
@click.command()
@root_option
@out_option
@click.option(
    "--normal", multiple=True, required=True, help="A class of normal videos. Repeatable."
)
@folds_option
@fold_option
@click.option(
    "--weak", is_flag=True, help="Abnormal somewhere ('?') instead of everywhere ('all')."
)
@seed_option
def folders_command(
    root: Path, out: Path, normal: tuple[str, ...], folds: int, fold: int, weak: bool, seed: int
) -> None:
    """Class folders: a folder's name is its videos' category."""
    require_fold(fold, folds)
    dataset = prepare_folders(
        root,
        normal=normal,
        folds=folds,
        fold=fold,
        seed=seed,
        abnormal_frames="unknown" if weak else "all",
    )
    write_dataset_labels(dataset, out, partial=False)
