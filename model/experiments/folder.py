"""What experiments of many runs share: folders that can be gone on with, finished runs, spread.

A run is finished when its folder holds `done.json`; anything less is done again. The folder above
remembers labels, features and settings, and refuses others: their numbers would not belong in one
table.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cache import FeatureCache, config_digest
from cache.streams import FRAMES
from data.errors import ConfigError, ModelError
from data.files import write_json
from data.labels import VideoLabel, read_labels, write_labels
from data.output_folder import claim_folder
from model.evaluation.evaluate import run_evaluation
from model.evaluation.results import read_results
from model.experiments.clusters import Training
from model.features.choose import available_streams, choose_streams, drop_missing
from model.measures.metrics import VideoResult
from model.methods.base import Method
from model.methods.gather import DataOptions
from model.runs.folder import EVAL_NAME, LABELS_NAME, MEASURES_NAME
from model.runs.progress import TrainProgress
from model.runs.train import finish_training
from model.training.session import Row

logger = logging.getLogger(f"feat.{__name__}")

DONE_NAME = "done.json"


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is the same for all runs of an experiment."""

    options: DataOptions = field(default_factory=DataOptions)
    """Which features and labels are used."""
    device: str = "auto"
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
    available = available_streams(
        cache, [row.video for row in labels], terms.options.configs, named=terms.options.streams
    )
    there = drop_missing(labels, available, cache, skip_missing=terms.options.skip_missing)
    if not there:
        raise ModelError(f"{cache.path}: none of the {len(labels)} labelled videos is in the cache")
    streams = terms.options.streams or choose_streams(
        {row.video: available[row.video] for row in there}
    )
    configs = terms.options.configs
    return there, {
        name: config_digest(cache.find(there[0].video, name, configs.get(name)).config)
        for name in streams
    }


def begin_folder(
    path: Path, *, kind: str, labels: Sequence[VideoLabel], wanted: Mapping[str, Any]
) -> bool:
    """Write what a new folder of runs begins with; return whether it was new.

    `path`, which says whose the folder is, comes first: killed before the labels, it is new still,
    and so is one in which no run was begun, or the first was refused.

    Raises:
        ModelError: the folder holds something else.
    """
    held = claim_folder(path.parent, marker=path.name, kind=kind, error=ModelError)
    begun = any(item.is_dir() and any(item.iterdir()) for item in path.parent.iterdir())
    if held and begun and (path.parent / LABELS_NAME).is_file():
        return False
    write_json(path, wanted)
    write_labels(path.parent / LABELS_NAME, labels)
    return True


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
    if begin_folder(path, kind=kind, labels=labels, wanted=wanted):
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        held_features, settings = dict(held["features"]), dict(held[entries_name])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not {kind}: {error}; name a new folder with --out") from error
    changed = [name for name in entries if settings.get(name, entries[name]) != entries[name]]
    for what, differs in (
        ("labels", read_labels(out / LABELS_NAME) != list(labels)),
        ("features", _differ(held_features, features)),
        (f"settings of {', '.join(changed)}", bool(changed)),
    ):
        if differs:
            raise ConfigError(
                f"{out}: {kind} with other {what}; its numbers and the new ones do not "
                "belong in one table: name a new folder with --out"
            )
    merged = {"features": {**held_features, **features}, entries_name: {**settings, **entries}}
    write_json(path, {**held, **merged})


def _differ(held: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether streams are others, or made otherwise; frames may come beside features."""
    before, now = ({n: d for n, d in part.items() if n != FRAMES} for part in (held, wanted))
    both = FRAMES in held and FRAMES in wanted
    return bool(before and now and before != now) or (both and held[FRAMES] != wanted[FRAMES])


def settings_entry(method: Method) -> dict[str, Any]:
    """Return what identifies a method's runs but the seed, as it comes back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps({"method": method.name, **method.to_dict()}))
    return plain


def training_of(
    run: Path, method: Method, seed: int, labels: Sequence[VideoLabel], terms: Terms
) -> Training:
    """Return the training and evaluation of a run as one that any machine can finish.

    Args:
        run: its folder.
        method: what is trained.
        seed: of the training.
        labels: of all videos.
        terms: features, device and smoothing.
    """
    finish = partial(finish_run, method=method, seed=seed, labels=tuple(labels), terms=terms)
    return Training(run, DONE_NAME, finish)


def finish_run(
    run: Path,
    method: Method,
    seed: int,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    terms: Terms,
    on_row: Callable[[Row], None] | None = None,
) -> FinishedRun:
    """Return a run, from its folder if it was finished before.

    Args:
        run: its folder.
        method: what is trained.
        seed: of the training.
        cache: to train and evaluate with.
        labels: of all videos.
        terms: features, device and smoothing.
        on_row: called with every row of `metrics.jsonl`; by default it is shown.
    """
    if not (run / DONE_NAME).is_file():
        with ExitStack() as shown:
            if on_row is None:
                on_row = shown.enter_context(TrainProgress(max_steps=method.num_steps)).show
            report = finish_training(
                run,
                cache,
                labels,
                method,
                seed=seed,
                options=terms.options,
                device=terms.device,
                on_row=on_row,
            )
        run_evaluation(
            run,
            cache,
            labels,
            device=terms.device,
            options=terms.options,
            pictures=False,
            smoothing=terms.smoothing,
        )
        write_json(run / DONE_NAME, {"seconds": report.seconds})
    try:
        done = json.loads((run / DONE_NAME).read_text(encoding="utf-8"))
        measures = json.loads((run / EVAL_NAME / MEASURES_NAME).read_text(encoding="utf-8"))
        results = read_results(run / EVAL_NAME)
        return FinishedRun(measures=measures, results=results, seconds=float(done["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ModelError(
            f"{run}: its results cannot be read: {type(error).__name__}: {error}; remove this "
            "folder and run the same command again"
        ) from error
