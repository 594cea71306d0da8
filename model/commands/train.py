"""The commands `feat train` and `feat eval`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

if TYPE_CHECKING:
    from cache import FeatureCache
    from data.labels import Split, VideoLabel
    from model.config import Preset
    from model.evaluation.evaluate import EvalReport
    from model.experiments.seeds import SeedsReport
    from model.training.train import TrainReport

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)

cache_option = click.option(
    "--cache", "cache_dir", type=FOLDER, default=Path("features"), show_default=True,
    help="The feature cache to train from.",
)  # fmt: skip
streams_option = click.option(
    "--streams", help="Such as rgb or rgb,flow.  [default: those all videos have]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, or auto: a GPU if there is one."
)
skip_option = click.option(
    "--skip-missing", is_flag=True, help="Leave out labelled videos that the cache lacks."
)
misaligned_option = click.option(
    "--allow-misaligned", is_flag=True, help="Cut labels that go beyond the end of their video."
)
smoothing_option = click.option(
    "--smoothing", type=click.FloatRange(0, 100),
    help="Smooth frame scores: standard deviation in clips.  [default: as each run says]",
)  # fmt: skip


@click.command()
@cache_option
@click.option(
    "--labels", "labels_file", type=FILE, help="Labels file.  [default: labels.csv in the cache]"
)
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@click.option("--out", type=FOLDER, help="The run folder itself.  [default: a new one in --runs]")
@click.option(
    "--method", default="convlstm", show_default=True,
    help="convlstm; deepmil, ar-net (weakly supervised); gmm, sparse, knn, autoencoder (normal "
    "videos only); logistic, shuffled, position, flow-magnitude (trivial).",
)  # fmt: skip
@click.option("--preset", default="default", show_default=True, help="default, paper, or released.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--seeds", type=click.IntRange(min=1),
    help="Train so many, with seeds --seed and up, in one folder; report mean and spread. The "
    "same --out goes on with what is there.",
)  # fmt: skip
@streams_option
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps at most.")
@click.option("--num-clips", type=click.IntRange(min=1), help="K, the clips of a window.")
@click.option("--hidden", type=click.IntRange(min=1), help="Channels of the ConvLSTM.")
@click.option("--layers", type=click.IntRange(min=1), help="ConvLSTM layers.")
@click.option(
    "--peepholes/--no-peepholes", default=None, help="Let the ConvLSTM's gates see its cell state."
)
@click.option(
    "--heads", type=click.Choice(["shared", "separate", "branched"]),
    help="Layers before the two outputs: the same, their own, or the first alone the same.",
)  # fmt: skip
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True))
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True))
@click.option("--weight-decay", type=click.FloatRange(0))
@click.option("--batch-size", type=click.IntRange(min=1), help="Windows a step.")
@click.option(
    "--val-fraction", type=click.FloatRange(0, 1, max_open=True),
    help="Share of the training videos that selects the model, where the labels name no val ones.",
)  # fmt: skip
@click.option(
    "--standardize/--no-standardize", default=None,
    help="Standardise features with the training set's statistics.",
)  # fmt: skip
@click.option(
    "--smoothing", type=click.FloatRange(0, 100),
    help="Smooth a video's scores with a Gaussian of so many clips; 0 for none.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]),
    help="Of the matrix products; bfloat16 is for GPUs: CPUs are quicker in float32.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(min=1),
    help="Processor threads.  [default: one a core]",
)  # fmt: skip
@click.option(
    "--resume", "killed", type=FOLDER,
    help="Go on with the killed training in this run folder, with its settings and labels.",
)  # fmt: skip
@device_option
@skip_option
@misaligned_option
@json_option
def train_command(
    cache_dir: Path,
    labels_file: Path | None,
    runs: Path,
    out: Path | None,
    method: str,
    preset: str,
    seed: int,
    seeds: int | None,
    streams: str | None,
    steps: int | None,
    killed: Path | None,
    threads: int | None,
    device: str,
    skip_missing: bool,
    allow_misaligned: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train the ConvLSTM model, or a competitor of it, from a feature cache alone.

    Of the settings below from --preset to --precision a competitor takes --seed, --streams and,
    where it has steps, --steps; its own are in model/methods.
    """
    from cache import FeatureCache
    from data.memory import ask_for_huge_pages
    from model.config import choose_preset
    from model.experiments.seeds import SeedsReport

    ask_for_huge_pages()
    set_threads(threads)
    names = [name.strip() for name in streams.split(",")] if streams else []
    cache = FeatureCache(cache_dir)
    if method != "convlstm":
        if seeds:
            raise click.UsageError(
                f"--seeds is for the ConvLSTM; use `feat compare --methods {method} --seeds N`"
            )
        _refuse_settings(method, preset, settings)
        _train_method(
            method,
            steps,
            cache,
            read_training_labels(labels_file, cache),
            as_json=as_json,
            seed=seed,
            runs=runs,
            out=out,
            streams=names,
            skip_missing=skip_missing,
            allow_misaligned=allow_misaligned,
        )
        return
    chosen = choose_preset(preset).changed({"max_steps": steps, "seed": seed, **settings})
    report = _train_convlstm(
        cache,
        chosen,
        labels_file,
        killed=killed,
        seeds=seeds,
        new={"runs": runs, "out": out, "streams": names},
        how={
            "device": device,
            "skip_missing": skip_missing,
            "allow_misaligned": allow_misaligned,
        },
    )
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    if isinstance(report, SeedsReport):
        click.echo(report.to_text())
        click.echo(f"run: {report.run}")
        return
    click.echo(
        f"trained on {report.num_train_videos} videos ({report.num_train_windows} windows of "
        f"{' + '.join(report.streams)}), selected by {report.selected_by} on "
        f"{report.num_val_videos}: step {report.best_step} of {report.steps}, "
        f"{report.seconds:.0f} s"
    )
    click.echo(f"run: {report.run}")


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
@smoothing_option
@device_option
@skip_option
@misaligned_option
@json_option
def eval_command(
    run: Path | None,
    runs: Path,
    cache_dir: Path | None,
    labels_file: Path | None,
    split: str,
    compat: str | None,
    smoothing: float | None,
    device: str,
    skip_missing: bool,
    allow_misaligned: bool,
    as_json: bool,
) -> None:
    """Score the test videos with a trained run; write measures, pictures and report.html."""
    from data.labels import read_labels
    from model.evaluation.evaluate import run_evaluation
    from model.experiments.seeds import evaluate_seeds
    from model.measures.table import metrics_text
    from model.runs.finished import is_seeds_folder
    from model.runs.folder import LABELS_NAME, newest_run

    def evaluate(run: Path) -> "EvalReport":
        return run_evaluation(
            run,
            _cache_of(run, cache_dir),
            read_labels(labels_file or run / LABELS_NAME),
            split=cast("Split", split),
            device=device,
            skip_missing=skip_missing,
            allow_misaligned=allow_misaligned,
            released=compat == "released" and not is_seeds_folder(run),
            smoothing=smoothing,
        )

    run = run or newest_run(runs, methods=True, seeds=True)
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


def _train_convlstm(
    cache: "FeatureCache",
    preset: "Preset",
    labels_file: Path | None,
    *,
    killed: Path | None,
    seeds: int | None,
    new: dict[str, Any],
    how: dict[str, Any],
) -> "TrainReport | SeedsReport":
    """Train anew, or go on in the folder `killed`; one run, or as many as `seeds`."""
    from model.experiments.seeds import resume_seeds, train_seeds
    from model.runs.finished import is_seeds_folder
    from model.training.progress import TrainProgress
    from model.training.train import resume_training, run_training

    with TrainProgress(max_steps=preset.train.max_steps) as progress:
        how = {**how, "on_look": progress.show}
        if killed:
            resume = resume_seeds if is_seeds_folder(killed) else resume_training
            return resume(cache, killed, **how)
        labels = read_training_labels(labels_file, cache)
        if seeds:
            return train_seeds(cache, labels, seeds=seeds, preset=preset, **new, **how)
        return run_training(cache, labels, model=preset.model, train=preset.train, **new, **how)


def _refuse_settings(method: str, preset: str, settings: dict[str, Any]) -> None:
    """Refuse settings of the ConvLSTM that would do nothing."""
    given = [name for name, value in settings.items() if value is not None]
    given += ["preset"] if preset != "default" else []
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{options} is for the ConvLSTM, not for --method {method}")


def _train_method(
    name: str,
    steps: int | None,
    cache: "FeatureCache",
    labels: "list[VideoLabel]",
    *,
    as_json: bool,
    **how: Any,
) -> None:
    from model.methods.base import with_settings
    from model.methods.registry import choose_method
    from model.methods.runs import train_method

    method = with_settings(choose_method(name), {"steps": steps})
    report = train_method(method, cache, labels, **how)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    info = report.info
    supervised = (
        "unsupervised"
        if method.supervision == "unsupervised"
        else (f"{method.supervision} supervised")
    )
    click.echo(
        f"{name} ({supervised}) fitted to {len(info.train_videos)} videos "
        f"({' + '.join(stream.name for stream in info.streams)}), {info.seconds:.0f} s"
    )
    click.echo(f"run: {report.run}")


def _cache_of(run: Path, cache_dir: Path | None) -> "FeatureCache":
    from cache import FeatureCache
    from data.errors import CacheError
    from model.methods.runs import load_method
    from model.runs.checkpoint import CHECKPOINT_NAME, load_checkpoint
    from model.runs.finished import run_folders
    from model.runs.folder import METHOD_NAME

    if cache_dir:
        return FeatureCache(cache_dir)
    if (run / METHOD_NAME).exists():
        trained_from = Path(load_method(run / METHOD_NAME)[0].cache)
    else:
        trained_from = Path(load_checkpoint(run_folders(run)[0] / CHECKPOINT_NAME).info.cache)
    try:
        return FeatureCache(trained_from)
    except CacheError as error:
        raise CacheError(
            f"{error} (the run was trained from there; name its cache with --cache)"
        ) from error


def set_threads(threads: int | None) -> None:
    """Give PyTorch so many processor threads; None leaves its own choice, one a core.

    On two cores that was measured to be right: 1.1 to 1.5 times the steps of one thread with the
    default model, twice with `--preset paper`.
    """
    if threads:
        import torch

        torch.set_num_threads(threads)


def read_training_labels(path: Path | None, cache: "FeatureCache") -> "list[VideoLabel]":
    """Return the labels of a file, or of the cache where none is named."""
    from data.errors import LabelsError
    from data.labels import read_labels

    if path is None and not cache.labels_path.exists():
        raise LabelsError(
            f"{cache.labels_path}: the cache holds no labels; put a labels.csv beside the videos "
            "and run `feat extract`, or name one with --labels"
        )
    return read_labels(path or cache.labels_path)
