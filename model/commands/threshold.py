"""The command `feat threshold`."""

import json
from pathlib import Path

import click

from data.help_text import examples
from model.commands.options import FOLDER, RunFolder, alarm_options, json_option


@examples("feat threshold", "feat threshold runs/mine --false-alarms 0.5 --n-of-m 2/3")
@click.command("threshold")
@click.argument("run", required=False, type=RunFolder())
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@alarm_options
@json_option
def threshold_command(
    run: Path | None, runs: Path, false_alarms: float, n_of_m: tuple[int, int], as_json: bool
) -> None:
    """Fit a run's threshold for a budget of false alarms.

    From the scores of held-out normal videos that the run has kept: nothing is trained or scored.
    `feat predict` uses the threshold from then on; `feat eval` measures with it when it is run
    again. Of several seeds each gets its own, and the mean of them all another.
    [default: the newest run in --runs]
    """
    from model.experiments.seeds import fit_thresholds
    from model.measures.budget import AlarmRule
    from model.runs.folder import newest_run

    run = run or newest_run(runs)
    needs, of = n_of_m
    stored = fit_thresholds(run, AlarmRule(per_hour=false_alarms, needs=needs, of=of))
    if as_json:
        click.echo(json.dumps({"run": str(run), **stored.to_dict()}))
    else:
        click.echo(f"{stored.to_text()}\nrun: {run}")
