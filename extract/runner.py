"""A run over a folder of videos: what is missing, and what became of each.

Nothing here imports torch, numba or OpenCV's like: a run that finds everything in the cache must
end before those would have been loaded. `extract.pipeline` is imported where work begins.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cache import FeatureCache, NameEntry, config_difference, config_digest, feature_key
from cache.admission import admit_videos, folder_origin, hold_configs, unchanged_videos
from cache.conflicts import config_conflicts
from cache.keys import is_newer
from cache.labels import LabelsFrom, add_labels
from cache.marker import MARKER
from cache.records import check_video_name
from data.clusters.engine import Cluster
from data.errors import ConfigError, FeatError, StorageError
from data.labels import name_problems, read_labels
from data.names import video_name
from data.videos import Stamp, VideoSource, find_videos, source_stamp
from data.visible import one_line
from extract.backbones import BACKBONES
from extract.clusters import extract_on
from extract.config import ExtractConfig, recorded_weights
from extract.decode.limits import Limits
from extract.devices import Resources, list_devices
from extract.job import Job
from extract.kernels.choice import warn_without_kernels
from extract.pool import Engine, on_this_machine, run_tasks
from extract.progress import ExtractProgress
from extract.report import ExtractPlan, ExtractReport, VideoOutcome
from extract.thumbnails import CONFIG as THUMBNAILS_CONFIG
from extract.weights.resolve import Weights, check_weights
from extract.worker import VideoTask, failed

logger = logging.getLogger(f"feat.{__name__}")

NAMES_SECONDS = 10.0

#: Three minutes of four cores: a video twice as long is worth the overhead of cutting it.
PIECE_CLIPS = 512

#: Whose label is taken where that of a video differs; "" refuses.
LabelsOf = Literal["", "cache", "videos"]


def run_extraction(
    videos_dir: Path,
    cache_dir: Path,
    config: ExtractConfig,
    *,
    weights: Mapping[str, str] | None = None,
    resources: Resources | None = None,
    cluster: Cluster | None = None,
    address: str = "",
    folder_fps: float = 25.0,
    limits: Limits | None = None,
    allow_mixed: bool = False,
    prefix: str = "",
    labels_of: LabelsOf = "",
    limit: int | None = None,
    thumbnails: bool | None = None,
) -> ExtractReport:
    """Extract the features of every video under `videos_dir` that `cache_dir` does not hold yet.

    A bad video is reported and the others go on. A `labels.csv` in `videos_dir` is checked first
    and added to the cache's, so that the cache alone suffices for training.

    Args:
        videos_dir: searched recursively for video files and folders of frames.
        cache_dir: the feature cache; made if it does not exist.
        config: how features are made.
        weights: by stream, a file, `auto` or for `flow` `crossmodal`; `auto` where none is named.
        resources: what to compute on, on a cluster each worker; by default all there is.
        cluster: whose workers extract; None for this machine.
        address: to which these send features, of a cache that `cache_dir` is a mirror of; "" for
            none.
        folder_fps: frame rate that folders of images are taken to have.
        limits: what one video may cost; None for the defaults.
        allow_mixed: admit a second configuration to the cache.
        prefix: put before the names of all videos, such as `ann/`.
        labels_of: whose label is taken where that of a video differs.
        limit: of the videos that are missing, extract the first so many; None for all.
        thumbnails: whether to keep a picture of each clip; None: of the videos that are extracted
            anyway, True: also of those whose features are there, for which no weights are needed.

    Raises:
        FeatError: nothing could be begun: no videos, bad labels, no weights, another
            configuration in the cache, a name that stands for another folder's video. A single
            video's failure raises nothing.
    """
    started = time.monotonic()
    folder = _look_into(videos_dir, prefix)
    cache = FeatureCache.create(cache_dir)
    terms = _Terms(config, weights or {}, allow_mixed=allow_mixed, thumbnails=thumbnails)
    report = ExtractReport(cache=str(cache_dir), configs={})
    for failure in folder.failures:
        logger.error("%s: failed: %s", one_line(failure.video_id), failure.error)
        report.add(failure)
    with (
        ExitStack() as held,
        admit_videos(cache, folder.sources, folder.stamps, origin=folder.origin) as unchanged,
        NameRecorder(cache, folder.origin) as names,
    ):
        work = _sort_out(cache, folder, unchanged, terms)
        report.configs = config.stream_configs(work.weights)
        if work.new:
            configs = report.configs.values()
            held.enter_context(hold_configs(cache, configs, allow_mixed=allow_mixed))
            if not allow_mixed:  # others may have finished videos since
                refuse_second_config(cache, report.configs, tell=False)
        _add_labels(cache, folder.labels, labels_of)
        for known in work.there:
            report.add(names.add(known))
        report.left = len(work.todo[limit:]) if limit else 0
        if not work.new:  # pictures need no GPU, and to look for one takes seconds
            resources = dataclasses.replace(resources or Resources(), device="cpu")
        for result in extract_videos(
            work.todo[:limit],
            folder.stamps,
            cache_dir,
            config,
            work.weights,
            resources=resources,
            cluster=cluster,
            address=address,
            folder_fps=folder_fps,
            limits=limits,
            thumbnails=thumbnails,
        ):
            report.add(names.add(result))
    report.seconds = time.monotonic() - started
    return report


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
) -> ExtractPlan:
    """Return what `run_extraction` would do; no video is opened, and the cache is not written.

    Weights are fetched where they are missing only if the cache holds features, for their digest
    tells which of those are meant. A copy of a video that is there counts as new.

    Raises:
        FeatError: `run_extraction` would not begin, with the same message.
    """
    folder = _look_into(videos_dir, prefix)
    plan = ExtractPlan(cache=str(cache_dir))
    plan.refused = [{"video": one.video_id, "error": one.error} for one in folder.failures]
    new = {source.video_id for source in folder.sources}
    work = _Work(weights={}, there=[], todo=folder.sources, new=new)
    if (cache_dir / MARKER).exists():
        cache = FeatureCache(cache_dir)
        unchanged = unchanged_videos(cache, folder.sources, folder.stamps, origin=folder.origin)
        if len(cache):
            terms = _Terms(config, weights or {}, allow_mixed=allow_mixed, thumbnails=thumbnails)
            work = _sort_out(cache, folder, unchanged, terms)
        _add_labels(cache, folder.labels, labels_of, dry_run=True)
    plan.there = [known.video_id for known in work.there]
    for source in work.todo[:limit]:
        is_new = source.video_id in work.new
        (plan.new if is_new else plan.thumbnails).append(source.video_id)
    plan.left = len(work.todo[limit:]) if limit else 0
    return plan


def extract_videos(
    sources: Sequence[VideoSource],
    stamps: Mapping[str, Stamp],
    cache_dir: Path,
    config: ExtractConfig,
    weights: Mapping[str, Weights],
    *,
    resources: Resources | None = None,
    cluster: Cluster | None = None,
    address: str = "",
    folder_fps: float = 25.0,
    limits: Limits | None = None,
    thumbnails: bool | None = False,
) -> Iterator[VideoOutcome]:
    """Extract what the cache lacks of these videos; yield each one's result as it is finished.

    No name is recorded in the cache: look the features up by the `sha256` of the result.

    Args:
        sources: the videos, wherever they lie, each with a `video_id` of its own.
        stamps: of each, by `video_id`.
        cache_dir: the feature cache; it exists.
        config: how features are made.
        weights: of each stream of `config`.
        resources: what to compute on, on a cluster each worker; by default all there is.
        cluster: whose workers extract; None for this machine.
        address: to which these send features, of a cache that `cache_dir` is a mirror of; "" for
            none.
        folder_fps: frame rate that folders of images are taken to have.
        limits: what one video may cost; None for the defaults.
        thumbnails: see `Job`.

    Raises:
        FeatError: the cache, the weights or a device fail. A single video's failure raises
            nothing.
    """
    if not sources:
        return
    check_weights(weights.values())
    resources = resources or Resources()
    # of a cluster's job each worker replaces devices and share
    devices = list_devices(resources.device) if cluster is None else ("cpu",)
    if devices == ("cpu",):
        warn_without_kernels()
    workers, share = resources.share(devices, len(sources))
    job = Job(
        cache_dir=cache_dir,
        config=config,
        weights=weights,
        devices=devices,
        share=share,
        folder_fps=folder_fps,
        limits=limits or Limits(),
        thumbnails=thumbnails,
        # one worker would be no faster, and a GPU waits for decoders, which read a video's
        # beginning again for each of its pieces
        piece_clips=PIECE_CLIPS if devices == ("cpu",) and (cluster or workers > 1) else None,
    )
    tasks = [VideoTask(source=source, stamp=stamps[source.video_id], job=job) for source in sources]
    num_bytes = sum(stamps[source.video_id].size for source in sources)
    with ExtractProgress(num_videos=len(sources), num_bytes=num_bytes) as progress:
        engine: Engine
        if cluster is None:
            engine = partial(on_this_machine, workers=workers, progress=progress)
        else:
            engine = partial(extract_on, cluster, resources=resources, address=address)
        for result in run_tasks(tasks, engine, progress):
            progress.finish(result, num_bytes=stamps[result.video_id].size)
            yield result


@dataclass(frozen=True, kw_only=True)
class _Folder:
    """What lies in the videos' folder, under the names that it has in the cache."""

    sources: list[VideoSource]
    stamps: dict[str, Stamp]
    failures: list[VideoOutcome]
    labels: LabelsFrom | None
    origin: str


def _look_into(videos_dir: Path, prefix: str) -> _Folder:
    """Return the videos and the labels; what is wrong with labels is an error before all else."""
    unreadable: dict[str, str] = {}
    found_videos = find_videos(videos_dir, unreadable=unreadable)
    named, unusable = name_sources(found_videos, prefix)
    labels = _read_labels(videos_dir, named, prefix)
    sources, stamps, unstamped = _stamp(named)
    failures = [VideoOutcome(video_id=n, status="failed", error=w) for n, w in unreadable.items()]
    return _Folder(
        sources=sources,
        stamps=stamps,
        failures=[*failures, *unusable, *unstamped],
        labels=labels,
        origin=folder_origin(videos_dir if videos_dir.is_dir() else videos_dir.parent),
    )


@dataclass(frozen=True)
class _Terms:
    """What is wanted of all videos."""

    config: ExtractConfig
    choices: Mapping[str, str]  # of weights, by stream
    _: KW_ONLY
    allow_mixed: bool
    thumbnails: bool | None


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is there of a folder's videos, and what is to be done."""

    weights: Mapping[str, Weights]
    there: list[VideoOutcome]
    todo: list[VideoSource]
    new: set[str]  # names of those to be done that lack features; the others lack pictures only


def _sort_out(
    cache: FeatureCache, folder: _Folder, unchanged: Mapping[str, NameEntry], terms: _Terms
) -> _Work:
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
        refuse_second_config(cache, terms.config.stream_configs(found))
    return _compare(cache, folder, unchanged, terms, found)


def _recorded_weights(cache: FeatureCache, terms: _Terms) -> dict[str, Weights]:
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
    folder: _Folder,
    unchanged: Mapping[str, NameEntry],
    terms: _Terms,
    weights: Mapping[str, Weights],
) -> _Work:
    configs = terms.config.stream_configs(weights)
    work = _Work(weights=weights, there=[], todo=[], new=set())
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


def name_sources(
    sources: Sequence[VideoSource], prefix: str
) -> tuple[list[VideoSource], list[VideoOutcome]]:
    """Return the videos under their names in the cache, and those that can have none.

    Args:
        sources: the videos.
        prefix: put before their names.
    """
    named = []
    unusable = []
    for source in sources:
        name = video_name(prefix + source.video_id)
        try:
            named.append(dataclasses.replace(source, video_id=check_video_name(name)))
        except ValueError as error:
            unusable.append(
                VideoOutcome(video_id=one_line(name), status="failed", error=f"{error}; rename it")
            )
    return named, unusable


def _stamp(
    sources: Sequence[VideoSource],
) -> tuple[list[VideoSource], dict[str, Stamp], list[VideoOutcome]]:
    """Return the videos that can be looked at, the stamp of each, and the others."""
    stamps = {}
    failures = []
    for source in sources:
        try:
            stamps[source.video_id] = source_stamp(source)
        except (FeatError, OSError) as error:
            failures.append(failed(source, error))
    return [source for source in sources if source.video_id in stamps], stamps, failures


def _read_labels(
    videos_dir: Path, sources: Sequence[VideoSource], prefix: str
) -> LabelsFrom | None:
    """Return the labels beside the videos, so that errors come first; None: there are none."""
    path = videos_dir / "labels.csv"
    if not path.is_file():
        return None
    labels = [
        dataclasses.replace(label, video=video_name(prefix + label.video))
        for label in read_labels(path)
    ]
    for problem in name_problems(labels, [source.video_id for source in sources]):
        logger.warning("warning: %s: %s", path, problem)
    return LabelsFrom(str(path), labels)


def _add_labels(
    cache: FeatureCache, labels: LabelsFrom | None, labels_of: LabelsOf, *, dry_run: bool = False
) -> None:
    if labels is None:
        return
    if labels_of == "cache":
        known = {label.video for label in LabelsFrom.file(cache.labels_path).labels}
        labels = LabelsFrom(labels.where, [one for one in labels.labels if one.video not in known])
    count = add_labels(
        cache,
        labels,
        replace=labels_of == "videos",
        advice="make them agree, or say whose to take: --labels-of videos or --labels-of cache",
        dry_run=dry_run,
    )
    if count and not dry_run:
        logger.info("%s: %d labels added or changed", cache.labels_path, count)


def refuse_second_config(
    cache: FeatureCache, configs: Mapping[str, dict[str, Any]], *, tell: bool = True
) -> None:
    """Raise a ConfigError if the cache holds other features only.

    Those that an older version of ours made do not count: they stay, and new ones are made, which
    is told.
    """
    present = []
    for there in cache.configs():
        made = next((new for new in configs.values() if is_newer(new, there)), None)
        if made is None:
            present.append(there)
            continue
        logger.log(
            logging.INFO if tell else logging.DEBUG,
            "%s: made anew, for %s: this feat makes other values; the older ones stay, "
            "feat cache rm --config %s removes them",
            *(there["stream"], config_difference(made, there), config_digest(there)[:8]),
        )
    conflicts = config_conflicts(configs.values(), present)
    if conflicts:
        raise ConfigError(
            f"{cache.path}: {'; '.join(conflicts)}; use the same options or another --cache"
        )


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


class NameRecorder:
    """Records which content each video's name stands for, some seconds' worth at a time.

    A name that a kill keeps from being recorded costs no features, only hashing its video again.
    """

    def __init__(self, cache: FeatureCache, origin: str) -> None:
        self._cache = cache
        self._origin = origin
        self._known = cache.names()
        self._pending: dict[str, NameEntry] = {}
        self._is_new = False
        self._last = time.monotonic()

    def __enter__(self) -> "NameRecorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, result: VideoOutcome) -> VideoOutcome:
        """Take one video's final result and return what is to be reported of it."""
        known = self._known.get(result.video_id)
        if result.sha256:
            if known and known.origin not in ("", self._origin):
                if known.sha256 == result.sha256:
                    return result  # the name is another folder's, and stays so
                # as large and as old as the other one, so that nobody compared the contents
                return dataclasses.replace(
                    result,
                    status="failed",
                    error=f"its name is that of another video in {self._cache.path}; its features "
                    "are kept: run again with --prefix NAME/",
                )
            if known and known.sha256 != result.sha256:
                logger.warning(
                    "%s: changed since it was extracted, its name now stands for the new content",
                    result.video_id,
                )
            entry = NameEntry(
                sha256=result.sha256,
                size=result.size,
                mtime_ns=result.mtime_ns,
                origin=self._origin,
            )
            is_same = known and dataclasses.replace(entry, origin=known.origin) == known
            if not is_same:
                self._pending[result.video_id] = entry
                self._is_new |= result.status == "done"
        if time.monotonic() - self._last > NAMES_SECONDS:
            self._flush()
        return result

    def _flush(self) -> None:
        try:
            if self._pending:
                self._cache.set_names(self._pending)
        except StorageError as error:
            if self._is_new:
                raise
            # a complete cache that may only be read: nothing of it is missing
            logger.info("%s; the next run compares these videos again", error)
        self._pending = {}
        self._last = time.monotonic()
