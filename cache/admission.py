"""What an extraction may bring: no name that is somebody else's, no second configuration unasked.

A name belongs to the folder that its video was first extracted from, its origin. A video of that
folder that changed keeps the name. A video of another folder may share it only if its content is
the same. Names that a running extraction will use are listed in `claims/` until it ends, so that a
second one which begins meanwhile keeps off them too, and so are configurations of which the cache
has no features yet.
"""

import hashlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cache.claims import DEFAULT_LEASE_SECONDS, SUFFIX, Claim
from cache.conflicts import MAX_SHOWN, name_conflicts, refuse_conflicts
from cache.keys import JSON, config_digest
from cache.names import NameLine, is_manifest_name, read_manifest, write_manifest
from cache.records import NameEntry
from cache.store import FeatureCache
from data.errors import CacheError
from data.videos import Stamp, VideoSource, content_sha256

logger = logging.getLogger(f"feat.{__name__}")

_SECOND = 1_000_000_000  # ns
_ADVICE = (
    "nobody's name is taken over: --prefix NAME/ puts NAME/ before the names of these videos, and "
    "feat cache rm gives up a name that is yours"
)


def folder_origin(folder: Path) -> str:
    """Return what tells a folder from any other, of any machine: 16 hex digits.

    Caches are shared, and nobody need know where on whose machine a video lay. Who guesses machine
    and path can confirm the guess.
    """
    import psutil

    mounts = ((mount.mountpoint, mount.device) for mount in psutil.disk_partitions(all=True))
    text = "feat origin\n" + _place(Path(os.path.realpath(folder)), mounts)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _place(folder: Path, mounts: Iterable[tuple[str, str]]) -> str:
    """Return a machine and a path on it; where a server holds the folder, all its clients agree.

    Args:
        folder: a real path.
        mounts: mount point and device of every file system.
    """
    above = [(point, device) for point, device in mounts if folder.is_relative_to(point)]
    point, device = max(above, key=lambda mount: len(mount[0]), default=("/", ""))
    if ":/" in device or device.startswith("//"):  # server:/export, //server/share
        return f"{device}\n{folder.relative_to(point)}"
    return f"{socket.gethostname()}\n{folder}"


@contextmanager
def admit_videos(
    cache: FeatureCache,
    sources: Sequence[VideoSource],
    stamps: Mapping[str, Stamp],
    *,
    origin: str,
) -> Iterator[dict[str, NameEntry]]:
    """Yield what the cache knows of those videos that did not change; hold all names meanwhile.

    A video did not change if its size and time are those that were noted with its name, or if its
    content is. The second is looked at only where the name is not this folder's own. A time of
    whole seconds, as archives and some file systems keep it, tells nothing of another folder's.

    Args:
        cache: the cache.
        sources: the videos, each with its name as `video_id`.
        stamps: of each, by name.
        origin: `folder_origin` of their folder.

    Raises:
        CacheError: a name stands for another folder's video, or the cache cannot be written.
    """
    admission = _Admission(cache, stamps, origin)
    fresh = admission.check(sources)
    listed = None
    if fresh:
        with cache.alone():
            cache.refresh()
            fresh = admission.check(sources)  # others may have come while contents were compared
            lines = {
                name: NameLine(
                    time.time_ns(), None, stamps[name].size, stamps[name].mtime_ns, origin
                )
                for name in fresh
            }
            listed = cache.path / "claims" / write_manifest(cache.path / "claims", lines)
    try:
        yield admission.unchanged
    except KeyboardInterrupt:
        raise  # whoever stops an extraction means to go on: the names stay held
    except BaseException:
        _remove(listed)
        raise
    _remove(listed)


@contextmanager
def hold_configs(
    cache: FeatureCache, configs: Iterable[Mapping[str, JSON]], *, allow_mixed: bool
) -> Iterator[None]:
    """Hold those configurations that the cache has no features of while they are made.

    What the cache has is for the caller to compare with, once this has begun: until then somebody
    else may have filled it, of which it takes notice here.

    Args:
        cache: the cache.
        configs: of the features to be made, one for each stream.
        allow_mixed: let others make other features of the same streams at the same time.

    Raises:
        CacheError: somebody is making other features of a stream that the cache lacks.
    """
    there = {config_digest(config) for config in cache.configs()}
    fresh = [config for config in configs if config_digest(config) not in there]
    if not fresh:
        yield
        return
    folder = cache.path / "claims"
    with ExitStack() as held:
        with cache.alone():
            for config in fresh:
                start = f"config-{config['stream']}-"
                own = f"{start}{config_digest(config)}-"
                for path in sorted(folder.glob(f"{start}*{SUFFIX}")):
                    if allow_mixed or path.name.startswith(own):
                        continue
                    with Claim(folder, path.stem, DEFAULT_LEASE_SECONDS) as is_dead:
                        if not is_dead:
                            raise CacheError(
                                f"{cache.path}: {is_dead.owner} is extracting {config['stream']} "
                                "into it with other options; use the same ones, another --cache, "
                                "or --allow-mixed"
                            )
                mine = Claim(folder, own + secrets.token_hex(8), DEFAULT_LEASE_SECONDS)
                held.enter_context(mine)
        cache.refresh()  # of those who have ended, and hold nothing any more
        yield


def unchanged_videos(
    cache: FeatureCache,
    sources: Sequence[VideoSource],
    stamps: Mapping[str, Stamp],
    *,
    origin: str,
) -> dict[str, NameEntry]:
    """Return what `admit_videos` yields, and hold no names: for who only wants to know.

    Raises:
        CacheError: a name stands for another folder's video.
    """
    admission = _Admission(cache, stamps, origin)
    admission.check(sources)
    return admission.unchanged


def _remove(listed: Path | None) -> None:
    if listed is not None:
        with suppress(OSError):
            listed.unlink()


class _Admission:
    def __init__(self, cache: FeatureCache, stamps: Mapping[str, Stamp], origin: str) -> None:
        self.unchanged: dict[str, NameEntry] = {}
        self._cache = cache
        self._stamps = stamps
        self._origin = origin
        self._digests: dict[str, str] = {}

    def check(self, sources: Sequence[VideoSource]) -> list[str]:
        """Return the names that the cache does not know yet.

        Raises:
            CacheError: a name belongs to another folder's video.
        """
        known = self._cache.names()
        held = self._held()
        taken = []
        fresh = []
        conflicts = []
        for source in sources:
            name, stamp = source.video_id, self._stamps[source.video_id]
            entry = known.get(name)
            if entry is None:
                fresh.append(name)
                line = held.get(name)
                if line and (line.size, line.mtime_ns) != (stamp.size, stamp.mtime_ns):
                    conflicts.append(
                        f"{name}: another video of this name is being extracted from another "
                        "folder, or was until somebody stopped that"
                    )
            elif (entry.size, entry.mtime_ns) == (stamp.size, stamp.mtime_ns) and (
                entry.origin == self._origin or stamp.mtime_ns % _SECOND
            ):
                self.unchanged[name] = entry
            elif entry.origin != self._origin:
                if entry.size == stamp.size and self._digest(source) in (entry.sha256, ""):
                    self.unchanged[name] = entry
                else:
                    taken.append(source)
        here = {source.video_id: self._digest(source) for source in taken[:MAX_SHOWN]}
        there = {name: known[name].sha256 for name in here}
        conflicts += name_conflicts(here, there, where=os.fspath(self._cache.path))
        conflicts += [source.video_id for source in taken[MAX_SHOWN:]]
        refuse_conflicts(self._cache.path, "extracted", conflicts, advice=_ADVICE)
        return fresh

    def _digest(self, source: VideoSource) -> str:
        """Return a content's sha256, "" if it cannot be read: extracting it will say so."""
        if source.video_id not in self._digests:
            if not self._digests:
                logger.info("comparing videos with those that the cache has under their names")
            try:
                digest = content_sha256(source)
            except OSError as error:
                logger.debug("%s: not compared: %s", source.video_id, error)
                digest = ""
            self._digests[source.video_id] = digest
        return self._digests[source.video_id]

    def _held(self) -> dict[str, NameLine]:
        """Return the names that extractions from other folders hold."""
        held: dict[str, NameLine] = {}
        folder = self._cache.path / "claims"
        for file in sorted(os.listdir(folder)) if folder.is_dir() else []:
            if not is_manifest_name(file):
                continue
            try:
                lines = read_manifest(folder / file)
            except (FileNotFoundError, CacheError) as error:
                logger.debug("not used: %s", error)  # its extraction has ended
                continue
            held |= {name: line for name, line in lines.items() if line.origin != self._origin}
        return held
