"""The table of a comparison: one row a method, as Markdown and CSV."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.files import write_rows
from data.splits.protocols import Supervision
from model.evaluation.compat import markdown_table
from model.evaluation.snapshots import NAMES
from model.experiments.folder import FinishedRun, spread_of
from model.measures.bootstrap import COVERAGE, Interval, bootstrap_intervals
from model.measures.metrics import uncounted_words
from model.methods.base import Method

SHOWN = ("auc", "ap", "auc_abnormal", "auc_macro", "far", "far_per_hour_fitted", "accuracy_video")
WITH_INTERVAL = ("auc", "ap")
HEAD = {
    "auc": "AUC",
    "ap": "AP",
    "auc_abnormal": "AUC, abnormal videos",
    "auc_macro": "AUC, mean of videos",
    "far": "false alarms",
    "far_per_hour_fitted": "false alarms an hour",
    "accuracy_video": "category accuracy",
}

NOTES = {
    "far": "false alarms: share of the frames of normal videos that score 0.5 or more",
    "far_per_hour_fitted": "false alarms an hour: at the threshold fitted for each run",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method's line of the table."""

    method: str
    supervision: Supervision
    seeds: int
    """Runs averaged: 1 for a method that draws nothing."""
    values: dict[str, float | None]
    """Mean over the runs of each measure of `SHOWN`; None where a run has none."""
    auc_spread: float | None
    """Standard deviation of the AUC over the runs (n - 1); None for a single run."""
    intervals: dict[str, Interval | None]
    """Of the means of `WITH_INTERVAL`, over test videos and runs."""
    seconds: float
    """Mean time of a training."""
    snapshots: dict[str, float | None] = field(default_factory=dict)
    """Mean over the runs of the AUC of each of `evaluation.snapshots.NAMES`; none without any."""

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dictionary of JSON types."""
        flat: dict[str, Any] = {
            "method": self.method,
            "supervision": self.supervision,
            "seeds": self.seeds,
        }
        for name, value in self.values.items():
            flat[name] = value
            if name in WITH_INTERVAL:
                interval = self.intervals[name]
                flat[f"{name}_low"] = interval.low if interval else None
                flat[f"{name}_high"] = interval.high if interval else None
        kept = {f"auc_{name}": self.snapshots.get(name) for name in NAMES}
        return {**flat, **kept, "auc_spread": self.auc_spread, "seconds": round(self.seconds, 2)}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A finished comparison."""

    out: Path
    cache: Path
    rows: tuple[Row, ...]
    num_test_videos: int
    num_test_frames: int
    num_uncounted_videos: int
    """Test videos without a frame count, which are in no measure of frames."""
    labels_sha256: str
    streams: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "out": str(self.out),
            "cache": str(self.cache),
            "streams": list(self.streams),
            "labels_sha256": self.labels_sha256,
            "num_test_videos": self.num_test_videos,
            "num_test_frames": self.num_test_frames,
            "num_uncounted_videos": self.num_uncounted_videos,
            "rows": [row.to_dict() for row in self.rows],
        }


def make_row(method: Method, runs: Sequence[FinishedRun]) -> Row:
    """Return the line of one method from its runs."""
    values = {name: [run.measures.get(name) for run in runs] for name in SHOWN}
    aucs = [value for value in values["auc"] if value is not None]
    kept = [run.measures["snapshots"] for run in runs if run.measures.get("snapshots")]
    return Row(
        method=method.name,
        supervision=method.supervision,
        seeds=len(runs),
        values={name: _mean(found) for name, found in values.items()},
        auc_spread=float(np.std(aucs, ddof=1)) if len(aucs) > 1 else None,
        intervals=bootstrap_intervals([run.results for run in runs], measures=WITH_INTERVAL),
        seconds=float(np.mean([run.seconds for run in runs])),
        snapshots={
            name: _mean([one[name]["auc"] if one[name] else None for one in kept])
            for name in NAMES
            if kept
        },
    )


def _mean(values: Sequence[float | None]) -> float | None:
    spread = spread_of(values)
    return spread.mean if spread else None


def to_markdown(comparison: Comparison) -> str:
    """Return the table and what must be known to read it."""
    shown = [name for name in SHOWN if any(row.values[name] is not None for row in comparison.rows)]
    head = ["method", "supervision", "seeds"]
    for name in shown:
        head += [HEAD[name], f"{COVERAGE:.0%} interval"] if name in WITH_INTERVAL else [HEAD[name]]
    has_snapshots = any(row.snapshots for row in comparison.rows)
    head += [f"AUC {NAMES[name]}" for name in NAMES if has_snapshots]
    head += ["spread of AUC", "s"]
    lines = [head]
    for row in comparison.rows:
        cells = [row.method, row.supervision, str(row.seeds)]
        for name in shown:
            cells.append(_number(row.values[name]))
            if name in WITH_INTERVAL:
                interval = row.intervals[name]
                cells.append(f"{interval.low:.3f} to {interval.high:.3f}" if interval else "")
        cells += [_number(row.snapshots.get(name)) for name in NAMES if has_snapshots]
        lines.append([*cells, _number(row.auc_spread), f"{row.seconds:.0f}"])
    notes = [NOTES[name] for name in shown if name in NOTES]
    return (
        f"{markdown_table(lines, num_names=2)}\n\n"
        f"{comparison.num_test_videos} test videos"
        f"{uncounted_words(comparison.num_uncounted_videos)}, {comparison.num_test_frames} frames; "
        "features "
        f"{' + '.join(comparison.streams)}; labels {comparison.labels_sha256[:12]}. Means over "
        f"the seeds; {'; '.join(['intervals by bootstrap over test videos and seeds', *notes])}. "
        "Numbers of different supervision were not won with the same labels."
    )


def write_csv(path: Path, comparison: Comparison) -> None:
    """Write the rows with all their digits."""
    write_rows(path, [row.to_dict() for row in comparison.rows])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
