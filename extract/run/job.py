"""A run as its workers are told of it, and what a process makes once for all of its videos."""

import math
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import FeatureCache
from data.errors import CacheError
from data.process import use_threads
from data.videos import VideoSource
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig
from extract.decode.limits import Limits
from extract.devices import Share
from extract.weights.resolve import Weights

if TYPE_CHECKING:
    from extract.pipeline import Extractor


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one run asks of its workers; picklable.

    Attributes:
        cache_dir: the feature cache; it exists.
        config: how features are made.
        weights: of each stream in `config`.
        devices: torch devices, dealt out to the worker processes in turn.
        share: what one worker gets of the machine.
        folder_fps: frame rate that folders of images are taken to have.
        limits: what one video may cost.
        thumbnails: whether to keep pictures; None: of the videos whose features are extracted,
            True: also of those whose features are there.
        piece_clips: a video of twice as many clips is cut into pieces; None for none.
    """

    cache_dir: Path
    config: ExtractConfig
    weights: Mapping[str, Weights]
    devices: tuple[str, ...]
    share: Share
    folder_fps: float
    limits: Limits
    thumbnails: bool | None = False
    piece_clips: int | None = None

    @cached_property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The configuration of each stream, as it enters the keys."""
        return self.config.stream_configs(self.weights)


# One cache, one extractor and one device a process: made at the first video, kept for the others.
_caches: dict[Path, FeatureCache] = {}
_extractors: dict[tuple[Any, ...], "Extractor"] = {}
_own_device: str | None = None
_making = threading.Lock()


def rate_problem(
    cache: FeatureCache,
    source: VideoSource,
    sha256: str,
    *,
    decode: DecodeConfig,
    folder_fps: float,
) -> str:
    """Return why a folder's images cannot have this frame rate, which is in no key; "" if they can.

    Two rates in one cache would put labels in seconds and alarms an hour wrong.

    Args:
        cache: which may have features of the same images.
        source: the video; a file has a rate of its own.
        sha256: of its content.
        decode: how its frames are taken; what is resampled has the rate that is asked for.
        folder_fps: frame rate that the images are taken to have.
    """
    if source.kind != "frames" or decode.fps:
        return ""
    for key in cache.keys_of_content(sha256):
        try:
            entry = cache.entry(key)
        except CacheError:  # damaged or removed meanwhile, and made anew
            continue
        made = entry.config.get("decode")  # what is imported or a picture has none
        if entry.source.kind != "frames" or not isinstance(made, dict) or made.get("fps"):
            continue
        rate = entry.source.frame_rate
        if not math.isclose(rate, folder_fps, rel_tol=1e-6):
            return (
                f"the cache has {entry.stream} of these images with {rate:g} frames a second, "
                f"found {folder_fps:g}: give --folder-fps {rate:g}, or remove it (`feat cache rm`)"
            )
    return ""


def use_device(device: str) -> None:
    """Let this process, one of several, use a device of its own."""
    global _own_device
    _own_device = device


def device_of(job: Job) -> str:
    """Return the torch device that this process computes a job on."""
    return _own_device or job.devices[0]


def open_cache(path: Path) -> FeatureCache:
    """Return the cache at a path, opened once in this process."""
    if path not in _caches:
        _caches.setdefault(path, FeatureCache(path))  # another thread may have been quicker
    return _caches[path]


@contextmanager
def temporary_cache() -> Iterator[FeatureCache]:
    """Yield a new cache, which tasks of this process may name as their job's until it goes."""
    with tempfile.TemporaryDirectory(prefix="feat-worker-", ignore_cleanup_errors=True) as folder:
        cache = FeatureCache.create(folder)
        try:
            yield cache
        finally:
            _caches.pop(cache.path, None)


def extractor_of(job: Job) -> "Extractor":
    """Return what extracts the videos of a job, made for the first of them."""
    from extract.pipeline import Extractor

    digests = tuple(job.weights[stream].digest for stream in job.config.streams)
    identity = (job.config, digests, device_of(job), job.share.threads, job.share.batch)
    with _making:
        if identity not in _extractors:
            _extractors.clear()
            use_threads(1)  # of PyTorch: each thread of the extractor's pool computes alone
            _extractors[identity] = Extractor(
                job.config,
                job.weights,
                device=device_of(job),
                num_threads=job.share.threads,
                batch=job.share.batch,
            )
        return _extractors[identity]
