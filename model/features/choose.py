"""Which streams of which videos a model takes, of those that the cache holds."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from cache import FeatureCache, feature_key
from cache.streams import order_streams
from data.errors import ModelError
from data.labels import VideoLabel
from data.names import nearest_names

logger = logging.getLogger(f"feat.{__name__}")

MAX_NAMED = 5


def available_streams(
    cache: FeatureCache,
    videos: Sequence[str],
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    named: Sequence[str] = (),
) -> dict[str, set[str]]:
    """Return the streams of features that the cache holds of each video, possibly none.

    Args:
        cache: the features.
        videos: names.
        configs: stream -> the only configuration that counts; of other streams any does.
        named: streams that count though they hold no features, such as frames.
    """
    known = set(cache.videos())
    return {
        video: _streams_of(cache, video, configs or {}, named) if video in known else set()
        for video in videos
    }


def _streams_of(
    cache: FeatureCache,
    video: str,
    configs: Mapping[str, Mapping[str, Any]],
    named: Sequence[str],
) -> set[str]:
    return {
        stream
        for stream in {*cache.feature_streams(video), *(set(named) & set(cache.streams(video)))}
        if stream not in configs or cache.has(feature_key(cache.content(video), configs[stream]))
    }


def choose_streams(available: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Return the streams that all videos have, in the order they are concatenated.

    Raises:
        ModelError: they have no stream in common.
    """
    everywhere = set.intersection(*available.values())
    somewhere = set.union(*available.values())
    if not everywhere:
        raise ModelError(
            f"no stream is there for all {len(available)} videos: "
            + "; ".join(_lacking(available, stream) for stream in order_streams(somewhere))
            + "; run `feat extract` again"
        )
    for stream in order_streams(somewhere - everywhere):
        logger.warning(
            "%s: the model goes without this stream; `feat extract` adds what is missing",
            _lacking(available, stream),
        )
    return order_streams(everywhere)


def require_streams(available: Mapping[str, set[str]], streams: Sequence[str]) -> None:
    """Refuse streams that were asked for and that some video lacks.

    Raises:
        ModelError: names the stream, the videos and the streams that there are.
    """
    lacking = [name for name in streams if any(name not in have for have in available.values())]
    if lacking:
        there = ", ".join(order_streams(set.union(set(), *available.values()))) or "none"
        raise ModelError(
            f"no stream {lacking[0]}: {_lacking(available, lacking[0])}; there is: {there}; run "
            "`feat extract`, or name others with --streams"
        )


def drop_missing(
    labels: Sequence[VideoLabel],
    available: Mapping[str, set[str]],
    cache: FeatureCache,
    *,
    skip_missing: bool,
) -> list[VideoLabel]:
    """Return the labels of the videos that the cache holds.

    Args:
        labels: of all videos.
        available: video -> streams that may be used.
        cache: whose names may be meant by those that it lacks.
        skip_missing: leave them out.

    Raises:
        ModelError: some are missing and `skip_missing` is not set, or all are.
    """
    missing = [label.video for label in labels if not available[label.video]]
    nothing_left = len(missing) == len(labels)
    if missing and (nothing_left or not skip_missing):
        or_skip = "" if nothing_left else ", or pass --skip-missing"
        known = set(cache.videos())
        without = [video for video in missing if video in known]
        if without:
            held = order_streams(set.union(*(set(cache.streams(video)) for video in without)))
            raise ModelError(
                f"{len(without)} of {len(labels)} labelled videos have no features in the cache, "
                f"only {', '.join(held)}: {named(without)}; run `feat extract` or choose "
                f"methods that look at these{or_skip}"
            )
        names = _with_nearest(missing, labels, cache)
        raise ModelError(
            f"{len(missing)} of {len(labels)} labelled videos are not in the cache: {names}; run "
            f"`feat extract` or remove their rows{or_skip}"
        )
    if missing:
        logger.warning(
            "%d labelled videos are not in the cache and are left out: %s",
            len(missing),
            named(missing),
        )
    return [label for label in labels if available[label.video]]


def _with_nearest(missing: Sequence[str], labels: Sequence[VideoLabel], cache: FeatureCache) -> str:
    """Return the first few names, each with the one that may be meant."""
    unlabelled = set(cache.videos()) - {label.video for label in labels}
    shown = []
    for video in missing[:MAX_NAMED]:
        near = nearest_names(video, unlabelled, count=1)
        shown.append(f"{video} (did you mean {near[0]}?)" if near else video)
    return named([*shown, *missing[MAX_NAMED:]])


def named(videos: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = f" and {len(videos) - MAX_NAMED} more" if len(videos) > MAX_NAMED else ""
    return ", ".join(videos[:MAX_NAMED]) + more


def _lacking(available: Mapping[str, set[str]], stream: str) -> str:
    lacking = [video for video, streams in available.items() if stream not in streams]
    return f"{stream} is missing for {len(lacking)} of {len(available)} videos ({named(lacking)})"
