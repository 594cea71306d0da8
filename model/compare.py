"""`feat compare`: several methods, several seeds, one cache, one split, one table.

Everything lies in one folder, `<out>/<method>/seed-<n>` being ordinary run folders, so that a
comparison can be stopped, gone on with, and given more methods or seeds.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cache import FeatureCache, config_digest
from data.errors import ConfigError, ModelError
from data.labels import VideoLabel, read_labels, write_labels
from data.protocols import Protocol as Supervision
from model.compare_table import Comparison, make_row
from model.config import Preset
from model.evaluate import EVAL_NAME, run_evaluation
from model.features import available_streams, choose_streams, drop_missing
from model.methods.base import settings_of
from model.methods.registry import CONVLSTM, choose_method
from model.methods.runs import train_method
from model.metrics import VideoResult
from model.runs import LABELS_NAME, write_json
from model.train import run_training

logger = logging.getLogger(f"feat.{__name__}")

COMPARISON_NAME = "compare.json"
DONE_NAME = "done.json"
ORDER: tuple[Supervision, ...] = ("fully", "weakly", "unsupervised")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is the same for all methods of a comparison."""

    preset: Preset
    """Of the ConvLSTM."""
    streams: tuple[str, ...] = ()
    """Empty: those that all videos have."""
    device: str = "auto"
    skip_missing: bool = False
    allow_misaligned: bool = False


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """One training of one method and its evaluation."""

    measures: dict[str, Any]
    results: list[VideoResult]
    seconds: float


def run_comparison(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    methods: Sequence[str],
    *,
    seeds: int,
    out: Path,
    terms: Terms,
    on_run: Callable[[str, int, float | None], None] = lambda method, seed, auc: None,
) -> Comparison:
    """Train and evaluate what `out` does not hold yet, and return the table.

    Args:
        cache: the features.
        labels: of all videos, `test` ones included.
        methods: names; the table puts those of one supervision together.
        seeds: runs of each method that draws anything, with the seeds 0, 1, ...
        out: folder of the comparison.
        terms: what is the same for all.
        on_run: called after each run with method, seed and AUC.

    Raises:
        ConfigError: a method is unknown, or `out` holds a comparison on other terms.
        FeatError: a method cannot be trained or evaluated on this cache and these labels.
    """
    names = sorted(dict.fromkeys(methods), key=lambda name: ORDER.index(_supervision(name)))
    available = available_streams(cache, [label.video for label in labels])
    there = drop_missing(labels, available, skip_missing=terms.skip_missing)
    if not there:
        raise ModelError(f"{cache.path}: none of the {len(labels)} labelled videos is in the cache")
    streams = terms.streams or choose_streams({row.video: available[row.video] for row in there})
    terms = replace(terms, streams=streams)
    _open_comparison(out, cache, there, names, terms)
    rows = []
    runs: list[FinishedRun] = []
    for name in names:
        count = seeds if name == CONVLSTM or choose_method(name).is_random else 1
        runs = []
        for seed in range(count):
            runs.append(_finished_run(out, name, seed, cache, there, terms))
            on_run(name, seed, runs[-1].measures["auc"])
        rows.append(
            make_row(
                name,
                _supervision(name),
                [run.measures for run in runs],
                [run.results for run in runs],
                [run.seconds for run in runs],
            )
        )
    return Comparison(
        out=out,
        cache=cache.path,
        rows=tuple(rows),
        num_test_videos=len(runs[0].results),
        num_test_frames=sum(len(result.scores) for result in runs[0].results),
        labels_sha256=hashlib.sha256((out / LABELS_NAME).read_bytes()).hexdigest(),
        streams=terms.streams,
    )


def _supervision(method: str) -> Supervision:
    return "fully" if method == CONVLSTM else choose_method(method).supervision


def _open_comparison(
    out: Path,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    methods: Sequence[str],
    terms: Terms,
) -> None:
    """Make the folder, or check that what it holds was made on the same terms.

    Raises:
        ModelError: it holds something else.
        ConfigError: it is a comparison of other labels, features or settings.
    """
    path = out / COMPARISON_NAME
    wanted: dict[str, dict[str, Any]] = {
        "features": {
            name: config_digest(cache.find(labels[0].video, name).config) for name in terms.streams
        },
        "methods": {name: _settings(name, terms) for name in methods},
    }
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ModelError(f"{out}: neither empty nor a comparison; name a new folder with --out")
        out.mkdir(parents=True, exist_ok=True)
        write_labels(out / LABELS_NAME, labels)
        write_json(path, wanted)
        return
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        features, settings = dict(held["features"]), dict(held["methods"])
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a comparison: {error}; name a new folder with --out") from (
            error
        )
    changed = [name for name in methods if settings.get(name, wanted["methods"][name])
               != wanted["methods"][name]]  # fmt: skip
    for what, differs in (
        ("labels", read_labels(out / LABELS_NAME) != list(labels)),
        ("features", features != wanted["features"]),
        (f"settings of {', '.join(changed)}", bool(changed)),
    ):
        if differs:
            raise ConfigError(
                f"{out}: a comparison with other {what}; its numbers and the new ones do not "
                "belong in one table: name a new folder with --out"
            )
    write_json(path, {**held, "methods": {**settings, **wanted["methods"]}})


def _settings(method: str, terms: Terms) -> dict[str, Any]:
    """Return what identifies a method's runs, as it comes back from JSON."""
    settings = (
        {
            "model": terms.preset.model.to_dict(),
            "train": {**terms.preset.train.to_dict(), "seed": None},
        }
        if method == CONVLSTM
        else settings_of(choose_method(method))
    )
    plain: dict[str, Any] = json.loads(json.dumps(settings))
    return plain


def _finished_run(
    out: Path,
    method: str,
    seed: int,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    terms: Terms,
) -> FinishedRun:
    """Return a run, from its folder if it was finished before."""
    run = out / method / f"seed-{seed}"
    if not (run / DONE_NAME).is_file():
        if run.exists():
            logger.info("%s: left unfinished, beginning again", run)
            shutil.rmtree(run)
        seconds = _train(run, method, seed, cache, labels, terms)
        run_evaluation(
            run,
            cache,
            labels,
            device=terms.device,
            allow_misaligned=terms.allow_misaligned,
            pictures=False,
        )
        write_json(run / DONE_NAME, {"seconds": seconds})
    try:
        done = json.loads((run / DONE_NAME).read_text(encoding="utf-8"))
        measures = json.loads((run / EVAL_NAME / "metrics.json").read_text(encoding="utf-8"))
        results = read_scores(run / EVAL_NAME / "scores.npz")
        return FinishedRun(measures=measures, results=results, seconds=float(done["seconds"]))
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ModelError(
            f"{run}: its results cannot be read: {type(error).__name__}: {error}; remove this "
            "folder and run the same command again"
        ) from error


def _train(
    run: Path,
    method: str,
    seed: int,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    terms: Terms,
) -> float:
    """Train one run and return its seconds."""
    if method != CONVLSTM:
        report = train_method(
            choose_method(method),
            cache,
            labels,
            seed=seed,
            runs=run.parent,
            out=run,
            streams=terms.streams,
            allow_misaligned=terms.allow_misaligned,
        )
        return report.info.seconds
    return run_training(
        cache,
        labels,
        model=terms.preset.model,
        train=replace(terms.preset.train, seed=seed),
        runs=run.parent,
        out=run,
        streams=terms.streams,
        device=terms.device,
        allow_misaligned=terms.allow_misaligned,
    ).seconds


def read_scores(path: Path) -> list[VideoResult]:
    """Return what an evaluation left in `scores.npz`, without categories.

    Raises:
        OSError, ValueError, KeyError, BadZipFile: the file is absent, damaged or something else.
    """
    with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
        edges = np.cumsum(held["num_frames"])[:-1]
        scores = np.split(held["scores"].astype(np.float64), edges)
        labels = np.split(held["labels"], edges)
        return [
            VideoResult(
                video=str(video),
                scores=part,
                labels=None if (label < 0).any() else label.astype(np.uint8),
            )
            for video, part, label in zip(held["videos"], scores, labels, strict=True)
        ]
