"""Files that appear whole or not at all."""

import os
from pathlib import Path


def write_through(partial: Path, path: Path, content: bytes) -> None:
    """Write `content` to `path`, replacing what is there, all or nothing.

    Args:
        partial: what is written first, in the folder of `path`. Where several processes may write
            `path`, each needs a name of its own; where only one can, a fixed name lets the next
            writer overwrite what a killed one left.
        path: the file; it survives a power cut once it has its name.
        content: all of it.

    Raises:
        OSError: it cannot be written; `partial` is gone then, too.
    """
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
