"""The commands `feat runs`."""

from pathlib import Path

import click

from model.commands.options import FOLDER


@click.group("runs")
def runs_group() -> None:
    """Look after the folders of trained runs."""


@runs_group.command("verify")
@click.argument("folders", metavar="[RUN]...", nargs=-1, type=FOLDER)
@click.pass_context
def verify_command(ctx: click.Context, folders: tuple[Path, ...]) -> None:
    """Check that runs are as they were written, a line a run; exit 1 if one is damaged.

    RUN is a run folder or one that holds runs, such as a comparison's.  [default: runs]
    """
    from model.runs.verify import find_runs, verify_run

    damaged = False
    for run in [run for folder in folders or (Path("runs"),) for run in find_runs(folder)]:
        checked = verify_run(run)
        click.echo(checked.to_text())
        damaged = damaged or bool(checked.problems)
    ctx.exit(int(damaged))
