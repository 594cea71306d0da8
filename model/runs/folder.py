"""Run folders: where a training leaves its configuration, log and checkpoint."""

import json
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data.errors import ModelError
from data.files import write_whole
from model.runs.checkpoint import CHECKPOINT_NAME

LABELS_NAME = "labels.csv"
METRICS_NAME = "metrics.jsonl"
CONFIG_NAME = "config.json"
ENVIRONMENT_NAME = "environment.json"
METHOD_NAME = "method.safetensors"
"""The checkpoint of any method but the ConvLSTM."""
SEEDS_NAME = "seeds.json"
"""In a folder of runs that differ in the seed alone, `seed-<n>` each."""
PACKAGES = ("torch", "numpy", "scikit-learn", "h5py", "safetensors")


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
            raise ModelError(f"{path}: cannot create the run folder: {error.strerror}") from error
        return path
    raise ModelError(f"{runs}: too many runs named {stem}")


def claim_run_dir(path: Path) -> Path:
    """Create and return the run folder that the user named.

    Raises:
        ModelError: it holds something already.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        taken = any(path.iterdir())
    except OSError as error:
        raise ModelError(f"{path}: cannot create the run folder: {error.strerror}") from error
    if taken:
        raise ModelError(f"{path}: not empty; name a new folder with --out")
    return path


def newest_run(runs: Path, *, methods: bool = False, seeds: bool = False) -> Path:
    """Return the run in `runs` whose checkpoint is the newest.

    Args:
        runs: folder of run folders.
        methods: take runs of other methods than the ConvLSTM too.
        seeds: of a run that is one of several seeds, return the folder of them all.

    Raises:
        ModelError: there is none.
    """
    names = (CHECKPOINT_NAME, METHOD_NAME) if methods else (CHECKPOINT_NAME,)
    places = [f"{folder}/{name}" for name in names for folder in ("*", "*/seed-*")]
    finished = [path for place in places for path in runs.glob(place)]
    if not finished:
        raise ModelError(f"{runs}: no finished run there; run `feat train` or name one with --run")
    run = max(finished, key=lambda path: (path.stat().st_mtime_ns, path.parent.name)).parent
    return run.parent if seeds and (run.parent / SEEDS_NAME).is_file() else run


def environment() -> dict[str, Any]:
    """Return what the numbers may depend on beside the configuration."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "feat": feat_version(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "git": _git_state(Path(__file__).resolve().parent),
    }


def feat_version() -> str:
    """Return the installed version of this project."""
    try:
        return version("feat")
    except PackageNotFoundError:
        return "not installed"


def write_json(path: Path, values: Any) -> None:
    """Write indented JSON; the file appears only when it is whole."""
    write_whole(path, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def file_names(videos: Sequence[str]) -> list[str]:
    """Return a file name for each video: readable, safe on any file system, all different."""
    names: list[str] = []
    taken: set[str] = set()
    for video in videos:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", video).lstrip(".")[:100] or "video"
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether files differ from it, or None outside a repository."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return done.stdout.strip()

    try:
        if not ask("ls-files", "folder.py"):  # installed inside somebody else's repository
            return None
        changed = ask("status", "--porcelain", "--untracked-files=no")
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None
