"""The command `feat threshold`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cache.commands.options import FILE, FOLDER, json_option
from data.help_text import examples
from model.commands.options import (
    RunFolder,
    Setup,
    alarm_options,
    read_training_labels,
    takes_setup,
)

if TYPE_CHECKING:
    from model.runs.threshold import NormalVideo


@examples(
    "feat threshold",
    "feat threshold runs/mine --false-alarms 0.5 --n-of-m 2/3",
    "feat threshold runs/mine --labels new/labels.csv --cache new/features",
)
@click.command("threshold")
@click.argument("run", required=False, type=RunFolder())
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@click.option(
    "--labels", "labels_file", type=FILE,
    help="Fit it to the normal videos with split val in this file, which need features in --cache. "
    "[default: the scores that the run has kept; with --cache, the labels of that cache]",
)  # fmt: skip
@alarm_options
@json_option
@takes_setup(of_run=True)
def threshold_command(
    run: Path | None,
    runs: Path,
    setup: Setup,
    labels_file: Path | None,
    false_alarms: float,
    n_of_m: tuple[int, int],
    as_json: bool,
) -> None:
    """Fit a run's threshold for a budget of false alarms.

    From the scores of held-out normal videos that the run has kept: nothing is trained or scored.
    With --labels or --cache from other normal footage, which is scored; its scores are kept then.
    `feat predict` uses the threshold from then on; `feat eval` measures with it when it is run
    again. Of several seeds each gets its own, and the mean of them all another.
    [default: the newest run in --runs]
    """
    from model.experiments.seeds import fit_thresholds
    from model.measures.budget import AlarmRule
    from model.runs.folder import newest_run

    run = run or newest_run(runs)
    held_out = None
    if labels_file or setup.cache_dir:
        cache = setup.open_cache_of(run)
        labels = read_training_labels(labels_file, cache)

        def held_out(one: Path) -> "list[NormalVideo]":
            from model.evaluation.held_out import score_held_out

            options = setup.data_options(cache)
            return score_held_out(one, cache, labels, device=setup.device, options=options)

    needs, of = n_of_m
    stored = fit_thresholds(run, AlarmRule(per_hour=false_alarms, needs=needs, of=of), held_out)
    if as_json:
        click.echo(json.dumps({"run": str(run), **stored.to_dict()}))
    else:
        click.echo(f"{stored.to_text()}\nrun: {run}")
