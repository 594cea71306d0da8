"""The commands `feat data ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from data.commands.tools import consensus_command, convert_command, split_command

if TYPE_CHECKING:
    from data.datasets.dataset_labels import DatasetLabels

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT_FILE = click.Path(dir_okay=False, path_type=Path)

root_option = click.option("--root", type=FOLDER, required=True, help="The dataset's folder.")
out_option = click.option(
    "--out", type=OUT_FILE, required=True, help="The labels file to write (labels.csv)."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
partial_option = click.option(
    "--partial", is_flag=True, help="Write what is there even if counts differ from the published."
)


@click.group(name="data")
def data_group() -> None:
    """Labels and splits: from a dataset's own files to a checked labels.csv."""


def write_dataset_labels(dataset: "DatasetLabels", out: Path, *, partial: bool) -> None:
    """Write the labels of a dataset, or refuse if problems were found and `partial` is not set."""
    from data.errors import LabelsError
    from data.labels import join_problems, write_labels
    from data.splits.divide import split_summary

    if dataset.problems and not partial:
        raise LabelsError(join_problems([*dataset.problems, "nothing written; see --partial"]))
    for problem in dataset.problems:
        click.echo(f"warning: {problem}", err=True)
    write_labels(out, dataset.labels)
    click.echo(split_summary(dataset.labels))
    click.echo(f"{out}: {len(dataset.labels)} videos")


halves_option = click.option(
    "--split",
    type=click.Choice(["halves", "official"]),
    default="halves",
    show_default=True,
    help="halves: random halves, abnormal and normal each, as in the paper. official: normal videos"
    " to train, the rest to test.",
)


def _ucsd_command(
    name: str, root: Path, out: Path, split: Literal["halves", "official"], seed: int, partial: bool
) -> None:
    from data.datasets.ucsd import prepare_ucsd

    write_dataset_labels(
        prepare_ucsd(root, name=name, split=split, seed=seed), out, partial=partial
    )


@data_group.command()
@root_option
@out_option
@halves_option
@seed_option
@partial_option
def ped2_command(
    root: Path, out: Path, split: Literal["halves", "official"], seed: int, partial: bool
) -> None:
    """UCSD Ped2: frame folders and UCSDped2.m."""
    _ucsd_command("ped2", root, out, split, seed, partial)


@data_group.command()
@root_option
@out_option
@halves_option
@seed_option
@partial_option
def ped1_command(
    root: Path, out: Path, split: Literal["halves", "official"], seed: int, partial: bool
) -> None:
    """UCSD Ped1: frame folders and UCSDped1.m."""
    _ucsd_command("ped1", root, out, split, seed, partial)


@data_group.command()
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
    from data.datasets.avenue import prepare_avenue

    dataset = prepare_avenue(root, convention=convention, split=split, seed=seed)
    write_dataset_labels(dataset, out, partial=partial)


@data_group.command()
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
    """ShanghaiTech Campus: test_frame_mask/*.npy and the lists of the 238/199 split."""
    from data.datasets.shanghaitech import prepare_shanghaitech

    write_dataset_labels(prepare_shanghaitech(root, split=split), out, partial=partial)


@data_group.command()
@root_option
@out_option
@partial_option
def lad_command(root: Path, out: Path, partial: bool) -> None:
    """LAD2000: split lists, and gt_*.mat files or the two pickles."""
    from data.datasets.lad import prepare_lad

    write_dataset_labels(prepare_lad(root), out, partial=partial)


@data_group.command()
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
@partial_option
def ucf_crime_command(
    root: Path, out: Path, train_intervals: Path | None, weak: bool, partial: bool
) -> None:
    """UCF-Crime: Anomaly_Train.txt and Temporal_Anomaly_Annotation.txt."""
    from data.datasets.ucf_crime import prepare_ucf_crime

    dataset = prepare_ucf_crime(
        root, train_intervals=train_intervals, train_frames="unknown" if weak else "all"
    )
    write_dataset_labels(dataset, out, partial=partial)


@data_group.command()
@root_option
@out_option
@click.option("--train-list", type=FILE, help="Names of training videos, if not told by folder.")
@click.option("--test-list", type=FILE, help="Names of test videos, if not told by folder.")
@partial_option
def xd_violence_command(
    root: Path, out: Path, train_list: Path | None, test_list: Path | None, partial: bool
) -> None:
    """XD-Violence: annotations.txt and the videos or lists of their names."""
    from data.datasets.xd_violence import prepare_xd_violence

    dataset = prepare_xd_violence(root, train_list=train_list, test_list=test_list)
    write_dataset_labels(dataset, out, partial=partial)


@data_group.command()
@root_option
@out_option
@click.option(
    "--normal", multiple=True, required=True, help="A class of normal videos. Repeatable."
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option(
    "--fold", type=click.IntRange(min=0), default=0, show_default=True, help="Test on it, from 0."
)
@click.option(
    "--weak", is_flag=True, help="Abnormal somewhere ('?') instead of everywhere ('all')."
)
@seed_option
def folders_command(
    root: Path, out: Path, normal: tuple[str, ...], folds: int, fold: int, weak: bool, seed: int
) -> None:
    """Class folders: the folder's name is the category of every video in it."""
    from data.datasets.folders import prepare_folders

    if fold >= folds:
        raise click.BadParameter(f"{fold} of {folds} folds, expected 0 to {folds - 1}")
    dataset = prepare_folders(
        root,
        normal=normal,
        folds=folds,
        fold=fold,
        seed=seed,
        abnormal_frames="unknown" if weak else "all",
    )
    write_dataset_labels(dataset, out, partial=False)


for _command in (split_command, consensus_command, convert_command):
    data_group.add_command(_command)
