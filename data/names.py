"""How a video is called: one rule for folders, labels and everything that compares the two."""

import unicodedata
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import PurePosixPath


def video_name(text: str) -> str:
    r"""Return the name that a path below the videos folder stands for.

    Folders are divided by `/`, also where a path was written with `\`. Letters with accents are
    one character each (NFC), where macOS may store two. Blanks at the ends are left out, as a
    spreadsheet or a reader of CSV would.
    """
    return unicodedata.normalize("NFC", text.replace("\\", "/")).strip()


def nearest_names(name: str, names: Collection[str], *, count: int = 3) -> list[str]:
    """Return those of `names` that `name` may have been meant for, the likeliest first."""
    stem = PurePosixPath(name).stem
    alike = [other for other in names if stem and stem in other]
    return (alike or get_close_matches(name, names, n=count))[:count]
