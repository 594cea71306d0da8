"""An extraction on the workers of a cluster: what makes a worker fit, and what it does.

The driver's configuration, precision and weights hold everywhere. Workers see the videos under the
driver's paths. Those that see the cache as well write shards of their own into it, as machines do
that share a cache; the others hand them to the driver, which checks and writes them. All send them
to a cache that is an address.
"""

import dataclasses
import logging
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cache import FeatureCache
from cache.exchange.merge import receive_shard
from cache.exchange.remote import Remote
from cache.marker import MARKER
from data.clusters.engine import Cluster, Lost, Ready
from data.clusters.fit import code_of, refuse_other
from data.errors import ConfigError, WeightsError
from data.ffmpeg import ffmpeg_version
from data.files import write_whole
from data.process import set_up_process
from data.videos import Stamp, VideoSource
from extract.devices import Resources, list_devices
from extract.i3d.precision import precision_for
from extract.run.job import Job, temporary_cache
from extract.run.report import VideoOutcome
from extract.run.worker import Turn, VideoTask, extract_one
from extract.weights.resolve import (
    CROSSMODAL,
    Weights,
    check_weights,
    read_entry,
    weights_folder,
)

logger = logging.getLogger(f"feat.{__name__}")


class _Video(NamedTuple):
    source: VideoSource
    stamp: Stamp
    there: frozenset[str]  # keys that the cache has of it
    clips: range | None


class _Made(NamedTuple):
    outcome: VideoOutcome
    shards: dict[str, bytes]  # that are handed over, by name, in the order of their writing
    blocks: dict[str, dict[str, bytes]]  # the same of checkpoints, by key and name: of a piece


def extract_on(
    cluster: Cluster, tasks: Sequence[VideoTask], *, resources: Resources, address: str = ""
) -> Iterator[VideoOutcome]:
    """Yield each video's result, from whichever worker; who stops iterating cancels.

    Args:
        cluster: whose workers.
        tasks: of one job, of which each worker has devices, share and weights of its own.
        resources: what one worker computes on; by default its threads and a GPU that it sees.
        address: where workers send shards, of a cache that the job's is a mirror of; "" for none.

    Raises:
        FeatError: no worker is fit, the scheduler is gone, or the cache cannot be written.
    """
    job = dataclasses.replace(tasks[0].job, cache_dir=tasks[0].job.cache_dir.absolute())
    cache = FeatureCache(job.cache_dir)
    videos = _videos(cache, tasks)
    handed_over = False
    with cache.claim(secrets.token_hex(32)) as mark:
        terms = _Terms(
            build=_build(),
            job=job,
            contents={
                one.path: one.path.read_bytes()
                for one in job.weights.values()
                if one.path.is_file()  # pictures alone need none
            },
            resources=resources,
            mark=mark.path,
            address=address,
            example=videos[0].source.path,
        )
        for video, result in cluster.run(terms, videos):
            if isinstance(result, Lost):
                yield VideoOutcome(
                    video_id=video.source.video_id,
                    status="failed",
                    error=result.reason,
                )
                continue
            if result.shards and not handed_over:
                logger.info("%s: not seen by all workers: they hand features over", cache.path)
                handed_over = True
            for name, content in result.shards.items():
                receive_shard([content], name, cache, origin=f"a worker's shard {name}")
            for key, blocks in result.blocks.items():
                cache.checkpoint(key).receive(blocks)
            yield result.outcome


def _videos(cache: FeatureCache, tasks: Sequence[VideoTask]) -> list[_Video]:
    """Return what workers are told of each video: those without the cache cannot look."""
    names = cache.names()
    videos = []
    for task in tasks:
        # of another content, if the video has changed: then these are not the keys that it asks for
        known = names.get(task.source.video_id)
        there = cache.keys_of_content(known.sha256) if known else ()
        source = dataclasses.replace(task.source, path=task.source.path.absolute())
        videos.append(_Video(source, task.stamp, frozenset(there), task.clips))
    return videos


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """What a worker must be, and what it needs; called there before all else."""

    build: Mapping[str, str]
    job: Job
    contents: Mapping[Path, bytes]  # of the files of weights
    resources: Resources
    mark: Path  # a file in the cache
    address: str
    example: Path  # a video

    def __call__(self, threads: int) -> Ready[_Video, _Made]:
        """Return what extracts a video here.

        Raises:
            FeatError: this worker is not fit, and why.
        """
        set_up_process()
        refuse_other(_build(), expected=self.build)
        if not self.example.exists():
            raise ConfigError(
                f"{self.example}: not there: mount the videos folder where the driver has it"
            )
        weights = {
            stream: _place_weights(one, self.contents[one.path])
            if one.path in self.contents
            else one
            for stream, one in self.job.weights.items()
        }
        check_weights(weights.values())
        device = list_devices(self.resources.device)[0]
        precision_for(device, self.job.config.precision)
        own = dataclasses.replace(
            self.resources, workers=1, threads=self.resources.threads or threads
        )
        _, share = own.share((device,), num_videos=threads)
        sees_cache = self.mark.exists() and not self.address
        job = dataclasses.replace(
            self.job,
            weights=weights,
            devices=(device,),
            share=share,
            piece_clips=self.job.piece_clips if device == "cpu" and sees_cache else None,
        )
        extract = partial(_extract if sees_cache else _extract_and_hand_over, job)
        if self.address:
            remote = Remote(self.address)
            if remote.size(MARKER) is None:
                raise ConfigError(f"{remote.url}: no feature cache there, as this worker sees it")
            extract = partial(_extract_and_send, self.address, job)
        return Ready(extract, slots=share.videos)


def _build() -> dict[str, str]:
    """Return what features hang on beside their configuration, as this process loaded it."""
    return {"feat": code_of("cache", "data", "extract"), "ffmpeg": ffmpeg_version()}


def _place_weights(weights: Weights, content: bytes) -> Weights:
    """Return weights with the path of their file on this machine, written if it is not there."""
    places = [weights.path, weights_folder() / weights.path.name]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        path = places[1]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content, error=WeightsError)
    expected = weights.digest.removeprefix(CROSSMODAL)
    if path.suffix == ".safetensors" and (found := read_entry(path).digest) != expected:
        raise WeightsError(f"{path}: found weights {found}, expected the driver's {expected}")
    return dataclasses.replace(weights, path=path)


def _extract(job: Job, video: _Video, stop: threading.Event) -> _Made:
    task = VideoTask(
        source=video.source, stamp=video.stamp, job=job, there=video.there, clips=video.clips
    )
    return _Made(extract_one(task, Turn(stop)), {}, {})


def _extract_and_hand_over(job: Job, video: _Video, stop: threading.Event) -> _Made:
    """Extract into a cache of this video's own, which goes when its files have been read."""
    with temporary_cache() as cache:
        made = _extract(dataclasses.replace(job, cache_dir=cache.path), video, stop)
        return made._replace(
            shards={path.name: path.read_bytes() for path in _shards(cache)},
            blocks={
                folder.name: cache.checkpoint(folder.name).blocks()
                for folder in (cache.path / "partial").iterdir()
            },
        )


def _extract_and_send(address: str, job: Job, video: _Video, stop: threading.Event) -> _Made:
    """Extract into a cache of this video's own, which goes when its shards have been sent."""
    with temporary_cache() as cache:
        made = _extract(dataclasses.replace(job, cache_dir=cache.path), video, stop)
        for path in _shards(cache):
            Remote(address).upload(path, f"shards/{path.name}")
        return made


def _shards(cache: FeatureCache) -> list[Path]:
    """Return the shards in the order of their writing: features, which end a video, come last."""
    return sorted(cache.shards_dir.iterdir(), key=lambda path: path.stat().st_mtime_ns)
