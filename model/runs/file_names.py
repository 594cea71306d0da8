"""Names of the files that stand for videos."""

import re
import unicodedata
from collections.abc import Sequence


def file_names(videos: Sequence[str]) -> list[str]:
    """Return a file name for each video: readable, safe on any file system, all different.

    Letters of all scripts stay; what else a name has becomes `_`.
    """
    names: list[str] = []
    taken: set[str] = set()
    for video in videos:
        kept = (one if _stays(one) else "/" for one in unicodedata.normalize("NFC", video))
        stem = re.sub("/+", "_", "".join(kept)).lstrip(".")
        # file systems have room for 255 bytes, not letters, and what is written adds a suffix
        stem = stem.encode()[:150].decode(errors="ignore") or "video"
        name, number = stem, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _stays(character: str) -> bool:
    """Tell letters, the marks that some scripts have on them, and digits from the rest."""
    return character in "._-" or unicodedata.category(character)[0] in "LMN"
