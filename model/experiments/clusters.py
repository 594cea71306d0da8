"""Trainings of an experiment on the workers of a cluster, each into its run folder.

Workers see the cache and the runs under the driver's paths. What they have finished the experiment
then finds there, as if the same command had been given before. Importing this module loads no
PyTorch: a worker sets its process up before.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cache import FeatureCache
from data.clusters.engine import Cluster, Lost, Ready
from data.clusters.fit import code_of, refuse_other
from data.errors import ConfigError, FeatError, ModelError
from data.files import temp_path
from data.process import set_up_process, use_threads
from model.runs.environment import PACKAGES

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True)
class Training:
    """One of an experiment's runs, which is finished when a file is in its folder; picklable."""

    run: Path
    marker: str
    """The file's name."""
    finish: Callable[..., Any]
    """Called with the run folder, and `cache` and `on_row` as of `run_training`."""


@dataclass(frozen=True)
class Workers:
    """Where trainings are finished that are not finished here."""

    cluster: Cluster
    threads: int | None
    """Of each; None: as many as its worker has."""

    def finish(self, trainings: Iterable[Training], cache: FeatureCache, folder: Path) -> None:
        """Finish those that are not; who is interrupted cancels.

        Args:
            trainings: no two in one run folder.
            cache: the features.
            folder: that the run folders are in.

        Raises:
            FeatError: no worker is fit, the scheduler is gone, or a training failed; of several the
                first, when all others are finished.
        """
        left = [
            replace(one, run=one.run.absolute())
            for one in trainings
            if not (one.run / one.marker).is_file()
        ]
        if not left:
            return
        failed: list[FeatError] = []
        mark = temp_path(folder.absolute())
        mark.touch()
        example = next(cache.entries(), None)
        try:
            terms = _Terms(
                build=_build(),
                cache=cache.path.absolute(),
                key=example.key if example else None,
                mark=mark,
                threads=self.threads,
            )
            results = self.cluster.run(terms, left)
            for number, (training, result) in enumerate(results, 1):
                if isinstance(result, Lost):
                    failed.append(ModelError(f"{training.run}: {result.reason}"))
                elif result is not None:
                    failed.append(result)
                how = "finished" if result is None else "failed"
                logger.info("%s: %s, %d of %d", training.run, how, number, len(left))
        finally:
            mark.unlink(missing_ok=True)
        if failed:
            raise failed[0]


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """What a worker must be; called there before all else."""

    build: Mapping[str, str]
    cache: Path
    key: str | None  # of features in the cache
    mark: Path  # a file among the runs
    threads: int | None

    def __call__(self, threads: int) -> Ready[Training, FeatError | None]:
        """Return what finishes a training here.

        Raises:
            FeatError: this worker is not fit, and why.
        """
        set_up_process()
        refuse_other(_build(), expected=self.build)
        cache = FeatureCache(self.cache)
        for folder, is_there in (
            (self.cache, self.key is None or cache.has(self.key)),
            (self.mark.parent, self.mark.exists()),
        ):
            if not is_there:
                raise ConfigError(f"{folder}: not the driver's folder: mount it at the same path")
        return Ready(partial(_finish, cache, self.threads or threads), slots=1)


def _build() -> dict[str, str]:
    """Return what trainings hang on beside features, labels and settings."""
    # PyTorch's +cpu and +cu130 are one version for two kinds of machine
    packages = {name: version(name).partition("+")[0] for name in PACKAGES}
    return {"feat": code_of("cache", "data", "model"), **packages}


def _finish(
    cache: FeatureCache, threads: int, training: Training, stop: threading.Event
) -> FeatError | None:
    """Return why a training failed; None: it is finished."""

    def look(row: Mapping[str, Any]) -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    use_threads(threads)  # of PyTorch, in the thread that calls it
    try:
        training.finish(training.run, cache=cache, on_row=look)
    except FeatError as error:
        return error
    return None
