"""What is to be done of a folder of videos: what the cache lacks of them."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from cache import FeatureCache, NameEntry, config_difference, config_digest, feature_key
from cache.admission import unchanged_videos
from cache.conflicts import config_conflicts
from cache.keys import is_newer
from cache.marker import MARKER
from data.errors import ConfigError
from data.videos import Stamp, VideoSource
from extract.backbones import BACKBONES
from extract.config import ExtractConfig, recorded_weights
from extract.run.folder import Folder, LabelsOf, add_labels_of, look_into
from extract.run.job import rate_problem
from extract.run.report import ExtractPlan, VideoOutcome
from extract.thumbnails import CONFIG as THUMBNAILS_CONFIG
from extract.weights.resolve import Weights

logger = logging.getLogger(f"feat.{__name__}")


def plan_extraction(
    videos_dir: Path,
    cache_dir: Path,
    config: ExtractConfig,
    *,
    weights: Mapping[str, str] | None = None,
    allow_mixed: bool = False,
    prefix: str = "",
    labels_of: LabelsOf = "",
    limit: int | None = None,
    thumbnails: bool | None = None,
    folder_fps: float = 25.0,
) -> ExtractPlan:
    """Return what `run_extraction` would do; no video is opened, and the cache is not written.

    Weights are fetched where they are missing only if the cache holds features, for their digest
    tells which of those are meant. A copy of a video that is there counts as new.

    Raises:
        FeatError: `run_extraction` would not begin, with the same message.
    """
    folder = look_into(videos_dir, prefix)
    plan = ExtractPlan(cache=str(cache_dir))
    plan.refused = [{"video": one.video_id, "error": one.error} for one in folder.failures]
    new = {source.video_id for source in folder.sources}
    work = Work(weights={}, there=[], todo=folder.sources, new=new)
    if (cache_dir / MARKER).exists():
        cache = FeatureCache(cache_dir)
        unchanged = unchanged_videos(cache, folder.sources, folder.stamps, origin=folder.origin)
        if len(cache):
            terms = Terms(config, weights or {}, allow_mixed=allow_mixed, thumbnails=thumbnails)
            work = sort_out(cache, folder, unchanged, terms)
            refuse_other_rate(cache, folder, unchanged, config, folder_fps=folder_fps)
        add_labels_of(cache, folder.labels, labels_of, dry_run=True)
    plan.there = [known.video_id for known in work.there]
    for source in work.todo[:limit]:
        is_new = source.video_id in work.new
        (plan.new if is_new else plan.thumbnails).append(source.video_id)
    plan.left = len(work.todo[limit:]) if limit else 0
    return plan


@dataclass(frozen=True)
class Terms:
    """What is wanted of all videos."""

    config: ExtractConfig
    choices: Mapping[str, str]  # of weights, by stream
    _: KW_ONLY
    allow_mixed: bool
    thumbnails: bool | None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is there of a folder's videos, and what is to be done."""

    weights: Mapping[str, Weights]
    there: list[VideoOutcome]
    todo: list[VideoSource]
    new: set[str]  # names of those to be done that lack features; the others lack pictures only


def sort_out(
    cache: FeatureCache, folder: Folder, unchanged: Mapping[str, NameEntry], terms: Terms
) -> Work:
    """Choose the weights, those that the cache takes, and tell what it lacks.

    Where only pictures may be missing, the weights need not be at hand: their digests, which are
    in the cache, tell which features are meant.
    """
    recorded = _recorded_weights(cache, terms) if terms.thumbnails else {}
    if recorded:
        work = _compare(cache, folder, unchanged, terms, recorded)
        if not work.new:
            return work
    found = {
        stream: BACKBONES[stream].find_weights(terms.choices, present=cache.configs(stream))
        for stream in terms.config.streams
    }
    if not terms.allow_mixed:
        configs = terms.config.stream_configs(found)
        for there, made in _made_anew(cache, configs):
            logger.info(
                "%s: made anew, for %s: this feat makes other values; the older ones stay, "
                "feat cache rm --config %s removes them",
                *(there["stream"], config_difference(made, there), config_digest(there)[:8]),
            )
        refuse_second_config(cache, configs)
    return _compare(cache, folder, unchanged, terms, found)


def _recorded_weights(cache: FeatureCache, terms: Terms) -> dict[str, Weights]:
    """Return the weights, without files, of the only features there are of these terms, else {}."""
    found = {}
    for stream in terms.config.streams:
        fitting = []
        for recorded in cache.configs(stream):
            with suppress(KeyError, TypeError):  # imported features have no weights
                weights = recorded_weights(stream, recorded)
                if terms.config.stream_config(stream, weights) == recorded:
                    fitting.append(weights)
        if len(fitting) != 1 or terms.choices.get(stream, "auto") not in ("auto", fitting[0].kind):
            return {}
        found[stream] = fitting[0]
    return found


def _compare(
    cache: FeatureCache,
    folder: Folder,
    unchanged: Mapping[str, NameEntry],
    terms: Terms,
    weights: Mapping[str, Weights],
) -> Work:
    configs = terms.config.stream_configs(weights)
    work = Work(weights=weights, there=[], todo=[], new=set())
    for source in folder.sources:
        name = source.video_id
        known = _known_result(cache, unchanged.get(name), source, folder.stamps[name], configs)
        if known is None:
            work.new.add(name)
        elif not terms.thumbnails or cache.has(feature_key(known.sha256, THUMBNAILS_CONFIG)):
            work.there.append(known)
            continue
        work.todo.append(source)
    return work


def refuse_other_rate(
    cache: FeatureCache,
    folder: Folder,
    unchanged: Mapping[str, NameEntry],
    config: ExtractConfig,
    *,
    folder_fps: float,
) -> None:
    """Raise a ConfigError if the cache has a folder's images with another frame rate."""
    for source in folder.sources:
        entry = unchanged.get(source.video_id)
        if entry is None:
            continue
        problem = rate_problem(
            cache, source, entry.sha256, decode=config.decode, folder_fps=folder_fps
        )
        if problem:
            raise ConfigError(f"{cache.path}: {source.video_id}: {problem}")


def refuse_second_config(cache: FeatureCache, configs: Mapping[str, dict[str, Any]]) -> None:
    """Raise a ConfigError if the cache holds other features only.

    Those that an older version of ours made do not count: they stay, and new ones are made.
    """
    older = [there for there, _ in _made_anew(cache, configs)]
    present = [there for there in cache.configs() if there not in older]
    conflicts = config_conflicts(configs.values(), present)
    if conflicts:
        raise ConfigError(
            f"{cache.path}: {'; '.join(conflicts)}; use the same options or another --cache"
        )


def _made_anew(
    cache: FeatureCache, configs: Mapping[str, dict[str, Any]]
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the configurations of older versions in the cache, each with what takes its place."""
    return [
        (there, made)
        for there in cache.configs()
        for made in configs.values()
        if is_newer(made, there)
    ]


def _known_result(
    cache: FeatureCache,
    entry: NameEntry | None,
    source: VideoSource,
    stamp: Stamp,
    configs: Mapping[str, dict[str, Any]],
) -> VideoOutcome | None:
    """Return a `skipped` result if an unchanged video has all its features in the cache."""
    if entry is None:
        return None
    keys = [feature_key(entry.sha256, config) for config in configs.values()]
    if not all(cache.has(key) for key in keys):
        return None
    return VideoOutcome(
        video_id=source.video_id,
        status="skipped",
        sha256=entry.sha256,
        size=stamp.size,
        mtime_ns=stamp.mtime_ns,
        partial=cache.entry(keys[0]).source.partial,
    )
