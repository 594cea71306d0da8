"""The command `feat sample`."""

import logging
from pathlib import Path

import click

from data.help_text import examples
from data.number_option import SEED

logger = logging.getLogger(f"feat.{__name__}")


def _parse_size(_ctx: click.Context, _param: click.Parameter, value: str) -> tuple[int, int]:
    width, _, height = value.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise click.BadParameter(f"found {value!r}, expected WIDTHxHEIGHT such as 320x240")
    return int(width), int(height)


@examples("feat sample clips/", "feat sample clips/ --num-videos 6 --size 160x120 --seed 3")
@click.command(name="sample")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--num-videos", default=12, show_default=True, help="How many videos, 6 or more.")
@click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Another number, other videos."
)
@click.option(
    "--size", default="320x240", show_default=True, callback=_parse_size, help="Width x height."
)
@click.option("--force", is_flag=True, help="Replace the samples of an earlier run in DIR.")
def sample_command(
    folder: Path, num_videos: int, seed: int, size: tuple[int, int], force: bool
) -> None:
    """Draw sample videos with labels.csv into DIR.

    A street under a fixed camera: people walk by; in some videos two run off, one falls, or a
    car drives along the pavement.
    """
    from data.labels import VideoLabel
    from data.sample.videos import make_samples

    def report(label: VideoLabel) -> None:
        what = f"{label.category} {label.anomaly}" if label.is_abnormal else "normal"
        logger.info("%s  %s  %d frames  %s", label.video, label.split, label.num_frames, what)

    labels = make_samples(
        folder, num_videos=num_videos, seed=seed, size=size, force=force, on_video=report
    )
    num_frames = sum(label.num_frames or 0 for label in labels)
    click.echo(f"{folder}: {len(labels)} videos, {num_frames} frames, labels.csv")
