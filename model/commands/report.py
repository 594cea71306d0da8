"""The command `feat report`."""

from pathlib import Path
from typing import cast

import click

from data.help_text import examples
from model.commands.options import FOLDER, RunFolder


@examples(
    "feat report                     of the newest run",
    "feat report --videos clips/     a click on a curve plays clips/...",
    "feat report runs/a runs/b       of two runs",
)
@click.command()
@click.argument("run", nargs=-1, type=RunFolder())
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True,
    help="Folder of run folders; without RUN its newest is taken.",
)  # fmt: skip
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True
)
@click.option(
    "--videos", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the video files: a click on a curve plays the video there.",
)  # fmt: skip
def report_command(run: tuple[Path, ...], runs: Path, split: str, videos: Path | None) -> None:
    """Write report.html of evaluated runs again, with videos to play.

    The page is one file that needs no network. It refers to the videos where they lie beside it,
    and holds none of them.
    """
    from data.labels import Split
    from model.evaluation.evaluate import write_page_again
    from model.runs.folder import newest_run

    for one in run or (newest_run(runs),):
        click.echo(write_page_again(one, split=cast(Split, split), videos=videos))
