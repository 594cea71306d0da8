"""Frame scores of a video under a Gaussian: a clip's score also holds for what is near it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from model.features.load import FeatureSet


def smooth_scores(
    scores: Sequence[NDArray[np.float64]], data: FeatureSet, smoothing: float
) -> list[NDArray[np.float64]]:
    """Return the frame scores of some videos, smoothed.

    Before its first and after its last frame a video is taken to go on with the scores of those.

    Args:
        scores: (T,) of each video of `data`.
        data: whose clips they are.
        smoothing: standard deviation in clips; 0 leaves the scores as they are.
    """
    if not smoothing:
        return list(scores)
    return [
        gaussian_filter1d(frames, smoothing * _clip_frames(data, video), mode="nearest")
        if len(frames)
        else frames
        for video, frames in enumerate(scores)
    ]


def _clip_frames(data: FeatureSet, video: int) -> float:
    """Return the frames of an ordinary clip of a video; its last one may be shorter."""
    rows = data.rows(video)
    return float(np.median(data.end_frame[rows] - data.start_frame[rows]))
