"""A run over a folder of videos: what is missing, and what became of each.

Nothing here imports torch, numba or OpenCV's like: a run that finds everything in the cache must
end before those would have been loaded. `extract.pipeline` is imported where work begins.
"""

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from cache import FeatureCache
from cache.admission import admit_videos, hold_configs
from data.clusters.engine import Cluster
from data.videos import Stamp, VideoSource
from data.visible import one_line
from extract.config import ExtractConfig
from extract.decode.limits import Limits
from extract.devices import Resources, list_devices
from extract.kernels.choice import warn_without_kernels
from extract.run.clusters import extract_on
from extract.run.folder import LabelsOf, add_labels_of, look_into
from extract.run.job import Job
from extract.run.plan import Terms, refuse_other_rate, refuse_second_config, sort_out
from extract.run.pool import Engine, on_this_machine, run_tasks
from extract.run.progress import ExtractProgress
from extract.run.recorder import NameRecorder
from extract.run.report import ExtractReport, VideoOutcome
from extract.run.worker import VideoTask
from extract.weights.resolve import Weights, check_weights

logger = logging.getLogger(f"feat.{__name__}")

#: Three minutes of four cores: a video twice as long is worth the overhead of cutting it.
PIECE_CLIPS = 512


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
    folder = look_into(videos_dir, prefix)
    terms = Terms(config, weights or {}, allow_mixed=allow_mixed, thumbnails=thumbnails)
    report = ExtractReport(cache=str(cache_dir), configs={})
    for failure in folder.failures:
        logger.error("%s: failed: %s", one_line(failure.video_id), failure.error)
        report.add(failure)
    with (
        FeatureCache.creating(cache_dir) as cache,
        ExitStack() as held,
        admit_videos(cache, folder.sources, folder.stamps, origin=folder.origin) as unchanged,
        NameRecorder(cache, folder.origin) as names,
    ):
        work = sort_out(cache, folder, unchanged, terms)
        refuse_other_rate(cache, folder, unchanged, config, folder_fps=folder_fps)
        report.configs = config.stream_configs(work.weights)
        if work.new:
            configs = report.configs.values()
            held.enter_context(hold_configs(cache, configs, allow_mixed=allow_mixed))
            if not allow_mixed:  # others may have finished videos since
                refuse_second_config(cache, report.configs)
        add_labels_of(cache, folder.labels, labels_of)
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
        if videos_dir.is_dir():  # of a single video nobody knows what else its folder holds
            names.tell_renamed(folder.stamps.keys())
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
    folders = sum(source.kind == "frames" for source in sources)
    if folders and not config.decode.fps:
        logger.info(
            "%d folders of images, taken to have %g frames a second (--folder-fps)",
            folders, folder_fps,
        )  # fmt: skip
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
