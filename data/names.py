"""How a video is called: one rule for folders, labels and everything that compares the two."""

import unicodedata
from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches
from pathlib import PurePosixPath

#: Letters of a name that are not in many others by chance.
_TELLING = 3


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
    alike = [other for other in names if PurePosixPath(other).stem == stem]
    if not alike and len(stem) >= _TELLING:
        alike = [other for other in names if stem in other]
    alike.sort(key=lambda other: -SequenceMatcher(None, name, other).ratio())
    return alike[:count] or get_close_matches(name, names, n=count)
