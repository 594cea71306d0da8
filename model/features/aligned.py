"""Labels that fit the features: compared with what was decoded before anything is learnt."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from cache import FeatureCache
from cache.facts import video_facts
from data.annotation.alignment import check_alignment
from data.errors import LabelsError
from data.labels import VideoLabel, join_problems

logger = logging.getLogger(f"feat.{__name__}")


def check_labels(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    allow_misaligned: bool,
    streams: Sequence[str] = (),
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[VideoLabel]:
    """Return the labels in frames, after comparing them with what was decoded.

    Args:
        cache: has at least one stream of every video.
        labels: the rows to check.
        allow_misaligned: say what is wrong as a warning, and cut labels that go beyond the end;
            one content in two splits, and seconds that stand for no known frame, are refused all
            the same.
        streams: those whose frames count; default: all.
        configs: stream -> the only configuration whose frames count.

    Raises:
        LabelsError: they do not fit, or one content is in two splits.
    """
    videos = [label.video for label in labels]
    timed = [label.video for label in labels if label.times]
    facts = video_facts(cache, videos, streams=streams, configs=configs, timed=timed)
    report = check_alignment(labels, facts)
    for finding in report.warnings:
        # evaluation looks at one split only; callers say themselves what a missing count means
        if finding.kind not in ("split", "uncounted"):
            logger.warning("%s", finding.text)
    problems = [finding.text for finding in report.errors]
    in_seconds = {label.video for label in report.labels if label.times}
    # evaluation refuses runs with leaks, and nothing learns from seconds
    if any(error.kind == "leak" or error.video in in_seconds for error in report.errors):
        raise LabelsError(join_problems(problems))
    if problems and not allow_misaligned:
        advice = "the labels do not fit; --allow-misaligned goes on with what fits of them"
        raise LabelsError("\n".join([join_problems(problems), advice]))
    if not allow_misaligned:
        return list(report.labels)
    for problem in problems:
        logger.warning("%s", problem)
    counts = {video: fact.num_frames for video, fact in facts.items()}
    return [
        label.clipped(counts[label.video]) if counts[label.video] else label
        for label in report.labels
    ]


def videos_without_frames(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    streams: Sequence[str] = (),
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Return the videos that were imported without a frame count: no frame of them has a score.

    The other arguments are those of `check_labels`.
    """
    videos = [label.video for label in labels]
    facts = video_facts(cache, videos, streams=streams, configs=configs)
    return [label.video for label in labels if not facts[label.video].num_frames]
