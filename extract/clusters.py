"""An extraction on the workers of a cluster: what makes a worker fit, and what it does.

The driver's configuration, precision and weights hold everywhere. Workers see videos and cache
under the driver's paths, and write shards of their own, as machines do that share a cache.
"""

import dataclasses
import hashlib
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from cache import FeatureCache
from data.clusters.engine import Cluster, Lost, Ready
from data.errors import ConfigError, WeightsError
from data.ffmpeg import ffmpeg_version
from data.files import write_whole
from data.process import set_up_process
from data.videos import Stamp, VideoSource
from extract.devices import Resources, list_devices
from extract.i3d.precision import precision_for
from extract.report import VideoOutcome
from extract.weights.resolve import (
    CROSSMODAL,
    Weights,
    check_weights,
    read_entry,
    weights_folder,
)
from extract.worker import Job, Turn, VideoTask, extract_one

_Video = tuple[VideoSource, Stamp]


def extract_on(
    cluster: Cluster, tasks: Sequence[VideoTask], resources: Resources
) -> Iterator[VideoOutcome]:
    """Yield each video's result, from whichever worker; who stops iterating cancels.

    Args:
        cluster: whose workers.
        tasks: of one job, of which each worker has devices, share and weights of its own.
        resources: what one worker computes on; by default its threads and a GPU that it sees.

    Raises:
        FeatError: no worker is fit, the scheduler is gone, or the cache cannot be written.
    """
    job = dataclasses.replace(tasks[0].job, cache_dir=tasks[0].job.cache_dir.absolute())
    sources = [dataclasses.replace(task.source, path=task.source.path.absolute()) for task in tasks]
    with FeatureCache(job.cache_dir).claim(secrets.token_hex(32)) as mark:
        terms = _Terms(
            build=_build(),
            job=job,
            contents={
                one.path: one.path.read_bytes()
                for one in job.weights.values()
                if one.path.is_file()  # pictures alone need none
            },
            resources=resources,
            seen={"cache": mark.path, "videos": sources[0].path},
        )
        videos = zip(sources, (task.stamp for task in tasks), strict=True)
        for (source, _), result in cluster.run(terms, videos):
            if isinstance(result, Lost):
                yield VideoOutcome(
                    video_id=source.video_id,
                    status="failed",
                    error=f"its worker died each of the {result.tries} times it was tried, most "
                    "likely for want of memory; give workers more, or start fewer on a machine",
                )
            else:
                yield result


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """What a worker must be, and what it needs; called there before all else."""

    build: Mapping[str, str]
    job: Job
    contents: Mapping[Path, bytes]  # of the files of weights
    resources: Resources
    seen: Mapping[str, Path]

    def __call__(self, threads: int) -> Ready[_Video, VideoOutcome]:
        """Return what extracts a video here.

        Raises:
            FeatError: this worker is not fit, and why.
        """
        set_up_process()
        here = _build()
        for name, expected in self.build.items():
            if here[name] != expected:
                raise ConfigError(f"{name}: found {here[name]}, expected the driver's {expected}")
        for what, path in self.seen.items():
            if not path.exists():
                raise ConfigError(
                    f"{path}: not there: mount the {what} folder where the driver has it"
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
        job = dataclasses.replace(self.job, weights=weights, devices=(device,), share=share)
        return Ready(partial(_extract, job), slots=share.videos)


@cache
def _build() -> dict[str, str]:
    """Return what features hang on beside their configuration, as this process loaded it."""
    home = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in ("cache", "data", "extract"):
        for path in sorted((home / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return {
        "feat": f"{version('feat')} (code {digest.hexdigest()[:12]})",
        "ffmpeg": ffmpeg_version(),
    }


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


def _extract(job: Job, video: _Video, stop: threading.Event) -> VideoOutcome:
    source, stamp = video
    return extract_one(VideoTask(source=source, stamp=stamp, job=job), Turn(stop))
