"""Writing a shard: HDF5 through h5py, checked, then given the name that its bytes imply."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from cache.files import hash_fd
from cache.keys import JSON, canonical_json, config_digest
from cache.records import FeatureRecord, kind_json
from cache.shard.checksums import Checksums
from cache.shard.read import (
    ALIGNMENT,
    HEADER,
    HEADER_LEN,
    LAYOUT_VERSION,
    MAX_RECORDS,
    MAX_TABLE_BYTES,
    Place,
    check_record,
    read_table,
    shard_name,
    structure_crc32,
    table_row,
)
from cache.streams import FEATURES
from data.errors import CacheError
from data.files import partial_file, publish, temp_path

#: HDF5 keeps attributes of up to 64 KiB beside their object.
MAX_ATTRIBUTE_BYTES = 60_000


def write_shard(folder: Path, records: Sequence[FeatureRecord]) -> Path:
    """Write `records` into one new shard in `folder` and return its path.

    The shard appears complete, synced to disk and read back, or not at all. The same records
    give the same bytes and so the same name.

    Raises:
        ValueError: there are no records, one twice, or too many.
        CacheError: the disk is full, read-only, or fails.
    """
    if not 0 < len(records) <= MAX_RECORDS:
        raise ValueError(f"a shard holds 1 to {MAX_RECORDS} records, got {len(records)}")
    if len({record.key for record in records}) != len(records):
        raise ValueError("the same key twice in one shard")
    userblock = _userblock_size(records)
    is_plain = all(item.kind == FEATURES and item.frame_seconds is None for item in records)
    layout = 1 if is_plain else LAYOUT_VERSION
    partial = temp_path(folder)
    with partial_file(partial, target=folder, error=CacheError):
        with partial.open("x+b") as file:
            fd = file.fileno()
            places = _write_hdf5(fd, records, userblock, layout)
            size = os.fstat(fd).st_size
            flat = [place for group in places for place in group.values()]
            crc = structure_crc32(fd, partial, flat, userblock, size)
            table = _table(records, places, userblock=userblock, file_size=size, crc=crc)
            os.pwrite(fd, _with_header(table, userblock, layout), 0)
            _read_back(partial)
            final = folder / shard_name(hash_fd(fd))
        publish(partial, final)
    return final


def _write_hdf5(
    fd: int, records: Sequence[FeatureRecord], userblock: int, layout: int
) -> list[dict[str, Place]]:
    """Write everything but the user block; return where each record's arrays lie."""
    target = _Target(fd)
    places = []
    # v108: small groups, and readable by every HDF5 since 2008
    with h5py.File(
        target,
        "w",
        libver=("v108", "v108"),
        userblock_size=userblock,
        alignment_threshold=ALIGNMENT,
        alignment_interval=ALIGNMENT,
    ) as file:
        file.attrs["format"] = np.bytes_(b"feat shard")
        file.attrs["layout"] = layout
        for record in records:
            group = file.create_group(record.key)
            group.attrs["record"] = np.bytes_(_attribute(record))
            places.append(
                {name: _write_array(group, name, array) for name, array in _arrays(record).items()}
            )
    if target.error is not None:
        raise target.error
    return places


def _write_array(group: h5py.Group, name: str, array: np.ndarray) -> Place:
    dataset = group.create_dataset(name, data=array)
    offset = dataset.id.get_offset()
    checksums = Checksums.of(array.reshape(-1).view(np.uint8).data)
    return Place(array.dtype, array.shape, offset or 0, checksums)


def _arrays(record: FeatureRecord) -> dict[str, np.ndarray]:
    """Return a record's arrays as they are stored: contiguous, little-endian."""
    arrays = {"features": record.features, "clips": record.clips.to_array()}
    if record.flow_stats is not None:
        arrays["flow_stats"] = record.flow_stats
    if record.bounds is not None:
        arrays["bounds"] = record.bounds
    if record.frame_seconds is not None:
        arrays["frame_seconds"] = record.frame_seconds
    return {
        name: np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        for name, array in arrays.items()
    }


def _attribute(record: FeatureRecord) -> bytes:
    """Return what the HDF5 group says of the record: everything but the arrays, as JSON."""
    text = canonical_json(
        {
            "key": record.key,
            "stream": record.stream,
            "config": dict(record.config),
            "source": record.source.to_json(),
            "provenance": dict(record.provenance),
            "clip_len": record.clips.clip_len,
            **kind_json(record.kind),
        }
    )
    if len(text) > MAX_ATTRIBUTE_BYTES:
        raise ValueError(
            f"configuration, source and provenance take {len(text)} bytes, "
            f"at most {MAX_ATTRIBUTE_BYTES} fit"
        )
    return text


def _table(
    records: Sequence[FeatureRecord],
    places: Sequence[dict[str, Place]],
    *,
    userblock: int,
    file_size: int,
    crc: int,
) -> bytes:
    configs: dict[str, JSON] = {}
    rows: list[JSON] = []
    for record, group in zip(records, places, strict=True):
        digest = config_digest(record.config)
        configs[digest] = dict(record.config)
        rows.append(
            table_row(record, digest, {name: _place_json(place) for name, place in group.items()})
        )
    return canonical_json(
        {
            "userblock": userblock,
            "file_size": file_size,
            "structure_crc32": crc,
            "configs": configs,
            "records": rows,
        }
    )


def _place_json(place: Place) -> dict[str, JSON]:
    return {
        "dtype": place.dtype.name if place.dtype.names is None else "clips",
        "shape": list(place.shape),
        "offset": place.offset,
        "crc32": place.checksums.crc32,
        "xxh3": place.checksums.xxh3,
    }


def _userblock_size(records: Sequence[FeatureRecord]) -> int:
    """Return the smallest user block that takes the table: a power of two, as HDF5 wants."""
    large = 10**15  # more digits than any offset
    places = [
        {
            name: Place(array.dtype, array.shape, large, Checksums(2**32 - 1, "f" * 16))
            for name, array in _arrays(record).items()
        }
        for record in records
    ]
    table = _table(records, places, userblock=large, file_size=large, crc=2**32 - 1)
    size = 1 << max(9, (HEADER_LEN + len(table) - 1).bit_length())
    if size > MAX_TABLE_BYTES:
        raise ValueError(f"a table of {len(table)} bytes: write fewer records to a shard")
    return size


def _with_header(table: bytes, userblock: int, layout: int) -> bytes:
    """Return the whole user block; the table's checksum covers the padding too."""
    table = table.ljust(userblock - HEADER_LEN)
    digest = hashlib.sha256(table).hexdigest()
    header = HEADER.format(version=layout, table_len=len(table), table_sha256=digest)
    return header.encode("ascii") + table


def _read_back(path: Path) -> None:
    """Read what was written as any reader will: an unreadable shard must not get a name."""
    table = read_table(path)
    for key in table.records:
        check_record(table, key)


class _Target:
    """The file object h5py writes to.

    HDF5 does not survive a full disk: it fails to close the file and tries again at exit. So
    the first error is kept, all that follows is swallowed, and the caller raises it.
    """

    def __init__(self, fd: int) -> None:
        self.error: OSError | None = None
        self._fd = fd
        self._position = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        base = {0: 0, 1: self._position, 2: os.fstat(self._fd).st_size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def write(self, data: bytes) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += os.pwrite(self._fd, view[done:], self._position + done)
            except OSError as error:
                self.error = error
        self._position += len(view)
        return len(view)

    def read(self, size: int = -1) -> bytes:
        data = os.pread(self._fd, size, self._position)
        self._position += len(data)
        return data

    def readinto(self, buffer: bytearray) -> int:
        view = memoryview(buffer).cast("B")
        data = os.pread(self._fd, len(view), self._position)
        view[: len(data)] = data
        view[len(data) :] = bytes(len(view) - len(data))
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        length = self._position if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self._fd, length)
            except OSError as error:
                self.error = error
        return length

    def flush(self) -> None:
        pass
