"""Run folders: where they are, which is the newest, and who works in one.

A run folder holds `environment.json`, `labels.csv` and `config.json`, in this order, from the start
of its training, and `reference.safetensors`, `model.safetensors` and `SHA256SUMS` when it is
finished. A folder of several seeds holds `seeds.json` and a run folder `seed-<n>` for each.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from shlex import quote

from data.errors import ModelError
from data.files import explain_os_error, write_whole
from data.process import when_interrupted

CHECKPOINT_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
EVAL_NAME = "eval"
"""Folder of an evaluation on the test videos; of other splits it has their names behind."""
MEASURES_NAME = "metrics.json"
"""In a folder of an evaluation, as is the next."""
SCORES_NAME = "scores.npz"
ENVIRONMENT_NAME = "environment.json"
LABELS_NAME = "labels.csv"
METRICS_NAME = "metrics.jsonl"
REFERENCE_NAME = "reference.safetensors"
SEEDS_NAME = "seeds.json"
SUMS_NAME = "SHA256SUMS"
SUMMED_NAMES = (
    CHECKPOINT_NAME, CONFIG_NAME, ENVIRONMENT_NAME, LABELS_NAME, METRICS_NAME, REFERENCE_NAME
)  # fmt: skip


def new_run_dir(runs: Path, *, name: str) -> Path:
    """Create and return `runs/<time>-<name>`, with a number added if it is taken."""
    stem = f"{datetime.now().astimezone():%Y%m%d-%H%M%S}-{name}"
    for suffix in ("", *(f"-{number}" for number in range(2, 1000))):
        path = runs / f"{stem}{suffix}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ModelError(explain_os_error("create the run folder", path, error)) from error
        return path
    raise ModelError(f"{runs}: too many runs named {stem}")


def is_seeds_folder(folder: Path) -> bool:
    """Return whether a folder holds the runs of several seeds."""
    return (folder / SEEDS_NAME).is_file()


def newest_run(runs: Path) -> Path:
    """Return the finished run in `runs` whose checkpoint is the newest.

    Of a run that is one of several seeds it is the folder of them all.

    Raises:
        ModelError: there is none.
    """
    finished = [p for place in ("*", "*/seed-*") for p in runs.glob(f"{place}/{CHECKPOINT_NAME}")]
    if not finished:
        raise ModelError(f"{runs}: no finished run there; run `feat train` or name one with --run")
    run = max(finished, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent
    return run.parent if is_seeds_folder(run.parent) else run


def find_runs(folder: Path) -> list[Path]:
    """Return all run folders in a folder, those of seeds and experiments too, or the folder itself.

    Raises:
        ModelError: there is none.
    """
    names = (CHECKPOINT_NAME, CONFIG_NAME, SUMS_NAME)
    found = sorted({path.parent for name in names for path in folder.rglob(name)})
    if not found:
        raise ModelError(f"{folder}: no run there; run `feat train`, or name another folder")
    return found


def not_finished(run: Path) -> str:
    """Return what a folder without a checkpoint is, and what to do."""
    if not run.exists():
        return f"{run}: no such run; `feat runs ls` lists those under ./runs"
    if (run / CONFIG_NAME).is_file() and not (run / SUMS_NAME).is_file():
        return f"{run}: not finished; go on with `feat train --resume {quote(str(run))}`"
    below = (p.parent for place in ("*", "*/*") for p in run.glob(f"{place}/{CHECKPOINT_NAME}"))
    found = min(below, default=None)
    if found:
        return f"{run}: holds runs and is none; name one of them, such as {found}"
    return f"{run / CHECKPOINT_NAME}: no checkpoint there; run `feat train` first"


def labels_digest(folder: Path) -> str:
    """Return the sha256 of the labels of a folder, as they lie in it."""
    return file_digest(folder / LABELS_NAME)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_sums(run: Path) -> None:
    """Write the digests of a finished run's files, as `sha256sum --check` reads them.

    A method that looks at no features keeps no reference clips.
    """
    names = [n for n in SUMMED_NAMES if n != REFERENCE_NAME or (run / n).is_file()]
    lines = [f"{file_digest(run / name)}  {name}\n" for name in names]
    write_whole(run / SUMS_NAME, "".join(lines), one_writer=True, error=ModelError)


@contextmanager
def working_in(folder: Path, *, go_on: str) -> Iterator[None]:
    """Keep other processes out of a folder; the kernel forgets it when this one dies.

    What one process has begun the other would take for left behind, and remove.

    Args:
        folder: of a run, of several seeds or of an experiment.
        go_on: the command, or what else goes on with it: told at Ctrl-C.

    Raises:
        ModelError: another process works there.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"{folder}: another process works there; wait for it, or name another folder with "
                "--out"
            ) from None
        with when_interrupted(f"what is finished is kept in {folder}; {go_on} goes on with it"):
            yield
    finally:
        os.close(handle)
