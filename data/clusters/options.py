"""The options of a command that works on a cluster where one is named."""

import functools
from collections.abc import Callable
from typing import Any, get_args

import click

from data.clusters.open import Kind, open_cluster


def takes_cluster(*, sees: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take where it works, and hand it on as `cluster`; None: on this machine.

    Args:
        sees: what the workers must find at the driver's paths.
    """
    options = (
        click.option(
            "--cluster", "kind", type=click.Choice(get_args(Kind)),
            help=f"Work on the workers of a cluster, which see {sees} at the same paths: of a "
            "Dask scheduler, of Ray, or in jobs that Slurm starts.  [default: on this machine]",
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Of Dask, such as tcp://host:8786."),
        click.option("--address", metavar="ADDRESS", help="Of Ray, such as host:6379, or auto."),
        click.option("--nodes", type=click.IntRange(min=1), help="Of Slurm: jobs, a worker each."),
        click.option("--partition", metavar="NAME", help="Of Slurm."),
    )  # fmt: skip

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(
            kind: Kind | None,
            scheduler: str | None,
            address: str | None,
            nodes: int | None,
            partition: str | None,
            **given: Any,
        ) -> None:
            where = open_cluster(
                kind, scheduler=scheduler, address=address, nodes=nodes, partition=partition
            )
            command(cluster=where, **given)

        decorated: Callable[..., None] = run
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
