"""From several annotators to one label, as LAD was labelled (section 3.2 of the paper).

Every annotator marks frames as abnormal (1) or normal (0); the marks of a frame are averaged and
binarised at 0.5. Agreement is told as Fleiss' kappa over frames (Fleiss 1971) and as the distance
of each annotator's boundaries from those of the consensus. Who only clicked into a video's events,
or says no more than that it is abnormal, has no say on its frames; clicks are compared with what
the others agree on.
"""

import math
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
        votes: annotators who marked its frames; the numbers above are about them.
        clicks: frames that others clicked.
        clicks_inside: those of them that are abnormal by the consensus.
        events: intervals of the consensus.
        events_clicked: those of them with a click.
    """

    video: str
    num_frames: int
    kappa: float = math.nan
    same: float = math.nan
    start_deviation: float = math.nan
    end_deviation: float = math.nan
    votes: int = 0
    clicks: int = 0
    clicks_inside: int = 0
    events: int = 0
    events_clicked: int = 0


def consensus(
    annotators: Sequence[Sequence[VideoLabel]],
) -> tuple[list[VideoLabel], list[Agreement]]:
    """Return the consensus label and the agreement for every video, in the first one's order.

    A frame is abnormal if at least half of the annotators say so; the paper does not tell which
    way a mean of exactly 0.5 goes, and a missed anomaly costs more than a frame too many.

    Args:
        annotators: one list of labels each, of the same videos. Where nobody marked the frames, the
            label is that of the first one who clicked, else the first one's.

    Raises:
        LabelsError: fewer than two annotators, or they differ in videos, splits, categories or
            numbers of frames, or a video's length cannot be told; or a video is normal by all who
            marked its frames, and abnormal by somebody else; or a label is in seconds.
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
    length, voters = _length(group), [label for label in group if not label.is_weak]
    clicks = sorted({frame for label in group for frame in label.clicks})
    if not voters:
        label = next((label for label in group if label.clicks), first)
        return replace(label, num_frames=length), Agreement(
            video=first.video, num_frames=length, clicks=len(clicks)
        )
    marks = np.stack([label.frame_labels(length) for label in voters])  # (N, T)
    voted = (2 * marks.sum(axis=0) >= len(voters)).astype(np.uint8)  # (T,)
    intervals = intervals_from_frames(voted)
    if len(voters) < len(group) and not intervals:
        raise LabelsError(
            f"{first.video}: normal in all frames that were marked, but somebody calls it abnormal"
            " ('?' or clicks); mend one of the files"
        )
    label = replace(
        voters[0],
        extent="intervals" if intervals else "normal",
        intervals=intervals,
        num_frames=length,
    )
    return label, Agreement(
        video=first.video,
        num_frames=length,
        kappa=fleiss_kappa(marks),
        same=float((marks == marks[0]).all(axis=0).mean()),
        start_deviation=_deviation(voters, label, end=False),
        end_deviation=_deviation(voters, label, end=True),
        votes=len(voters),
        clicks=len(clicks),
        clicks_inside=sum(frame < length and bool(voted[frame]) for frame in clicks),
        events=len(intervals),
        events_clicked=sum(any(a <= frame < b for frame in clicks) for a, b in intervals),
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
    if num_annotators < 2:
        return float("nan")
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
    lines = [f"{'video':<{width}}  frames  kappa   same  start    end  votes  clicks inside"]
    for row in agreements:
        cells = _cells([row.kappa, row.same, row.start_deviation, row.end_deviation])
        clicks = f"{row.clicks_inside} of {row.clicks}" if row.clicks and row.votes else ""
        line = f"{row.video:<{width}}  {row.num_frames:>6}  {cells}  {row.votes:>5}  {clicks}"
        lines.append(line.rstrip())
    means = [
        float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
        for values in (
            np.array([getattr(row, name) for row in agreements])
            for name in ("kappa", "same", "start_deviation", "end_deviation")
        )
    ]
    total = sum(row.num_frames for row in agreements)
    lines.append(f"{'mean':<{width}}  {total:>6}  {_cells(means)}")
    clicks, inside, events, clicked = (
        sum(getattr(row, name) for row in agreements if row.votes)
        for name in ("clicks", "clicks_inside", "events", "events_clicked")
    )
    if clicks:
        lines.append(f"clicks: {inside} of {clicks} inside, in {clicked} of {events} intervals")
    return "\n".join(lines)


def _cells(values: Sequence[float]) -> str:
    """Return kappa, share and the two distances, as wide as their headings."""
    return "  ".join(
        "    -" if np.isnan(value) else f"{value:{form}}"
        for value, form in zip(values, ("5.2f", "5.3f", "5.1f", "5.1f"), strict=True)
    )
