"""`feat compare`: several methods, several seeds, one cache, one split, one table.

Everything lies in one folder, `<out>/<method>/seed-<n>` being ordinary run folders, so that a
comparison can be stopped, gone on with, and given more methods or seeds.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cache import FeatureCache
from data.labels import VideoLabel
from data.splits.protocols import Protocol as Supervision
from model.experiments.compare_table import Comparison, Row, make_row
from model.experiments.folder import (
    FinishedRun,
    Terms,
    choose_videos,
    convlstm_settings,
    finish_run,
    open_experiment,
    train_convlstm,
    working_in,
)
from model.measures.metrics import VideoResult
from model.methods.base import settings_of
from model.methods.registry import CONVLSTM, choose_method
from model.methods.runs import train_method
from model.runs.folder import LABELS_NAME

COMPARISON_NAME = "compare.json"
ORDER: tuple[Supervision, ...] = ("fully", "weakly", "unsupervised")


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
    there, features = choose_videos(cache, labels, terms)
    terms = replace(terms, streams=tuple(features))
    open_experiment(
        out / COMPARISON_NAME,
        kind="a comparison",
        labels=there,
        features=features,
        entries={name: _settings(name, terms) for name in names},
        entries_name="methods",
    )
    with working_in(out):
        rows, results = _run_all(names, seeds, out, cache, there, terms, on_run)
    return Comparison(
        out=out,
        cache=cache.path,
        rows=tuple(rows),
        num_test_videos=len(results),
        num_test_frames=sum(len(result.scores) for result in results),
        labels_sha256=hashlib.sha256((out / LABELS_NAME).read_bytes()).hexdigest(),
        streams=terms.streams,
    )


def _run_all(
    names: Sequence[str],
    seeds: int,
    out: Path,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    terms: Terms,
    on_run: Callable[[str, int, float | None], None],
) -> tuple[list[Row], list[VideoResult]]:
    """Return a row for each method, and the results of one run."""
    rows = []
    runs: list[FinishedRun] = []
    for name in names:
        count = seeds if name == CONVLSTM or choose_method(name).is_random else 1
        runs = []
        for seed in range(count):
            runs.append(
                finish_run(
                    out / name / f"seed-{seed}",
                    partial(_train, name, seed, cache, labels, terms),
                    cache,
                    labels,
                    terms,
                )
            )
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
    return rows, runs[0].results


def _supervision(method: str) -> Supervision:
    return "fully" if method == CONVLSTM else choose_method(method).supervision


def _settings(method: str, terms: Terms) -> dict[str, Any]:
    """Return what identifies a method's runs, as it comes back from JSON."""
    evaluated = {} if terms.smoothing is None else {"smoothing": terms.smoothing}
    if method == CONVLSTM:
        return {**convlstm_settings(terms.preset), **evaluated}
    plain: dict[str, Any] = json.loads(json.dumps(settings_of(choose_method(method))))
    return {**plain, **evaluated}


def _train(
    method: str,
    seed: int,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    terms: Terms,
    run: Path,
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
    return train_convlstm(terms.preset, terms.streams, seed, cache, labels, terms, run)
