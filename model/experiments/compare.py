"""`feat compare`: several methods, several seeds, one cache, one split, one table.

Everything lies in one folder, `<out>/<method>/seed-<n>` being ordinary run folders, so that a
comparison can be stopped, gone on with, and given more methods or seeds.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from shlex import quote

from cache import FeatureCache
from cache.streams import FRAMES
from data.labels import VideoLabel
from data.splits.protocols import Supervision
from model.experiments.clusters import Workers
from model.experiments.compare_table import Comparison, Row, make_row
from model.experiments.folder import (
    FinishedRun,
    Terms,
    choose_videos,
    open_experiment,
    settings_entry,
    training_of,
)
from model.methods.base import Method
from model.runs.folder import labels_digest, working_in

COMPARISON_NAME = "compare.json"
ORDER: tuple[Supervision, ...] = ("fully", "weakly", "unsupervised")


def run_comparison(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    methods: Sequence[Method],
    *,
    seeds: int,
    out: Path,
    terms: Terms,
    go_on: str = "",
    workers: Workers | None = None,
    on_run: Callable[[str, int, float | None], None] = lambda method, seed, auc: None,
) -> Comparison:
    """Train and evaluate what `out` does not hold yet, and return the table.

    Args:
        cache: the features.
        labels: of all videos, `test` ones included.
        methods: with their settings; the table puts those of one supervision together.
        seeds: runs of each method that draws anything, with the seeds 0, 1, ...
        out: folder of the comparison.
        terms: what is the same for all.
        go_on: what goes on with it, told at Ctrl-C; by default the same command with `out`.
        workers: where runs are finished; by default here.
        on_run: called after each run with method, seed and AUC.

    Raises:
        ConfigError: `out` holds a comparison on other terms.
        FeatError: a method cannot be trained or evaluated on this cache and these labels.
    """
    ordered = sorted(
        {method.name: method for method in methods}.values(),
        key=lambda method: ORDER.index(method.supervision),
    )
    there, features, own = _choose_for_each(cache, labels, ordered, terms)
    evaluated = {} if terms.smoothing is None else {"evaluated with smoothing": terms.smoothing}
    open_experiment(
        out / COMPARISON_NAME,
        kind="a comparison",
        labels=there,
        features=features,
        entries={method.name: {**settings_entry(method), **evaluated} for method in ordered},
        entries_name="methods",
    )
    trainings = {
        method.name: [
            training_of(out / method.name / f"seed-{seed}", method, seed, there, own[method.name])
            for seed in range(seeds if method.is_random else 1)
        ]
        for method in ordered
    }
    rows: list[Row] = []
    runs: list[FinishedRun] = []
    go_on = go_on or f"the same command with --out {quote(str(out))}"
    with working_in(out, go_on=go_on):
        if workers:
            workers.finish(chain.from_iterable(trainings.values()), cache, out)
        for method in ordered:
            runs = []
            for seed, training in enumerate(trainings[method.name]):
                runs.append(training.finish(training.run, cache=cache))
                on_run(method.name, seed, runs[-1].measures["auc"])
            rows.append(make_row(method, runs))
    results = runs[0].results
    return Comparison(
        out=out,
        cache=cache.path,
        rows=tuple(rows),
        num_test_videos=len(results),
        num_test_frames=sum(len(result.scores) for result in results),
        num_uncounted_videos=sum(not result.is_counted for result in results),
        labels_sha256=labels_digest(out),
        streams=tuple(features),
    )


def _choose_for_each(
    cache: FeatureCache, labels: Sequence[VideoLabel], methods: Sequence[Method], terms: Terms
) -> tuple[list[VideoLabel], dict[str, str], dict[str, Terms]]:
    """Return the labels of the videos that all methods can use, the streams, each method's terms.

    Methods of pixels take the frames, all others the features.

    Raises:
        FeatError: videos or streams are not in the cache.
    """
    there = list(labels)
    features: dict[str, str] = {}
    own: dict[str, Terms] = {}
    for of_frames in (False, True):
        group = [method for method in methods if method.reads_frames == of_frames]
        if not group:
            continue
        named = tuple(name for name in terms.options.streams if (name == FRAMES) == of_frames)
        options = replace(terms.options, streams=named).for_method(group[0])
        there, found = choose_videos(cache, there, replace(terms, options=options))
        features |= found
        chosen = replace(terms, options=replace(options, streams=tuple(found)))
        own |= {method.name: chosen for method in group}
    return there, features, own
