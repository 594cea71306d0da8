"""Which name stands for which content: small text files beside the shards.

Every change is a new file in `names/`, named by the sha256 of its bytes; of several lines for one
name the latest counts. So two writers never touch the same file, and copying the files of another
cache into this one merges the two.
"""

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cache.files import explain, read_limited
from cache.keys import canonical_json, is_sha256
from cache.records import NameEntry, are_plain_names, check_origin, check_stamp, check_video_name
from data.errors import CacheError, StorageError
from data.files import write_whole
from data.names import video_name

logger = logging.getLogger(f"feat.{__name__}")

SUFFIX = ".jsonl"
HEAD = '{"format":"feat names","version":1}\n'
MAX_BYTES = 1 << 28
#: Lines that are written into one file: below `MAX_BYTES`, however long their names are.
MAX_LINES = 50_000
#: More files than this are merged, small ones first.
MAX_FILES = 16
#: Nanoseconds since 1970 of a line are fewer.
MAX_TIME = 2**63


class NameLine(NamedTuple):
    """One statement about one name."""

    time_ns: int
    sha256: str | None  # None: the name was removed
    size: int
    mtime_ns: int
    origin: str = ""

    @classmethod
    def of(cls, time_ns: int, entry: NameEntry | None) -> "NameLine":
        """Return the statement that a name stands for `entry`, or (None) for nothing."""
        if entry is None:
            return cls(time_ns, None, 0, 0)
        return cls(time_ns, entry.sha256, entry.size, entry.mtime_ns, entry.origin)

    @property
    def entry(self) -> NameEntry | None:
        """What the name stands for."""
        if self.sha256 is None:
            return None
        return NameEntry(
            sha256=self.sha256, size=self.size, mtime_ns=self.mtime_ns, origin=self.origin
        )


Named = TypeVar("Named", NameLine, NameEntry)


class NameStore:
    """The names of one cache, as of the last `refresh`."""

    def __init__(self, folder: Path) -> None:
        """Start empty; `refresh` fills it."""
        self._folder = folder
        self._bad: set[str] = set()  # files that are damaged
        self._unread: set[str] = set()  # files that the system would not read: not for good
        self._lines: dict[str, NameLine] = {}
        self._loaded: set[str] = set()

    def names(self) -> dict[str, NameEntry]:
        """Return every name and what it stands for."""
        entries = ((name, line.entry) for name, line in self._lines.items())
        return {name: entry for name, entry in entries if entry is not None}

    def get(self, name: str) -> NameEntry | None:
        """Return what a name stands for, None if that is not known."""
        line = self._lines.get(video_name(name))
        return line.entry if line else None

    def removed(self, name: str) -> bool:
        """Return whether a name was there and was removed."""
        line = self._lines.get(video_name(name))
        return line is not None and line.sha256 is None

    def refresh(self) -> bool:
        """Read the files that are new; return whether there were any.

        Raises:
            CacheError: the folder cannot be read.
        """
        fresh = sorted(_list_files(self._folder) - self._loaded - self._bad)
        for file in fresh:
            try:
                take_lines(self._lines, read_manifest(self._folder / file))
            except FileNotFoundError:
                continue  # merged into another since the folder was listed
            except CacheError as error:
                if file not in self._unread:
                    logger.warning("%s", error)
                (self._unread if isinstance(error, StorageError) else self._bad).add(file)
                continue
            self._loaded.add(file)
        return bool(fresh)

    def set(self, changes: Mapping[str, NameEntry | None]) -> int:
        """Add, replace or (None) remove names; what is so already is not written again.

        Returns:
            How many names were written.

        Raises:
            ValueError: a name is not one.
            CacheError: the disk is full, read-only, or fails, or no time comes after a name's.
        """
        self.refresh()
        fresh = {}
        for given, entry in changes.items():
            name = video_name(check_video_name(given))
            old = self._lines.get(name)
            if (old.entry if old else None) != entry:
                # later than what it replaces, even if this machine's clock is behind
                now = max(time.time_ns(), old.time_ns + 1 if old else 0)
                if now >= MAX_TIME:
                    raise CacheError(
                        f"{self._folder}: {name} was last named in the year 2262, after which "
                        "nothing can be said of it; remove the file of names that says so"
                    )
                fresh[name] = NameLine.of(now, entry)
        if fresh:
            lines = iter(fresh.items())
            while part := dict(islice(lines, MAX_LINES)):
                self._loaded.add(write_manifest(self._folder, part))
            take_lines(self._lines, fresh)
            self._tidy()
        return len(fresh)

    def _tidy(self) -> None:
        """Merge small files once there are many, so that the work grows as n log n."""
        files = _list_files(self._folder) - self._bad
        if len(files) <= MAX_FILES:
            return
        sizes = []
        for file in files:
            with suppress(FileNotFoundError):
                sizes.append(((self._folder / file).stat().st_size, file))
        chosen: list[str] = []
        total = 0
        for size, file in sorted(sizes):
            if chosen and size > 2 * total and len(chosen) >= MAX_FILES // 2:
                break
            if total + size > MAX_BYTES:  # nobody would read the result
                break
            chosen.append(file)
            total += size
        self.merge_files(chosen)

    def merge_files(self, files: Iterable[str]) -> None:
        """Write the lines of several files into one, then remove them.

        Raises:
            CacheError: the disk is full, read-only, or fails.
        """
        lines: dict[str, NameLine] = {}
        merged = []
        for file in files:
            try:
                take_lines(lines, read_manifest(self._folder / file))
            except (FileNotFoundError, CacheError) as error:
                logger.debug("not merged: %s", error)  # refresh has said so, or will
                continue
            merged.append(file)
        if len(merged) < 2:
            return
        result = write_manifest(self._folder, lines)
        self._loaded.add(result)
        for file in merged:
            if file != result:
                with suppress(FileNotFoundError):
                    (self._folder / file).unlink()


def write_manifest(folder: Path, lines: Mapping[str, NameLine]) -> str:
    """Write one file of names and return its file name.

    Raises:
        CacheError: the disk is full, read-only, or fails.
    """
    parts = [HEAD.encode()]
    for name in sorted(lines):
        value = {"name": name, **lines[name]._asdict()}
        if not value["origin"]:
            del value["origin"]  # as builds wrote lines that knew no origin
        parts.append(canonical_json(value) + b"\n")
    data = b"".join(parts)
    file = hashlib.sha256(data).hexdigest() + SUFFIX
    write_whole(folder / file, data, error=StorageError)
    return file


def read_manifest(path: Path) -> dict[str, NameLine]:
    """Return the lines of one file of names.

    Raises:
        FileNotFoundError: it is gone.
        CacheError: it is damaged, hostile, or of a newer version.
    """
    data = read_limited(path, MAX_BYTES)
    if path.name != hashlib.sha256(data).hexdigest() + SUFFIX:
        raise CacheError(f"{path}: damaged, its name is not its bytes' sha256; {_NEXT}")
    head, _, body = data.partition(b"\n")
    if head.decode("latin-1") + "\n" != HEAD:
        raise CacheError(f"{path}: expected {HEAD.strip()}, found {head[:80]!r}; upgrade feat?")
    try:
        # one call for all lines: four times as fast as one for each
        values = json.loads(b"[" + b",".join(body.split(b"\n")[:-1]) + b"]")
        return _checked(values)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = " ".join(str(error).split())[:300]
        raise CacheError(f"{path}: {problem}; {_NEXT}") from error


_NEXT = "quarantine it: feat cache verify --repair"


def _checked(values: list[Any]) -> dict[str, NameLine]:
    """Return the lines of a file, every field checked.

    Names and digests are checked all at once where nothing looks unusual: a large cache has
    100,000 of them.
    """
    names = [value["name"] for value in values]
    lines = [
        NameLine(
            value["time_ns"],
            value["sha256"],
            value["size"],
            value["mtime_ns"],
            value.get("origin", ""),
        )
        for value in values
    ]
    digests = [line.sha256 for line in lines if line.sha256 is not None]
    if any(type(line.time_ns) is not int or not 0 <= line.time_ns < MAX_TIME for line in lines):
        raise ValueError("a time is none")
    for line in lines:
        check_stamp(line.size, line.mtime_ns)
    if not are_plain_names(names):
        for name in names:
            check_video_name(name)
    plain = all(type(digest) is str and len(digest) == 64 for digest in digests)
    if not plain or _HEX.fullmatch("".join(digests)) is None:
        raise ValueError("a sha256 is none")
    for origin in {line.origin for line in lines}:
        check_origin(origin)
    return dict(zip(names, lines, strict=True))


_HEX = re.compile("[0-9a-f]*")


def take_lines(into: dict[str, NameLine], lines: Mapping[str, NameLine]) -> None:
    """Keep the later of two lines for one name; of two at the same instant the larger digest."""
    for given, line in lines.items():
        name = video_name(given)
        old = into.get(name)
        if old is None or _rank(line) > _rank(old):
            into[name] = line


def without_other_folders(
    lines: Mapping[str, Named], kept: Mapping[str, NameEntry | NameLine]
) -> dict[str, Named]:
    """Return the lines but those that would only give a name to another folder.

    A name belongs to the folder that it was first extracted from, see `cache.admission`: who
    extracted the same video elsewhere does not take it over by merging.

    Args:
        lines: what is to be said of names.
        kept: what is known of them where it is to be said, by plain name.
    """
    told = {}
    for name, line in lines.items():
        known = kept.get(video_name(name))
        if not known or known.sha256 != line.sha256 or known.origin in ("", line.origin):
            told[name] = line
    return told


def _rank(line: NameLine) -> tuple[int, str]:
    return line.time_ns, line.sha256 or ""


def is_manifest_name(name: str) -> bool:
    """Return whether a file of this name in `names/` can be a file of names."""
    return name.endswith(SUFFIX) and is_sha256(name[: -len(SUFFIX)])


def _list_files(folder: Path) -> set[str]:
    try:
        return {name for name in os.listdir(folder) if is_manifest_name(name)}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise explain("list", folder, error) from error
