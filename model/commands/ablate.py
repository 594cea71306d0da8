"""The command `feat ablate`."""

import json
from pathlib import Path

import click

from cache.commands.options import FILE, FOLDER, json_option
from data.clusters.engine import Cluster
from data.help_text import examples
from data.number_option import Number
from model.commands.options import (
    Names,
    Setup,
    method_option,
    preset_option,
    read_training_labels,
    set_option,
    show_run,
    smoothing_option,
    takes_setup,
    trains_on_cluster,
)

PARTS = ("table4", "table5", "figure5", "figure6", "figure7")


@examples(
    "feat ablate --what table4,figure5 --seeds 3",
    "feat ablate --what figure5 --k 1,2,4 --set steps=500 --out runs/k",
)
@click.command()
@click.option(
    "--labels", "labels_files", type=FILE, multiple=True,
    help="Labels file; several times for several splits.  [default: labels.csv in the cache]",
)  # fmt: skip
@click.option(
    "--what", type=Names(click.Choice(PARTS)), default=",".join(PARTS), show_default=True,
    help="table4: streams. table5: losses. figure5: K, the clips of a window. figure6: lambda2, "
    "the weight of the scores' loss. figure7: confusion matrix.",
)  # fmt: skip
@click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True,
    help="Runs of each variant on each split.",
)  # fmt: skip
@click.option(
    "--out", type=FOLDER, default=Path("ablation"), show_default=True,
    help="Folder of the runs, tables and pictures. What is in it already is not done again.",
)  # fmt: skip
@method_option
@preset_option
@set_option
# the paper's text names K = 2 and 5 and lambda2 = 10, and no other value of its figures 5 and 6
@click.option(
    "--k", "k_values", type=Names(click.IntRange(min=1)), default="1,2,3,4,5,6,8",
    show_default=True, help="Figure 5's values.",
)  # fmt: skip
@click.option(
    "--lambda2", "score_weights", type=Names(Number(min=0)), default="0.1,1,5,10,20,50",
    show_default=True, help="Figure 6's values.",
)  # fmt: skip
@smoothing_option
@json_option
@trains_on_cluster
@takes_setup(of_run=False)
def ablate_command(
    setup: Setup,
    labels_files: tuple[Path, ...],
    what: tuple[str, ...],
    seeds: int,
    out: Path,
    method: str,
    preset: str,
    assignments: tuple[str, ...],
    k_values: tuple[int, ...],
    score_weights: tuple[float, ...],
    smoothing: float | None,
    as_json: bool,
    cluster: Cluster | None,
) -> None:
    """Run the paper's ablations on your data: tables and pictures.

    Tables are Markdown and CSV, pictures PNG. The base of all variants is the method with its
    preset and settings. A part that cannot be run, such as the losses where no video has a category
    or the method has one loss only, is named with the reason; the others are run.
    """
    # what is missing is told before PyTorch is loaded
    cache = setup.open_cache()
    files = labels_files or (cache.labels_path,)
    labels = [read_training_labels(path if labels_files else None, cache) for path in files]

    from model.experiments.ablate import run_ablation
    from model.methods.registry import choose_method
    from model.runs.file_names import file_names

    parts = run_ablation(
        cache,
        dict(zip(file_names([path.stem for path in files]), labels, strict=True)),
        out=out,
        method=choose_method(method, preset, assignments),
        terms=setup.terms(cache, smoothing),
        workers=setup.workers(cluster),
        what=what,
        seeds=seeds,
        k_values=k_values,
        score_weights=score_weights,
        on_run=lambda variant, split, *rest: show_run(split, variant, *rest),
    )
    if as_json:
        click.echo(json.dumps({"out": str(out), "parts": [part.to_dict() for part in parts]}))
        return
    click.echo("\n\n".join(part.to_markdown() for part in parts))
