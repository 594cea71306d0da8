"""Reading other people's arrays: .npy, .npz and .csv, without pickle and within bounds."""

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from cache.files import explain
from data.errors import CacheError

MAX_ARRAY_BYTES = 8 << 30
SUFFIXES = (".npy", ".npz", ".csv")


def iter_arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of every array in a file, or in all files below a folder.

    Names are POSIX paths without suffix: of the file below the folder, or of the .npz's entry.

    Raises:
        CacheError: a file is no array, is damaged, or claims to be larger than it is.
    """
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.suffix.lower() in SUFFIXES)
        if not files:
            raise CacheError(f"{path}: no {', '.join(SUFFIXES)} file in it")
        for file in files:
            prefix = file.relative_to(path).with_suffix("").as_posix()
            yield from _read_file(file, prefix)
    else:
        yield from _read_file(path, path.stem)


def _read_file(path: Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    try:
        match path.suffix.lower():
            case ".npy":
                with open(path, "rb") as file:
                    yield name, _read_npy(file, path.stat().st_size)
            case ".npz":
                yield from _read_npz(path)
            case ".csv":
                yield name, _read_csv(path)
            case _:
                raise CacheError(f"{path}: expected one of {', '.join(SUFFIXES)}")
    except OSError as error:
        raise explain("read", path, error) from error
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, NotImplementedError) as error:
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise CacheError(f"{path}: {problem}") from error


def _read_npz(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.filename.endswith(".npy"):
                with archive.open(info) as file:
                    yield info.filename.removesuffix(".npy"), _read_npy(file, info.file_size)


def _read_npy(file: "IO[bytes]", size: int) -> np.ndarray:
    """Return the array of an open .npy of `size` bytes; the header is checked before allocation."""
    version = np.lib.format.read_magic(file)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"a .npy of version {version}, expected 1.0 or 2.0")
    shape, fortran, dtype = readers[version](file, max_header_size=10_000)
    if dtype.hasobject or dtype.kind not in "fiu":
        raise ValueError(f"an array of {dtype}, expected numbers")
    count = 1
    for length in shape:
        count *= length
    positive = all(length > 0 for length in shape)
    if not positive or not 0 < count * dtype.itemsize <= min(size, MAX_ARRAY_BYTES):
        raise ValueError(f"an array of shape {shape} in {size} bytes")
    # read in pieces: what a hostile archive claims to hold need not be there
    data = bytearray()
    while block := file.read(min(1 << 20, count * dtype.itemsize - len(data))):
        data += block
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes of data, shape {shape} needs {count * dtype.itemsize}")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _read_csv(path: Path) -> np.ndarray:
    """Return the numbers of a CSV, a row for each line; a first line of words is skipped."""
    rows = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        for number, cells in enumerate(csv.reader(file), 1):
            if not any(cell.strip() for cell in cells):
                continue
            try:
                rows.append([float(cell) for cell in cells])
            except ValueError as error:
                if number > 1:
                    raise ValueError(f"line {number}: {error}") from error
    if not rows or len({len(row) for row in rows}) != 1:
        raise ValueError("expected lines of numbers, the same count in each")
    return np.array(rows, np.float32)
