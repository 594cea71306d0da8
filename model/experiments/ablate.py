"""`feat ablate`: the paper's ablations on a cache of one's own, over seeds and splits.

Runs lie in `<out>/<split>/<variant>/seed-<n>`, ordinary run folders, so that an ablation can be
stopped and gone on with, and given more parts, seeds or splits. A variant that several parts
need is trained once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cache import FeatureCache
from data.errors import ModelError
from data.files import write_rows
from data.labels import VideoLabel
from data.output_folder import claim_folder
from model.experiments.ablate_plan import (
    BASE,
    K_VALUES,
    PARTS,
    SCORE_WEIGHTS,
    Part,
    Variant,
    count_categories,
    plan_parts,
)
from model.experiments.ablate_table import FinishedPart, Run, write_runs
from model.experiments.folder import (
    Terms,
    choose_videos,
    finish_run,
    open_experiment,
    settings_entry,
)
from model.measures.metrics import VideoResult
from model.methods.base import Method
from model.runs.folder import working_in

ABLATION_NAME = "ablation.json"


@dataclass(frozen=True, kw_only=True)
class _Split:
    name: str
    labels: list[VideoLabel]
    features: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class _Work:
    """The runs of an ablation, each done once."""

    cache: FeatureCache
    out: Path
    splits: list[_Split]
    seeds: int
    terms: Terms
    on_run: Callable[[str, str, int, float | None], None]
    done: dict[str, list[Run]] = field(default_factory=dict)
    """By variant."""

    def runs(self, variant: Variant) -> list[Run]:
        """Train and evaluate a variant on every split with every seed."""
        if variant.name not in self.done:
            self.done[variant.name] = [
                self._run(variant, split, seed)
                for split in self.splits
                for seed in range(self.seeds)
            ]
        return self.done[variant.name]

    def _run(self, variant: Variant, split: _Split, seed: int) -> Run:
        folder = self.out / split.name / variant.name / f"seed-{seed}"
        options = replace(self.terms.options, streams=variant.streams)
        terms = replace(self.terms, options=options)
        finished = finish_run(folder, variant.method, seed, self.cache, split.labels, terms)
        auc = finished.measures["auc"]
        self.on_run(variant.name, split.name, seed, auc)
        return Run(
            variant=variant.name,
            split=split.name,
            seed=seed,
            auc=auc,
            accuracy=finished.measures["accuracy_video"],
            seconds=finished.seconds,
            # without the scores, which for thousands of runs would fill the memory
            categories=tuple(
                VideoResult(
                    video=result.video,
                    scores=np.zeros(0),
                    labels=None,
                    category=result.category,
                    predicted=result.predicted,
                )
                for result in finished.results
            ),
        )


def run_ablation(
    cache: FeatureCache,
    splits: Mapping[str, Sequence[VideoLabel]],
    *,
    out: Path,
    method: Method,
    terms: Terms,
    what: Sequence[str] = PARTS,
    seeds: int = 1,
    k_values: Sequence[int] = K_VALUES,
    score_weights: Sequence[float] = SCORE_WEIGHTS,
    on_run: Callable[[str, str, int, float | None], None] = lambda variant, split, seed, auc: None,
) -> list[FinishedPart]:
    """Train and evaluate what `out` does not hold yet; write a table and a picture of each part.

    Args:
        cache: the features.
        splits: name, which becomes a folder's, -> labels of all videos.
        out: folder of the ablation.
        method: the base of all variants.
        terms: what is the same for all runs.
        what: names of parts.
        seeds: runs of each variant on each split, with the seeds 0, 1, ...
        k_values: of figure 5.
        score_weights: of figure 6.
        on_run: called after each run with variant, split, seed and AUC.

    Raises:
        ConfigError: a part is unknown, or `out` holds an ablation on other terms.
        FeatError: the model cannot be trained or evaluated on this cache and these labels.
    """
    chosen = [_choose(cache, name, labels, terms) for name, labels in splits.items()]
    streams = tuple(chosen[0].features)
    for split in chosen:
        if split.features != chosen[0].features:
            raise ModelError(
                f"the videos of {split.name} have the streams {', '.join(split.features)}, those "
                f"of {chosen[0].name} {', '.join(streams)}; name those to use with --streams"
            )
    parts = plan_parts(
        what,
        method,
        streams,
        min(count_categories(split.labels) for split in chosen),
        k_values=k_values,
        score_weights=score_weights,
    )
    claim_folder(out, marker=f"*/{ABLATION_NAME}", kind="an ablation", error=ModelError)
    for split in chosen:
        open_experiment(
            out / split.name / ABLATION_NAME,
            kind="an ablation",
            labels=split.labels,
            features=split.features,
            entries={
                variant.name: {**settings_entry(variant.method), "streams": list(variant.streams)}
                for part in parts
                for variant in part.variants
            },
            entries_name="variants",
        )
    work = _Work(cache=cache, out=out, splits=chosen, seeds=seeds, terms=terms, on_run=on_run)
    with working_in(out):
        finished = [_finish(part, work) for part in parts]
        write_runs(out / "runs.csv", [run for runs in work.done.values() for run in runs])
    return finished


def _finish(part: Part, work: _Work) -> FinishedPart:
    base = next((variant for variant in part.variants if variant.name == BASE), None)
    finished = FinishedPart.of(
        part,
        {variant.name: work.runs(variant) for variant in part.variants},
        work.runs(base) if base else [],
    )
    _write_part(work.out, finished)
    return finished


def _write_part(out: Path, finished: FinishedPart) -> None:
    """Write `<part>.md`, `<part>.csv` and, of a figure, `<part>.png`.

    Of a part that could not be run only the first is left.
    """
    name = finished.part.name
    (out / f"{name}.md").write_text(finished.to_markdown() + "\n", encoding="utf-8")
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


def _choose(cache: FeatureCache, name: str, labels: Sequence[VideoLabel], terms: Terms) -> _Split:
    there, features = choose_videos(cache, labels, terms)
    return _Split(name=name, labels=there, features=features)
