"""The command `feat report`."""

from pathlib import Path
from typing import cast

import click

from cache.commands.options import FILE, FOLDER
from data.help_text import examples
from model.commands.options import RunFolder

COMPARISON = Path("comparison.html")


@examples(
    "feat report                     of the newest run",
    "feat report --videos clips/     a click on a curve plays clips/...",
    "feat report runs/a runs/b       of two runs, and comparison.html",
)
@click.command()
@click.argument("run", nargs=-1, type=RunFolder())
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True,
    help="Folder of run folders; without RUN its newest is taken.",
)  # fmt: skip
@click.option(
    "--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True,
    help="The part that was evaluated.",
)  # fmt: skip
@click.option(
    "--videos", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the video files: a click on a curve plays the video there.",
)  # fmt: skip
@click.option(
    "--out", type=FILE,
    help=f"The page that compares several runs.  [default: {COMPARISON}]",
)  # fmt: skip
def report_command(
    run: tuple[Path, ...], runs: Path, split: str, videos: Path | None, out: Path | None
) -> None:
    """Write report.html again, with videos to play.

    RUN is a folder that feat eval has evaluated. The page is one file that needs no network. It
    refers to the videos where they lie beside it, and holds none of them. Several runs get one more
    page, which compares them with the first.
    """
    from data.labels import Split
    from data.output_file import HTML, check_outputs
    from model.evaluation.comparison import read_runs, write_comparison
    from model.evaluation.evaluate import write_page_again
    from model.runs.folder import newest_run

    which = cast(Split, split)
    chosen = list({path.resolve(): path for path in run or (newest_run(runs),)}.values())
    if out and len(chosen) < 2:
        raise click.UsageError("--out names the page of several runs; name two or more")
    if len(chosen) > 1:  # first: it reads them all
        page = out or COMPARISON
        check_outputs({page: HTML})
        compared = read_runs(chosen, which)
        click.echo(write_comparison(compared, split=which, out=page, videos=videos))
    for one in chosen:
        click.echo(write_page_again(one, split=which, videos=videos))
