"""Where a score curve is highest."""

import numpy as np
from numpy.typing import NDArray


def highest_peaks(
    scores: NDArray[np.float64], *, max_peaks: int, min_distance: int = 1
) -> list[int]:
    """Return the frames of the highest local maxima, in order of time.

    A maximum that lasts several frames is named by its middle one. Of two that are nearer to
    each other than `min_distance` frames the higher one stays, the earlier of equals.

    Args:
        scores: (T,), at least one.
        max_peaks: frames returned at most; there is always one.
        min_distance: frames between two of them, at least.
    """
    starts = np.flatnonzero(np.diff(scores, prepend=np.nan) != 0)
    ends = np.append(starts[1:], len(scores))
    heights = np.pad(scores[starts], 1, constant_values=-np.inf)
    is_peak = (heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])
    middles = (starts + (ends - 1 - starts) // 2)[is_peak]
    chosen: list[int] = []
    for frame in middles[np.argsort(-scores[middles], kind="stable")].tolist():
        if len(chosen) == max_peaks:
            break
        if all(abs(frame - other) >= min_distance for other in chosen):
            chosen.append(frame)
    return sorted(chosen)
