"""Which runs are there, newest first: what `feat runs ls` shows. Loads no method and no PyTorch."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from cache.upkeep.summary import format_table
from model.runs.folder import (
    CHECKPOINT_NAME,
    CONFIG_NAME,
    EVAL_NAME,
    MEASURES_NAME,
    find_runs,
)


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run, or the runs of a folder of several seeds or of an experiment, taken together."""

    path: Path
    modified: datetime
    """When the newest of their checkpoints was written, in local time."""
    num_runs: int
    num_finished: int
    num_evaluated: int
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    streams: tuple[str, ...]
    num_videos: tuple[int, ...]
    """Training videos, those held out included; the different numbers, ascending."""
    auc: tuple[float, ...]
    """Of each evaluated run; of several seeds that of their mean alone, if that was evaluated."""
    ap: tuple[float, ...]
    unreadable: str
    """A file that does not say what a run is; empty: none."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "run": str(self.path),
            "modified": self.modified.isoformat(timespec="seconds"),
            "runs": self.num_runs,
            "finished": self.num_finished,
            "evaluated": self.num_evaluated,
            **{
                name: list(getattr(self, name))
                for name in ("methods", "seeds", "streams", "num_videos", "auc", "ap")
            },
            "unreadable": self.unreadable,
        }

    def to_cells(self) -> list[str]:
        """Return the cells of a row for people."""
        if self.unreadable:
            state = f"{self.unreadable} cannot be read: feat runs verify {self.path}"
        elif self.num_finished < self.num_runs:
            state = f"{self.num_finished} of {self.num_runs} finished"
        else:
            state = "" if self.num_evaluated else "not evaluated"
        methods = self.methods[:3] if len(self.methods) < 4 else (*self.methods[:3], "...")
        return [
            str(self.path),
            f"{self.modified:%Y-%m-%d %H:%M}",
            ",".join(methods),
            _span([str(seed) for seed in self.seeds]),
            ",".join(self.streams),
            _span([str(count) for count in self.num_videos]),
            _span([f"{value:.4f}" for value in self.auc]),
            _span([f"{value:.4f}" for value in self.ap]),
            state,
        ]


HEADER = ["run", "finished", "method", "seed", "streams", "videos", "AUC", "AP", ""]


def list_runs(folder: Path) -> list[ListedRun]:
    """Return what lies in a folder of runs, newest first.

    Raises:
        ModelError: there is no run.
    """
    together: dict[Path, list[Path]] = {}
    for run in find_runs(folder):
        parts = run.relative_to(folder).parts
        together.setdefault(folder / parts[0] if parts else folder, []).append(run)
    listed = [_describe(path, runs) for path, runs in together.items()]
    return sorted(listed, key=lambda one: (one.modified, one.path), reverse=True)


def runs_table(listed: list[ListedRun]) -> list[str]:
    """Return the lines of a table, with from and to where the runs of a folder differ."""
    return format_table(HEADER, [one.to_cells() for one in listed], right={5})


def _describe(path: Path, runs: list[Path]) -> ListedRun:
    configs, unreadable = [], ""
    for run in runs:
        try:
            values = json.loads((run / CONFIG_NAME).read_text("utf-8"))
            seed, videos = int(values["seed"]), {**values["train_videos"], **values["val_videos"]}
            streams = [str(stream["name"]) for stream in values["streams"]]
            configs.append((str(values["method"]), seed, len(videos), streams))
        except (OSError, ValueError, KeyError, TypeError):
            unreadable = str(run / CONFIG_NAME)
    finished = [run / CHECKPOINT_NAME for run in runs if (run / CHECKPOINT_NAME).is_file()]
    newest = max(file.stat().st_mtime for file in finished or runs)
    # a folder of several seeds has an evaluation of its own, of the mean of their scores
    measured = list(_measures([path])) or list(_measures(runs))
    return ListedRun(
        path=path,
        modified=datetime.fromtimestamp(newest).astimezone(),
        num_runs=len(runs),
        num_finished=len(finished),
        num_evaluated=len(measured),
        methods=tuple(dict.fromkeys(method for method, *_ in configs)),
        seeds=tuple(sorted({seed for _, seed, *_ in configs})),
        streams=tuple(dict.fromkeys(name for *_, names in configs for name in names)),
        num_videos=tuple(sorted({count for _, _, count, _ in configs})),
        auc=tuple(values["auc"] for values in measured if values.get("auc") is not None),
        ap=tuple(values["ap"] for values in measured if values.get("ap") is not None),
        unreadable=unreadable,
    )


def _measures(folders: list[Path]) -> Iterator[dict[str, Any]]:
    """Yield the measures of those that were evaluated on their test videos."""
    for folder in folders:
        try:
            values = json.loads((folder / EVAL_NAME / MEASURES_NAME).read_text("utf-8"))
            yield {name: values[name] and float(values[name]) for name in ("auc", "ap")}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not evaluated, or to be evaluated again


def _span(values: list[str]) -> str:
    """Return one value, or the least and the greatest of several."""
    low, high = min(values, key=float, default=""), max(values, key=float, default="")
    return low if low == high else f"{low} to {high}"
