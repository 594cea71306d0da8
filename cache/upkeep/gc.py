"""Removing what nobody needs any more: leftovers of dead workers, never a finished shard."""

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cache.claims import Claim
from cache.contents import FOLDERS
from cache.files import explain, folder_clock
from cache.names import is_manifest_name
from cache.store import FeatureCache
from cache.upkeep.remove import carry_out, plan_removal

logger = logging.getLogger(f"feat.{__name__}")

DAY = 24 * 3600.0


@dataclass(kw_only=True)
class GcReport:
    """What `collect_garbage` removed, or would remove."""

    cache: str
    dry_run: bool
    removed: list[str] = field(default_factory=list)  # relative to the cache
    nbytes: int = 0
    unnamed_records: int = 0  # dropped features of contents that no name stands for


def collect_garbage(
    cache: FeatureCache, *, days: float = 7.0, unnamed: bool = False, dry_run: bool = False
) -> GcReport:
    """Remove unfinished files, checkpoints and claims that are older than `days`.

    Args:
        cache: the cache to clean.
        days: age by the clock of the machine that holds the files.
        unnamed: also remove the features of contents that no name stands for any more: of videos
            that were changed or removed with `set_names`. Without, no feature is ever removed.
        dry_run: only report.

    Raises:
        CacheError: somebody else removes shards right now, or a file cannot be removed.
    """
    report = GcReport(cache=os.fspath(cache.path), dry_run=dry_run)
    with cache.maintenance() as mine:
        now = folder_clock(cache.path)
        for path in _leftovers(cache, now - days * DAY):
            _remove(cache, path, report)
        if unnamed:
            _remove_unnamed(cache, report, mine)
    return report


def _leftovers(cache: FeatureCache, before: float) -> list[Path]:
    found = []
    for folder in (cache.path, *(cache.path / name for name in FOLDERS)):
        with suppress(FileNotFoundError):
            found += [item for item in folder.iterdir() if _is_leftover(item, folder.name)]
    return [path for path in sorted(found) if _newest(path) < before]


def _is_leftover(path: Path, folder: str) -> bool:
    if path.name.startswith(".tmp-"):
        return True
    if folder == "claims":
        if is_manifest_name(path.name):
            return True  # names that a killed extraction held
        return path.name.endswith(".claim") and path.name != "maintenance.claim"
    return folder == "partial"


def _newest(path: Path) -> float:
    """Return when a file, or anything in a folder, was last changed."""
    with suppress(OSError):
        times = [path.lstat().st_mtime]
        if path.is_dir() and not path.is_symlink():
            times += [item.lstat().st_mtime for item in path.iterdir()]
        return max(times)
    return float("inf")


def _remove(cache: FeatureCache, path: Path, report: GcReport) -> None:
    try:
        is_folder = path.is_dir() and not path.is_symlink()
        nbytes = sum(file.lstat().st_size for file in (path.iterdir() if is_folder else [path]))
        if not report.dry_run:
            if is_folder:
                shutil.rmtree(path)
            else:
                path.unlink()
    except FileNotFoundError:
        return  # whoever left it came back
    except OSError as error:
        raise explain("remove", path, error) from error
    report.nbytes += nbytes
    report.removed.append(path.relative_to(cache.path).as_posix())


def _remove_unnamed(cache: FeatureCache, report: GcReport, mine: Claim) -> None:
    cache.refresh()
    named = {entry.sha256 for entry in cache.names().values() if entry.mtime_ns != -1}
    removal = plan_removal(cache, lambda entry: entry.source.sha256 not in named)
    dropped = [stored for shard in removal.shards for stored in shard.drop]
    if not report.dry_run:
        dropped, _ = carry_out(cache, removal, mine)
    report.unnamed_records = len({stored.entry.key for stored in dropped})
    report.nbytes += sum(stored.nbytes for stored in dropped)
