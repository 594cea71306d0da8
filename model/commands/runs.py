"""The commands `feat runs`."""

import json
from pathlib import Path

import click

from cache.commands.options import FOLDER, json_option
from data.help_text import examples
from model.commands.options import RunFolder


@examples("feat runs ls", "feat runs verify")
@click.group("runs")
def runs_group() -> None:
    """List the folders of trained runs, and check them."""


@examples("feat runs ls", "feat runs ls runs/compare --json")
@runs_group.command("ls")
@click.argument("folder", metavar="[RUNS]", default=Path("runs"), type=FOLDER)
@json_option
def ls_command(folder: Path, as_json: bool) -> None:
    """List the runs, newest first.

    They come with method, data, and figures if they were evaluated. Several seeds, a comparison or
    an ablation are one line, from the least to the greatest. AUC and AP are those of the test
    videos.  [default: runs]
    """
    from model.runs.listing import list_runs, runs_table

    listed = list_runs(folder)
    if as_json:
        click.echo(json.dumps({"runs": [one.to_json() for one in listed]}))
    else:
        click.echo("\n".join(runs_table(listed)))


@examples("feat runs verify", "feat runs verify runs/mine runs/five")
@runs_group.command("verify")
@click.argument("folders", metavar="[RUN]...", nargs=-1, type=RunFolder())
@click.pass_context
def verify_command(ctx: click.Context, folders: tuple[Path, ...]) -> None:
    """Check that runs are as they were written.

    Prints a line a run; exit code 1 if one is damaged. RUN is a run folder or one that holds runs,
    such as a comparison's.  [default: runs]
    """
    from model.runs.folder import find_runs
    from model.runs.verify import verify_run

    damaged = False
    for run in [run for folder in folders or (Path("runs"),) for run in find_runs(folder)]:
        checked = verify_run(run)
        click.echo(checked.to_text())
        damaged = damaged or bool(checked.problems)
    ctx.exit(int(damaged))
