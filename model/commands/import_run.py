"""The command `feat import-run`."""

import json
from pathlib import Path

import click

from cache.commands.options import FILE, FOLDER, json_option
from data.help_text import examples
from model.commands.options import Names, streams_option


@examples(
    "feat import-run iter_6000.pkl",
    "feat import-run iter_6000.pkl --categories fight,fall --out runs/theirs",
)
@click.command(name="import-run")
@click.argument("checkpoint", type=FILE)
@click.option(
    "--cache", "cache_dir", type=FOLDER, default=Path("features"), show_default=True,
    help="The feature cache to use it on.",
)  # fmt: skip
@click.option(
    "--out", type=FOLDER, default=Path("runs/released"), show_default=True, help="The run folder."
)
@click.option(
    "--categories", type=Names(click.STRING), default=(),
    help="Names by number, such as fight,fall.  [default: the 14 of LAD2000]",
)  # fmt: skip
@streams_option
@click.option(
    "--labels", "labels_file", type=FILE,
    help="For feat eval.  [default: labels.csv in the cache, if it has one]",
)  # fmt: skip
@json_option
def import_run_command(
    checkpoint: Path,
    cache_dir: Path,
    out: Path,
    categories: tuple[str, ...],
    streams: tuple[str, ...],
    labels_file: Path | None,
    as_json: bool,
) -> None:
    """Make a run of a checkpoint of the LAD2000 authors' code.

    feat eval and feat predict then take it like any other.
    """
    from cache import FeatureCache
    from data.labels import read_labels
    from model.runs.released import import_released

    cache = FeatureCache(cache_dir)
    path = labels_file or (cache.labels_path if cache.labels_path.exists() else None)
    info = import_released(
        checkpoint,
        cache,
        out=out,
        categories=categories,
        streams=streams,
        labels=read_labels(path) if path else (),
    )
    if as_json:
        click.echo(json.dumps({"run": str(out), **info.to_dict()}))
        return
    settings = info.method.to_dict()
    click.echo(
        f"{settings['layers']} ConvLSTM layers, windows of {settings['num_clips']} clips of "
        f"{' + '.join(stream.name for stream in info.streams)}, {len(info.categories)} categories"
    )
    click.echo(f"run: {out}")
