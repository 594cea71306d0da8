"""The trained models of a run folder: one, or one for each of several seeds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import ConfigError, ModelError
from model.runs.checkpoint import CHECKPOINT_NAME, Checkpoint, load_checkpoint
from model.runs.folder import SEEDS_NAME


def is_seeds_folder(folder: Path) -> bool:
    """Return whether a folder holds the runs of several seeds."""
    return (folder / SEEDS_NAME).is_file()


def load_run(run: Path, *, device: str = "cpu") -> list[Checkpoint]:
    """Return the checkpoint of a run folder, or all of a folder of several seeds, in their order.

    Raises:
        ConfigError: the seeds were trained on different features.
        ModelError: a training is not finished, or a checkpoint cannot be read.
    """
    return load_alike(run_folders(run), device=device)


def run_folders(run: Path) -> list[Path]:
    """Return the folder of each finished run: of a folder of several seeds theirs, else `run`.

    Raises:
        ModelError: as of `finished_seeds`.
    """
    return list(finished_seeds(run).values()) if is_seeds_folder(run) else [run]


def load_alike(runs: Sequence[Path], *, device: str = "cpu") -> list[Checkpoint]:
    """Return the checkpoints of run folders that were trained on the same features.

    Raises:
        ConfigError: they were trained on different ones.
        ModelError: a checkpoint is absent or cannot be read.
    """
    checkpoints = [load_checkpoint(run / CHECKPOINT_NAME, device=device) for run in runs]
    first, *others = [{s.name: s.digest for s in one.info.streams} for one in checkpoints]
    for run, other in zip(runs[1:], others, strict=True):
        if other != first:
            raise ConfigError(
                f"{run}: trained on other features ({' + '.join(other)}) than {runs[0].name} "
                f"({' + '.join(first)}): the cache has changed in between; name a new folder "
                "with --out"
            )
    return checkpoints


def finished_seeds(folder: Path) -> dict[int, Path]:
    """Return the run folder of each seed, in order.

    Raises:
        ModelError: the folder holds something else, or a training is not finished.
    """
    held = read_terms(folder)
    seeds = range(held["first"], held["first"] + held["count"])
    runs = {seed: folder / f"seed-{seed}" for seed in seeds}
    unfinished = [s for s, run in runs.items() if not (run / CHECKPOINT_NAME).is_file()]
    if unfinished:
        raise ModelError(
            f"{folder}: the trainings of seeds {', '.join(map(str, unfinished))} are not finished; "
            f"run `feat train --resume {folder}` first"
        )
    return runs


def read_terms(folder: Path) -> dict[str, Any]:
    """Return what the runs of a folder of several seeds have in common.

    Returns:
        `model` and `train` as JSON has them, `streams`, `first` (seed) and `count`.

    Raises:
        ModelError: it is no such folder.
    """
    path = folder / SEEDS_NAME
    try:
        held = dict(json.loads(path.read_text(encoding="utf-8")))
        return {name: held[name] for name in ("model", "train", "streams", "first", "count")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not a folder of several seeds: {type(error).__name__}: {error}; train anew "
            "with `feat train --seeds`"
        ) from error
