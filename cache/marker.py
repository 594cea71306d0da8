"""`feat-cache.json`: what makes a folder a feature cache, and of which version."""

import json
from pathlib import Path
from typing import Any

from cache.files import read_limited
from data.errors import CacheError

MARKER = "feat-cache.json"
FORMAT = "feat cache"
FORMAT_VERSION = 1
MARKER_TEXT = json.dumps({"format": FORMAT, "version": FORMAT_VERSION})


def check_marker(root: Path) -> None:
    """Make sure that a folder is a cache of a version this build reads.

    Raises:
        CacheError: it is not.
    """
    try:
        value: Any = json.loads(read_limited(root / MARKER, 4096))
    except FileNotFoundError:
        raise CacheError(
            f"{root}: no feature cache here (no {MARKER}); make one with feat extract, "
            "or name another folder"
        ) from None
    except NotADirectoryError:
        raise CacheError(f"{root}: a file, expected the folder of a feature cache") from None
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{root / MARKER}: not JSON; write it anew: {MARKER_TEXT}") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CacheError(f"{root / MARKER}: no feature cache, expected {MARKER_TEXT}")
    version = value.get("version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise CacheError(
            f"{root}: cache format {version}, this build reads up to {FORMAT_VERSION}; upgrade feat"
        )
    if version != FORMAT_VERSION:
        raise CacheError(f"{root / MARKER}: version {version!r:.20}, expected {MARKER_TEXT}")
