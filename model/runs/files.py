"""Files of run folders, which one process writes at a time."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files import write_through


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, replacing what is there, all or nothing.

    A killed writer leaves one unfinished `tmp-<name>`, which the next one overwrites. safetensors'
    `save_file` would leave another with a random name at every kill.
    """
    write_through(path.with_name(f"tmp-{path.name}"), path, content)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys under a line of those keys; the file appears when it is whole."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]) if rows else [])
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, buffer.getvalue().encode())
