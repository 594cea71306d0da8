"""The files that a command writes where the user says: can they be written, and is nothing lost?

Both are asked before the work begins, which may take hours. A file that is there is replaced only
if it is of the kind that is to be written, as when the same command is run again.
"""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.errors import FeatError
from data.files import TEMP_PREFIX, explain_os_error

_MAX_LINE = 1 << 16


class Kind(NamedTuple):
    """What an output is, and how one that is there is told from other files.

    Attributes:
        name: for messages.
        mark: bytes that such a file begins or ends with.
        first_line: tells such a text by its first line, in the place of a mark.
    """

    name: str
    mark: bytes = b""
    first_line: Callable[[str], bool] | None = None


PNG = Kind("a PNG picture", b"\x89PNG\r\n\x1a\n")
PICTURES = {
    ".png": PNG,
    ".svg": Kind("an SVG picture", b"<?xml "),
    ".pdf": Kind("a PDF file", b"%PDF-"),
}
HTML = Kind("a web page", b"<!doctype html>")


def table(columns: Sequence[str]) -> Kind:
    """Return the kind of tables that have these columns, as spreadsheets save them, too."""

    def has_columns(line: str) -> bool:
        return set(columns) <= {cell.strip(' "').lower() for cell in re.split("[,;\t]", line)}

    return Kind(f"a table with the columns {','.join(columns)}", first_line=has_columns)


def check_outputs(outputs: Mapping[Path, Kind], *, inputs: Iterable[Path] = ()) -> None:
    """Refuse outputs that cannot be written, or in whose place something else would be lost.

    The folders for them are made.

    Args:
        outputs: the files that will be written, each with its kind.
        inputs: the files that the command reads, which it must not replace.

    Raises:
        FeatError: an output is one of the inputs, is a file of another kind, or cannot be made.
    """
    there = [path for path in outputs if _is_there(path)]
    read = {_identity(path) for path in inputs if _is_there(path)} if there else set()
    for path in there:
        if _identity(path) in read:
            raise FeatError(
                f"{path}: is read here and would be written over; name another file to write"
            )
        if not _is_of_kind(path, outputs[path]):
            raise FeatError(
                f"{path}: is there and is not {outputs[path].name}; name another file to write, or "
                "remove this one"
            )
    for folder in dict.fromkeys(path.parent for path in outputs):
        check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)


def check_folder(folder: Path, *, advice: str = "name another place to write") -> None:
    """Refuse a folder in which no file can be made; it need not be there, and stays as it is.

    Args:
        folder: where something will be written.
        advice: what the user is to do.

    Raises:
        FeatError: a file is in its place, or the operating system refuses.
    """
    try:
        place = next(one for one in (folder, *folder.parents) if one.exists() or one.is_symlink())
        if not place.is_dir():
            raise FeatError(f"{place}: a file, expected a folder; {advice}")
        with tempfile.TemporaryFile(dir=place, prefix=TEMP_PREFIX):
            pass
    except OSError as error:
        reason = explain_os_error("be written", folder, error)
        raise FeatError(f"{reason}; {advice}") from error


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long
        raise FeatError(explain_os_error("be used as a file", path, error)) from error


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _is_of_kind(path: Path, kind: Kind) -> bool:
    """Return whether a file is of a kind; an empty one is of any."""
    if not path.is_file():
        return False
    length, size = len(kind.mark), path.stat().st_size
    try:
        with path.open("rb") as file:
            if kind.first_line:
                line = file.readline(_MAX_LINE)
                encoding = "utf-16" if line.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
                return not size or kind.first_line(line.decode(encoding, "replace").strip())
            begins = file.read(length)
            file.seek(max(size - length, 0))
            return not size or kind.mark in (begins, file.read(length))
    except OSError as error:
        raise FeatError(explain_os_error("be read", path, error)) from error
