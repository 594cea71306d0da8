"""The command `feat eval`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from cache.commands.options import FILE, FOLDER, json_option
from data.help_text import examples
from model.commands.options import RunFolder, Setup, smoothing_option, takes_setup

if TYPE_CHECKING:
    from data.labels import Split
    from model.evaluation.evaluate import EvalReport
    from model.measures.normalising import Normalise


@examples(
    "feat eval",
    "feat eval --run runs/five --all",
    "feat eval --run runs/mine --cache shared/features --smoothing 0",
)
@click.command()
@click.option("--run", type=RunFolder(), help="The run folder.  [default: the newest in --runs]")
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@click.option(
    "--labels", "labels_file", type=FILE, help="[default: those the run was trained with]"
)
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True,
    help="The part of the videos to measure.",
)  # fmt: skip
@click.option(
    "--compat", type=click.Choice(["released", "rtfm", "one-class"]),
    help="Also evaluate as published code does, and show what each of its shortcuts is worth. "
    "released: LAD's authors'. rtfm: RTFM's and those after it (UR-DMU, PEL4VAD, MGFN). "
    "one-class: that of ConvAE, stacked RNN, U-Net, MNAD.",
)  # fmt: skip
@click.option(
    "--normalise", type=click.Choice(["none", "video", "global"]), default="none",
    show_default=True,
    help="Also measure scores that are min-max normalised: those of each video with its own "
    "future, or of all videos together. No result; the report has the right number beside it.",
)  # fmt: skip
@click.option(
    "--drop-first", type=click.IntRange(min=0), metavar="K",
    help="Also measure without the first K frames of each video.  [default: 0; 4 in --compat "
    "one-class]",
)  # fmt: skip
@smoothing_option
@click.option(
    "--out", type=FOLDER,
    help="Folder for the evaluation, as of a run that may only be read; `feat report` does not "
    "look there.  [default: eval in the run, or eval-SPLIT]",
)  # fmt: skip
@click.option(
    "--all", "show_all", is_flag=True, help="Print every measure, not the main ones only."
)
@json_option
@takes_setup(of_run=True)
def eval_command(
    run: Path | None,
    runs: Path,
    setup: Setup,
    labels_file: Path | None,
    split: str,
    compat: str | None,
    normalise: str,
    drop_first: int | None,
    smoothing: float | None,
    out: Path | None,
    show_all: bool,
    as_json: bool,
) -> None:
    """Measure a trained run on the test videos; write report.html.

    The main measures are printed, each with a 95 % interval over the test videos and what it is.
    They are those of the scores as they are; what --normalise and --drop-first make of them stands
    beside.

    The features are those the run was trained on, whatever else the cache holds; --config takes
    others, to see what they are worth to this run.
    """
    from cache.upkeep.summary import format_table
    from data.labels import read_labels
    from data.output_folder import claim_folder
    from model.runs.folder import LABELS_NAME, SCORES_NAME, is_seeds_folder, newest_run

    # what is missing is told before PyTorch is loaded
    run = chosen = run or newest_run(runs)
    if out:
        place = "seed-*/" if is_seeds_folder(run) else ""
        claim_folder(out, marker=f"{place}{SCORES_NAME}", kind="an evaluation")
    named_labels = read_labels(labels_file) if labels_file else None

    from model.evaluation.evaluate import run_evaluation
    from model.evaluation.ruled import ruled_rows
    from model.evaluation.snapshots import NAMES
    from model.experiments.seeds import evaluate_seeds
    from model.measures.metrics import uncounted_words
    from model.measures.normalising import ScoreRule
    from model.measures.registry import ADDED_MEASURES
    from model.measures.table import HEADLINE, metrics_text
    from model.runs.threshold import threshold_words

    def evaluate(run: Path) -> "EvalReport":
        cache = setup.open_cache_of(run)
        return run_evaluation(
            run,
            cache,
            read_labels(run / LABELS_NAME) if named_labels is None else named_labels,
            split=cast("Split", split),
            device=setup.device,
            options=setup.data_options(cache),
            compat=None if is_seeds_folder(run) else compat,
            smoothing=smoothing,
            normalise=rule.normalise,
            drop_first=drop_first,
            out=out if out is None or run == chosen else out / run.name,
        )

    rule = ScoreRule(normalise=cast("Normalise", normalise), drop_first=drop_first or 0)
    names = () if show_all else (*HEADLINE, *(f"auc_{name}" for name in NAMES), *ADDED_MEASURES)
    if is_seeds_folder(run):
        several = evaluate_seeds(run, evaluate)
        if as_json:
            click.echo(json.dumps(several.to_dict()))
            return
        click.echo(several.to_text((*names, *(f"{name}{rule.suffix}" for name in names))))
        if rule.suffix:
            click.echo(f"names with {rule.suffix} behind: {rule.note()}")
        if several.compat:
            click.echo(f"\n{several.compat.to_markdown()}")
        return
    report = evaluate(run)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
        return
    for line in metrics_text(report.metrics, names):
        click.echo(line)
    if names:
        click.echo(f"({len(report.metrics.values)} measures in all: --all prints them)\n")
    counts = report.metrics.counts
    videos = f"{counts['num_videos']}{uncounted_words(counts['num_uncounted_videos'])}"
    click.echo(f"{'videos':15} {videos}, {counts['num_frames']} frames")
    click.echo(f"{'protocol':15} {report.protocol}")
    click.echo(f"{'threshold':15} {threshold_words(report.threshold)}")
    click.echo(f"{'report':15} {report.report}")
    if report.ruled:
        head, *rows = ruled_rows(report.to_dict(), names)
        click.echo("\n" + "\n".join([*format_table(head, rows, set()), rule.note()]))
    if report.snapshots:
        click.echo("\n" + "\n".join(report.snapshots.to_lines()))
    if report.compat:
        click.echo(f"\n{report.compat.to_markdown()}")
