"""The command `feat ablate`."""

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
    set_threads,
    skip_option,
    streams_option,
)


@click.command()
@cache_option
@click.option(
    "--labels", "labels_files", type=FILE, multiple=True,
    help="Labels file; several times for several splits.  [default: labels.csv in the cache]",
)  # fmt: skip
@click.option(
    "--what", default="table4,table5,figure5,figure6,figure7", show_default=True,
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
@click.option("--preset", default="default", show_default=True, help="The base of all variants.")
@streams_option
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps at most.")
@click.option("--k", "k_values", help="Figure 5's values, with commas.  [default: 1,2,3,4,5,6,8]")
@click.option("--lambda2", "score_weights", help="Figure 6's values.  [default: 0.1,1,5,10,20,50]")
@click.option("--threads", type=click.IntRange(min=1), help="Processor threads.")
@device_option
@skip_option
@misaligned_option
@json_option
def ablate_command(
    cache_dir: Path,
    labels_files: tuple[Path, ...],
    what: str,
    seeds: int,
    out: Path,
    preset: str,
    streams: str | None,
    steps: int | None,
    k_values: str | None,
    score_weights: str | None,
    threads: int | None,
    device: str,
    skip_missing: bool,
    allow_misaligned: bool,
    as_json: bool,
) -> None:
    """Run the paper's ablations on a cache: a table of each (Markdown, CSV), a picture of figures.

    A part that cannot be run, such as the losses where no video has a category, is named with the
    reason; the others are run.
    """
    from cache import FeatureCache
    from data.memory import ask_for_huge_pages
    from model.config import choose_preset
    from model.experiments.ablate import run_ablation
    from model.experiments.ablate_plan import K_VALUES, SCORE_WEIGHTS
    from model.experiments.folder import Terms
    from model.runs.folder import file_names

    def show(variant: str, split: str, seed: int, auc: float | None) -> None:
        found = "none" if auc is None else f"{auc:.3f}"
        click.echo(f"{split}, {variant}, seed {seed}: AUC {found}", err=True)

    ask_for_huge_pages()
    set_threads(threads)
    cache = FeatureCache(cache_dir)
    files = labels_files or (cache.labels_path,)
    labels = [read_training_labels(path if labels_files else None, cache) for path in files]
    parts = run_ablation(
        cache,
        dict(zip(file_names([path.stem for path in files]), labels, strict=True)),
        out=out,
        terms=Terms(
            preset=choose_preset(preset).changed({"max_steps": steps}),
            streams=tuple(_split(streams)),
            device=device,
            skip_missing=skip_missing,
            allow_misaligned=allow_misaligned,
        ),
        what=_split(what),
        seeds=seeds,
        k_values=[int(_number(text, "--k")) for text in _split(k_values)] or K_VALUES,
        score_weights=[_number(text, "--lambda2") for text in _split(score_weights)]
        or SCORE_WEIGHTS,
        on_run=show,
    )
    if as_json:
        click.echo(json.dumps({"out": str(out), "parts": [part.to_dict() for part in parts]}))
        return
    click.echo("\n\n".join(part.to_markdown() for part in parts))


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
        if option == "--k" and not value.is_integer():
            raise ValueError
    except ValueError:
        raise click.UsageError(f"{option}: {text!r} is not a number it takes") from None
    return value
