"""The labels of a cache, and the one rule by which more are added to them.

Extracting, importing, merging, pushing and pulling all add labels. Those of further videos are
added. Where two say different things of one video nobody can tell which is right, so that both are
named and nothing is written.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from cache.conflicts import refuse_conflicts
from cache.store import FeatureCache
from data.labels import VideoLabel, read_labels, write_labels

#: What to do where labels differ, for messages that name the two files.
EDIT_LABELS = "edit one of the labels files, so that they agree"


class LabelsFrom(NamedTuple):
    """Labels, and what messages call the file they are from."""

    where: str
    labels: Sequence[VideoLabel]

    @classmethod
    def file(cls, path: Path) -> "LabelsFrom":
        """Return the labels in a file, none if there is no file."""
        return cls(os.fspath(path), read_labels(path) if path.exists() else [])


def merged_labels(parts: Sequence[LabelsFrom]) -> tuple[list[VideoLabel], list[str]]:
    """Return the labels of all parts together, the first of a video, and what contradicts it."""
    merged: dict[str, tuple[VideoLabel, str]] = {}
    conflicts = []
    for where, labels in parts:
        for label in labels:
            first, before = merged.setdefault(label.video, (label, where))
            if not first.source:
                merged[label.video] = (replace(first, source=label.source), before)
            if first != label:
                conflicts.append(
                    f"{where}: {label.video}: {_text(label)}, in {before}: {_text(first)}"
                )
    return [label for label, _ in merged.values()], conflicts


def add_labels(
    cache: FeatureCache,
    more: LabelsFrom,
    *,
    replace: bool = False,
    advice: str = EDIT_LABELS,
    dry_run: bool = False,
) -> int:
    """Add labels to those of a cache, which are written only if they change.

    Args:
        cache: the cache.
        more: the labels to add.
        replace: where a label differs, take the one from `more`.
        advice: what to do about a conflict, for its message.
        dry_run: look only, write nothing.

    Returns:
        How many videos had no label, or another one.

    Raises:
        CacheError: labels differ and `replace` is not set, or the cache cannot be written.
        LabelsError: the cache's labels are damaged.
    """
    count = _changes(cache, more, replace, advice)[1]
    if dry_run or not count:
        return count  # without a claim: the cache may be read-only
    with cache.alone():
        labels, count = _changes(cache, more, replace, advice)
        if count:
            write_labels(cache.labels_path, labels)
        return count


def _changes(
    cache: FeatureCache, more: LabelsFrom, replace: bool, advice: str
) -> tuple[list[VideoLabel], int]:
    """Return the cache's labels with more added, and how many are new or different."""
    ours = LabelsFrom.file(cache.labels_path)
    labels, conflicts = merged_labels([ours, more])
    if replace:
        theirs = {label.video: label for label in more.labels}
        labels = [theirs.get(label.video, label) for label in labels]
    else:
        refuse_conflicts(cache.path, "added to labels.csv", conflicts, advice=advice)
    before = {label.video: label for label in ours.labels}
    return labels, sum(
        before.get(label.video) != label or before[label.video].source != label.source
        for label in labels
    )


def _text(label: VideoLabel) -> str:
    text = f"{label.split} {label.category!r} {label.anomaly!r}"
    if label.scene:
        text += f" scene {label.scene!r}"
    if label.num_frames is not None:
        text += f" {label.num_frames} frames"
    return text if label.num_seconds is None else f"{text} {label.num_seconds:g} s"
