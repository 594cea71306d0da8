"""The commands `feat data ...`."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from data.prepared import Prepared

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


def write_prepared(prepared: "Prepared", out: Path, *, partial: bool) -> None:
    """Write the labels of a dataset, or refuse if problems were found and `partial` is not set."""
    from data.errors import LabelsError
    from data.labels import join_problems, write_labels

    if prepared.problems and not partial:
        raise LabelsError(join_problems([*prepared.problems, "nothing written; see --partial"]))
    for problem in prepared.problems:
        click.echo(f"warning: {problem}", err=True)
    write_labels(out, prepared.labels)
    parts = Counter((label.split, label.is_abnormal) for label in prepared.labels)
    for split in ("train", "val", "test"):
        if parts[split, False] + parts[split, True]:
            click.echo(f"{split}: {parts[split, False]} normal, {parts[split, True]} abnormal")
    click.echo(f"{out}: {len(prepared.labels)} videos")


def _ucsd_command(name: str, root: Path, out: Path, split: str, seed: int, partial: bool) -> None:
    from data.ucsd import prepare_ucsd

    prepared = prepare_ucsd(
        root, name=name, split="official" if split == "official" else "halves", seed=seed
    )
    write_prepared(prepared, out, partial=partial)


ucsd_split_option = click.option(
    "--split",
    type=click.Choice(["halves", "official"]),
    default="halves",
    show_default=True,
    help="halves: random halves, abnormal and normal each, as in the paper. official: normal clips"
    " to train, the rest to test.",
)


@data_group.command()
@root_option
@out_option
@ucsd_split_option
@seed_option
@partial_option
def ped2_command(root: Path, out: Path, split: str, seed: int, partial: bool) -> None:
    """UCSD Ped2: frame folders and UCSDped2.m."""
    _ucsd_command("ped2", root, out, split, seed, partial)


@data_group.command()
@root_option
@out_option
@ucsd_split_option
@seed_option
@partial_option
def ped1_command(root: Path, out: Path, split: str, seed: int, partial: bool) -> None:
    """UCSD Ped1: frame folders and UCSDped1.m."""
    _ucsd_command("ped1", root, out, split, seed, partial)


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
    from data.folders import prepare_folders

    if fold >= folds:
        raise click.BadParameter(f"{fold} of {folds} folds, expected 0 to {folds - 1}")
    prepared = prepare_folders(
        root,
        normal=normal,
        folds=folds,
        fold=fold,
        seed=seed,
        abnormal_frames="unknown" if weak else "all",
    )
    write_prepared(prepared, out, partial=False)
