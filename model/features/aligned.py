"""Labels that fit the features: compared with what was decoded before anything is learnt."""

import logging
from collections.abc import Sequence

from cache import FeatureCache
from cache.facts import video_facts
from data.annotation.alignment import check_alignment
from data.labels import VideoLabel

logger = logging.getLogger(f"feat.{__name__}")


def check_labels(
    cache: FeatureCache, labels: Sequence[VideoLabel], *, allow_misaligned: bool
) -> list[VideoLabel]:
    """Return the labels after comparing them with what was decoded.

    Args:
        cache: has at least one stream of every video.
        labels: the rows to check.
        allow_misaligned: say what is wrong as a warning, and cut labels that go beyond the end.

    Raises:
        LabelsError: they do not fit, or one content is in two splits.
    """
    facts = video_facts(cache)
    report = check_alignment(labels, {label.video: facts[label.video] for label in labels})
    for finding in report.warnings:
        if finding.kind != "split":  # evaluation looks at one split only
            logger.warning("%s", finding)
    if not allow_misaligned:
        report.raise_if_misaligned()
        return list(labels)
    for finding in report.errors:
        logger.warning("%s", finding)
    return [label.clipped(facts[label.video].num_frames) for label in labels]


def videos_without_frames(cache: FeatureCache, labels: Sequence[VideoLabel]) -> list[str]:
    """Return the videos that were imported without a frame count: no frame of them has a score."""
    return [
        label.video
        for label in labels
        if not cache.find(label.video, cache.streams(label.video)[0]).source.num_frames
    ]
