"""Frame intervals and per-frame labels: two spellings of the same fact. No I/O.

Intervals are 0-based and half-open everywhere in this project: `(60, 180)` is frames 60 to 179,
120 of them. Publishers who count from 1 and include the last frame write the same as `61:180`.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Interval = tuple[int, int]
Intervals = tuple[Interval, ...]

#: More frames than any video has; a number with more digits is a mistake.
MAX_FRAMES = 10**12 - 1


def intervals_from_frames(frame_labels: "npt.ArrayLike") -> Intervals:
    """Return the runs of non-zero frames, in order and never touching.

    Args:
        frame_labels: `(T,)`, any dtype; every non-zero frame is abnormal.
    """
    import numpy as np

    flags = np.asarray(frame_labels)
    if flags.ndim != 1:
        raise ValueError(f"frame labels must be (T,), not {flags.shape}")
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (flags != 0).astype(np.int8), [0]))))
    return tuple((int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True))


def frames_from_intervals(
    intervals: Iterable[Interval], num_frames: int
) -> "npt.NDArray[np.uint8]":
    """Return `(num_frames,)` uint8, 1 inside the intervals.

    Raises:
        ValueError: an interval is empty, negative, or ends after the last frame.
    """
    import numpy as np

    labels = np.zeros(num_frames, dtype=np.uint8)
    for start, end in intervals:
        if not 0 <= start < end <= num_frames:
            raise ValueError(f"interval {start}:{end} is not inside the {num_frames} frames")
        labels[start:end] = 1
    return labels


def merge_intervals(intervals: Iterable[Interval]) -> Intervals:
    """Return the same frames as sorted intervals that neither overlap nor touch."""
    merged: list[list[int]] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return tuple((start, end) for start, end in merged)


def clip_intervals(intervals: Sequence[Interval], num_frames: int) -> Intervals:
    """Return the part of the intervals that lies inside `num_frames` frames."""
    return tuple((start, min(end, num_frames)) for start, end in intervals if start < num_frames)
