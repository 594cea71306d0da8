"""Scores for videos: features that no cache holds are extracted, then a trained run scores all."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache import FeatureCache, feature_key
from data.errors import ConfigError
from data.videos import content_sha256, source_stamp
from data.visible import one_line
from extract.backbones import BACKBONES
from extract.config import ExtractConfig, recorded_weights
from extract.decode.limits import Limits
from extract.devices import Resources, list_devices
from extract.i3d.precision import precision_for
from extract.run.job import rate_problem
from extract.run.runner import extract_videos
from model.prediction.prediction import predict_video
from model.runs.trained import load_run
from predict.sought import Sought, noting_failure

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Where and with what features are extracted; nothing here changes them.

    Attributes:
        cache_dir: a cache that is only read; None for `features`, if that is there.
        keep_dir: the cache for what that one lacks; made when it is needed.
    """

    keep_dir: Path
    cache_dir: Path | None = None
    device: str = "auto"
    threads: int | None = None
    folder_fps: float = 25.0
    limits: Limits = field(default_factory=Limits)
    rgb_weights: Path | None = None
    flow_weights: Path | None = None


def run_prediction(
    sought: Sequence[Sought], run: Path, options: ExtractOptions, *, threshold: float | None
) -> ExtractConfig:
    """Give every video its prediction, or the error that kept it from one.

    Args:
        sought: the videos.
        run: a finished run of any method, or of several seeds.
        options: how features are made that no cache holds.
        threshold: of an abnormal frame; None: the run's own.

    Returns:
        How the features were made.

    Raises:
        FeatError: nothing could be begun: no run, features that no video can give, no weights,
            no cache where one was named.
    """
    trained = load_run(run, device=options.device)
    configs: dict[Any, dict[str, Any]] = {
        stream.name: dict(stream.config) for stream in trained.info.streams
    }
    config = ExtractConfig.from_stream_configs(configs)
    groups = _group_missing(sought, config, configs, options)
    _extract_missing(groups, config, configs, options)
    for each in sought:
        if each.error or each.cache is None:
            continue
        with noting_failure(each):
            each.prediction = predict_video(trained, each.cache, each.sha256, threshold=threshold)
            if each.prediction.seen:
                logger.warning(
                    "%s: the run was trained on this video: its scores flatter the model", each.name
                )
    return config


def _open_caches(options: ExtractOptions) -> list[FeatureCache]:
    """Return the caches to look in."""
    usual = Path("features")
    places = [options.cache_dir or (usual if usual.exists() else None)]
    places.append(options.keep_dir if options.keep_dir.exists() else None)
    return [FeatureCache(place) for place in places if place]


def _group_missing(
    sought: Sequence[Sought],
    config: ExtractConfig,
    configs: Mapping[str, Mapping[str, Any]],
    options: ExtractOptions,
) -> list[list[Sought]]:
    """Hash every video; return those that lack features, copies of one content together.

    Names and times of files are not trusted as `feat extract` trusts them below one folder: two
    folders may hold different videos of one name.
    """
    caches = _open_caches(options)
    groups: dict[str, list[Sought]] = {}
    for each in sought:
        if each.error:
            continue
        with noting_failure(each):
            each.sha256 = content_sha256(each.source)
            keys = [feature_key(each.sha256, config) for config in configs.values()]
            holding = (cache for cache in caches if all(cache.has(key) for key in keys))
            each.cache = next(holding, None)
            if each.cache is None:
                groups.setdefault(each.sha256, []).append(each)
                continue
            problem = rate_problem(
                each.cache,
                each.source,
                each.sha256,
                decode=config.decode,
                folder_fps=options.folder_fps,
            )
            if problem:
                raise ConfigError(problem)
    return list(groups.values())


def _extract_missing(
    groups: Sequence[Sequence[Sought]],
    config: ExtractConfig,
    configs: Mapping[str, Mapping[str, Any]],
    options: ExtractOptions,
) -> None:
    """Extract the features of one video of every group; a failure is noted with all of it."""
    if not groups:
        return
    files = {"rgb": options.rgb_weights, "flow": options.flow_weights}
    choices = {stream: str(path) for stream, path in files.items() if path}
    weights = {
        stream: BACKBONES[stream].find_weights(
            choices, recorded=recorded_weights(stream, configs[stream])
        )
        for stream in config.streams
    }
    precision_for(list_devices(options.device)[0], config.precision)
    keep = FeatureCache.create(options.keep_dir)
    by_id = with_own_ids(groups)
    sources = [
        dataclasses.replace(group[0].source, video_id=video_id) for video_id, group in by_id.items()
    ]
    for result in extract_videos(
        sources,
        {source.video_id: source_stamp(source) for source in sources},
        options.keep_dir,
        config,
        weights,
        resources=Resources(device=options.device, threads=options.threads),
        folder_fps=options.folder_fps,
        limits=options.limits,
    ):
        for each in by_id[result.video_id]:
            each.error, each.cache = result.error, keep


def with_own_ids(groups: Sequence[Sequence[Sought]]) -> dict[str, Sequence[Sought]]:
    """Return the groups by a `video_id` each, which names them in the log and in the shards.

    That is the path as the user wrote it, unless it leads out of the working folder: a shard is
    shared, and nobody need know where on this machine a video lay. Any name will do.
    """
    by_id: dict[str, Sequence[Sought]] = {}
    for group in groups:
        path = group[0].source.path
        inside = not path.is_absolute() and ".." not in path.parts
        name = path.as_posix() if inside else group[0].source.video_id
        video_id = wanted = one_line(name).replace("\\", "_")  # which divides folders elsewhere
        number = 1
        while video_id in by_id:
            number += 1
            video_id = f"{number}/{wanted}"
        by_id[video_id] = group
    return by_id
