"""Shared by the methods that judge a video as a whole: its label, and one answer for its clips."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.labels import VideoLabel
from model.features.load import FeatureSet
from model.measures.scores import ClipScores


def video_targets(
    labels: Sequence[VideoLabel], categories: Sequence[str]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return for each of V videos whether it is abnormal, and which category it is of.

    The category is a place in `categories`, -1 where a video has none of them.
    """
    places = {name: place for place, name in enumerate(categories)}
    return (
        np.array([label.is_abnormal for label in labels]),
        np.array([places.get(label.category, -1) for label in labels]),
    )


def whole_video_scores(
    data: FeatureSet,
    abnormal: NDArray[np.float64],
    categories: tuple[str, ...],
    probabilities: NDArray[np.float64],
) -> ClipScores:
    """Return the same score for every clip of a video, and the video as the only window.

    Args:
        data: V videos.
        abnormal: (V,) score of each.
        categories: C of them.
        probabilities: (V, C) of each category.
    """
    return ClipScores(
        slots=np.repeat(abnormal, np.diff(data.first_clip)),
        categories=categories,
        windows=probabilities,
        video=np.arange(len(data.labels)),
    )
