"""Clusters by name. The library of an engine is an extra, and is loaded here only."""

from typing import Literal

from data.clusters.engine import Cluster
from data.errors import ConfigError

Kind = Literal["dask", "ray", "slurm"]

_LIBRARIES = {"dask": "distributed", "ray": "ray", "slurm": "dask-jobqueue"}
_OWNERS = {"scheduler": "dask", "address": "ray", "nodes": "slurm", "partition": "slurm"}


def open_cluster(
    kind: Kind | None,
    *,
    scheduler: str | None = None,
    address: str | None = None,
    nodes: int | None = None,
    partition: str | None = None,
) -> Cluster | None:
    """Return a cluster, to which nothing has been said yet; None if none is named.

    Args:
        kind: which engine.
        scheduler: of Dask, its address.
        address: of Ray, its head's.
        nodes: of Slurm, how many jobs.
        partition: of Slurm, where.

    Raises:
        ConfigError: an option is missing or another engine's, or the engine is not installed.
    """
    given = {"scheduler": scheduler, "address": address, "nodes": nodes, "partition": partition}
    for name, value in given.items():
        if value is not None and kind != _OWNERS[name]:
            raise ConfigError(f"--{name} is an option of --cluster {_OWNERS[name]}")
    try:
        if kind == "dask":
            from data.clusters.dask import DaskCluster

            if scheduler is None:
                raise ConfigError("--cluster dask needs --scheduler, such as tcp://host:8786")
            return DaskCluster(scheduler)
        if kind == "ray":
            from data.clusters.ray import RayCluster

            if address is None:
                raise ConfigError("--cluster ray needs --address, such as host:6379, or auto")
            return RayCluster(address)
        if kind == "slurm":
            from data.clusters.slurm import SlurmCluster

            if nodes is None:
                raise ConfigError("--cluster slurm needs --nodes, how many jobs to ask for")
            return SlurmCluster(nodes, partition)
    except ImportError as error:
        library = _LIBRARIES[kind or ""]
        raise ConfigError(
            f"--cluster {kind}: {error.name} is not installed: pip install {library}"
        ) from error
    return None
