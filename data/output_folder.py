"""The folder that a command fills: is it new or empty, ours already, or somebody else's?

What a killed command left before it wrote anything, temporary files and folders without a file, is
as good as nothing.
"""

from pathlib import Path

from data.errors import FeatError
from data.files import TEMP_PREFIX, explain_os_error


def claim_folder(
    path: Path,
    *,
    marker: str = "",
    kind: str = "",
    advice: str = "name a new folder with --out",
    error: type[FeatError] = FeatError,
) -> bool:
    """Make the folder if there is none, and return whether it is ours already.

    Args:
        path: the folder that the user named.
        marker: a name or glob pattern below `path`, such as `*/ablation.json`, that only a folder
            of this kind holds. Without one, only a new or an empty folder will do.
        kind: what a folder with the marker is, for messages: `an ablation`.
        advice: what the user is to do where the folder is not ours.
        error: raised where it is not ours.

    Returns:
        True if the marker is there, False if the folder is new or empty.

    Raises:
        FeatError: of the kind `error`: the folder holds something else, is a file, or cannot be
            made or read.
    """
    try:
        if path.exists() and not path.is_dir():
            raise error(f"{path}: a file, expected a folder; {advice}")
        path.mkdir(parents=True, exist_ok=True)
        present = sorted(item.name for item in path.iterdir() if _holds_something(item))
    except OSError as cause:
        raise error(explain_os_error("be used as a folder", path, cause)) from cause
    if not present:
        return False
    if marker and any(path.glob(marker)):
        return True
    what = f"neither empty nor {kind}" if kind else "not empty"
    raise error(f"{path}: {what} (found {present[0]}); {advice}")


def _holds_something(item: Path) -> bool:
    if item.is_dir() and not item.is_symlink():
        return any(map(_holds_something, item.iterdir()))
    return not item.name.startswith(TEMP_PREFIX)
