"""The command `feat compare`."""

import json
from pathlib import Path

import click

from model.commands.train import (
    FILE,
    FOLDER,
    cache_option,
    device_option,
    json_option,
    misaligned_option,
    read_training_labels,
    skip_option,
    smoothing_option,
    streams_option,
)

DEFAULT_METHODS = "convlstm,logistic,shuffled,position,deepmil,ar-net,gmm,sparse,knn,autoencoder"


@click.command()
@cache_option
@click.option(
    "--labels", "labels_file", type=FILE, help="Labels file.  [default: labels.csv in the cache]"
)
@click.option(
    "--methods", default=DEFAULT_METHODS, show_default=True,
    help="Names as for feat train --method, with commas; also flow-magnitude, where the cache has "
    "flow that was extracted here.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True,
    help="Runs of each method that draws anything.",
)  # fmt: skip
@click.option(
    "--out", type=FOLDER, default=Path("comparison"), show_default=True,
    help="Folder of the runs. What is in it already is not done again.",
)  # fmt: skip
@click.option("--preset", default="default", show_default=True, help="Of the ConvLSTM.")
@streams_option
@smoothing_option
@click.option("--csv", "csv_file", type=FILE, help="Write the table there too, with all digits.")
@device_option
@skip_option
@misaligned_option
@json_option
def compare_command(
    cache_dir: Path,
    labels_file: Path | None,
    methods: str,
    seeds: int,
    out: Path,
    preset: str,
    streams: str | None,
    smoothing: float | None,
    csv_file: Path | None,
    device: str,
    skip_missing: bool,
    allow_misaligned: bool,
    as_json: bool,
) -> None:
    """Train and test several methods on one cache and split; print one table (Markdown)."""
    from cache import FeatureCache
    from data.memory import ask_for_huge_pages
    from model.config import choose_preset
    from model.experiments.compare import run_comparison
    from model.experiments.compare_table import to_markdown, write_csv
    from model.experiments.folder import Terms

    def show(method: str, seed: int, auc: float | None) -> None:
        click.echo(
            f"{method}, seed {seed}: AUC {'none' if auc is None else f'{auc:.3f}'}", err=True
        )

    ask_for_huge_pages()
    cache = FeatureCache(cache_dir)
    comparison = run_comparison(
        cache,
        read_training_labels(labels_file, cache),
        [name.strip() for name in methods.split(",")],
        seeds=seeds,
        out=out,
        terms=Terms(
            preset=choose_preset(preset),
            streams=tuple(name.strip() for name in streams.split(",")) if streams else (),
            device=device,
            skip_missing=skip_missing,
            allow_misaligned=allow_misaligned,
            smoothing=smoothing,
        ),
        on_run=show,
    )
    if csv_file:
        write_csv(csv_file, comparison)
    click.echo(json.dumps(comparison.to_dict()) if as_json else to_markdown(comparison))
