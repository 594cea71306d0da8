"""Files of run folders that appear whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path`, replacing what is there, all or nothing.

    A killed writer leaves one unfinished `tmp-<name>`, which the next one overwrites. safetensors'
    `save_file` would leave another with a random name at every kill.
    """
    partial = path.with_name(f"tmp-{path.name}")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
