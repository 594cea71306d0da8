"""What is in a feature cache, told from its index and its names; no array is read."""

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import numpy as np

from cache.index import Index, holds_features, stream_of
from cache.keys import JSON, config_difference, config_digest, feature_key, is_newer, is_sha256
from cache.marker import MARKER, check_marker
from cache.names import NameStore
from cache.records import FeatureEntry, NameEntry
from cache.shard.read import SUFFIX, ShardTable, StoredRecord
from cache.tables import TableCache
from data.errors import CacheError, ShardError
from data.names import nearest_names, video_name

logger = logging.getLogger(f"feat.{__name__}")

T = TypeVar("T")

FOLDERS = ("shards", "names", "index", "claims", "partial")
QUARANTINE = "quarantine"
LABELS = "labels.csv"
#: Of the files of a cache elsewhere, for HTTP servers that list no folders.
LISTING = "listing.json"

_OWN = {MARKER, LABELS, QUARANTINE, LISTING, *FOLDERS}
#: What an empty disk holds, or systems lay into every folder.
_NOBODYS = {"lost+found", "Thumbs.db", "desktop.ini", "System Volume Information"}

#: Reading anew after a shard was compacted away under our eyes.
_MAX_TRIES = 4


def refuse_other_files(place: object, names: Iterable[str]) -> None:
    """Do nothing if a folder that is to become a cache holds nothing but what a cache may.

    Args:
        place: the folder, or its address.
        names: of what lies in it; hidden files are nobody's.

    Raises:
        CacheError: it holds something else, which a cache would lie among.
    """
    others = sorted(
        name for name in names if name not in _OWN | _NOBODYS and not name.startswith(".")
    )
    if others:
        raise CacheError(
            f"{place}: neither empty nor a feature cache (found {others[0]}); name another folder"
        )


class Contents:
    """What one cache holds. Holds no open files: fork it, pickle it, use it in DataLoader workers.

    It only looks: `cache.store.FeatureCache` reads and writes the features.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open an existing cache.

        Raises:
            CacheError: there is none at `path`, it is of a newer version, or not to be trusted.
        """
        self.path = Path(path)
        check_marker(self.path)
        for name in (*FOLDERS, QUARANTINE, LABELS):
            if (self.path / name).is_symlink():
                raise CacheError(
                    f"{self.path / name}: a symbolic link; what belongs to a cache must lie in it"
                )
        self._index = Index(self.shards_dir, self.path / "index")
        self._names = NameStore(self.path / "names")
        self._recorded: dict[str, NameEntry] | None = None
        self._tables = TableCache(self.shards_dir)
        self._opened = False
        self._lock, self._lock_pid = threading.RLock(), os.getpid()

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        return type(self), (os.fspath(self.path),)

    def __len__(self) -> int:
        with self._guard():
            return len(self._index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({os.fspath(self.path)!r})"

    @property
    def shards_dir(self) -> Path:
        """The folder of shards."""
        return self.path / "shards"

    @property
    def labels_path(self) -> Path:
        """Where the labels of the cached videos lie, if there are any."""
        return self.path / LABELS

    @property
    def bad_shards(self) -> dict[str, str]:
        """Shards that were refused, by file name, each with the reason."""
        with self._guard():
            return dict(self._index.bad)

    def has(self, key: str) -> bool:
        """Return whether the features of `key` are there."""
        with self._guard():
            return not self._look_for([key])

    def lacking(self, keys: Sequence[str], *, look: bool = True) -> list[str]:
        """Return those of `keys` whose features are not there, to be added.

        What compaction moves at this moment may be among them: added once more it does no harm.

        Args:
            keys: of features.
            look: False: tell what was not there when somebody last looked, which may have come.
        """
        with self._guard():
            return self._look_for(keys, times=int(look))

    def entry(self, key: str) -> FeatureEntry:
        """Return all that is known of the features of `key`, without loading them.

        Raises:
            CacheError: they are not there.
            ShardError: their shard is damaged.
        """
        return self._stored(key)[1].entry

    def entries(self, *, without: Collection[str] = ()) -> Iterator[FeatureEntry]:
        """Yield every stream of every video, shard by shard.

        Args:
            without: keys that are left out.

        Raises:
            ShardError: a shard has been damaged since it was opened.
        """
        rows = self.rows()
        for _, key in sorted(zip(rows["shard"].tolist(), rows["key"].tolist(), strict=True)):
            if key.hex() not in without:
                yield self.entry(key.hex())

    def videos(self) -> list[str]:
        """Return the names of all videos that have at least one stream, sorted."""
        with self._guard():
            digests = self._index.video_digests()
            return sorted(name for name, entry in self.names().items() if entry.sha256 in digests)

    def content(self, video: str) -> str:
        """Return the sha256 that a name, or a sha256, stands for.

        Raises:
            CacheError: nothing is known under that name.
        """
        for look_again in (False, True):
            if look_again:
                self.refresh()
            entry = self._names.get(video)
            if entry is None and not self._names.removed(video):
                entry = self._recorded_names(self._names.names()).get(video_name(video))
            if entry is not None:
                return entry.sha256
            if is_sha256(video) and self._index.of_video(video):
                return video
        raise CacheError(f"{video}: not in {self.path}{self._suggestion(video)}")

    def streams(self, video: str) -> list[str]:
        """Return the streams that are there for a video, sorted.

        Raises:
            CacheError: the video is not known.
        """
        with self._guard():
            rows = self._index.of_video(self.content(video))
            return sorted({stream_of(row) for row in rows})

    def feature_streams(self, video: str) -> list[str]:
        """Return the streams of a video that models can read, features or crops, sorted.

        Raises:
            CacheError: the video is not known.
        """
        with self._guard():
            rows = self._index.of_video(self.content(video))
            return sorted({stream_of(row) for row in rows if holds_features(row)})

    def configs(self, stream: str | None = None) -> list[dict[str, JSON]]:
        """Return the different configurations, of one stream or of all."""
        rows = self.rows()
        if stream is not None:
            rows = rows[rows["stream"] == stream.encode()]
        examples = dict(zip(rows["config"].tolist(), rows["key"].tolist(), strict=True))
        return [dict(self.entry(examples[key].hex()).config) for key in sorted(examples)]

    def find(
        self, video: str, stream: str, config: Mapping[str, JSON] | None = None
    ) -> FeatureEntry:
        """Return the entry of one stream of a video, given by name or by its content's sha256.

        Of configurations that differ by versions of ours only, it is the newest.

        Raises:
            CacheError: it is not there (the message says what is), or there are several
                configurations and none was chosen.
        """
        with self._guard():
            digest = self.content(video)
            if config is not None:
                key = feature_key(digest, config)
                if self._row(key) is not None:
                    return self.entry(key)
            found = self._of_video(digest)
            keys = [key for name, key in found if name == stream]
        if config is None and keys:
            entries = [self.entry(key) for key in keys]
            for one in entries:
                if all(other is one or is_newer(one.config, other.config) for other in entries):
                    return one
            first, second = entries[:2]
            digests = [config_digest(entry.config)[:8] for entry in entries]
            raise CacheError(
                f"{video}: {len(keys)} configurations of {stream} in {self.path}, choose one with "
                f"--config: {' or '.join(digests)} "
                f"(first against second: {config_difference(first.config, second.config)})"
            )
        if config is not None and keys:
            difference = config_difference(config, self.entry(keys[0]).config)
            raise CacheError(f"{video}: no {stream} of this configuration: {difference}")
        there = ", ".join(sorted({name for name, _ in found})) or "nothing"
        raise CacheError(f"{video}: no stream {stream} in {self.path}, there is: {there}")

    def find_all(self, video: str, stream: str) -> list[FeatureEntry]:
        """Return the entries of one stream of a video, one for each configuration.

        Raises:
            CacheError: the video is not known.
        """
        with self._guard():
            keys = [key for name, key in self._of_video(self.content(video)) if name == stream]
        return [self.entry(key) for key in keys]

    def rows(self) -> np.ndarray:
        """Return one row for every key, of `cache.index.ROW_DTYPE`; opens no shard."""
        with self._guard():
            if self._index.changed():
                self._index.refresh()
            return self._index.rows()

    def shards(self) -> set[str]:
        """Return the file names of the shards in use."""
        with self._guard():
            if self._index.changed():
                self._index.refresh()
            return self._index.shards()

    def keys_of(self, shard: str) -> list[str]:
        """Return the keys in one shard.

        Raises:
            FileNotFoundError: it is gone.
            ShardError: it is damaged.
        """
        return list(self._table(shard).records)

    def keys_of_content(self, sha256: str) -> list[str]:
        """Return the keys of all features of one content."""
        with self._guard():
            return [key for _, key in self._of_video(sha256)]

    def names(self) -> dict[str, NameEntry]:
        """Return every known name and the content it stands for.

        A content that no name stands for, because its file was copied here without the names,
        goes by the name that was recorded when it was extracted, else by its sha256.
        """
        with self._guard():
            self._names.refresh()
            names = self._names.names()
            for name, entry in self._recorded_names(names).items():
                names.setdefault(name, entry)
            return names

    def refresh(self) -> None:
        """Take notice of what other processes wrote; otherwise that happens on a miss.

        Raises:
            CacheError: the cache cannot be read.
        """
        with self._locked():
            self._index.refresh()
            self._names.refresh()
            self._recorded = None
            self._opened = True

    def rebuild_index(self) -> None:
        """Throw the look-up away and derive it from the shards.

        Raises:
            CacheError: the cache cannot be read or written.
        """
        with self._guard():
            self._tables.clear()
            self._index.rebuild()

    # Inside

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one thread at a time at the look-up; a forked child gets a lock of its own."""
        if self._lock_pid != os.getpid():
            self._lock, self._lock_pid = threading.RLock(), os.getpid()
        with self._lock:
            yield

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Lock the look-up, which is loaded at first use."""
        with self._locked():
            if not self._opened:
                self.refresh()
            yield

    def _row(self, key: str) -> np.void | None:
        self._look_for([key])
        return self._index.get(key)

    def _look_for(self, keys: Sequence[str], *, times: int = 2) -> list[str]:
        """Return the keys that are not there, once the folder has been looked at if any is not."""
        # Twice: while a folder is listed, compaction may move a record from a shard that is not
        # listed yet to one whose place in the list has passed.
        for _ in range(times):
            keys = [key for key in keys if self._index.get(key) is None]
            if not keys or not self._index.changed():
                return keys
            self._index.refresh()
        return [key for key in keys if self._index.get(key) is None]

    def _of_video(self, digest: str) -> list[tuple[str, str]]:
        """Return (stream, key) of all features of one content."""
        rows = self._index.of_video(digest)
        return [(stream_of(row), row["key"].tobytes().hex()) for row in rows]

    def _suggestion(self, video: str) -> str:
        names = self.videos()
        near = nearest_names(video, names, count=4) or names
        damaged = len(self._index.bad)
        text = f", which has {len(names)} videos"
        if near:
            text += ": " + ", ".join(near[:3]) + (", ..." if len(near) > 3 else "")
        if damaged:
            text += f"; {damaged} shards are damaged, see feat cache verify"
        return text

    def _recorded_names(self, names: Mapping[str, NameEntry]) -> dict[str, NameEntry]:
        """Return names for the contents that `names` does not cover."""
        if self._recorded is None:
            covered = {entry.sha256 for entry in names.values()}
            self._recorded = {}
            told = self._sources(self._index.video_digests() - covered)
            for digest, (name, size) in sorted(told.items()):
                if name in names or name in self._recorded or self._names.removed(name):
                    name = digest
                self._recorded[name] = NameEntry(sha256=digest, size=size, mtime_ns=-1)
        return self._recorded

    def _sources(self, digests: Iterable[str]) -> dict[str, tuple[str, int]]:
        """Return the name and the size in bytes that were recorded with each content."""
        # shard by shard: in any other order a large cache's tables are read again and again
        first = {digest: self._index.of_video(digest)[0] for digest in digests}
        told = {}
        for digest in sorted(first, key=lambda one: first[one]["shard"].tobytes()):
            try:
                source = self.entry(first[digest]["key"].tobytes().hex()).source
                told[digest] = (video_name(source.name), source.size)
            except ShardError as error:
                logger.warning("%s", error)
                told[digest] = (digest, 0)
        return told

    def _stored(self, key: str) -> tuple[ShardTable, StoredRecord]:
        return self._retry(key, lambda table: (table, table.records[key]))

    def _retry(self, key: str, action: Callable[[ShardTable], T]) -> T:
        """Do something with the shard that holds `key`, wherever compaction may have put it.

        Raises:
            CacheError: there is no such key.
        """
        for _ in range(_MAX_TRIES):
            with self._guard():
                row = self._row(key)
                if row is None:
                    raise CacheError(f"{self.path}: no features of key {key[:12]}...")
                shard = row["shard"].tobytes().hex() + SUFFIX
            try:
                table = self._table(shard)
                if key not in table.records:
                    logger.warning("%s: the index was wrong; reading all shards again", self.path)
                    self.rebuild_index()
                    continue
                return action(table)
            except FileNotFoundError:
                with self._guard():
                    self._tables.forget(shard)
                    self._index.refresh()
        raise CacheError(f"{self.path}: key {key[:12]}... keeps moving; try again")

    def _table(self, shard: str) -> ShardTable:
        with self._guard():
            return self._tables.get(shard)
