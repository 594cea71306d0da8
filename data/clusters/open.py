"""Clusters by name. The library of an engine is an extra, and is loaded here only."""

from typing import Literal

from data.clusters.engine import Cluster
from data.errors import ConfigError

Kind = Literal["dask", "slurm"]


def open_cluster(
    kind: Kind | None,
    *,
    scheduler: str | None = None,
    nodes: int | None = None,
    partition: str | None = None,
) -> Cluster | None:
    """Return a cluster, to which nothing has been said yet; None if none is named.

    Args:
        kind: which engine.
        scheduler: of Dask, its address.
        nodes: of Slurm, how many jobs.
        partition: of Slurm, where.

    Raises:
        ConfigError: an option is missing or another engine's, or the engine is not installed.
    """
    given = {"scheduler": scheduler, "nodes": nodes, "partition": partition}
    for name, value in given.items():
        owner = "dask" if name == "scheduler" else "slurm"
        if value is not None and kind != owner:
            raise ConfigError(f"--{name} is an option of --cluster {owner}")
    try:
        if kind == "dask":
            from data.clusters.dask import DaskCluster

            if scheduler is None:
                raise ConfigError("--cluster dask needs --scheduler, such as tcp://host:8786")
            return DaskCluster(scheduler)
        if kind == "slurm":
            from data.clusters.slurm import SlurmCluster

            if nodes is None:
                raise ConfigError("--cluster slurm needs --nodes, how many jobs to ask for")
            return SlurmCluster(nodes, partition)
    except ImportError as error:
        raise ConfigError(
            f"--cluster {kind}: {error.name} is not installed: pip install "
            f"{'distributed' if kind == 'dask' else 'dask-jobqueue'}"
        ) from error
    return None
