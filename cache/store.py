"""A feature cache: a folder of immutable shards that a team can share.

<cache>/feat-cache.json     what this folder is, and its format's version
        shards/<sha256>.h5  the features; the only files that cannot be made again
        names/*.jsonl       which video name stands for which content
        labels.csv          the labels that came with the videos, if any
        index/*.rows        key -> shard, derived
        claims/ partial/    work in progress
        quarantine/         what `feat cache verify --repair` set aside
"""

import errno
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import numpy as np

from cache.checkpoints import FeatureCheckpoint
from cache.claims import DEFAULT_LEASE_SECONDS, Claim
from cache.contents import FOLDERS, Contents, refuse_other_files
from cache.files import explain, folder_clock, remove_stale_temps
from cache.keys import JSON, is_sha256
from cache.marker import MARKER, MARKER_TEXT
from cache.records import ClipTable, FeatureRecord, NameEntry
from cache.shard.read import (
    ShardTable,
    read_array,
    read_clips,
    read_frame_seconds,
    read_record,
    read_table,
)
from data.errors import CacheError
from data.files import write_whole

logger = logging.getLogger(f"feat.{__name__}")

#: Names and labels are looked at and written within a second; a dead process's turn soon ends.
_ALONE_LEASE_SECONDS = 20.0
_ALONE_PATIENCE_SECONDS = 60.0


class FeatureCache(Contents):
    """One feature cache, a folder: finds, reads and writes the features in it.

    Readers take no locks; any number of processes may write at the same time.
    """

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Self:
        """Open the cache at `path`; make a new one if there is none.

        Raises:
            CacheError: it cannot be made or opened, or holds something else.
        """
        root = Path(path)
        try:
            root.mkdir(parents=True, exist_ok=True)
            if not (root / MARKER).exists():
                refuse_other_files(root, os.listdir(root))
                write_whole(root / MARKER, f"{MARKER_TEXT}\n", error=CacheError)
            cache = cls(root)
            for name in FOLDERS:
                try:
                    (root / name).mkdir(exist_ok=True)
                except OSError as error:
                    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                        raise
                    # one that may only be read: whoever has something to write will be told
                    logger.debug("%s: not made: %s", root / name, error)
            cache.remove_stale()
        except OSError as error:
            raise explain("make a feature cache", root, error) from error
        return cache

    @classmethod
    @contextmanager
    def creating(cls, path: str | os.PathLike[str]) -> Iterator[Self]:
        """Open the cache at `path` as `create` does; what fails leaves no new empty one behind.

        Raises:
            CacheError: it cannot be made or opened.
        """
        is_new = not Path(path).is_dir()
        cache = cls.create(path)
        try:
            yield cache
        except BaseException:
            if is_new:
                cache._remove_empty()
            raise

    def _remove_empty(self) -> None:
        """Remove a cache that holds nothing, and in which nobody is at work."""
        with suppress(OSError):
            if sorted(os.listdir(self.path)) != sorted([MARKER, *FOLDERS]):
                return
            if any(os.listdir(self.path / name) for name in FOLDERS):
                return
            for name in sorted(FOLDERS):  # claims first: whoever works here has a file in it
                (self.path / name).rmdir()
            (self.path / MARKER).unlink()
            self.path.rmdir()

    # Reading

    def read(self, video: str, stream: str, config: Mapping[str, JSON] | None = None) -> np.ndarray:
        """Return the features of one stream of a video, `(S, D)`, checksum verified.

        Raises:
            CacheError: they are not there, or ambiguous; see `find`.
            ShardError: they are damaged.
        """
        return self.read_key(self.find(video, stream, config).key)

    def read_key(self, key: str) -> np.ndarray:
        """Return the array of a key, checksum verified: features are `(S, D)`, float32 or float16.

        Raises:
            CacheError: they are not there.
            ShardError: they are damaged.
        """
        return self._retry(
            key, lambda table: read_array(table, table.records[key].places["features"])
        )

    def read_clips(self, key: str) -> ClipTable:
        """Return the clip table of a key, S rows.

        Raises:
            CacheError: it is not there.
            ShardError: it is damaged.
        """
        return self._retry(key, lambda table: read_clips(table, key))

    def read_frame_seconds(self, key: str) -> np.ndarray | None:
        """Return the time of each frame of a key's video, (T,) float64; None if it is unknown.

        Seconds from the start of the video, as a player shows them.

        Raises:
            CacheError: it is not there.
            ShardError: it is damaged.
        """
        return self._retry(key, lambda table: read_frame_seconds(table, key))

    def read_record(self, key: str) -> FeatureRecord:
        """Return everything that is stored under a key.

        Raises:
            CacheError: it is not there.
            ShardError: it is damaged.
        """
        return self._retry(key, lambda table: read_record(table, key))

    def read_images(self, key: str) -> list[bytes]:
        """Return the encoded images of a key, one for each row of its clip table.

        Raises:
            CacheError: they are not there.
            ShardError: they are damaged.
            ValueError: the key is of another kind of stream.
        """
        return self.read_record(key).strings()

    def memmap(self, key: str) -> np.ndarray:
        """Return the features of a key as a read-only memory map, checksum not verified.

        Raises:
            CacheError: they are not there.
        """

        def open_map(table: ShardTable) -> np.ndarray:
            place = table.records[key].places["features"]
            return np.memmap(table.path, place.dtype, "r", place.offset, place.shape)

        return self._retry(key, open_map)

    # Writing

    def write(self, records: Sequence[FeatureRecord]) -> Path:
        """Write records into one new shard and return its path; it appears whole or not at all.

        Raises:
            ValueError: there are no records, or one twice.
            CacheError: the disk is full, read-only, or fails.
        """
        from cache.shard.write import write_shard

        path = write_shard(self.shards_dir, records)
        self.added(path.name)
        return path

    def added(self, shard: str) -> None:
        """Take notice of a shard that was put into `shards/` under its final name.

        Raises:
            ShardError: it is damaged.
        """
        table = read_table(self.shards_dir / shard)
        with self._guard():
            self._index.add(table)
            self._recorded = None

    def set_names(self, names: Mapping[str, NameEntry | None]) -> int:
        """Say which content names stand for; None removes a name. Other names stay.

        Returns:
            For how many of them that was new.

        Raises:
            ValueError: a name is not a relative path below the videos' folder.
            CacheError: the disk is full, read-only, or fails.
        """
        with self._guard():
            changed = self._names.set(names)
            self._recorded = None
            return changed

    # Working together

    def claim(self, name: str, *, lease_seconds: float = DEFAULT_LEASE_SECONDS) -> Claim:
        """Return a claim on work on a key or a content's sha256: `with cache.claim(x) as mine:`.

        Raises:
            ValueError: `name` is not 64 hex digits.
        """
        if not is_sha256(name):
            raise ValueError(f"a claim is on 64 hex digits, got {name!r:.80}")
        return Claim(self.path / "claims", name, lease_seconds)

    @contextmanager
    def maintenance(self) -> Iterator[Claim]:
        """Hold the claim that whoever removes shards must hold.

        Raises:
            CacheError: somebody else has it.
        """
        with Claim(self.path / "claims", "maintenance", DEFAULT_LEASE_SECONDS) as mine:
            if not mine:
                raise CacheError(
                    f"{self.path}: {mine.owner} is compacting, repairing or removing; try later"
                )
            yield mine

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one process at a time look at names or labels and then write; wait for the others.

        Raises:
            CacheError: another one has been at it for too long, or the cache cannot be written.
        """
        claim = Claim(self.path / "claims", "alone", _ALONE_LEASE_SECONDS)
        give_up = time.monotonic() + _ALONE_PATIENCE_SECONDS
        while not claim.acquire():
            if time.monotonic() > give_up:
                raise CacheError(
                    f"{self.path}: {claim.owner} is writing names or labels; try later"
                )
            time.sleep(0.05)
        try:
            yield
        finally:
            claim.release()

    def checkpoint(self, key: str) -> FeatureCheckpoint:
        """Return the checkpoint of a video in the making.

        Raises:
            ValueError: `key` is not 64 hex digits.
        """
        return FeatureCheckpoint(self.path / "partial", key)

    def remove_stale(self) -> int:
        """Remove temporary files that dead writers left a day ago or before; return how many.

        Raises:
            OSError: a folder cannot be listed.
        """
        folders = [self.path, *(self.path / name for name in FOLDERS)]
        try:
            now = folder_clock(self.path)
        except OSError as error:
            logger.debug("%s: not cleaned: %s", self.path, error)
            return 0
        return sum(remove_stale_temps(folder, now=now) for folder in folders if folder.is_dir())
