"""The command `feat eval`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from model.commands.options import (
    FILE,
    FOLDER,
    config_option,
    data_options,
    device_option,
    json_option,
    lenient_options,
    prepare_process,
    smoothing_option,
    threads_option,
)

if TYPE_CHECKING:
    from cache import FeatureCache
    from data.labels import Split
    from model.evaluation.evaluate import EvalReport


@click.command()
@click.option("--run", type=FOLDER, help="The run folder.  [default: the newest in --runs]")
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@click.option("--cache", "cache_dir", type=FOLDER, help="[default: the cache of the run]")
@click.option(
    "--labels", "labels_file", type=FILE, help="[default: those the run was trained with]"
)
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True
)
@click.option(
    "--compat", type=click.Choice(["released"]),
    help="Also evaluate as the authors' published code does: what each of its shortcuts is worth.",
)  # fmt: skip
@config_option
@smoothing_option
@threads_option
@device_option
@lenient_options
@json_option
def eval_command(
    run: Path | None,
    runs: Path,
    cache_dir: Path | None,
    labels_file: Path | None,
    split: str,
    compat: str | None,
    configs: tuple[str, ...],
    smoothing: float | None,
    threads: int | None,
    device: str,
    skip_missing: bool,
    allow_misaligned: bool,
    as_json: bool,
) -> None:
    """Score the test videos with a trained run; write measures, pictures and report.html.

    The features are those the run was trained on, whatever else the cache holds; --config takes
    others, to see what they are worth to this run.
    """
    prepare_process(threads)
    from data.labels import read_labels
    from model.evaluation.evaluate import run_evaluation
    from model.experiments.seeds import evaluate_seeds
    from model.measures.table import metrics_text
    from model.runs.folder import LABELS_NAME, is_seeds_folder, newest_run

    def evaluate(run: Path) -> "EvalReport":
        cache = _cache_of(run, cache_dir)
        return run_evaluation(
            run,
            cache,
            read_labels(labels_file or run / LABELS_NAME),
            split=cast("Split", split),
            device=device,
            options=data_options(
                cache,
                configs=configs,
                skip_missing=skip_missing,
                allow_misaligned=allow_misaligned,
            ),
            released=compat == "released" and not is_seeds_folder(run),
            smoothing=smoothing,
        )

    run = run or newest_run(runs)
    if is_seeds_folder(run):
        several = evaluate_seeds(run, evaluate)
        click.echo(json.dumps(several.to_dict()) if as_json else several.to_text())
        return
    report = evaluate(run)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    for line in metrics_text(report.metrics):
        click.echo(line)
    counts = report.metrics.counts
    click.echo(f"{'videos':15} {counts['num_videos']}, {counts['num_frames']} frames")
    click.echo(f"{'protocol':15} {report.protocol}")
    click.echo(f"{'report':15} {report.report}")
    if report.released:
        click.echo(f"\n{report.released.to_markdown()}")


def _cache_of(run: Path, cache_dir: Path | None) -> "FeatureCache":
    from cache import FeatureCache
    from data.errors import CacheError
    from model.runs.checkpoint import load_checkpoint
    from model.runs.trained import run_folders

    if cache_dir:
        return FeatureCache(cache_dir)
    try:
        return FeatureCache(Path(load_checkpoint(run_folders(run)[0]).info.cache))
    except CacheError as error:
        raise CacheError(
            f"{error} (the run was trained from there; name its cache with --cache)"
        ) from error
