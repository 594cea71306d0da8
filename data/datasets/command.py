"""What the commands `feat data DATASET` have in common: options, and writing the labels."""

from dataclasses import replace
from pathlib import Path

import click

from data.datasets.clicks import with_clicks
from data.datasets.dataset_labels import DatasetLabels
from data.errors import LabelsError
from data.labels import LABELS_FILE, join_problems, write_labels
from data.number_option import SEED
from data.output_file import check_outputs
from data.sources import source_of
from data.splits.divide import split_summary

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
OUT_FILE = click.Path(dir_okay=False, path_type=Path)


def _checked(ctx: click.Context, _: click.Parameter, out: Path) -> Path:
    """Return the labels file to write, before the dataset is read."""
    if not ctx.resilient_parsing:  # a shell that completes the line makes nothing
        check_outputs({out: LABELS_FILE})
    return out


root_option = click.option("--root", type=FOLDER, required=True, help="The dataset's folder.")
out_option = click.option(
    "--out",
    type=OUT_FILE,
    required=True,
    callback=_checked,
    help="The labels file to write (labels.csv).",
)
halves_option = click.option(
    "--split",
    type=click.Choice(["halves", "official"]),
    default="halves",
    show_default=True,
    help="halves: random halves, abnormal and normal each, as in the paper. official: normal videos"
    " to train, the rest to test.",
)
seed_option = click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
partial_option = click.option(
    "--partial", is_flag=True, help="Write what is there even if counts differ from the published."
)
clicks_option = click.option(
    "--clicks",
    type=FILE,
    help="One frame of each event of the training videos, a CSV of video-id,glance: labels '@299'"
    " where no frames are marked.",
)


def write_dataset_labels(
    dataset: DatasetLabels, out: Path, *, partial: bool, clicks: Path | None = None
) -> None:
    """Write the labels of a dataset, with clicks if given, and print how many there are.

    Raises:
        LabelsError: problems were found and `partial` is not set; or the clicks cannot be read.
    """
    if clicks:
        dataset = with_clicks(dataset, clicks)
    if dataset.problems and not partial:
        raise LabelsError(join_problems([*dataset.problems, "nothing written; see --partial"]))
    for problem in dataset.problems:
        click.echo(f"warning: {problem}", err=True)
    name = click.get_current_context().info_name or ""
    source = source_of(name, *dataset.files) if dataset.files else name
    write_labels(out, [replace(row, source=row.source or source) for row in dataset.labels])
    click.echo(split_summary(dataset.labels))
    click.echo(f"{out}: {len(dataset.labels)} videos")
