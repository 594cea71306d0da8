"""What experiments of many runs share: folders that can be gone on with, finished runs, spread.

A run is finished when its folder holds `done.json`; anything less is done again. The folder above
remembers labels, features and settings, and refuses others: their numbers would not belong in one
table.
"""

import csv
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cache import FeatureCache, config_digest
from data.errors import ConfigError, ModelError
from data.labels import VideoLabel, read_labels, write_labels
from model.config import Preset
from model.evaluation.evaluate import EVAL_NAME, run_evaluation
from model.features.load import available_streams, choose_streams, drop_missing
from model.measures.metrics import VideoResult
from model.runs.folder import LABELS_NAME, write_json
from model.training.train import run_training

logger = logging.getLogger(f"feat.{__name__}")

DONE_NAME = "done.json"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is the same for all runs of an experiment."""

    preset: Preset
    """Of the ConvLSTM."""
    streams: tuple[str, ...] = ()
    """Empty: those that all videos have."""
    device: str = "auto"
    skip_missing: bool = False
    allow_misaligned: bool = False
    smoothing: float | None = None
    """Of every run's frame scores; None: as each is configured."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One training and its evaluation."""

    measures: dict[str, Any]
    results: list[VideoResult]
    seconds: float
    """Of the training."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation of a measure over runs."""

    mean: float
    std: float | None
    """Of n - 1; None for a single value."""
    count: int

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {"mean": self.mean, "std": self.std, "count": self.count}


def spread_of(values: Sequence[float | None]) -> Spread | None:
    """Return mean and standard deviation, or None where there is no value or one is missing."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    return Spread(
        mean=float(np.mean(known)),
        std=float(np.std(known, ddof=1)) if len(known) > 1 else None,
        count=len(known),
    )


def choose_videos(
    cache: FeatureCache, labels: Sequence[VideoLabel], terms: Terms
) -> tuple[list[VideoLabel], dict[str, str]]:
    """Return the labels of the videos to use, and each stream to use with its digest.

    Raises:
        FeatError: videos or streams are not in the cache.
    """
    available = available_streams(cache, [label.video for label in labels])
    there = drop_missing(labels, available, skip_missing=terms.skip_missing)
    if not there:
        raise ModelError(f"{cache.path}: none of the {len(labels)} labelled videos is in the cache")
    streams = terms.streams or choose_streams({row.video: available[row.video] for row in there})
    return there, {name: config_digest(cache.find(there[0].video, name).config) for name in streams}


def open_experiment(
    path: Path,
    *,
    kind: str,
    labels: Sequence[VideoLabel],
    features: Mapping[str, str],
    entries: Mapping[str, Any],
    entries_name: str,
) -> None:
    """Make a folder of runs, or check that what it holds was made on the same terms.

    Args:
        path: the file in the folder that remembers the terms.
        kind: what the folder is, for messages: `a comparison`.
        labels: of all videos.
        features: stream -> digest of its configuration.
        entries: name -> settings, as they come back from JSON, of all that is to be run; those
            of earlier commands stay known.
        entries_name: of these in the file.

    Raises:
        ModelError: the folder holds something else.
        ConfigError: it is of other labels, features or settings.
    """
    out = path.parent
    wanted = {"features": dict(features), entries_name: dict(entries)}
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ModelError(f"{out}: neither empty nor {kind}; name a new folder with --out")
        out.mkdir(parents=True, exist_ok=True)
        write_labels(out / LABELS_NAME, labels)
        write_json(path, wanted)
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        held_features, settings = dict(held["features"]), dict(held[entries_name])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not {kind}: {error}; name a new folder with --out") from error
    changed = [name for name in entries if settings.get(name, entries[name]) != entries[name]]
    for what, differs in (
        ("labels", read_labels(out / LABELS_NAME) != list(labels)),
        ("features", held_features != wanted["features"]),
        (f"settings of {', '.join(changed)}", bool(changed)),
    ):
        if differs:
            raise ConfigError(
                f"{out}: {kind} with other {what}; its numbers and the new ones do not "
                "belong in one table: name a new folder with --out"
            )
    write_json(path, {**held, entries_name: {**settings, **entries}})


@contextmanager
def working_in(out: Path) -> Iterator[None]:
    """Keep other processes out of a folder of runs; the kernel forgets it when this one dies.

    What one process has begun the other would take for left behind, and remove.

    Raises:
        ModelError: another process works there.
    """
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(
                f"{out}: another process works there; wait for it, or name another folder with "
                "--out"
            ) from None
        yield
    finally:
        os.close(handle)


def convlstm_settings(preset: Preset) -> dict[str, Any]:
    """Return what identifies a ConvLSTM's runs but the seed, as it comes back from JSON."""
    settings = {"model": preset.model.to_dict(), "train": {**preset.train.to_dict(), "seed": None}}
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def train_convlstm(
    preset: Preset,
    streams: Sequence[str],
    seed: int,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    terms: Terms,
    run: Path,
) -> float:
    """Train one ConvLSTM into the folder `run` and return its seconds."""
    return run_training(
        cache,
        labels,
        model=preset.model,
        train=replace(preset.train, seed=seed),
        runs=run.parent,
        out=run,
        streams=streams,
        device=terms.device,
        allow_misaligned=terms.allow_misaligned,
    ).seconds


def finish_run(
    run: Path,
    train: Callable[[Path], float],
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    terms: Terms,
) -> FinishedRun:
    """Return a run, from its folder if it was finished before.

    Args:
        run: its folder.
        train: trains into that folder and returns the seconds it took.
        cache: to evaluate with.
        labels: of all videos.
        terms: device and treatment of misaligned labels.
    """
    if not (run / DONE_NAME).is_file():
        if run.exists():
            logger.info("%s: left unfinished, beginning again", run)
            shutil.rmtree(run)
        seconds = train(run)
        run_evaluation(
            run,
            cache,
            labels,
            device=terms.device,
            allow_misaligned=terms.allow_misaligned,
            pictures=False,
            smoothing=terms.smoothing,
        )
        write_json(run / DONE_NAME, {"seconds": seconds})
    try:
        done = json.loads((run / DONE_NAME).read_text(encoding="utf-8"))
        measures = json.loads((run / EVAL_NAME / "metrics.json").read_text(encoding="utf-8"))
        results = read_results(run / EVAL_NAME)
        return FinishedRun(measures=measures, results=results, seconds=float(done["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ModelError(
            f"{run}: its results cannot be read: {type(error).__name__}: {error}; remove this "
            "folder and run the same command again"
        ) from error


def read_results(folder: Path) -> list[VideoResult]:
    """Return what an evaluation left in `scores.npz` and `videos.csv`, without probabilities.

    Raises:
        OSError, ValueError, KeyError, BadZipFile: a file is absent, damaged or something else.
    """
    with (folder / "videos.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["video"]: row for row in csv.DictReader(file)}
    path = folder / "scores.npz"
    with path.open("rb") as binary, np.load(binary, allow_pickle=False) as held:
        edges = np.cumsum(held["num_frames"])[:-1]
        scores = np.split(held["scores"].astype(np.float64), edges)
        labels = np.split(held["labels"], edges)
        return [
            VideoResult(
                video=str(video),
                scores=part,
                labels=None if (label < 0).any() else label.astype(np.uint8),
                category=rows[str(video)]["category"],
                predicted=rows[str(video)]["predicted"],
            )
            for video, part, label in zip(held["videos"], scores, labels, strict=True)
        ]
