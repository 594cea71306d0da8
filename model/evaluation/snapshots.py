"""The three numbers of a training: at its last step, chosen on validation, best on the test videos.

The third is no result: it was chosen by what it is measured on, as most published ones were.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from cache import FeatureCache
from cache.upkeep.summary import format_table
from data.labels import VideoLabel, read_labels
from model.features.aligned import check_labels, videos_without_frames
from model.features.load import FeatureSet
from model.measures.bootstrap import COVERAGE, Interval, bootstrap_intervals
from model.measures.metrics import VideoResult, frame_auc
from model.measures.scores import video_results
from model.runs.folder import LABELS_NAME
from model.runs.snapshots import load_snapshots
from model.runs.trained import TrainedRun

NAMES = {
    "last": "at the last step",
    "chosen": "chosen on validation",
    "best_on_test": "best on test: NOT a result",
}
"""The three, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class ChosenSnapshot:
    """One of the snapshots and what it has on the test videos."""

    step: int
    auc: float
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        interval = [self.interval.low, self.interval.high] if self.interval else None
        return {"step": self.step, "auc": self.auc, "interval": interval}


@dataclass(frozen=True, kw_only=True)
class ThreeNumbers:
    """Frame AUC of three snapshots of one training."""

    count: int
    """Snapshots that were looked at."""
    last: ChosenSnapshot
    chosen: ChosenSnapshot | None
    chosen_by: str
    """What chose, or why nothing did."""
    best_on_test: ChosenSnapshot

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "count": self.count,
            "chosen_by": self.chosen_by,
            **{name: one.to_dict() if one else None for name, one in self._each()},
        }

    def aucs(self) -> dict[str, float | None]:
        """Return the AUC of each, `auc_last` and so on."""
        return {f"auc_{name}": one.auc if one else None for name, one in self._each()}

    def to_lines(self) -> list[str]:
        """Return a table for people."""
        head, *rows = snapshot_rows(self.to_dict())
        return format_table(head, rows, {3})

    def _each(self) -> list[tuple[str, ChosenSnapshot | None]]:
        return [("last", self.last), ("chosen", self.chosen), ("best_on_test", self.best_on_test)]


def snapshot_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the head and the three lines of a table of what `ThreeNumbers.to_dict` gave."""
    rows = [["snapshots", "AUC", f"{COVERAGE:.0%} interval", "step", "how"]]
    for name, title in NAMES.items():
        one = found[name]
        if one is None:
            rows.append([title, "", "", "", found["chosen_by"]])
            continue
        interval = " to ".join(f"{bound:.4f}" for bound in one["interval"] or ())
        how = {"last": "", "chosen": f"by {found['chosen_by']}"}.get(
            name, f"the highest of {found['count']} looks at the test videos"
        )
        rows.append([title, f"{one['auc']:.4f}", interval, str(one["step"]), how])
    return rows


def three_numbers(
    trained: TrainedRun,
    cache: FeatureCache,
    data: FeatureSet,
    *,
    configs: Mapping[str, Mapping[str, Any]],
    smoothing: float | None,
) -> ThreeNumbers | None:
    """Return the three numbers of a run; None without snapshots, or where videos have no AUC.

    What chooses are the run's validation videos with its own labels, by the AUC of their frames or,
    for a method that sees no frame labels, of whole videos. Those imported without a frame count
    have no scores of frames and are left out.

    Args:
        trained: the run; a folder of several seeds has no snapshots of its own.
        cache: holds the validation videos' features.
        data: the videos to evaluate.
        configs: as of `TrainedRun.load_features`.
        smoothing: as of `TrainedRun.score`.
    """
    snapshots = snapshot_runs(trained)
    if not snapshots:
        return None
    watched = snapshots[0].info.val_videos
    labels = read_labels(trained.path / LABELS_NAME)
    rows = check_labels(
        cache,
        [replace(row, split="val") for row in labels if row.video in watched],
        allow_misaligned=True,
        configs=configs,
    )
    used = [stream.name for stream in trained.info.streams]
    uncounted = set(videos_without_frames(cache, rows, streams=used, configs=configs))
    rows = [row for row in rows if row.video not in uncounted]
    held = trained.load_features(cache, rows, configs) if rows else None
    by_frames = trained.info.method.supervision == "fully"
    looks: list[ChosenSnapshot] = []
    values: list[float | None] = []
    for one in snapshots:
        results = video_results(one.score(data, smoothing=smoothing), data)
        auc = frame_auc(results)[0]
        if auc is None:
            return None
        step = int(one.info.result["step"])
        interval = bootstrap_intervals([results], measures=("auc",))["auc"]
        looks.append(ChosenSnapshot(step=step, auc=auc, interval=interval))
        if held is not None:
            answer = video_results(one.score(held, smoothing=smoothing), held)
            values.append(frame_auc(answer)[0] if by_frames else video_auc(answer, rows))
    known = [value for value in values if value is not None]
    is_chosen = bool(known) and len(known) == len(looks)
    what = "frames" if by_frames else "videos"
    none = (
        "no validation videos: give some the split val, or set held_out (convlstm: val_fraction), "
        "if the method has that setting"
    )
    if held is not None and not is_chosen:
        none = f"the {len(rows)} validation videos are of one kind"
    return ThreeNumbers(
        count=len(looks),
        last=looks[-1],
        chosen=looks[int(np.argmax(known))] if is_chosen else None,
        chosen_by=f"the AUC of the {what} of {len(rows)} others" if is_chosen else none,
        best_on_test=max(looks, key=lambda look: look.auc),
    )


def snapshot_runs(trained: TrainedRun) -> list[TrainedRun]:
    """Return a run as it was at each of its snapshots, by step; none if it kept none."""
    return [replace(trained, checkpoints=(one,)) for one in load_snapshots(trained.path)]


def video_auc(results: Sequence[VideoResult], labels: Sequence[VideoLabel]) -> float | None:
    """Return how well the highest score of a video tells abnormal ones; None for one kind only."""
    kinds = [label.is_abnormal for label in labels]
    if len(set(kinds)) < 2:
        return None
    return float(roc_auc_score(kinds, [result.scores.max() for result in results]))
