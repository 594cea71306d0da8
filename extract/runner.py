"""A run over a folder of videos: what is missing, and what became of each.

Nothing here imports torch, numba or OpenCV's like: a run that finds everything in the cache must
end before those would have been loaded. `extract.pipeline` is imported where work begins.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cache import FeatureCache, NameEntry, feature_key
from cache.conflicts import config_conflicts
from data.errors import CacheError, ConfigError
from data.files import write_whole
from data.labels import read_labels
from data.videos import Stamp, VideoSource, find_videos, source_stamp
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.decode.limits import Limits
from extract.devices import Resources, list_devices
from extract.kernels.choice import warn_without_kernels
from extract.pool import run_tasks
from extract.progress import ExtractProgress
from extract.report import ExtractReport, VideoOutcome
from extract.weights.resolve import Weights
from extract.worker import Job, VideoTask

logger = logging.getLogger(f"feat.{__name__}")

NAMES_SECONDS = 10.0


def run_extraction(
    videos_dir: Path,
    cache_dir: Path,
    config: ExtractConfig,
    *,
    weights: Mapping[str, str] | None = None,
    resources: Resources | None = None,
    folder_fps: float = 25.0,
    limits: Limits | None = None,
    allow_mixed: bool = False,
) -> ExtractReport:
    """Extract the features of every video under `videos_dir` that `cache_dir` does not hold yet.

    A bad video is reported and the others go on. A `labels.csv` in `videos_dir` is checked first
    and copied into the cache, so that the cache alone suffices for training.

    Args:
        videos_dir: searched recursively for video files and folders of frames.
        cache_dir: the feature cache; made if it does not exist.
        config: how features are made.
        weights: by stream, a file, `auto` or for `flow` `crossmodal`; `auto` where none is named.
        resources: what to compute on; by default all there is.
        folder_fps: frame rate that folders of images are taken to have.
        limits: what one video may cost; None for the defaults.
        allow_mixed: admit a second configuration to the cache.

    Raises:
        FeatError: nothing could be begun: no videos, bad labels, no weights, another
            configuration in the cache. A single video's failure raises nothing.
    """
    started = time.monotonic()
    sources = find_videos(videos_dir)
    labels_path = _check_labels(videos_dir, sources)
    cache = FeatureCache.create(cache_dir)
    found = {
        stream: BACKBONES[stream].find_weights(weights or {}, present=cache.configs(stream))
        for stream in config.streams
    }
    configs = config.stream_configs(found)
    if not allow_mixed:
        refuse_second_config(
            cache,
            configs,
            advice="use the same options, another --cache, or --allow-mixed to keep both",
        )
    if labels_path:
        write_whole(cache.labels_path, labels_path.read_bytes(), error=CacheError)

    report = ExtractReport(cache=str(cache_dir), configs=configs)
    stamps = {source.video_id: source_stamp(source) for source in sources}
    names_known = cache.names()
    todo = []
    for source in sources:
        result = _known_result(
            cache, names_known.get(source.video_id), source, stamps[source.video_id], configs
        )
        if result:
            report.add(result)
        else:
            todo.append(source)
    with NameRecorder(cache) as names:
        for result in extract_videos(
            todo,
            stamps,
            cache_dir,
            config,
            found,
            resources=resources,
            folder_fps=folder_fps,
            limits=limits,
        ):
            names.add(result)
            report.add(result)
    report.seconds = time.monotonic() - started
    return report


def extract_videos(
    sources: Sequence[VideoSource],
    stamps: Mapping[str, Stamp],
    cache_dir: Path,
    config: ExtractConfig,
    weights: Mapping[str, Weights],
    *,
    resources: Resources | None = None,
    folder_fps: float = 25.0,
    limits: Limits | None = None,
) -> Iterator[VideoOutcome]:
    """Extract what the cache lacks of these videos; yield each one's result as it is finished.

    No name is recorded in the cache: look the features up by the `sha256` of the result.

    Args:
        sources: the videos, wherever they lie, each with a `video_id` of its own.
        stamps: of each, by `video_id`.
        cache_dir: the feature cache; it exists.
        config: how features are made.
        weights: of each stream of `config`.
        resources: what to compute on; by default all there is.
        folder_fps: frame rate that folders of images are taken to have.
        limits: what one video may cost; None for the defaults.

    Raises:
        FeatError: the cache or a device fails. A single video's failure raises nothing.
    """
    if not sources:
        return
    warn_without_kernels()
    resources = resources or Resources()
    devices = list_devices(resources.device)
    workers, per_worker = resources.share(devices, len(sources))
    job = Job(
        cache_dir=cache_dir,
        config=config,
        weights=weights,
        devices=devices,
        num_threads=per_worker,
        folder_fps=folder_fps,
        limits=limits or Limits(),
    )
    tasks = [VideoTask(source=source, stamp=stamps[source.video_id], job=job) for source in sources]
    num_bytes = sum(stamps[source.video_id].size for source in sources)
    with ExtractProgress(num_videos=len(sources), num_bytes=num_bytes) as progress:
        for result in run_tasks(tasks, workers, progress):
            progress.finish(result, num_bytes=stamps[result.video_id].size)
            yield result


def _check_labels(videos_dir: Path, sources: list[VideoSource]) -> Path | None:
    """Return the labels file beside the videos after reading it, so that errors come first."""
    path = videos_dir / "labels.csv"
    if not path.is_file():
        return None
    labelled = {label.video for label in read_labels(path)}
    absent = sorted(labelled - {source.video_id for source in sources})
    if absent:
        logger.warning(
            "warning: %s names %d videos that are not under %s, the first is %s",
            path, len(absent), videos_dir, absent[0],
        )  # fmt: skip
    return path


def refuse_second_config(
    cache: FeatureCache, configs: Mapping[str, dict[str, Any]], *, advice: str
) -> None:
    """Raise a ConfigError, ended by `advice`, if the cache holds other features only."""
    conflicts = config_conflicts(configs.values(), cache.configs())
    if conflicts:
        raise ConfigError(f"{cache.path}: {'; '.join(conflicts)}; {advice}")


def _known_result(
    cache: FeatureCache,
    name: NameEntry | None,
    source: VideoSource,
    stamp: Stamp,
    configs: Mapping[str, dict[str, Any]],
) -> VideoOutcome | None:
    """Return a `skipped` result if the unchanged video has all its features in the cache.

    Unchanged means the same size and modification time as when it was hashed; only a video
    that differs in one of them is hashed again.
    """
    if not name or (name.size, name.mtime_ns) != (stamp.size, stamp.mtime_ns):
        return None
    keys = [feature_key(name.sha256, config) for config in configs.values()]
    if not all(cache.has(key) for key in keys):
        return None
    return VideoOutcome(
        video_id=source.video_id,
        status="skipped",
        partial=cache.entry(keys[0]).source.partial,
    )


class NameRecorder:
    """Records which content each video's name stands for, some seconds' worth at a time.

    A name that a kill keeps from being recorded costs no features, only hashing its video again.
    """

    def __init__(self, cache: FeatureCache) -> None:
        self._cache = cache
        self._pending: dict[str, NameEntry] = {}
        self._last = time.monotonic()

    def __enter__(self) -> "NameRecorder":
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, result: VideoOutcome) -> None:
        """Take one video's final result."""
        if result.sha256:
            self._pending[result.video_id] = NameEntry(
                sha256=result.sha256, size=result.size, mtime_ns=result.mtime_ns
            )
        if time.monotonic() - self._last > NAMES_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._cache.set_names(self._pending)
        self._pending = {}
        self._last = time.monotonic()
