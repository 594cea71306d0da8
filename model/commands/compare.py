"""The command `feat compare`."""

import json
from pathlib import Path
from shlex import quote

import click

from cache.commands.options import FILE, FOLDER, json_option, labels_option
from data.clusters.engine import Cluster
from data.configuration import given_here
from data.help_text import examples
from data.output_file import check_outputs, table
from model.commands.options import (
    MethodName,
    Names,
    Setup,
    preset_option,
    read_training_labels,
    show_run,
    smoothing_option,
    takes_setup,
    trains_on_cluster,
)

DEFAULT_METHODS = "convlstm,logistic,shuffled,position,deepmil,ar-net,gmm,sparse,knn,autoencoder"


#: Table 3 of Wan et al. 2021.
TABLE_3 = "sparse,conv-ae,gmm,srnn,unet,mnad,ognet,deepmil,mlep,ar-net,convlstm"


@examples(
    "feat compare",
    "feat compare --table3 --seeds 1 --preset small",
    "feat compare --methods convlstm,deepmil,knn --seeds 3 --csv table.csv",
    "feat compare --choose 3 --seeds 1 --out choice",
)
@click.command()
@labels_option
@click.option(
    "--methods", type=Names(MethodName()), default=DEFAULT_METHODS, show_default=True,
    help="Any that feat train --method takes, with commas; flow-magnitude needs flow that was "
    "extracted here.",
)  # fmt: skip
@click.option(
    "--table3", is_flag=True,
    help="All methods of the paper's Table 3, instead of --methods. Those of pixels need frames "
    "(feat extract --streams rgb,flow,frames).",
)  # fmt: skip
@click.option(
    "--choose", "folds", type=click.IntRange(min=2), metavar="FOLDS",
    help="Say which method to take: compare them on so many folds of the training videos, the test "
    "videos left out.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True,
    help="Runs of each method that draws anything.",
)  # fmt: skip
@click.option(
    "--out", type=FOLDER, default=Path("comparison"), show_default=True,
    help="Folder of the runs (with --choose: choice). What is in it already is not done again.",
)  # fmt: skip
@preset_option
@click.option(
    "--set", "assignments", metavar="METHOD.NAME=VALUE", multiple=True,
    help="Change a setting of one of the methods, such as deepmil.steps=2000. Repeatable.",
)  # fmt: skip
@smoothing_option
@click.option("--csv", "csv_file", type=FILE, help="Write the table there too, with all digits.")
@json_option
@trains_on_cluster
@takes_setup(of_run=False)
def compare_command(
    setup: Setup,
    labels_file: Path | None,
    methods: tuple[str, ...],
    table3: bool,
    folds: int | None,
    seeds: int,
    out: Path,
    preset: str,
    assignments: tuple[str, ...],
    smoothing: float | None,
    csv_file: Path | None,
    as_json: bool,
    cluster: Cluster | None,
) -> None:
    """Train and test several methods on the same videos: one table.

    The table is printed as Markdown and drawn as compare.png in --out. A method that has no
    preset of that name takes its default. With --choose the table tells which method to take.
    """
    if table3 and given_here("methods"):
        raise click.UsageError("--methods and --table3 exclude each other")
    if folds and csv_file:
        raise click.UsageError("--csv is of a comparison; with --choose take --json")
    if folds and not given_here("out"):
        out = Path("choice")
    # what is missing is told before PyTorch is loaded
    cache = setup.open_cache()
    labels = read_training_labels(labels_file, cache)
    if csv_file:
        kind = table(("method", "supervision", "seeds"))
        check_outputs({csv_file: kind}, inputs=[labels_file or cache.labels_path])

    from model.experiments.choose import choose_by_folds
    from model.experiments.compare import run_comparison
    from model.experiments.compare_plot import PICTURE_NAME, draw_comparison
    from model.experiments.compare_table import to_markdown, write_csv
    from model.methods.registry import choose_methods

    chosen = choose_methods(TABLE_3.split(",") if table3 else methods, preset, assignments)
    terms, workers = setup.terms(cache, smoothing), setup.workers(cluster)
    if folds:
        choice = choose_by_folds(
            cache, labels, chosen,
            folds=folds, seeds=seeds, out=out, terms=terms, workers=workers, on_run=show_run,
        )  # fmt: skip
        own = [one.partition(".")[2] for one in assignments if one.startswith(f"{choice.taken}.")]
        given: list[tuple[str, object]] = [("--set", one) for one in own]
        given += [("--preset", preset)] if given_here("preset") else []
        given += [("--labels", labels_file)] if labels_file else []
        given += [("--cache", cache.path)] if given_here("cache_dir") else []
        options = "".join(f" {name} {quote(str(value))}" for name, value in given)
        click.echo(json.dumps(choice.to_dict()) if as_json else choice.to_markdown(options))
        return
    comparison = run_comparison(
        cache, labels, chosen,
        seeds=seeds, out=out, terms=terms, workers=workers, on_run=show_run,
    )  # fmt: skip
    # first: what then cannot be written costs no result
    click.echo(json.dumps(comparison.to_dict()) if as_json else to_markdown(comparison))
    draw_comparison(out / PICTURE_NAME, comparison)
    if csv_file:
        write_csv(csv_file, comparison)
