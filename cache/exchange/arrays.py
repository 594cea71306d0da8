"""Reading other people's arrays without pickle and within bounds: .npy, .npz, .h5, .csv, .txt."""

import codecs
import csv
import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from cache.exchange.hdf5_arrays import list_arrays, read_npy
from cache.files import explain
from cache.marker import MARKER
from data.errors import CacheError
from data.npy_file import Head, read_npy_array, read_npy_head

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
                        array = read_npy_array(file, self.path.stat().st_size)
                case ".npz":
                    with zipfile.ZipFile(self.path) as archive, archive.open(self.entry) as file:
                        array = read_npy_array(
                            file, min(archive.getinfo(self.entry).file_size, MAX_ARRAY_BYTES)
                        )
                case ".h5" | ".hdf5":
                    data = read_npy(self.path, self.entry)
                    array = read_npy_array(io.BytesIO(data), len(data))
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
        if file.suffix.lower() in (".csv", ".txt") and not _may_hold_features(file):
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
                        heads = {("", name): read_npy_head(file, path.stat().st_size)}
                case ".npz":
                    heads = _npz_heads(path, name)
                case ".h5" | ".hdf5":
                    heads = _hdf5_heads(path, name)
                case ".csv" | ".txt":
                    array = _read_table(path)
                    heads = {("", name): (array.shape, False, array.dtype)}
                case _:
                    path.stat()  # what is not there is told first
                    raise ValueError(f"expected one of {', '.join(SUFFIXES)}")
    except CacheError as error:
        problems.append(str(error))
        return []
    return [
        FoundArray(path=path, name=array_name, entry=entry, shape=shape, dtype=dtype)
        for (entry, array_name), (shape, _, dtype) in heads.items()
    ]


#: Enough of a text file for its first two lines, unless they hold features.
_HEAD_BYTES = 1 << 16


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explain("read", path, error) from error
    except (
        ValueError, EOFError, MemoryError, KeyError, TypeError, csv.Error,
        zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error,
    ) as error:  # fmt: skip
        problem = " ".join(str(error).split())[:200] or type(error).__name__
        raise CacheError(f"{path}: {problem}") from error


def _npz_heads(path: Path, name: str) -> dict[tuple[str, str], Head]:
    """Return (entry, array's name) -> head of an .npz."""
    with zipfile.ZipFile(path) as archive:
        entries = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        heads = {}
        for info in entries:
            key = info.filename.removesuffix(".npy")
            with archive.open(info) as file:
                heads[info.filename, _entry_name(name, key, len(entries))] = read_npy_head(
                    file, min(info.file_size, MAX_ARRAY_BYTES)
                )
    if not heads:
        raise ValueError("no array in it")
    return heads


def _hdf5_heads(path: Path, name: str) -> dict[tuple[str, str], Head]:
    """Return (entry, array's name) -> head of an .h5."""
    found = list_arrays(path)
    if not found:
        raise ValueError("no array in it")
    heads: dict[tuple[str, str], Head] = {}
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


def _may_hold_features(path: Path) -> bool:
    """Return whether a text file below a folder is no list or readme, so that it must be read.

    Of those the first two lines that are not blank begin with a word. What is no clean text is
    damaged features as likely as anything: it is read, and refused.
    """
    with open(path, "rb") as file:
        head = file.read(_HEAD_BYTES)
    try:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        text = decoder.decode(head, final=len(head) < _HEAD_BYTES)
    except UnicodeDecodeError:
        return True
    cells = [re.split(r"[\s,;]", line.strip(), maxsplit=1)[0] for line in text.split("\n")]
    begins = [cell for cell in cells if cell][:2]
    return "\0" in text or not all(map(_is_word, begins))


def _is_word(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
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
