"""Calls on workers that Slurm starts: jobs of dask-jobqueue, whose scheduler runs in this process.

What a job asks for beside the partition is set in dask-jobqueue's own `jobqueue.yaml`.
"""

import signal
from collections.abc import Iterable, Iterator

import dask

from data.clusters.dask import DaskCluster
from data.clusters.engine import Item, Lost, Prepare, Result
from data.errors import ConfigError

# importing dask-jobqueue lets Ctrl-C end this process at once, with exit code 0
_handler = signal.getsignal(signal.SIGINT)
try:
    from dask_jobqueue import SLURMCluster
finally:
    signal.signal(signal.SIGINT, _handler)


class SlurmCluster:
    """So many jobs of Slurm, each with one worker process."""

    def __init__(self, nodes: int, partition: str | None) -> None:
        self._nodes = nodes
        self._partition = partition

    def run(
        self, prepare: Prepare[Item, Result], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Result | Lost]]:
        """Yield each item with its result; see `data.clusters.engine.Cluster`."""
        with self.jobs() as jobs:
            jobs.scale(jobs=self._nodes)
            yield from DaskCluster(jobs.scheduler_address).run(prepare, items)

    def jobs(self) -> SLURMCluster:
        """Return dask-jobqueue's cluster, with no job yet.

        Raises:
            ConfigError: nothing says what a job asks for.
        """
        missing = [
            name for name in ("cores", "memory") if not dask.config.get(f"jobqueue.slurm.{name}")
        ]
        if missing:
            raise ConfigError(
                f"--cluster slurm: jobqueue.slurm.{missing[0]} is not set; say in "
                "~/.config/dask/jobqueue.yaml what a job asks for"
            )
        queue = {"queue": self._partition} if self._partition else {}
        return SLURMCluster(processes=1, scheduler_options={"dashboard_address": ":0"}, **queue)
