"""The loop over videos: what is missing, who does it, what became of it.

Nothing here imports torch, numba or OpenCV's like: a run that finds everything in the cache must
end before those would have been loaded. `extract.pipeline` is imported where work begins.
"""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from cache import FeatureCache, NameEntry, feature_key
from cache.conflicts import config_conflicts
from data.errors import CacheError, ConfigError
from data.files import write_whole
from data.labels import read_labels
from data.videos import Stamp, VideoSource, find_videos, source_stamp
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.kernels.choice import warn_without_kernels
from extract.progress import ExtractProgress
from extract.report import ExtractReport, VideoOutcome
from extract.weights.resolve import Weights
from extract.worker import Job, Turn, extract_one, start_worker

logger = logging.getLogger(f"feat.{__name__}")

BUSY_POLL_SECONDS = 5.0
NAMES_SECONDS = 10.0


def run_extraction(
    videos_dir: Path,
    cache_dir: Path,
    config: ExtractConfig,
    *,
    rgb_weights: str = "auto",
    flow_weights: str = "auto",
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    folder_fps: float = 25.0,
    allow_mixed: bool = False,
) -> ExtractReport:
    """Extract the features of every video under `videos_dir` that `cache_dir` does not hold yet.

    A bad video is reported and the others go on. A `labels.csv` in `videos_dir` is checked first
    and copied into the cache, so that the cache alone suffices for training.

    Args:
        videos_dir: searched recursively for video files and folders of frames.
        cache_dir: the feature cache; made if it does not exist.
        config: how features are made.
        rgb_weights: `auto` or a file; see `extract.weights.resolve.resolve_weights`.
        flow_weights: `auto`, `crossmodal` or a file.
        device: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` and `cuda` use every GPU there is.
        workers: videos at a time; by default one a GPU, else one for every four cores.
        threads: CPU threads in all, shared out among the workers; by default all cores.
        folder_fps: frame rate that folders of images are taken to have.
        allow_mixed: admit a second configuration to the cache.

    Raises:
        FeatError: nothing could be begun: no videos, bad labels, no weights, another
            configuration in the cache. A single video's failure raises nothing.
    """
    started = time.monotonic()
    sources = find_videos(videos_dir)
    labels_path = _check_labels(videos_dir, sources)
    cache = FeatureCache.create(cache_dir)
    choices = {"rgb": rgb_weights, "flow": flow_weights}
    weights = {
        stream: BACKBONES[stream].find_weights(choices, present=cache.configs(stream))
        for stream in config.streams
    }
    configs = config.stream_configs(weights)
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
            weights,
            device=device,
            workers=workers,
            threads=threads,
            folder_fps=folder_fps,
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
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    folder_fps: float = 25.0,
) -> Iterator[VideoOutcome]:
    """Extract what the cache lacks of these videos; yield each one's result as it is finished.

    No name is recorded in the cache: look the features up by the `sha256` of the result.

    Args:
        sources: the videos, wherever they lie, each with a `video_id` of its own.
        stamps: of each, by `video_id`.
        cache_dir: the feature cache; it exists.
        config: how features are made.
        weights: of each stream of `config`.
        device: see `run_extraction`, as for the rest.
        workers: videos at a time.
        threads: CPU threads in all.
        folder_fps: frame rate that folders of images are taken to have.

    Raises:
        FeatError: the cache or a device fails. A single video's failure raises nothing.
    """
    if not sources:
        return
    warn_without_kernels()
    devices = list_devices(device)
    workers, per_worker = _share_threads(workers, threads, devices, len(sources))
    job = Job(
        cache_dir=cache_dir,
        config=config,
        weights=weights,
        devices=devices,
        num_threads=per_worker,
        folder_fps=folder_fps,
    )
    num_bytes = sum(stamps[source.video_id].size for source in sources)
    with ExtractProgress(num_videos=len(sources), num_bytes=num_bytes) as progress:
        for result in _iter_results(list(sources), stamps, job, workers, progress):
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


def list_devices(device: str) -> tuple[str, ...]:
    """Return the torch devices to use, one worker each."""
    if device == "cpu":
        return ("cpu",)
    import torch

    count = torch.cuda.device_count()
    if device == "auto" and not count:
        return ("cpu",)
    if not device.startswith("cuda") and device != "auto":
        raise ConfigError(f"--device: found {device}, expected auto, cpu, cuda or cuda:N")
    if not count:
        raise ConfigError(f"--device {device}: torch finds no CUDA GPU here; use --device cpu")
    if ":" in device:
        return (device,)
    return tuple(f"cuda:{index}" for index in range(count))


def _share_threads(
    workers: int | None, threads: int | None, devices: tuple[str, ...], num_videos: int
) -> tuple[int, int]:
    """Return (workers, threads a worker) such that their product never exceeds the cores."""
    cores = threads or len(os.sched_getaffinity(0))
    if workers is None:
        # four cores a worker: more would share one decoder, and wait for the last clip of a video
        workers = len(devices) if devices != ("cpu",) else max(1, cores // 4)
    workers = max(1, min(workers, num_videos, cores))
    return workers, max(1, cores // workers)


def _iter_results(
    sources: list[VideoSource],
    stamps: Mapping[str, Stamp],
    job: Job,
    workers: int,
    progress: ExtractProgress,
) -> Iterator[VideoOutcome]:
    """Yield one final result a video; wait for those that another process has claimed."""
    waiting = list(sources)
    while waiting:
        busy = []
        by_id = {source.video_id: source for source in waiting}
        for result in _run_once(waiting, stamps, job, workers, progress):
            if result.status == "busy":
                busy.append(by_id[result.video_id])
            else:
                yield result
        if busy and len(busy) == len(waiting):
            logger.info("waiting for %d videos that another process is extracting", len(busy))
            time.sleep(BUSY_POLL_SECONDS)
        waiting = busy


def _run_once(
    sources: list[VideoSource],
    stamps: Mapping[str, Stamp],
    job: Job,
    workers: int,
    progress: ExtractProgress,
) -> Iterator[VideoOutcome]:
    """Yield each video's result, from this process or from several."""
    if workers == 1:
        yield from _overlapping(sources, stamps, job, progress)
        return
    unfinished = {source.video_id: source for source in sources}
    try:
        for result in _parallel(sources, stamps, job, workers):
            del unfinished[result.video_id]
            yield result
    except TerminatedWorkerError:
        logger.warning("a worker process was killed; going on with one video at a time")
        for source in unfinished.values():
            yield _isolated(source, stamps[source.video_id], job)


def _overlapping(
    sources: list[VideoSource],
    stamps: Mapping[str, Stamp],
    job: Job,
    progress: ExtractProgress,
) -> Iterator[VideoOutcome]:
    """Yield each video's result; the next one begins when the last clips of one are under way.

    Else cores would wait at the end of every video, for its last clip, and at the beginning, for
    the first frames.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(2, thread_name_prefix="video") as pool:
        before: Future[VideoOutcome] | None = None
        try:
            for source in sources:
                turn = Turn(stop)
                future = pool.submit(
                    extract_one,
                    source,
                    stamps[source.video_id],
                    job,
                    progress=progress,
                    turn=turn,
                )
                if before:
                    yield before.result()
                turn.read.wait()
                before = future
            if before:
                yield before.result()
        finally:
            stop.set()


def _isolated(source: VideoSource, stamp: Stamp, job: Job) -> VideoOutcome:
    """Extract one video in a process of its own, so that its death is known to be its own."""
    try:
        return next(iter(_parallel([source], {source.video_id: stamp}, job, 2)))
    except TerminatedWorkerError:
        return VideoOutcome(
            video_id=source.video_id,
            status="failed",
            error="its worker process was killed, most likely for want of memory; "
            "try fewer --workers",
        )


def _parallel(
    sources: Iterable[VideoSource], stamps: Mapping[str, Stamp], job: Job, workers: int
) -> Iterator[VideoOutcome]:
    with tempfile.TemporaryDirectory(prefix="feat-workers-") as places, _safe_path():
        pool = joblib.Parallel(
            n_jobs=workers,
            return_as="generator_unordered",
            pre_dispatch="2*n_jobs",
            batch_size=1,
            initializer=start_worker,
            initargs=(Path(places), job.devices),
        )
        yield from pool(
            joblib.delayed(extract_one)(source, stamps[source.video_id], job) for source in sources
        )


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep the current folder off the module path of Python processes that start meanwhile.

    joblib starts its workers with `python -m` and their resource trackers with `python -c`, which
    would run a `json.py` that lies in the current folder. It takes no options for them.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
