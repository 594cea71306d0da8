"""Names of the files that stand for videos."""

import re
from collections.abc import Sequence


def file_names(videos: Sequence[str]) -> list[str]:
    """Return a file name for each video: readable, safe on any file system, all different."""
    names: list[str] = []
    taken: set[str] = set()
    for video in videos:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", video).lstrip(".")[:100] or "video"
        name, number = stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.lower())
        names.append(name)
    return names
