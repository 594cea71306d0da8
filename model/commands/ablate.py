"""The command `feat ablate`."""

import json
from pathlib import Path

import click

from model.commands.options import (
    FILE,
    FOLDER,
    Names,
    cache_option,
    config_option,
    data_options,
    device_option,
    json_option,
    lenient_options,
    method_option,
    prepare_process,
    preset_option,
    read_training_labels,
    set_option,
    smoothing_option,
    streams_option,
    threads_option,
)

PARTS = ("table4", "table5", "figure5", "figure6", "figure7")


@click.command()
@cache_option
@click.option(
    "--labels", "labels_files", type=FILE, multiple=True,
    help="Labels file; several times for several splits.  [default: labels.csv in the cache]",
)  # fmt: skip
@click.option(
    "--what", type=Names(click.Choice(PARTS)), default=",".join(PARTS), show_default=True,
    help="Streams, losses, K, lambda2, confusion matrix.",
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
@streams_option
@config_option
@click.option(
    "--k", "k_values", type=Names(click.IntRange(min=1)), default="1,2,3,4,5,6,8",
    show_default=True, help="Figure 5's values.",
)  # fmt: skip
@click.option(
    "--lambda2", "score_weights", type=Names(click.FloatRange(min=0)), default="0.1,1,5,10,20,50",
    show_default=True, help="Figure 6's values.",
)  # fmt: skip
@smoothing_option
@threads_option
@device_option
@lenient_options
@json_option
def ablate_command(
    cache_dir: Path,
    labels_files: tuple[Path, ...],
    what: tuple[str, ...],
    seeds: int,
    out: Path,
    method: str,
    preset: str,
    assignments: tuple[str, ...],
    streams: tuple[str, ...],
    configs: tuple[str, ...],
    k_values: tuple[int, ...],
    score_weights: tuple[float, ...],
    smoothing: float | None,
    threads: int | None,
    device: str,
    skip_missing: bool,
    allow_misaligned: bool,
    as_json: bool,
) -> None:
    """Run the paper's ablations on a cache: a table of each (Markdown, CSV), a picture of figures.

    The base of all variants is the method with its preset and settings. A part that cannot be run,
    such as the losses where no video has a category or the method has one loss only, is named with
    the reason; the others are run.
    """
    prepare_process(threads)
    from cache import FeatureCache
    from model.experiments.ablate import run_ablation
    from model.experiments.folder import Terms
    from model.methods.registry import choose_method
    from model.runs.file_names import file_names

    def show(variant: str, split: str, seed: int, auc: float | None) -> None:
        found = "none" if auc is None else f"{auc:.3f}"
        click.echo(f"{split}, {variant}, seed {seed}: AUC {found}", err=True)

    cache = FeatureCache(cache_dir)
    files = labels_files or (cache.labels_path,)
    labels = [read_training_labels(path if labels_files else None, cache) for path in files]
    parts = run_ablation(
        cache,
        dict(zip(file_names([path.stem for path in files]), labels, strict=True)),
        out=out,
        method=choose_method(method, preset, assignments),
        terms=Terms(
            options=data_options(
                cache,
                configs=configs,
                streams=streams,
                skip_missing=skip_missing,
                allow_misaligned=allow_misaligned,
            ),
            device=device,
            smoothing=smoothing,
        ),
        what=what,
        seeds=seeds,
        k_values=k_values,
        score_weights=score_weights,
        on_run=show,
    )
    if as_json:
        click.echo(json.dumps({"out": str(out), "parts": [part.to_dict() for part in parts]}))
        return
    click.echo("\n\n".join(part.to_markdown() for part in parts))
