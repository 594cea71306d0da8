"""Reading other people's arrays without pickle and within bounds: .npy, .npz, .h5, .csv, .txt."""

import csv
import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from cache.exchange.hdf5_arrays import list_arrays, read_npy
from cache.files import explain
from cache.marker import MARKER
from data.errors import CacheError

MAX_ARRAY_BYTES = 8 << 30
SUFFIXES = (".npy", ".npz", ".h5", ".hdf5", ".csv", ".txt")

#: Names that `np.savez` and its users give to the only array of a file: the video is the file.
_NAMELESS = {"arr_0", "data", "feat", "feature", "features"}
_STREAMS = {"rgb", "flow"}  # entries that are streams of the video that the file is named after
_INDEX_NAMES = {"", "index", "unnamed: 0"}  # of the column that pandas adds
_MIN_NUMBERED = 4  # columns from which on the line 0,1,2,3 is a header


@dataclass(frozen=True, kw_only=True)
class FoundArray:
    """An array in a file, whose values are not read yet."""

    path: Path
    name: str  # POSIX path below the folder that was given, without suffix
    entry: str  # of an .npz or .h5, else ""
    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self) -> np.ndarray:
        """Return the array.

        Raises:
            CacheError: the file has changed, is damaged or claims to be larger than it is.
        """
        with _explained(self.path):
            match self.path.suffix.lower():
                case ".npy":
                    with open(self.path, "rb") as file:
                        array = _read_npy(file, self.path.stat().st_size)
                case ".npz":
                    with zipfile.ZipFile(self.path) as archive, archive.open(self.entry) as file:
                        array = _read_npy(file, archive.getinfo(self.entry).file_size)
                case ".h5" | ".hdf5":
                    data = read_npy(self.path, self.entry)
                    array = _read_npy(io.BytesIO(data), len(data))
                case _:
                    array = _read_table(self.path)
            if array.shape != self.shape:
                raise ValueError(f"shape {array.shape}, a moment ago it was {self.shape}")
            return array


def find_arrays(path: Path, problems: list[str], ignored: list[Path]) -> list[FoundArray]:
    """Return every array in a file, or in all files below a folder; hidden files are passed over.

    Args:
        path: the file or folder.
        problems: takes a line for each file that is no array, is damaged, or claims to be larger
            than it is.
        ignored: takes the text files below a folder that hold no numbers, such as a list or a
            readme.

    Raises:
        CacheError: there is no such file, or no array in the folder.
    """
    if not path.is_dir():
        return _find(path, path.stem, problems)
    if (path / MARKER).exists():
        raise CacheError(f"{path}: a feature cache; add it with: feat cache merge {path} CACHE")
    files = sorted(
        item
        for item in path.rglob("*")
        if item.suffix.lower() in SUFFIXES
        and not any(part.startswith((".", "__MACOSX")) for part in item.relative_to(path).parts)
    )
    if not files:
        raise CacheError(f"{path}: no {', '.join(SUFFIXES)} file in it")
    found = []
    for file in files:
        if file.suffix.lower() in (".csv", ".txt") and not _begins_with_numbers(file):
            ignored.append(file)
            continue
        prefix = file.relative_to(path).with_suffix("").as_posix()
        found += _find(file, prefix, problems)
    return found


def _find(path: Path, name: str, problems: list[str]) -> list[FoundArray]:
    """Return the arrays of one file, [] with a line in `problems` if something is wrong with it."""
    try:
        with _explained(path):
            match path.suffix.lower():
                case ".npy":
                    with open(path, "rb") as file:
                        heads = {("", name): _read_head(file, path.stat().st_size)}
                case ".npz":
                    heads = _npz_heads(path, name)
                case ".h5" | ".hdf5":
                    heads = _hdf5_heads(path, name)
                case ".csv" | ".txt":
                    array = _read_table(path)
                    heads = {("", name): (array.shape, False, array.dtype)}
                case _:
                    raise ValueError(f"expected one of {', '.join(SUFFIXES)}")
    except CacheError as error:
        problems.append(str(error))
        return []
    return [
        FoundArray(path=path, name=array_name, entry=entry, shape=shape, dtype=dtype)
        for (entry, array_name), (shape, _, dtype) in heads.items()
    ]


_Head = tuple[tuple[int, ...], bool, np.dtype]  # shape, Fortran order, type


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain("read", path, error) from error
    except (
        ValueError, EOFError, MemoryError, KeyError, TypeError, csv.Error,
        zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error,
        SyntaxError, tokenize.TokenError, OverflowError, struct.error,
    ) as error:  # fmt: skip
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise CacheError(f"{path}: {problem}") from error


def _npz_heads(path: Path, name: str) -> dict[tuple[str, str], _Head]:
    """Return (entry, array's name) -> head of an .npz."""
    with zipfile.ZipFile(path) as archive:
        entries = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        heads = {}
        for info in entries:
            key = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                heads[info.filename, _entry_name(name, key, len(entries))] = _read_head(
                    file, info.file_size
                )
    if not heads:
        raise ValueError("no array in it")
    return heads


def _hdf5_heads(path: Path, name: str) -> dict[tuple[str, str], _Head]:
    """Return (entry, array's name) -> head of an .h5."""
    found = list_arrays(path)
    if not found:
        raise ValueError("no array in it")
    heads: dict[tuple[str, str], _Head] = {}
    for entry, (shape, text) in found.items():
        dtype = np.dtype(text)
        if dtype.hasobject or dtype.kind not in "fiu" or 0 in shape:
            raise ValueError(f"{entry}: an array of {dtype} {shape}, expected numbers")
        if math.prod(shape) * dtype.itemsize > MAX_ARRAY_BYTES:
            raise ValueError(f"{entry}: {shape} {dtype}, expected at most {MAX_ARRAY_BYTES} bytes")
        heads[entry, _entry_name(name, entry, len(found))] = (shape, False, dtype)
    return heads


def _entry_name(file: str, entry: str, num_entries: int) -> str:
    """Return the name of an array in a file of several: a video an entry, or one for the file."""
    folder, _, last = entry.rpartition("/")
    if last in _NAMELESS and (folder or num_entries == 1):
        return folder or file
    if last.lower() in _STREAMS:
        return f"{folder or file}_{last.lower()}"
    if entry.startswith("arr_"):
        raise ValueError(f"{num_entries} arrays without names: save them as video=array")
    return entry


def _read_head(file: "IO[bytes]", size: int) -> _Head:
    """Return what the header of an open .npy of `size` bytes says, if it can be true."""
    version = np.lib.format.read_magic(file)
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"a .npy of version {version}, expected 1.0 or 2.0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # shapes as Python 2 wrote them: (37L, 1024L)
        shape, fortran, dtype = readers[version](file, max_header_size=10_000)
    if dtype.hasobject or dtype.kind not in "fiu":
        raise ValueError(f"an array of {dtype}, expected numbers")
    positive = all(length > 0 for length in shape)
    nbytes = math.prod(shape) * dtype.itemsize
    if not positive or not 0 < nbytes <= min(size, MAX_ARRAY_BYTES):
        raise ValueError(f"an array of shape {shape} in {size} bytes")
    return shape, fortran, dtype


def _read_npy(file: "IO[bytes]", size: int) -> np.ndarray:
    """Return the array of an open .npy of `size` bytes; the header is checked before allocation."""
    shape, fortran, dtype = _read_head(file, size)
    nbytes = math.prod(shape) * dtype.itemsize
    # read in pieces: what a hostile archive claims to hold need not be there
    data = bytearray()
    while block := file.read(min(1 << 20, nbytes - len(data))):
        data += block
    if len(data) != nbytes:
        raise ValueError(f"{len(data)} bytes of data, shape {shape} needs {nbytes}")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _begins_with_numbers(path: Path) -> bool:
    """Return whether the first or the second line that is not blank holds numbers alone."""
    with _explained(path), open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        lines = (cells for cells in _cells(path, file) if cells)
        for _, cells in zip(range(2), lines, strict=False):
            try:
                np.array(cells, np.float64)
            except ValueError:
                continue
            return True
    return False


def _cells(path: Path, file: "IO[str]") -> Iterator[list[str]]:
    """Yield the cells of each line, [] of a blank one."""
    if path.suffix.lower() == ".csv":
        for cells in csv.reader(file):
            yield cells if any(cell.strip() for cell in cells) else []
    else:
        for line in file:
            yield line.split()


def _read_table(path: Path) -> np.ndarray:
    """Return the numbers of a text, (lines, cells) float32, without its header and numbering.

    A header is a first line of words, or the line 0,1,2,... that pandas writes. Where it begins
    with an empty cell, or with `index`, and the lines are numbered, so is their first column.
    """
    header: list[str] = []
    rows: list[np.ndarray] = []
    with open(path, encoding="utf-8-sig", newline="") as file:
        for number, cells in enumerate(_cells(path, file), 1):
            if not cells:
                continue
            try:
                rows.append(np.array(cells, np.float64))
            except ValueError as error:
                if rows or header:
                    raise ValueError(f"line {number}: {error}") from error
                header = cells
    if not rows or {len(row) for row in rows} != {len(header or rows[0])}:
        raise ValueError("expected lines of numbers, the same count in each")
    array = np.array(rows)
    if not header and len(array) > 1 and array.shape[1] >= _MIN_NUMBERED and _is_count(array[0]):
        array = array[1:]
    if header and header[0].strip().lower() in _INDEX_NAMES and _is_count(array[:, 0]):
        array = array[:, 1:]
    if not array.size:
        raise ValueError("expected lines of numbers, the same count in each")
    return array.astype(np.float32)


def _is_count(numbers: np.ndarray) -> bool:
    return bool((numbers == np.arange(len(numbers))).all())
