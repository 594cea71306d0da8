"""`feat ablate`: the paper's ablations on a cache of one's own, over seeds and splits.

Runs lie in `<out>/<split>/<variant>/seed-<n>`, ordinary run folders, so that an ablation can be
stopped and gone on with, and given more parts, seeds or splits. A variant that several parts
need is trained once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product, starmap
from pathlib import Path
from shlex import quote

import numpy as np

from cache import FeatureCache
from data.errors import ModelError
from data.files import write_rows, write_whole
from data.labels import VideoLabel
from data.output_folder import claim_folder
from model.experiments.ablate_plan import BASE, Variant, count_categories, plan_parts
from model.experiments.ablate_table import FinishedPart, Run, write_runs
from model.experiments.clusters import Training, Workers
from model.experiments.folder import (
    Terms,
    choose_videos,
    open_experiment,
    settings_entry,
    training_of,
)
from model.methods.base import Method
from model.runs.folder import working_in

ABLATION_NAME = "ablation.json"


def run_ablation(
    cache: FeatureCache,
    splits: Mapping[str, Sequence[VideoLabel]],
    *,
    out: Path,
    method: Method,
    terms: Terms,
    what: Sequence[str],
    workers: Workers | None = None,
    seeds: int = 1,
    k_values: Sequence[int] = (),
    score_weights: Sequence[float] = (),
    on_run: Callable[[str, str, int, float | None], None] = lambda variant, split, seed, auc: None,
) -> list[FinishedPart]:
    """Train and evaluate what `out` does not hold yet; write a table and a picture of each part.

    Args:
        cache: the features.
        splits: name, which becomes a folder's, -> labels of all videos.
        out: folder of the ablation.
        method: the base of all variants.
        terms: what is the same for all runs.
        what: names of tables and figures.
        workers: where runs are finished; by default here.
        seeds: runs of each variant on each split, with the seeds 0, 1, ...
        k_values: of figure 5; the base's own is added.
        score_weights: of figure 6; the base's own is added.
        on_run: called after each run with variant, split, seed and AUC.

    Raises:
        ConfigError: a value is out of its range, or `out` holds an ablation on other terms.
        FeatError: the model cannot be trained or evaluated on this cache and these labels.
    """
    chosen = {name: choose_videos(cache, labels, terms) for name, labels in splits.items()}
    first, (_, features) = next(iter(chosen.items()))
    for name, (_, others) in chosen.items():
        if others != features:
            raise ModelError(
                f"the videos of {name} have the streams {', '.join(others)}, those of {first} "
                f"{', '.join(features)}; name those to use with --streams"
            )
    parts = plan_parts(
        what,
        method,
        tuple(features),
        min(count_categories(labels) for labels, _ in chosen.values()),
        k_values=k_values,
        score_weights=score_weights,
    )
    claim_folder(out, marker=f"*/{ABLATION_NAME}", kind="an ablation", error=ModelError)
    for name, (labels, _) in chosen.items():
        open_experiment(
            out / name / ABLATION_NAME,
            kind="an ablation",
            labels=labels,
            features=features,
            entries={
                variant.name: {**settings_entry(variant.method), "streams": list(variant.streams)}
                for part in parts
                for variant in part.variants
            },
            entries_name="variants",
        )
    done: dict[str, list[Run]] = {}

    def training(variant: Variant, split: str, seed: int) -> Training:
        folder = out / split / variant.name / f"seed-{seed}"
        own = replace(terms, options=replace(terms.options, streams=variant.streams))
        return training_of(folder, variant.method, seed, chosen[split][0], own)

    def run(variant: Variant, split: str, seed: int) -> Run:
        one = training(variant, split, seed)
        finished = one.finish(one.run, cache=cache)
        auc = finished.measures["auc"]
        on_run(variant.name, split, seed, auc)
        return Run(
            variant=variant.name,
            split=split,
            seed=seed,
            auc=auc,
            accuracy=finished.measures["accuracy_video"],
            seconds=finished.seconds,
            # without the scores, which for thousands of runs would fill the memory
            categories=tuple(
                replace(result, scores=np.zeros(0), labels=None) for result in finished.results
            ),
        )

    finished = []
    with working_in(out, go_on=f"the same command with --out {quote(str(out))}"):
        if workers:
            variants = {one.name: one for part in parts for one in part.variants}
            trainings = product(variants.values(), chosen, range(seeds))
            workers.finish(starmap(training, trainings), cache, out)
        for part in parts:
            for variant in part.variants:
                if variant.name not in done:
                    done[variant.name] = [
                        run(variant, split, seed) for split in chosen for seed in range(seeds)
                    ]
            own = {variant.name: done[variant.name] for variant in part.variants}
            finished.append(FinishedPart.of(part, own, own.get(BASE, [])))
            _write_part(out, finished[-1])
        write_runs(out / "runs.csv", [run for runs in done.values() for run in runs])
    return finished


def _write_part(out: Path, finished: FinishedPart) -> None:
    """Write `<part>.md`, `<part>.csv` and, of a figure, `<part>.png`.

    Of a part that could not be run only the first is left.
    """
    name = finished.part.name
    write_whole(out / f"{name}.md", finished.to_markdown() + "\n")
    if finished.reason:
        for suffix in ("csv", "png"):
            (out / f"{name}.{suffix}").unlink(missing_ok=True)
        return
    if name == "figure7":
        counts = [
            {"true": category, **dict(zip(finished.categories, row.tolist(), strict=True))}
            for category, row in zip(finished.categories, finished.counts, strict=True)
        ]
        write_rows(out / f"{name}.csv", counts)
    else:
        own = {"splits": finished.num_splits, "seeds": finished.num_seeds}
        write_rows(out / f"{name}.csv", [{**line.to_dict(), **own} for line in finished.lines])
    if name.startswith("figure"):
        from model.experiments.ablate_plots import draw_part  # matplotlib is slow to import

        draw_part(out / f"{name}.png", finished)
