"""`feat compare --choose`: which method for these videos, by their training part alone.

The training videos are divided into folds. Each method is trained on all folds but one and tested
on that one, and the method with the highest mean AUC over the folds is the one to take. Test videos
have no part in it, so that what the chosen one gives on them afterwards is a result.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

from cache import FeatureCache
from data.errors import ModelError
from data.labels import VideoLabel
from data.splits.divide import k_fold, with_splits
from data.splits.leaks import linked_videos
from model.evaluation.compat import markdown_table
from model.experiments.clusters import Workers
from model.experiments.compare import run_comparison
from model.experiments.compare_table import Comparison, Row
from model.experiments.folder import Spread, Terms, begin_folder, spread_of
from model.methods.base import Method

CHOICE_NAME = "choice.json"
SEED = 0
"""Of the division into folds."""
CONTROLS = ("shuffled", "position")
"""Methods that tell whether labels or positions alone explain a result; nobody would take one."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One method over all folds."""

    rows: tuple[Row, ...]
    """Its line of each fold's comparison."""

    @property
    def method(self) -> str:
        """Its name."""
        return self.rows[0].method

    @property
    def aucs(self) -> list[float | None]:
        """Of each fold, the mean over seeds; None where a fold has one kind of frames only."""
        return [row.values["auc"] for row in self.rows]

    @property
    def auc(self) -> Spread | None:
        """Mean and standard deviation over the folds; None where a fold has no AUC."""
        return spread_of(self.aucs)

    @property
    def seconds(self) -> float:
        """Of a training in each fold, in sum."""
        return sum(row.seconds for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "method": self.method,
            "supervision": self.rows[0].supervision,
            "auc": asdict(self.auc) if self.auc else None,
            "auc_of_folds": self.aucs,
            "seconds": round(self.seconds, 2),
        }


@dataclass(frozen=True, kw_only=True)
class Choice:
    """All methods over all folds, the one to take first."""

    out: Path
    candidates: tuple[Candidate, ...]
    num_videos: int
    """Training videos that were divided."""

    @property
    def taken(self) -> str:
        """The name of the method to take."""
        return next(one.method for one in self.candidates if one.method not in CONTROLS)

    @property
    def num_folds(self) -> int:
        """Into which they were divided."""
        return len(self.candidates[0].rows)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "out": str(self.out),
            "num_videos": self.num_videos,
            "taken": self.taken,
            "candidates": [one.to_dict() for one in self.candidates],
        }

    def to_markdown(self, options: str = "") -> str:
        """Return the table and what to do next, with those options of `feat train`."""
        lines = [["method", "supervision", "AUC, mean ± over folds", "by fold", "s"]]
        for one in self.candidates:
            lines.append(
                [
                    one.method,
                    one.rows[0].supervision,
                    f"{one.auc.mean:.3f} ± {one.auc.std:.3f}" if one.auc else "none",
                    " ".join("none" if auc is None else f"{auc:.3f}" for auc in one.aucs),
                    f"{one.seconds:.0f}",
                ]
            )
        return (
            f"{markdown_table(lines, num_names=2)}\n\n"
            f"{self.num_videos} training videos, each tested in one of {self.num_folds} folds; "
            f"those of the test part had no part in it. Take {self.taken}:\n"
            f"feat train --method {self.taken}{options}"
        )


def choose_by_folds(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    methods: Sequence[Method],
    *,
    folds: int,
    seeds: int,
    out: Path,
    terms: Terms,
    workers: Workers | None = None,
    on_run: Callable[[str, str, int, float | None], None] = lambda fold, method, seed, auc: None,
) -> Choice:
    """Train and test on the folds what `out` does not hold yet, and return the choice.

    Videos of one scene, and copies, stay in one fold. Videos whose abnormal frames nobody knows are
    tested in none, and trained on where nothing of their scene is tested.

    Args:
        cache: the features.
        labels: of all videos; those of the test part are left out.
        methods: with their settings.
        folds: 2 or more.
        seeds: runs of each method that draws anything, in each fold.
        out: folder of the comparisons, `fold-<n>` below it.
        terms: what is the same for all.
        workers: where runs are finished; by default here.
        on_run: called after each run with the fold, the method, the seed and the AUC.

    Raises:
        ModelError: the folds are too small to be tested on, or `out` holds something else.
        LabelsError: there are more folds than videos.
        FeatError: as `run_comparison`.
    """
    if all(method.name in CONTROLS for method in methods):
        raise ModelError(
            f"{', '.join(method.name for method in methods)}: controls that nobody would take; "
            "name other methods, too"
        )
    part = [replace(label, split="train") for label in labels if label.split != "test"]
    known = [label for label in part if not label.is_weak]
    if not any(label.is_abnormal for label in known):
        raise ModelError(
            "no abnormal training video has known frames, by which methods are told apart; label "
            "the frames of some, or begin with feat train --method deepmil"
        )
    contents = {name: entry.sha256 for name, entry in cache.names().items()}
    groups = linked_videos(part, content=contents)
    divided = [
        k_fold(known, folds=folds, fold=fold, seed=SEED, groups=groups) for fold in range(folds)
    ]
    for fold, rows in enumerate(divided):
        kinds = {row.is_abnormal for row in rows if row.split == "test"}
        if len(kinds) < 2:
            raise ModelError(
                f"fold {fold} of {folds} has {'abnormal' if True in kinds else 'normal'} videos "
                f"only, of {len(known)} training videos with known frames; expected both kinds: "
                "ask for fewer folds, or label more videos"
            )
    begin_folder(out / CHOICE_NAME, kind="a choice", labels=part, wanted={"folds": folds})
    comparisons: list[Comparison] = []
    for fold, rows in enumerate(divided):
        split_of = {row.video: row.split for row in rows}
        tested = {groups.get(video, video) for video in split_of if split_of[video] == "test"}

        def tell(method: str, seed: int, auc: float | None, fold: int = fold) -> None:
            on_run(f"fold {fold}", method, seed, auc)

        comparisons.append(
            run_comparison(
                cache,
                [
                    row
                    for row in with_splits(part, split_of)
                    # of a scene or a content that is tested nothing is learnt
                    if row.video in split_of or groups.get(row.video, row.video) not in tested
                ],
                methods,
                seeds=seeds,
                out=out / f"fold-{fold}",
                go_on=f"the same command with --out {quote(str(out))}",
                terms=terms,
                workers=workers,
                on_run=tell,
            )
        )
    candidates = [Candidate(rows=rows) for rows in zip(*(c.rows for c in comparisons), strict=True)]
    if not any(one.auc for one in candidates):
        raise ModelError(
            f"{out}: no method has an AUC in each of the {folds} folds, for the frames of some are "
            "of one kind only; ask for fewer"
        )
    candidates.sort(key=lambda one: -one.auc.mean if one.auc else 0.0)
    num_videos = sum(comparison.num_test_videos for comparison in comparisons)
    return Choice(out=out, candidates=tuple(candidates), num_videos=num_videos)
