"""What a cache elsewhere is told by: its marker, its lists of files, its names and labels.

Nothing that comes from there is trusted: whatever is read is checked, and bounded.
"""

import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cache.contents import LABELS, LISTING, refuse_other_files
from cache.exchange.remote import Remote
from cache.labels import EDIT_LABELS, LabelsFrom, merged_labels
from cache.marker import FORMAT, FORMAT_VERSION, MARKER
from cache.names import MAX_BYTES as MAX_NAMES_BYTES
from cache.names import (
    NameLine,
    is_manifest_name,
    read_manifest,
    without_other_folders,
    write_manifest,
)
from cache.shard.read import is_shard_name
from cache.store import FeatureCache
from data.errors import CacheError, LabelsError
from data.files import write_whole
from data.labels import VideoLabel, read_labels, write_labels

logger = logging.getLogger(f"feat.{__name__}")

MAX_LISTING_BYTES = 1 << 28
MAX_LABELS_BYTES = 1 << 26
MAX_SHARD_BYTES = 1 << 36


def begin_cache(remote: Remote, path: Path) -> None:
    """Make an empty or absent folder elsewhere a cache.

    Args:
        remote: the folder.
        path: a cache here.

    Raises:
        CacheError: it holds something else, or the connection failed for good.
    """
    refuse_other_files(remote.url, remote.names())
    remote.upload(path / MARKER, MARKER)


def check_marker(remote: Remote) -> bool:
    """Return whether there is a cache.

    Raises:
        CacheError: it is something else, or of a newer version.
    """
    data = remote.read_small(MARKER, 4096)
    if data is None:
        return False
    try:
        value: Any = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise CacheError(f"{remote.url}/{MARKER}: no feature cache")
    if value.get("version") != FORMAT_VERSION:
        raise CacheError(
            f"{remote.url}: cache format {value.get('version')!r:.20}, this build reads "
            f"{FORMAT_VERSION}; upgrade feat"
        )
    return True


def shards_there(remote: Remote) -> tuple[dict[str, int], dict[str, int]]:
    """Return the other side's shards and their sizes: those of a possible size, and the others."""
    listed: dict[str, Any] = {}
    if remote.is_http:
        listed = _read_listing(remote).get("shards", {})
    if not listed:
        listed = dict(remote.list("shards"))
    possible: dict[str, int] = {}
    impossible: dict[str, int] = {}
    for name, size in sorted(listed.items()):
        if not is_shard_name(name):
            if not name.startswith("."):
                logger.warning("%s: ignored %r, no shard's name", remote.url, name[:80])
            continue
        known = size if isinstance(size, int) else remote.size(f"shards/{name}")
        if known is not None:
            (possible if 0 < known <= MAX_SHARD_BYTES else impossible)[name] = known
    return possible, impossible


def push_names_and_labels(
    cache: FeatureCache, remote: Remote, there: Mapping[str, NameLine] | None = None
) -> tuple[int, int]:
    """Send the names and labels that the other side lacks, and leave a list of its files there.

    Args:
        cache: this side.
        remote: the other one.
        there: what it says of names and this side does not.

    Returns:
        How many files of names were sent, and how many labels.

    Raises:
        CacheError: labels differ, or the connection failed for good.
    """
    names = _push_names(cache, remote, there or {})
    labels = _push_labels(cache, remote) if cache.labels_path.exists() else 0
    _push_listing(remote)
    return names, labels


def _push_names(cache: FeatureCache, remote: Remote, there: Mapping[str, NameLine]) -> int:
    files = remote.list("names")
    sent = 0
    with tempfile.TemporaryDirectory(prefix="feat-push-") as folder:
        for path in sorted((cache.path / "names").glob("*.jsonl")):
            if not is_manifest_name(path.name) or files.get(path.name) is not None:
                continue
            try:
                lines = read_manifest(path)
            except (FileNotFoundError, CacheError) as error:
                logger.debug("not sent: %s", error)  # merged since, or damaged, which was told
                continue
            told = without_other_folders(lines, there)
            if len(told) < len(lines):
                path = Path(folder) / write_manifest(Path(folder), told)
            if told and files.get(path.name) is None:
                remote.upload(path, f"names/{path.name}")
                sent += 1
    return sent


def fetch_names(
    cache: FeatureCache, remote: Remote, folder: Path, damaged: list[str]
) -> dict[str, dict[str, NameLine]]:
    """Fetch the files of names that are new here, checked, into `folder`; return their lines.

    The names of those that are refused are added to `damaged`.
    """
    names: Iterable[str] = remote.list("names")
    if remote.is_http:
        listed = _read_listing(remote).get("names", [])
        names = listed if isinstance(listed, list) and listed else names
    manifests = {}
    for name in names:
        if not isinstance(name, str) or not is_manifest_name(name):
            continue
        if (cache.path / "names" / name).exists():
            continue
        data = remote.read_small(f"names/{name}", MAX_NAMES_BYTES)
        if data is None:
            continue
        write_whole(folder / name, data, error=CacheError)
        try:
            manifests[name] = read_manifest(folder / name)
        except CacheError as error:
            text = str(error).replace(str(folder), f"{remote.url}/names")
            logger.warning("refused: %s", text)
            damaged.append(name)
    return manifests


def _push_labels(cache: FeatureCache, remote: Remote) -> int:
    """Add our labels to the other side's; return how many it lacked."""
    ours = LabelsFrom.file(cache.labels_path)
    with tempfile.TemporaryDirectory(prefix="feat-push-") as folder:
        theirs = download_labels(remote, Path(folder))
        labels = merge_labels([*([theirs] if theirs else []), ours], remote)
        added = len(labels) - (len(theirs.labels) if theirs else 0)
        if added:
            path = Path(folder) / "merged.csv"
            write_labels(path, labels)
            remote.upload(path, LABELS)
        return added


def download_labels(remote: Remote, folder: Path) -> LabelsFrom | None:
    """Return the other side's labels, None if it has none."""
    data = remote.read_small(LABELS, MAX_LABELS_BYTES)
    if data is None:
        return None
    path = folder / LABELS
    write_whole(path, data, error=CacheError)
    try:
        return LabelsFrom(f"{remote.url}/{LABELS}", read_labels(path))
    except LabelsError as error:
        first = str(error).splitlines()[0].replace(str(folder), remote.url)
        raise CacheError(f"{remote.url}: {LABELS} cannot be used: {first}") from error


def merge_labels(parts: list[LabelsFrom], remote: Remote) -> list[VideoLabel]:
    """Return the labels of both sides.

    Raises:
        CacheError: they differ.
    """
    labels, conflicts = merged_labels(parts)
    if conflicts:
        raise CacheError(
            f"{remote.url}: {len(conflicts)} labels differ: {conflicts[0]}; {EDIT_LABELS}"
        )
    return labels


def _read_listing(remote: Remote) -> dict[str, Any]:
    data = remote.read_small(LISTING, MAX_LISTING_BYTES)
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("shards", {}), dict):
        raise CacheError(f"{remote.url}/{LISTING}: damaged; push to it again")
    return value


def _push_listing(remote: Remote) -> None:
    """Leave a list of what is there: HTTP servers need not list their folders."""
    listing = {
        "format": "feat listing",
        "shards": shards_there(remote)[0],
        "names": sorted(name for name in remote.list("names") if is_manifest_name(name)),
    }
    with tempfile.TemporaryDirectory(prefix="feat-push-") as folder:
        path = Path(folder) / LISTING
        write_whole(path, json.dumps(listing) + "\n", error=CacheError)
        remote.upload(path, LISTING)
