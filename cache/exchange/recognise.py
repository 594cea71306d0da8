"""What the arrays of one stream are: their videos, axes, rows, crops, and what does not fit."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cache.exchange.layouts import (
    AXES,
    ROWS,
    ClipRule,
    Part,
    choose_axes,
    choose_rows,
    find_misfits,
    other_rules,
)
from cache.records import check_video_name


@dataclass(frozen=True, kw_only=True)
class FoundStream:
    """The arrays of one stream, whose values are not read yet."""

    name: str
    videos: Mapping[str, Sequence[Part]]  # several parts are crops, or clips in order
    axes: str  # one of AXES for arrays (A, B, D), else ""
    rows: str  # one of ROWS
    num_rows: Mapping[str, int]  # by video
    num_crops: int
    dim: int
    dtype: str
    named_clips: tuple[int, int] | None = None  # what to add to the start and end in clips' names

    def describe(self, rule: ClipRule, *, crops_kept: bool) -> str:
        """Return one line: what the arrays were taken for."""
        if self.named_clips:
            arrays = f"(D) = ({self.dim}), a clip each, of the frames in its name"
        else:
            shape = AXES.get(self.axes, "(S, D)")
            row = ROWS[self.rows]
            if self.rows == "clips":
                row += f" of {rule.clip_len} frames"
                row += f", {rule.clip_stride} apart" * (rule.clip_stride != rule.clip_len)
            arrays = f"{shape}, D = {self.dim}, a row is {row}"
        if self.num_crops > 1:
            arrays += f", {self.num_crops} crops {'kept' if crops_kept else 'averaged'}"
        return f"{self.name}: {len(self.videos)} videos, {arrays}"


def recognise(
    name: str,
    parts: Sequence[Part],
    *,
    layout: Collection[str],
    rule: ClipRule,
    frames: Mapping[str, int],
    problems: list[str],
) -> FoundStream | None:
    """Return what the arrays of one stream are.

    Args:
        name: of the stream.
        parts: its arrays, with the names of their videos.
        layout: what the user says of them.
        rule: of clips.
        frames: frame counts by video, as far as they are known.
        problems: takes a line for each array that does not fit; the result is None if it is not
            even clear what to expect.

    Raises:
        CacheError: it is not clear what they are.
    """
    videos = _group(parts, problems)
    if parts[0].frames is not None:
        return _recognise_clips(name, videos, rule, problems)
    usual = _usual(len(part.array.shape) for part in parts)
    expected = {2: "(S, D)", 3: "(S, C, D)"}.get(usual)
    for part in parts:
        shape = part.array.shape
        if expected is None or len(shape) != usual:
            wanted = "(S, D) or (S, C, D)" if expected is None else f"{expected}, as the others"
            problems.append(f"{_place(part)}: shape {shape}, expected {wanted}")
    if expected is None:
        return None
    if usual == 3 and any(len(group) > 1 for group in videos.values()):
        problems.append(f"{_place(parts[0])}: shape {parts[0].array.shape}, expected (S, D) a crop")
        return None
    fitting = {v: g for v, g in videos.items() if all(len(p.array.shape) == usual for p in g)}
    shapes = [group[0].array.shape for group in fitting.values()]

    def fits_frames(rows: Sequence[int]) -> bool:
        counted = {v: n for v, n in zip(fitting, rows, strict=True) if v in frames}
        return bool(counted) and not find_misfits(counted, frames, rule)

    axes = choose_axes(shapes, layout, fits_frames) if usual == 3 else ""
    time = 1 if axes == "crops-first" else 0
    num_rows = {video: group[0].array.shape[time] for video, group in fitting.items()}
    of_axis = {group[0].array.shape[1 - time] for group in fitting.values()} if axes else {1}
    num_crops = max(max(of_axis), *(len(group) for group in fitting.values()))
    if len(of_axis) > 1:
        problems.append(f"{name}: arrays of {' and '.join(map(str, sorted(of_axis)))} crops")
    dim = _check_dim(fitting.values(), num_rows.values(), problems)
    rows = choose_rows(num_rows, frames, rule, layout)
    if rows == "clips":
        _check_frames(fitting, num_rows, frames, rule, problems)
    return FoundStream(
        name=name,
        videos=fitting,
        axes=axes,
        rows=rows,
        num_rows=num_rows,
        num_crops=num_crops,
        dim=dim,
        dtype=_dtype(parts, averaged=num_crops > 1),
    )


def _group(parts: Iterable[Part], problems: list[str]) -> dict[str, list[Part]]:
    """Return the parts by video, crops and clips in order."""
    videos: dict[str, list[Part]] = defaultdict(list)
    for part in parts:
        videos[part.video].append(part)
    for video, group in videos.items():
        try:
            check_video_name(video)
        except ValueError as error:
            problems.append(f"{group[0].array.path}: {error}")
        group.sort(key=lambda part: (part.frames or (0, 0), part.crop))
        seen: dict[object, Part] = {}
        for part in group:
            other = seen.setdefault((part.frames, part.crop), part)
            if other is not part:
                problems.append(f"{_place(part)} comes twice, also in {other.array.path}")
    return dict(videos)


def _recognise_clips(
    name: str, videos: Mapping[str, Sequence[Part]], rule: ClipRule, problems: list[str]
) -> FoundStream | None:
    """Return the stream of arrays that are one clip each, `<video>/<start>_<end>`.

    With clips of 16 frames 0_16 is half-open, 0_15 inclusive, and 1_16 counts from 1.
    """
    parts = [part for group in videos.values() for part in group]
    named = [part.frames or (0, 0) for part in parts]
    length = _usual(end - start for start, end in named)
    inclusive = rule.clip_len - length
    first = min(start for start, _ in named)
    if inclusive not in (0, 1) or first not in (0, 1):
        problems.append(
            f"{parts[0].array.path}: clips from frame {first} on, from start to end {length} "
            f"frames, expected {rule.clip_len} or {rule.clip_len - 1} from frame 0 or 1 on; give "
            "the frames of a clip with --clip-len"
        )
        return None
    for part, (start, end) in zip(parts, named, strict=True):
        if not 0 < end + inclusive - start <= rule.clip_len:
            problems.append(f"{_place(part)}: {start}_{end} is no clip of {rule.clip_len} frames")
    return FoundStream(
        name=name,
        videos=videos,
        axes="",
        rows="clips",
        num_rows={video: len(group) for video, group in videos.items()},
        num_crops=1,
        dim=_check_dim(videos.values(), [], problems),
        dtype=_dtype(parts, averaged=False),
        named_clips=(-first, inclusive - first),
    )


def _check_dim(
    videos: Iterable[Sequence[Part]], num_rows: Collection[int], problems: list[str]
) -> int:
    """Return the usual number of values in a row; every other one is a problem."""
    parts = [part for group in videos for part in group]
    usual = _usual(part.array.shape[-1] for part in parts)
    dims = {part.array.shape[-1] for part in parts}
    if len(dims) > 2 and len(num_rows) > 2 and len(set(num_rows)) == 1:
        problems.append(
            f"{_place(parts[0])}: shape {parts[0].array.shape}, expected time first: the last axis "
            "differs from array to array, the first does not; save them transposed"
        )
        return usual
    for part in parts:
        if part.array.shape[-1] != usual:
            problems.append(
                f"{_place(part)}: rows of {part.array.shape[-1]} values, the others have {usual}"
            )
    return usual


def _check_frames(
    videos: Mapping[str, Sequence[Part]],
    num_rows: Mapping[str, int],
    frames: Mapping[str, int],
    rule: ClipRule,
    problems: list[str],
) -> None:
    """Add the videos whose rows are not as many as their frames give, and what would fit."""
    misfits = find_misfits(num_rows, frames, rule)
    for video in misfits:
        low, high = rule.expected(frames[video])
        wanted = f"{low}" if low == high else f"{low} to {high}"
        problems.append(
            f"{_place(videos[video][0])}: {num_rows[video]} rows of {rule.clip_len} frames do not "
            f"fit {frames[video]} frames, expected {wanted}"
        )
    if misfits:
        fitting = " or ".join(
            f"--clip-len {other.clip_len}"
            + f" --clip-stride {other.clip_stride}" * (other.clip_stride != other.clip_len)
            for other in other_rules(num_rows, frames)
        )
        advice = f"would fit: {fitting}" if fitting else "see --clip-len, --clip-stride, --layout"
        problems[-1] += f"; {advice}"


def _dtype(parts: Iterable[Part], *, averaged: bool) -> str:
    """Return the type they are stored in: half precision if all have it, as they are."""
    halves = all(part.array.dtype == np.float16 for part in parts)
    return "float16" if halves and not averaged else "float32"


def _usual(numbers: Iterable[int]) -> int:
    return Counter(numbers).most_common(1)[0][0]


def _place(part: Part) -> str:
    return f"{part.array.path}: {part.video!r:.80}"
