"""The tables of an ablation: a summary of each part as Markdown, all runs as CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import write_rows
from model.evaluation.compat import markdown_table
from model.experiments.ablate_plan import BASE, Part
from model.experiments.folder import Spread, spread_of
from model.measures.metrics import VideoResult, confusion


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is kept of one training and its evaluation."""

    variant: str
    split: str
    seed: int
    auc: float | None
    """Over all test frames."""
    accuracy: float | None
    """Share of the test videos with a category for which it was found."""
    seconds: float
    categories: tuple[VideoResult, ...] = field(repr=False, default=())
    """The test videos, without scores."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One variant's line of a table."""

    variant: str
    label: str
    auc: Spread | None
    difference: Spread | None
    """AUC minus that of the base, each on the same split with the same seed."""
    accuracy: Spread | None
    points: dict[str, tuple[float, ...]]
    """`auc` and `accuracy` of what the spread is taken over; empty where it is None."""

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dictionary of JSON types."""
        flat: dict[str, Any] = {"variant": self.variant, "label": self.label}
        for name in ("auc", "difference", "accuracy"):
            spread: Spread | None = getattr(self, name)
            flat[name] = spread.mean if spread else None
            flat[f"{name}_std"] = spread.std if spread else None
        return flat


@dataclass(frozen=True, kw_only=True)
class FinishedPart:
    """A part with what its runs gave."""

    part: Part
    num_splits: int
    num_seeds: int
    lines: tuple[Line, ...]
    categories: tuple[str, ...] = ()
    """Of `counts`: those met in test videos and predictions."""
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    """(C, C) test videos, summed over the runs; true by row, predicted by column."""
    videos: tuple[VideoResult, ...] = field(repr=False, default=())
    """Those that were counted, without scores."""

    @classmethod
    def of(
        cls, part: Part, runs: Mapping[str, Sequence[Run]], base: Sequence[Run]
    ) -> "FinishedPart":
        """Return the summary of a part's runs.

        Args:
            part: what was run.
            runs: by variant, each on the same splits with the same seeds, in the same order.
            base: the base's, likewise.
        """
        lines = []
        for variant in part.variants:
            own = runs[variant.name]
            differences = [
                None if one.auc is None or two.auc is None else one.auc - two.auc
                for one, two in zip(own, base, strict=True)
            ]
            auc = _by_split(own, [run.auc for run in own])
            accuracy = _by_split(own, [run.accuracy for run in own])
            lines.append(
                Line(
                    variant=variant.name,
                    label=variant.label,
                    auc=spread_of(auc),
                    difference=(
                        None if variant.name == BASE else spread_of(_by_split(own, differences))
                    ),
                    accuracy=spread_of(accuracy),
                    points={"auc": _known(auc), "accuracy": _known(accuracy)},
                )
            )
        videos = [video for run in base for video in run.categories if part.name == "figure7"]
        names, counts = confusion(videos)
        return cls(
            part=part,
            num_splits=len({run.split for run in base}),
            num_seeds=len({run.seed for run in base}),
            lines=tuple(lines),
            categories=tuple(names),
            counts=counts,
            videos=tuple(videos),
        )

    @property
    def reason(self) -> str:
        """Why there is nothing to show; empty if there is."""
        if self.part.name == "figure7" and not self.part.reason and not self.categories:
            return "no test video has a category"
        return self.part.reason

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "part": self.part.name,
            "title": self.part.title,
            "reason": self.reason,
            "num_splits": self.num_splits,
            "num_seeds": self.num_seeds,
            "rows": [line.to_dict() for line in self.lines],
            "categories": list(self.categories),
            "confusion": self.counts.tolist(),
        }

    def to_markdown(self) -> str:
        """Return the title, the table and what must be known to read it."""
        if self.reason:
            return f"## {self.part.title}\n\nNot run: {self.reason}."
        table = self._confusion_table() if self.part.name == "figure7" else self._table()
        return f"## {self.part.title}\n\n{markdown_table(table)}\n\n{self._note()}"

    def _table(self) -> list[list[str]]:
        head = [self.part.column, "AUC", "against the base"]
        with_accuracy = any(line.accuracy for line in self.lines)
        head += ["category accuracy"] if with_accuracy else []
        rows = [head]
        for line in self.lines:
            label = f"**{line.label}**" if line.variant == BASE else line.label
            difference = "" if line.variant == BASE else _text(line.difference, sign="+")
            cells = [label, _text(line.auc), difference]
            rows.append([*cells, _text(line.accuracy)] if with_accuracy else cells)
        return rows

    def _confusion_table(self) -> list[list[str]]:
        names = [name.replace("|", r"\|") for name in self.categories]
        rows = [["true, predicted:", *names, "found"]]
        for place, (name, row) in enumerate(zip(names, self.counts, strict=True)):
            found = f"{row[place] / row.sum():.2f}" if row.any() else ""
            rows.append([name, *(str(count) if count else "" for count in row), found])
        return rows

    def _note(self) -> str:
        runs = self.num_splits * self.num_seeds
        made_of = f"{_number(self.num_splits, 'split')} x {_number(self.num_seeds, 'seed')}"
        if self.part.name == "figure7":
            accuracy = _text(self.lines[0].accuracy)
            return (
                f"Test videos of {made_of}, summed. Accuracy {accuracy}. {self._spread()}".strip()
            )
        sentences = (
            f"n = {runs} ({made_of}). AUC over all test frames.",
            self._spread(),
            "In bold: the base; against it: the difference of AUC on the same split with the same "
            "seed.",
        )
        return " ".join(filter(None, sentences))

    def _spread(self) -> str:
        if self.num_splits > 1:
            seeds = " of each split's mean over seeds" if self.num_seeds > 1 else ""
            return f"±: standard deviation over the splits{seeds}."
        return "±: standard deviation over the seeds." if self.num_seeds > 1 else ""


def write_runs(path: Path, runs: Sequence[Run]) -> None:
    """Write a line for each run, with all digits."""
    names = ("variant", "split", "seed", "auc", "accuracy", "seconds")
    write_rows(path, [{name: getattr(run, name) for name in names} for run in runs])


def _by_split(runs: Sequence[Run], values: Sequence[float | None]) -> list[float | None]:
    """Return each split's mean over its seeds, or the values themselves of a single split."""
    splits = list(dict.fromkeys(run.split for run in runs))
    if len(splits) < 2:
        return list(values)
    parts = [[v for run, v in zip(runs, values, strict=True) if run.split == s] for s in splits]
    spreads = [spread_of(part) for part in parts]
    return [spread.mean if spread else None for spread in spreads]


def _known(values: Sequence[float | None]) -> tuple[float, ...]:
    known = tuple(value for value in values if value is not None)
    return known if len(known) == len(values) else ()


def _text(spread: Spread | None, sign: str = "") -> str:
    if spread is None:
        return "none"
    return f"{spread.mean:{sign}.3f}" + ("" if spread.std is None else f" ± {spread.std:.3f}")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
