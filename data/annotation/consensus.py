"""From several annotators to one label, as LAD was labelled (section 3.2 of the paper).

Every annotator marks frames as abnormal (1) or normal (0); the marks of a frame are averaged and
binarised at 0.5. Agreement is told as Fleiss' kappa over frames (Fleiss 1971) and as the distance
of each annotator's boundaries from those of the consensus.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import numpy.typing as npt

from data.errors import LabelsError
from data.intervals import intervals_from_frames
from data.labels import VideoLabel, join_problems


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far the annotators of one video agree.

    Attributes:
        video: its name.
        num_frames: frames compared.
        kappa: Fleiss' kappa, 1 for full agreement, 0 for what chance gives; NaN where every
            annotator marked every frame alike with one of the two marks, which leaves chance
            nothing to disagree on (full agreement, but no measure of it).
        same: share of frames on which all annotators agree.
        start_deviation: mean distance in frames of the annotators' starts from the nearest start
            of the consensus; NaN where nobody or the consensus has none.
        end_deviation: the same for the ends.
    """

    video: str
    num_frames: int
    kappa: float
    same: float
    start_deviation: float
    end_deviation: float


def consensus(
    annotators: Sequence[Sequence[VideoLabel]],
) -> tuple[list[VideoLabel], list[Agreement]]:
    """Return the consensus label and the agreement for every video, in the first one's order.

    A frame is abnormal if at least half of the annotators say so; the paper does not tell which
    way a mean of exactly 0.5 goes, and a missed anomaly costs more than a frame too many.

    Args:
        annotators: one list of labels each, of the same videos. Frames must be known (no `?`).

    Raises:
        LabelsError: fewer than two annotators, or they differ in videos, splits, categories or
            numbers of frames, or a video's length cannot be told.
    """
    if len(annotators) < 2:
        raise LabelsError(f"{len(annotators)} annotator given, expected at least two")
    rows = [{label.video: label for label in labels} for labels in annotators]
    _check_same_videos(rows)
    labels, agreements, problems = [], [], []
    for first in annotators[0]:
        group = [row[first.video] for row in rows]
        try:
            label, agreement = _agree(group)
        except LabelsError as error:
            problems.append(str(error))
            continue
        labels.append(label)
        agreements.append(agreement)
    if problems:
        raise LabelsError(join_problems(problems))
    return labels, agreements


def _check_same_videos(rows: Sequence[dict[str, VideoLabel]]) -> None:
    problems = []
    for number, row in enumerate(rows[1:], start=2):
        for video in sorted(rows[0].keys() ^ row.keys()):
            who = number if video not in row else 1
            problems.append(f"{video}: not labelled by annotator {who}, expected in every file")
    if problems:
        raise LabelsError(join_problems(problems))


def _agree(group: Sequence[VideoLabel]) -> tuple[VideoLabel, Agreement]:
    first = group[0]
    for name in ("split", "category", "scene"):
        values = {getattr(label, name) for label in group}
        if len(values) > 1:
            raise LabelsError(
                f"{first.video}: {name} is {' and '.join(sorted(map(repr, values)))},"
                " expected the same of every annotator"
            )
    marks = np.stack([label.frame_labels(_length(group)) for label in group])  # (N, T)
    voted = (2 * marks.sum(axis=0) >= len(group)).astype(np.uint8)  # (T,)
    intervals = intervals_from_frames(voted)
    label = replace(
        first,
        extent="intervals" if intervals else "normal",
        intervals=intervals,
        num_frames=marks.shape[1],
    )
    return label, Agreement(
        video=first.video,
        num_frames=marks.shape[1],
        kappa=fleiss_kappa(marks),
        same=float((marks == marks[0]).all(axis=0).mean()),
        start_deviation=_deviation(group, label, end=False),
        end_deviation=_deviation(group, label, end=True),
    )


def _length(group: Sequence[VideoLabel]) -> int:
    """Return the number of frames that the column `frames` of one annotator or more gives."""
    sizes = {label.num_frames for label in group if label.num_frames is not None}
    if len(sizes) > 1:
        raise LabelsError(
            f"{group[0].video}: annotators give {' and '.join(map(str, sorted(sizes)))} frames,"
            " expected one number; they did not see the same video"
        )
    if sizes:
        return sizes.pop()
    raise LabelsError(
        f"{group[0].video}: number of frames unknown; add the column 'frames' to one of the files"
    )


def fleiss_kappa(marks: npt.NDArray[np.uint8]) -> float:
    """Return Fleiss' kappa of `(N, T)` marks 0 or 1: N annotators, T frames; NaN if undefined."""
    num_annotators, num_frames = marks.shape
    abnormal = marks.sum(axis=0, dtype=np.float64)  # (T,)
    counts = np.stack([num_annotators - abnormal, abnormal])  # (2, T)
    pairs = num_annotators * (num_annotators - 1)
    observed = float((((counts**2).sum(axis=0) - num_annotators) / pairs).mean())
    expected = float(((counts.sum(axis=1) / (num_annotators * num_frames)) ** 2).sum())
    return float("nan") if expected == 1 else (observed - expected) / (1 - expected)


def _deviation(group: Sequence[VideoLabel], label: VideoLabel, *, end: bool) -> float:
    agreed = [interval[end] for interval in label.intervals]
    marked = [edge for one in group for edge in _edges(one, label.num_frames or 0, end=end)]
    if not agreed or not marked:
        return float("nan")
    return float(np.mean([min(abs(edge - other) for other in agreed) for edge in marked]))


def _edges(label: VideoLabel, num_frames: int, *, end: bool) -> list[int]:
    if label.extent == "all":
        return [num_frames if end else 0]
    return [interval[end] for interval in label.intervals]


def agreement_records(agreements: Sequence[Agreement]) -> list[dict[str, str | float | None]]:
    """Return the agreements as plain values for JSON, None for what is undefined."""
    return [
        {
            name: None if isinstance(value, float) and np.isnan(value) else value
            for name, value in asdict(row).items()
        }
        for row in agreements
    ]


def agreement_table(agreements: Sequence[Agreement]) -> str:
    """Return the agreements as aligned text, the mean over videos in the last line."""
    width = max(len("mean"), *(len(row.video) for row in agreements))
    lines = [f"{'video':<{width}}  frames  kappa   same  start    end"]
    for row in agreements:
        lines.append(f"{row.video:<{width}}  {row.num_frames:>6}  {_numbers(row)}")
    means = [
        float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        for values in (
            np.array([getattr(row, name) for row in agreements])
            for name in ("kappa", "same", "start_deviation", "end_deviation")
        )
    ]
    total = sum(row.num_frames for row in agreements)
    mean = Agreement(
        video="mean",
        num_frames=total,
        kappa=means[0],
        same=means[1],
        start_deviation=means[2],
        end_deviation=means[3],
    )
    lines.append(f"{'mean':<{width}}  {total:>6}  {_numbers(mean)}")
    return "\n".join(lines)


def _numbers(row: Agreement) -> str:
    cells = (
        (row.kappa, "5.2f"),
        (row.same, "5.3f"),
        (row.start_deviation, "5.1f"),
        (row.end_deviation, "5.1f"),
    )
    return "  ".join("    -" if np.isnan(value) else f"{value:{form}}" for value, form in cells)
