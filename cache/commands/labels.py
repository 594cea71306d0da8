"""The commands `feat data check` and `feat data stats`: labels against a cache.

They live here because a cache knows of labels and labels know nothing of a cache.
"""

import json
import logging
from pathlib import Path
from typing import Literal

import click

from cache.commands.options import FILE, FOLDER, config_option, json_option, labels_option
from data.help_text import examples

logger = logging.getLogger(f"feat.{__name__}")


@examples("feat data check", "feat data check --labels new.csv --cache shared/features")
@click.command()
@labels_option
@click.option(
    "--cache",
    "cache_dir",
    type=FOLDER,
    default=Path("features"),
    show_default=True,
    help="The feature cache to check them against.",
)
@config_option
@click.option(
    "--category", "categories", multiple=True,
    help="Warn of every category but this one. Repeatable.",
)  # fmt: skip
@json_option
@click.pass_context
def check_command(
    context: click.Context,
    labels_file: Path | None,
    cache_dir: Path,
    configs: tuple[str, ...],
    categories: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check that labels fit the features in a cache.

    What is checked: lengths, missing videos, leaks between the parts, balance. Exit code 1 if there
    is an error, that is, something that makes training wrong.
    """
    from cache.configs import choose_configs
    from cache.facts import video_facts
    from cache.store import FeatureCache
    from data.annotation.alignment import check_alignment
    from data.labels import read_labels

    cache = FeatureCache(cache_dir)
    labels = read_labels(labels_file or cache.labels_path)
    timed = [label.video for label in labels if label.times]
    facts = video_facts(cache, configs=choose_configs(cache, configs), timed=timed)
    report = check_alignment(labels, facts, categories=categories or None)
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        for finding in report.findings:
            click.echo(str(finding))
        click.echo(
            f"{report.num_aligned} of {report.num_videos} videos aligned,"
            f" {len(report.errors)} errors, {len(report.warnings)} warnings"
        )
    if report.errors:
        context.exit(1)


@examples(
    "feat data stats",
    "feat data stats --labels labels.csv --name Mine --plot stats.png --format markdown",
)
@click.command()
@labels_option
@click.option(
    "--cache", "cache_dir", type=FOLDER, help="Take the numbers of frames from this feature cache."
)
@click.option("--name", default="", help="The database's name in title and table.")
@click.option("--plot", type=FILE, help="Write the three panels here (.png, .svg or .pdf).")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "markdown"]),
    default="text",
    show_default=True,
    help="How to print the table.",
)
def stats_command(
    labels_file: Path | None,
    cache_dir: Path | None,
    name: str,
    plot: Path | None,
    form: Literal["text", "csv", "markdown"],
) -> None:
    """Count videos and frames, and draw how many are abnormal."""
    from cache.facts import video_facts
    from cache.store import FeatureCache
    from data.annotation import stats
    from data.annotation.alignment import check_alignment
    from data.labels import read_labels
    from data.output_file import PICTURES, PNG, check_outputs

    cache = FeatureCache(cache_dir) if cache_dir else None
    path = labels_file or (cache.labels_path if cache is not None else None)
    if path is None:
        raise click.UsageError("Give --labels, --cache, or both.")
    if plot is not None:
        check_outputs({plot: PICTURES.get(plot.suffix.lower(), PNG)}, inputs=[path])
    labels = read_labels(path)
    num_frames = {}
    if cache is not None:
        facts = video_facts(cache, timed=[label.video for label in labels if label.times])
        labels = list(check_alignment(labels, facts).labels)
        num_frames = {video: fact.num_frames for video, fact in facts.items()}
    rows = stats.video_stats(labels, num_frames)
    tables = [
        stats.database_table(rows, name or path.stem),
        stats.protocol_table(rows),
        stats.category_table(rows),
    ]
    click.echo("\n".join(stats.render_table(table, form) for table in tables), nl=False)
    if plot is not None:
        from data.annotation.stats_plots import plot_stats

        plot_stats(rows, plot, title=name)
        logger.info("wrote %s", plot)
