"""One shard: an immutable HDF5 file with the features of one to many videos.

The file starts with a table of contents in HDF5's user block, which HDF5 readers skip and this
one reads instead: where each array lies, its type, shape and checksum. Reading a shard that
somebody else made therefore means parsing JSON and reading bytes at checked offsets; the HDF5
library, which was not written for hostile input, never sees it. docs/CACHE_FORMAT.md has it all.
"""

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cache.files import explain, open_regular, pread_exact
from cache.keys import JSON, KeyMaker, is_sha256
from cache.records import (
    CLIP_DTYPE,
    FLOW_STATS,
    ClipTable,
    FeatureEntry,
    FeatureRecord,
    SourceRecord,
    check_stream,
    kind_json,
)
from cache.shard.checksums import Checksums
from cache.streams import FEATURES, KINDS, StreamKind
from data.errors import NewerLayoutError, ShardError

#: Layout 1 knows features only, and no times of frames. A shard gets the lowest layout it needs.
LAYOUT_VERSION = 2
SUFFIX = ".h5"
#: Arrays start at multiples of this, so that a memory map of them is aligned.
ALIGNMENT = 64
HEADER = "feat-shard {version:04d} {table_len:010d} {table_sha256}\n"
HEADER_LEN = 92

MAX_TABLE_BYTES = 16 << 20
MAX_RECORDS = 65536
MAX_DIM = 1 << 20
PIECE_BYTES = 8 << 20

_HEADER = re.compile(rb"feat-shard ([0-9]{4}) ([0-9]{10}) ([0-9a-f]{64})\n")
_FLOAT32, _FLOAT64, _INT64 = np.dtype("<f4"), np.dtype("<f8"), np.dtype("<i8")


@dataclass(frozen=True)
class Place:
    """Where one array's bytes lie in a shard."""

    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    checksums: Checksums

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredRecord:
    """One record of a shard's table: what it is, and where its arrays lie."""

    entry: FeatureEntry
    places: Mapping[str, Place]  # "features", "clips", and those optional ones that there are

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(place.nbytes for place in self.places.values())


@dataclass(frozen=True)
class ShardTable:
    """A shard's checked table of contents."""

    path: Path
    file_size: int
    records: Mapping[str, StoredRecord]  # by key


def shard_name(sha256: str) -> str:
    """Return the file name of the shard whose bytes have this sha256."""
    return sha256 + SUFFIX


def is_shard_name(name: str) -> bool:
    """Return whether a file of this name in `shards/` can be a finished shard."""
    return name.endswith(SUFFIX) and is_sha256(name[: -len(SUFFIX)])


def read_table(path: Path) -> ShardTable:
    """Read and check a shard's table, and that nothing between its arrays was changed.

    Reads a few kilobytes a record; the arrays' own bytes are checked when they are read.

    Raises:
        FileNotFoundError: there is no such shard.
        ShardError: it is damaged, hostile, or of a newer layout.
    """
    fd = open_regular(path)
    try:
        return _read_table(fd, path)
    finally:
        os.close(fd)


def read_array(table: ShardTable, place: Place) -> np.ndarray:
    """Return one array of a shard, its checksum verified.

    Raises:
        FileNotFoundError: the shard is gone.
        ShardError: its bytes are not what was written.
    """
    with _opened(table) as fd:
        array = np.empty(place.shape, place.dtype)
        view = array.reshape(-1).view(np.uint8).data
        _read_into(fd, view, place.offset, table.path)
        _require_match(table, place, [view])
        return array


def map_array(table: ShardTable, place: Place) -> np.ndarray:
    """Return one array as a read-only memory map, its checksum verified."""
    _check_array(table, place)
    return np.memmap(table.path, place.dtype, "r", place.offset, place.shape)


def check_record(table: ShardTable, key: str, *, every: bool = False) -> None:
    """Make sure of the checksums of a record's arrays, in bounded memory.

    Args:
        table: of the shard.
        key: of the record.
        every: check all checksums that are at hand, not the fastest alone.

    Raises:
        FileNotFoundError: the shard is gone.
        ShardError: its bytes are not what was written.
    """
    for place in table.records[key].places.values():
        _check_array(table, place, every=every)


def _check_array(table: ShardTable, place: Place, *, every: bool = False) -> None:
    with _opened(table) as fd:
        _require_match(table, place, _pieces(fd, place, table.path), every=every)


@contextmanager
def _opened(table: ShardTable) -> Iterator[int]:
    fd = open_regular(table.path)
    try:
        if os.fstat(fd).st_size != table.file_size:  # so that no array is larger than the file
            _refuse(table.path, "its size changed while it was in use")
        yield fd
    finally:
        os.close(fd)


def _pieces(fd: int, place: Place, path: Path) -> Iterator[memoryview]:
    """Yield the bytes of an array, all in the same buffer."""
    buffer = memoryview(bytearray(min(place.nbytes, PIECE_BYTES)))
    for done in range(0, place.nbytes, PIECE_BYTES):
        piece = buffer[: place.nbytes - done]
        _read_into(fd, piece, place.offset + done, path)
        yield piece


def _read_into(fd: int, view: memoryview, offset: int, path: Path) -> None:
    done = 0
    while done < len(view):
        try:
            count = os.preadv(fd, [view[done:]], offset + done)
        except OSError as error:
            raise explain("read", path, error) from error
        if count == 0:
            _refuse(path, f"ends at byte {offset + done}")
        done += count


def _require_match(
    table: ShardTable, place: Place, pieces: Iterable[memoryview], *, every: bool = False
) -> None:
    if not place.checksums.match(pieces, every=every):
        _refuse(table.path, f"checksum of {place.nbytes} bytes at {place.offset} is wrong")


def read_record(table: ShardTable, key: str) -> FeatureRecord:
    """Return one whole record of a shard, arrays included, everything checked.

    Frames, which may be more than the memory holds, are mapped; see `map_array`.

    Raises:
        ShardError: an array is damaged or makes no sense.
    """
    stored = table.records[key]
    clips = read_clips(table, key)
    of_frames = KINDS[stored.entry.kind].rows == "frames"
    arrays = {
        name: (map_array if of_frames and name == "features" else read_array)(table, place)
        for name, place in stored.places.items()
        if name != "clips"
    }
    try:
        return FeatureRecord(
            stream=stored.entry.stream,
            kind=stored.entry.kind,
            config=stored.entry.config,
            source=stored.entry.source,
            provenance=stored.entry.provenance,
            clips=clips,
            **arrays,
        )
    except ValueError as error:
        raise ShardError(f"{table.path}: record {key[:12]}: {error}") from error


def read_clips(table: ShardTable, key: str) -> ClipTable:
    """Return the clip table of one record of a shard.

    Raises:
        ShardError: it is damaged or makes no sense.
    """
    stored = table.records[key]
    array = read_array(table, stored.places["clips"])
    try:
        return ClipTable.from_array(array, stored.entry.clip_len)
    except ValueError as error:
        raise ShardError(f"{table.path}: record {key[:12]}: {error}") from error


def read_frame_seconds(table: ShardTable, key: str) -> np.ndarray | None:
    """Return the time of each frame of a record's video, (T,) float64; None if it is unknown.

    A file that shows all its frames at once has lost their times.

    Raises:
        ShardError: it is damaged or makes no sense.
    """
    stored = table.records[key]
    if "frame_seconds" in stored.places:
        times: np.ndarray | None = read_array(table, stored.places["frame_seconds"])
    else:
        source = stored.entry.source
        times = read_clips(table, key).frame_seconds(source.num_frames, source.frame_rate)
    if times is None or (len(times) > 1 and times.max() == times.min()):
        return None
    if not np.isfinite(times).all():
        raise ShardError(f"{table.path}: record {key[:12]}: a frame's time is not finite")
    return times


def structure_crc32(fd: int, path: Path, places: Sequence[Place], userblock: int, end: int) -> int:
    """Return the CRC-32 of all bytes from the user block's end that are in no array.

    Raises:
        ShardError: two arrays overlap, or one lies outside.
    """
    crc, position = 0, userblock
    for place in [*sorted(places, key=lambda place: place.offset), None]:
        start = place.offset if place else end
        if start < position:
            _refuse(path, "arrays overlap or lie outside the file")
        while position < start:  # in pieces: a hostile gap may be as large as the file
            size = min(start - position, 1 << 20)
            crc = zlib.crc32(pread_exact(fd, size, position, path), crc)
            position += size
        if place:
            position += place.nbytes
    return crc


def _read_table(fd: int, path: Path) -> ShardTable:
    file_size = os.fstat(fd).st_size
    table, userblock, crc = parse_table(
        lambda size, offset: pread_exact(fd, size, offset, path), path, file_size
    )
    places = [place for item in table.records.values() for place in item.places.values()]
    if structure_crc32(fd, path, places, userblock, file_size) != crc:
        _refuse(path, "the checksum of its HDF5 structure is wrong")
    return table


def parse_table(
    read: Callable[[int, int], bytes], path: Path, file_size: int
) -> tuple[ShardTable, int, int]:
    """Return a shard's table, its user block's size and its structure's CRC-32.

    Args:
        read: returns exactly so many bytes from an offset on.
        path: for messages.
        file_size: bytes of the whole shard.

    Raises:
        ShardError: the table is damaged, hostile, or of a newer layout.
    """
    head = read(min(4096, file_size), 0)
    match = _HEADER.match(head)
    if match is None:
        _refuse(path, "no feat shard: it does not begin with a table of contents")
    version, table_len = int(match[1]), int(match[2])
    if version > LAYOUT_VERSION:
        raise NewerLayoutError(
            f"{path}: layout {version}, this build reads up to {LAYOUT_VERSION}; upgrade feat"
        )
    if table_len > min(MAX_TABLE_BYTES, file_size - HEADER_LEN):
        _refuse(path, f"a table of {table_len} bytes in a file of {file_size}")
    rest = read(max(0, HEADER_LEN + table_len - len(head)), len(head))
    text = (head + rest)[HEADER_LEN : HEADER_LEN + table_len]
    if hashlib.sha256(text).hexdigest() != match[3].decode():
        _refuse(path, "the table's checksum is wrong")
    try:
        raw = json.loads(text, parse_constant=_no_constant)
        return _parse_table(path, raw, file_size, HEADER_LEN + table_len)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{path}: {_one_line(error)}; quarantine it: {_NEXT}") from error


def _parse_table(
    path: Path, raw: Any, file_size: int, table_end: int
) -> tuple[ShardTable, int, int]:
    """Return the table, the user block's size and the structure's checksum."""
    userblock = _integer(raw["userblock"], table_end, table_end)
    if _integer(raw["file_size"], 0, 2**62) != file_size:
        raise ValueError(f"{file_size} bytes, expected {raw['file_size']}: truncated or extended")
    rows = raw["records"]
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_RECORDS:
        raise ValueError(f"a table must have 1 to {MAX_RECORDS} records")
    configs = {digest: _StoredConfig(config) for digest, config in raw["configs"].items()}
    records = {}
    for row in rows:
        stored = _parse_record(path, row, configs[row["config"]])
        for place in stored.places.values():
            if place.offset < userblock or place.offset + place.nbytes > file_size:
                raise ValueError(f"an array of shape {place.shape} does not fit in the file")
        records[stored.entry.key] = stored
    if len(records) != len(rows):
        raise ValueError("a key occurs twice")
    crc = _integer(raw["structure_crc32"], 0, 2**32)
    return ShardTable(path, file_size, records), userblock, crc


class _StoredConfig:
    """One configuration of a table, checked once for all its records."""

    def __init__(self, value: Any) -> None:
        if not isinstance(value, dict):
            raise ValueError("a configuration is no object")
        self.value = value
        self.stream = check_stream(value.get("stream"))
        self.key = KeyMaker(value).key


def _parse_record(path: Path, row: Any, config: _StoredConfig) -> StoredRecord:
    provenance = row["provenance"]
    if not isinstance(provenance, dict):
        raise ValueError("a provenance is no object")
    source = SourceRecord.from_json(row["source"])
    key = config.key(source.sha256)
    if row["key"] != key:
        raise ValueError(f"key {row['key']!r:.80} does not follow from its configuration")
    kind = row.get("kind", FEATURES)
    if kind not in KINDS:
        raise ShardError(
            f"{path}: a stream of kind {kind!r:.80} that is unknown here; upgrade feat"
        )
    places = _parse_places(row, KINDS[kind], source.num_frames)
    entry = FeatureEntry(
        key=key,
        stream=config.stream,
        config=config.value,
        source=source,
        provenance=provenance,
        shard=path.name,
        kind=kind,
        feature_shape=places["features"].shape,
        dtype=row["features"]["dtype"],
        num_clips=places["clips"].shape[0],
        clip_len=_integer(row["clip_len"], 0, 2**31),
        offset=places["features"].offset,
        crc32=places["features"].checksums.crc32,
        has_flow_stats="flow_stats" in places,
    )
    return StoredRecord(entry, places)


def _parse_places(row: Any, kind: StreamKind, num_frames: int) -> dict[str, Place]:
    """Return where the arrays of a record lie, once they fit each other and the kind."""
    features = row["features"]
    if features["dtype"] not in kind.dtypes:
        raise ValueError(
            f"features of type {features['dtype']!r:.80}, expected one of {list(kind.dtypes)}"
        )
    dtype = np.dtype(features["dtype"]).newbyteorder("<")
    num_rows, *others = features["shape"]
    shape = (_integer(num_rows, 1, 2**40), *(_integer(size, 1, MAX_DIM) for size in others))
    (num_clips,) = row["clips"]["shape"]
    num_clips = _integer(num_clips, 1, 2**40)
    places = {
        "features": _parse_place(features, dtype, shape),
        "clips": _parse_place(row["clips"], CLIP_DTYPE, (num_clips,)),
    }
    if row["flow_stats"] is not None:
        stats = (num_clips, len(FLOW_STATS))
        places["flow_stats"] = _parse_place(row["flow_stats"], _FLOAT32, stats)
    if kind.ragged:
        bounds = (kind.num_rows(num_clips=num_clips, num_frames=num_frames) + 1,)
        places["bounds"] = _parse_place(row["bounds"], _INT64, bounds)
    if row.get("frame_seconds") is not None:
        places["frame_seconds"] = _parse_place(row["frame_seconds"], _FLOAT64, (num_frames,))
    kind.check(
        shape,
        dtype,
        bounds=places["bounds"].shape if kind.ragged else None,
        num_clips=num_clips,
        num_frames=num_frames,
    )
    return places


def _parse_place(raw: Any, dtype: np.dtype, shape: tuple[int, ...]) -> Place:
    xxh3 = raw.get("xxh3", "")
    if not isinstance(xxh3, str) or len(xxh3) not in (0, 16):
        raise ValueError(f"xxh3 {xxh3!r:.80} is no checksum")
    checksums = Checksums(_integer(raw["crc32"], 0, 2**32), xxh3)
    return Place(dtype, shape, _integer(raw["offset"], 0, 2**62), checksums)


def _integer(value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value!r:.80} is not an integer from {low} to {high}")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def table_row(record: FeatureRecord, config: str, places: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return one record's row of the table; `config` is its configuration's digest."""
    return {
        "key": record.key,
        "config": config,
        "source": record.source.to_json(),
        "provenance": dict(record.provenance),
        "clip_len": record.clips.clip_len,
        "flow_stats": None,
        **kind_json(record.kind),
        **places,
    }


_NEXT = "feat cache verify --repair"


def _one_line(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the table lacks {error.args[0]!r:.80}"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _refuse(path: Path, problem: str) -> NoReturn:
    raise ShardError(f"{path}: {problem}; quarantine it: {_NEXT}")
