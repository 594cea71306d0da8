"""Which shard holds which key. Derived from the shards: losing it costs time, never data.

A shard never changes, so what it holds needs to be learnt once. `index/` keeps that knowledge in
segments: tables of fixed-size rows, named by the sha256 of their bytes, each listing all records
of some shards. Segments may overlap; what no segment lists is read from the shard itself.
"""

import hashlib
import logging
import os
import time
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from cache.files import explain, read_limited
from cache.keys import config_digest
from cache.shard.read import SUFFIX, ShardTable, is_shard_name, read_table
from cache.streams import READ_BY_MODELS
from data.errors import CacheError, StorageError
from data.files import TEMP_PREFIX, write_whole

logger = logging.getLogger(f"feat.{__name__}")

ROW_DTYPE = np.dtype(
    [
        ("key", "V32"),
        ("video", "V32"),  # sha256 of the content
        ("shard", "V32"),
        ("config", "V32"),
        ("stream", "S32"),
        ("num_clips", "<i8"),
        ("dim", "<i8"),  # D of features (S, D) and crops (S, C, D), 0 of any other kind
        ("itemsize", "<i8"),
        ("num_frames", "<i8"),
        ("frame_rate", "<f8"),
        ("nbytes", "<i8"),  # of the whole shard, divided among its records
    ]
)
_SEGMENT_HEAD = f"feat-index 2 {ROW_DTYPE.itemsize}\n".encode()
MAX_SEGMENT_BYTES = 1 << 30
#: So many shards that no segment knows are worth a new segment.
MIN_NEW_SHARDS = 16
MAX_SEGMENTS = 8
#: A folder changed within this time of being listed may have changed after, unnoticed.
RACY_NS = 2_000_000_000


class Index:
    """The look-up of one cache, as of the last `refresh`."""

    def __init__(self, shards_dir: Path, index_dir: Path) -> None:
        """Start empty; `refresh` fills it."""
        self.bad: dict[str, str] = {}  # shard -> why it is not used
        self._unread: set[str] = set()  # of these, what the system would not read: not for good
        self._shards_dir = shards_dir
        self._index_dir = index_dir
        self._stamp: int | None = None
        self._pending: set[bytes] = set()
        self._digests: dict[str, bytes] = {}  # of the shards when the folder was last listed
        self._clear()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> np.void | None:
        """Return the row of a key, None if there is none."""
        number = self._by_key.get(bytes.fromhex(key))
        return None if number is None else self._row(number)

    def of_video(self, sha256: str) -> list[np.void]:
        """Return the rows of all streams and configurations of one content."""
        return [self._row(number) for number in self._by_video.get(bytes.fromhex(sha256), ())]

    def video_digests(self) -> set[str]:
        """Return the contents that have at least one stream."""
        return {video.hex() for video in self._by_video}

    def rows(self) -> np.ndarray:
        """Return the rows of all keys, `(len(self),)` of `ROW_DTYPE`."""
        if not self._chunks:
            return np.empty(0, ROW_DTYPE)
        used = np.fromiter(self._by_key.values(), np.int64, len(self._by_key))
        return np.concatenate(self._chunks)[used]

    def shards(self) -> set[str]:
        """Return the names of the shards in use."""
        return {digest.hex() + SUFFIX for digest in self._known}

    def changed(self) -> bool:
        """Return whether shards may have come or gone since the last refresh; one `stat`."""
        return self._stamp is None or self._stamp != _folder_stamp(self._shards_dir)

    def refresh(self, *, use_segments: bool = True) -> None:
        """Take notice of shards that came or went.

        Args:
            use_segments: False: read every new shard itself.

        Raises:
            CacheError: the folder cannot be read.
        """
        stamp = _folder_stamp(self._shards_dir)
        present = self._list()
        if self._known - present:
            kept = self._chunks
            self._clear()
            for chunk in kept:
                self._take(chunk, present)
        self.bad = {name: why for name, why in self.bad.items() if _digest(name) in present}
        self._unread &= self.bad.keys()
        bad = {_digest(name) for name in self.bad.keys() - self._unread}
        missing = present - self._known - bad
        many = use_segments and len(missing) >= MIN_NEW_SHARDS
        loaded = self._load_segments(present) if many else []
        unknown = missing - self._known
        self._read_shards(unknown)
        if len(unknown) >= MIN_NEW_SHARDS or len(loaded) > MAX_SEGMENTS:
            self._save(unknown, loaded)
        # A folder changed this instant can change again without a new stamp: look again then.
        racy = stamp is None or abs(time.time_ns() - stamp) < RACY_NS
        self._stamp = None if racy else stamp

    def _list(self) -> set[bytes]:
        """Return the digests of the shards that are in the folder."""
        try:
            names = os.listdir(self._shards_dir)
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise explain("list", self._shards_dir, error) from error
        # names that were there before are not parsed again: extraction lists the folder for each
        # video, and thousands of names take ten times as long as the list itself
        before = self._digests
        self._digests = {
            name: before.get(name) or _digest(name)
            for name in names
            if name in before or is_shard_name(name)
        }
        return set(self._digests.values())

    def add(self, table: ShardTable) -> None:
        """Add a shard just written, without looking at the folder."""
        self._append(table_rows(table))
        self._pending.add(_digest(table.path.name))
        if len(self._pending) >= 256:
            self._save(self._pending, [])
            self._pending.clear()

    def rebuild(self) -> None:
        """Forget everything, remove all segments, and read every shard anew."""
        self._clear()
        self.bad.clear()
        for path in self._segments():
            with suppress(OSError):  # of a read-only cache: not used this time
                path.unlink(missing_ok=True)
        self.refresh(use_segments=False)

    def _clear(self) -> None:
        self._chunks: list[np.ndarray] = []
        self._starts: list[int] = []
        self._by_key: dict[bytes, int] = {}
        self._by_video: dict[bytes, tuple[int, ...]] = {}
        self._known: set[bytes] = set()
        self._pending.clear()
        self._count = 0
        self._stamp = None

    def _row(self, number: int) -> np.void:
        # few chunks: the segments, then one for each shard since
        chunk = bisect_right(self._starts, number) - 1
        row: np.void = self._chunks[chunk][number - self._starts[chunk]]
        return row

    def _append(self, rows: np.ndarray) -> None:
        """Add rows; where a key is in two shards either will do, and the first stays."""
        first = self._count
        self._starts.append(first)
        self._chunks.append(rows)
        self._count += len(rows)
        self._known.update(rows["shard"].tolist())
        by_key, by_video = self._by_key, self._by_video
        pairs = zip(rows["key"].tolist(), rows["video"].tolist(), strict=True)
        for number, (key, video) in enumerate(pairs, first):
            if by_key.setdefault(key, number) == number:
                others = by_video.get(video)
                by_video[video] = (number,) if others is None else (*others, number)

    def _take(self, rows: np.ndarray, present: set[bytes]) -> None:
        """Add those rows whose shard is there and not known yet."""
        wanted = present - self._known
        mask = np.fromiter((shard in wanted for shard in rows["shard"].tolist()), bool, len(rows))
        if mask.any():
            self._append(rows if mask.all() else rows[mask])

    def _segments(self) -> list[Path]:
        with suppress(FileNotFoundError):
            return sorted(
                path for path in self._index_dir.iterdir() if not path.name.startswith(TEMP_PREFIX)
            )
        return []

    def _load_segments(self, present: set[bytes]) -> list[Path]:
        """Add what the segments know; return all segment files, readable or not."""
        paths = self._segments()
        for path in paths:
            try:
                self._take(read_segment(path), present)
            except (CacheError, FileNotFoundError) as error:
                logger.debug("index segment not used: %s", error)
        return paths

    def _read_shards(self, digests: Iterable[bytes]) -> None:
        tables = []
        for digest in sorted(digests):
            name = digest.hex() + SUFFIX
            try:
                tables.append(table_rows(read_table(self._shards_dir / name)))
            except FileNotFoundError:
                continue  # compacted away since the folder was listed
            except CacheError as error:
                if self.bad.get(name) != str(error):
                    logger.warning("%s", error)
                self.bad[name] = str(error)
                if isinstance(error, StorageError):
                    self._unread.add(name)
                continue
            self.bad.pop(name, None)
        if tables:
            self._append(np.concatenate(tables))

    def _save(self, digests: set[bytes], old: list[Path]) -> None:
        """Write a segment for these shards, or for all if that replaces too many old ones."""
        replace = len(old) >= MAX_SEGMENTS
        wanted = self._known if replace else digests
        rows = np.concatenate(self._chunks) if self._chunks else np.empty(0, ROW_DTYPE)
        mask = np.fromiter((shard in wanted for shard in rows["shard"].tolist()), bool, len(rows))
        if not mask.any():
            return
        try:
            path = write_segment(self._index_dir, rows[mask])
        except (CacheError, OSError) as error:
            logger.debug("index not saved: %s", error)  # a read-only cache works without
            return
        for other in old if replace else []:
            if other != path:
                with suppress(OSError):
                    other.unlink()


def stream_of(row: np.void) -> str:
    """Return the stream of an index row."""
    return bytes(row["stream"]).decode("ascii", "replace")


def holds_features(row: np.void) -> bool:
    """Return whether an index row is of features or crops, the kinds that models read."""
    return bool(row["dim"] > 0)


def table_rows(table: ShardTable) -> np.ndarray:
    """Return the index rows of one shard, `(num_records,)` of `ROW_DTYPE`."""
    rows = np.zeros(len(table.records), ROW_DTYPE)
    configs: dict[int, bytes] = {}  # the records of a table share them
    for row, stored in zip(rows, table.records.values(), strict=True):
        entry = stored.entry
        row["key"] = bytes.fromhex(entry.key)
        row["video"] = bytes.fromhex(entry.source.sha256)
        row["shard"] = _digest(table.path.name)
        if id(entry.config) not in configs:
            configs[id(entry.config)] = bytes.fromhex(config_digest(entry.config))
        row["config"] = configs[id(entry.config)]
        row["stream"] = entry.stream.encode()
        row["num_clips"] = entry.num_clips
        row["dim"] = entry.feature_shape[-1] if entry.kind in READ_BY_MODELS else 0
        row["itemsize"] = np.dtype(entry.dtype).itemsize
        row["num_frames"] = entry.source.num_frames
        row["frame_rate"] = entry.source.frame_rate
        row["nbytes"] = table.file_size // len(table.records)
    return rows


def write_segment(folder: Path, rows: np.ndarray) -> Path:
    """Write index rows as one segment and return its path.

    Raises:
        CacheError: it cannot be written.
    """
    data = _SEGMENT_HEAD + rows.tobytes()
    path = folder / f"{hashlib.sha256(data).hexdigest()}.rows"
    write_whole(path, data, error=CacheError)
    return path


def read_segment(path: Path) -> np.ndarray:
    """Return the rows of one segment, `(n,)` of `ROW_DTYPE`, read-only.

    Raises:
        FileNotFoundError: it is gone.
        CacheError: it is damaged or of another build.
    """
    data = read_limited(path, MAX_SEGMENT_BYTES)
    if path.name != f"{hashlib.sha256(data).hexdigest()}.rows":
        raise CacheError(f"{path}: a damaged index segment")
    size = len(data) - len(_SEGMENT_HEAD)
    if not data.startswith(_SEGMENT_HEAD) or size % ROW_DTYPE.itemsize:
        raise CacheError(f"{path}: an index segment of another build")
    return np.frombuffer(data, ROW_DTYPE, offset=len(_SEGMENT_HEAD))


def _digest(shard: str) -> bytes:
    return bytes.fromhex(shard[: -len(SUFFIX)])


def _folder_stamp(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None
