"""A published evaluation beside the right one: a table of what each of its shortcuts is worth."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from model.measures.metrics import THRESHOLD, VideoResult, frame_auc, frames_of

TITLES = {
    "released": "Evaluation as published with LAD",
    "rtfm": "Evaluation as RTFM and those after it publish it",
    "one-class": "Evaluation as one-class papers publish it",
}
"""The published evaluations, and what the report calls them."""


@dataclass(frozen=True, kw_only=True)
class CompatTable:
    """Measures of the right evaluation, of each shortcut alone, and of all of them together."""

    name: str
    """Whose evaluation it is, of `TITLES`."""
    note: str
    """How to read the columns."""
    totals: tuple[str, ...]
    """Columns with several shortcuts together; the others have one, but for the first, `right`."""
    values: dict[str, dict[str, float | None]]
    """Column -> measure -> value; None where it is undefined."""
    num_frames: dict[str, int]
    """Column -> frames that count."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**asdict(self), "totals": list(self.totals)}

    def rows(self) -> list[list[str]]:
        """Return the table as text, a head first: shortcuts as differences from the right value."""
        lines = [["", *self.values]]
        for measure, right in self.values["right"].items():
            cells = [measure]
            for column, measures in self.values.items():
                value = measures[measure]
                if value is None:
                    cells.append("none")
                elif column == "right" or column in self.totals or right is None:
                    cells.append(f"{value:.4f}")
                else:
                    cells.append(f"{value - right:+.4f}")
            lines.append(cells)
        return [*lines, ["frames", *(str(self.num_frames[column]) for column in self.values)]]

    def to_markdown(self) -> str:
        """Return the table and how to read it."""
        return f"{markdown_table(self.rows())}\n\n{self.note}\n"


def mean_table(tables: Sequence[CompatTable]) -> CompatTable:
    """Return the means of the tables of several seeds, which have the same columns and measures."""
    first = tables[0]
    values: dict[str, dict[str, float | None]] = {}
    for column, measures in first.values.items():
        values[column] = {}
        for measure in measures:
            found = [table.values[column][measure] for table in tables]
            known = [value for value in found if value is not None]
            values[column][measure] = fmean(known) if known and len(known) == len(found) else None
    return replace(first, values=values, note=f"Means of {len(tables)} seeds. {first.note}")


def markdown_table(rows: Sequence[Sequence[str]], *, num_names: int = 1) -> str:
    """Return a table, its head first; all columns but the first `num_names` stand to the right."""
    head, *others = rows
    rule = ["---"] * num_names + ["--:"] * (len(head) - num_names)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *others))


def frame_measures(
    results: Sequence[VideoResult],
    are_abnormal: Sequence[bool],
    *,
    precision: Callable[[NDArray[Any], NDArray[Any]], float] = average_precision_score,
) -> dict[str, float | None]:
    """Return the measures of frames that such a table has; None where one is undefined.

    Args:
        results: the frames that count, all with labels.
        are_abnormal: which of the videos are.
        precision: average precision of labels and scores.
    """
    pairs = list(zip(results, are_abnormal, strict=True))
    labels, scores = frames_of(results)
    _, normal = frames_of([result for result, abnormal in pairs if not abnormal])
    return {
        "auc": frame_auc(results)[0],
        "ap": float(precision(labels, scores)) if labels.any() else None,
        "auc_abnormal": frame_auc([result for result, abnormal in pairs if abnormal])[0],
        "far": float((normal >= THRESHOLD).mean()) if len(normal) else None,
    }
