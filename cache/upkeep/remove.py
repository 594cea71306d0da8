"""Taking features out of a cache for good. Shards never change: those that lose any are rewritten.

The new shard is written first and the old one removed then, so that a process killed at any moment
loses no other record; the same command again does the rest.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cache.claims import CONTENT_DIGITS, Claim
from cache.claims import SUFFIX as CLAIM_SUFFIX
from cache.configs import SHOWN_DIGITS, list_configs, resolve_config
from cache.files import explain
from cache.keys import config_digest, is_sha256
from cache.records import FeatureEntry
from cache.shard.read import StoredRecord, read_record, read_table
from cache.store import FeatureCache
from data.errors import CacheError, ShardError
from data.names import video_name

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True, kw_only=True)
class RemovedRecord:
    """One stream of one video that was removed, or would be."""

    video: str
    stream: str
    config: str  # the start of the configuration's digest
    nbytes: int  # of its arrays, all copies together


@dataclass(kw_only=True)
class RemoveReport:
    """What `remove_features` removed, or would remove."""

    cache: str
    dry_run: bool
    records: list[RemovedRecord] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # that were given up
    shared: dict[str, str] = field(default_factory=dict)  # of these, who else has the features
    nbytes: int = 0
    damaged: list[str] = field(default_factory=list)  # shards that were left alone


@dataclass(frozen=True)
class _Rewriting:
    """What one shard loses and keeps."""

    path: Path
    drop: list[StoredRecord]
    keep: list[str]  # keys


@dataclass(frozen=True)
class Removal:
    """The records to take out of a cache, found but not yet removed."""

    shards: list[_Rewriting]
    left: set[str]  # contents (sha256) that keep a record
    damaged: list[str]  # shards that could not be looked through

    def contents(self) -> set[str]:
        """Return the contents that lose a record."""
        return {stored.entry.source.sha256 for one in self.shards for stored in one.drop}


def remove_features(
    cache: FeatureCache,
    *,
    videos: Sequence[str] = (),
    configs: Sequence[str] = (),
    stream: str = "",
    dry_run: bool = False,
) -> RemoveReport:
    """Remove the features that all the conditions given fit, and names that then have none.

    A content that has another name, too, loses only the names given. Labels are left alone. Readers
    and writers may go on meanwhile.

    Args:
        cache: the cache to remove them from.
        videos: names or contents' sha256; default: all.
        configs: digests of configurations, or so much of their start that only one has it;
            default: all.
        stream: the only stream to remove; default: all.
        dry_run: only report.

    Raises:
        ValueError: no condition is given: that would remove everything.
        CacheError: a video, configuration or stream is not there; a content whose streams or
            configurations are named has another name, too; a video is being extracted; somebody
            else removes shards right now; or the disk is full or fails.
    """
    if not (videos or configs or stream):
        raise ValueError("expected a video, a configuration or a stream")
    cache.refresh()
    videos = [video if is_sha256(video) else video_name(video) for video in videos]
    contents, shared = _contents(cache, videos)
    if shared and (configs or stream):
        name, other = next(iter(shared.items()))
        raise CacheError(
            f"{name}: the same content as {other}, which would lose its features, too; name all "
            "names of it, or its sha256"
        )
    found = list_configs(cache)
    digests = {resolve_config(found, start, where=str(cache.path)).digest for start in configs}
    streams = sorted({one.stream for one in found})
    if stream and stream not in streams:
        raise CacheError(f"{cache.path}: no stream {stream}, there is: {', '.join(streams)}")

    def is_unwanted(entry: FeatureEntry) -> bool:
        return (
            (not videos or entry.source.sha256 in contents)
            and (not configs or config_digest(entry.config) in digests)
            and (not stream or entry.stream == stream)
        )

    report = RemoveReport(cache=os.fspath(cache.path), dry_run=dry_run)
    with cache.maintenance() as mine:
        removal = plan_removal(cache, is_unwanted)
        names = cache.names()
        by_content = {entry.sha256: name for name, entry in sorted(names.items(), reverse=True)}
        _refuse_busy(cache, removal, by_content)
        bare = (removal.contents() | contents) - removal.left
        dropped = [stored for one in removal.shards for stored in one.drop]
        report.damaged = removal.damaged
        if not dry_run:
            dropped, damaged = carry_out(cache, removal, mine)
            report.damaged += damaged
            bare -= {video.hex() for video in cache.rows()["video"].tolist()}
        report.shared = shared
        report.names = sorted(
            name
            for name, entry in names.items()
            if name in shared or (entry.sha256 in bare and entry.mtime_ns != -1)
        )
        if not dry_run:
            cache.set_names(dict.fromkeys(report.names))
    by_key: dict[str, list[StoredRecord]] = {}
    for stored in dropped:
        by_key.setdefault(stored.entry.key, []).append(stored)
    report.records = sorted(
        (_describe(copies, by_content) for copies in by_key.values()),
        key=lambda one: (one.video, one.stream, one.config),
    )
    report.nbytes = sum(one.nbytes for one in report.records)
    return report


def plan_removal(cache: FeatureCache, is_unwanted: Callable[[FeatureEntry], bool]) -> Removal:
    """Return what must be done to remove all unwanted records, second copies too.

    The caller holds the maintenance claim.
    """
    removal = Removal([], set(), sorted(cache.bad_shards))
    for name in sorted(cache.shards()):
        path = cache.shards_dir / name
        try:
            table = read_table(path)
        except ShardError as error:
            logger.warning("left alone: %s", error)
            removal.damaged.append(name)
            continue
        drop, keep = [], []
        for key, stored in table.records.items():
            if is_unwanted(stored.entry):
                drop.append(stored)
            else:
                keep.append(key)
                removal.left.add(stored.entry.source.sha256)
        if drop:
            removal.shards.append(_Rewriting(path, drop, keep))
    return removal


def carry_out(
    cache: FeatureCache, removal: Removal, mine: Claim
) -> tuple[list[StoredRecord], list[str]]:
    """Remove the records of a plan; return those removed, and the shards left alone.

    A shard is left alone if a record that it must keep is damaged.

    Args:
        cache: the cache that the plan was made for.
        removal: the plan.
        mine: the maintenance claim.

    Raises:
        CacheError: the claim was lost to somebody else, or the disk is full or fails.
    """
    dropped: list[StoredRecord] = []
    damaged = []
    for shard in removal.shards:
        if not mine.renew():
            raise CacheError(f"{cache.path}: lost the claim on it; run the same command again")
        try:
            table = read_table(shard.path)
            kept = [read_record(table, key) for key in shard.keep]
        except ShardError as error:
            logger.warning("left alone: %s", error)
            damaged.append(shard.path.name)
            continue
        if kept:
            cache.write(kept)
        try:
            shard.path.unlink(missing_ok=True)
        except OSError as error:
            raise explain("remove", shard.path, error) from error
        dropped += shard.drop
    cache.refresh()
    return dropped, damaged


def _contents(cache: FeatureCache, videos: Sequence[str]) -> tuple[set[str], dict[str, str]]:
    """Return the contents that only the videos stand for, and those of them that share theirs.

    Returns:
        The contents' sha256; and video -> a name of the same content that is not among `videos`.

    Raises:
        CacheError: a video is not there.
    """
    contents = {video: cache.content(video) for video in videos}
    others = {
        entry.sha256: name
        for name, entry in sorted(cache.names().items(), reverse=True)
        if name not in contents and entry.sha256 not in contents
    }
    shared = {video: others[sha256] for video, sha256 in contents.items() if sha256 in others}
    return set(contents.values()) - others.keys(), shared


def _refuse_busy(cache: FeatureCache, removal: Removal, names: dict[str, str]) -> None:
    """Do nothing if no video that loses records is being extracted.

    Raises:
        CacheError: one is.
    """
    affected = {sha256[:CONTENT_DIGITS]: sha256 for sha256 in removal.contents()}
    for path in sorted((cache.path / "claims").glob(f"*{CLAIM_SUFFIX}")):
        sha256 = affected.get(path.stem[:CONTENT_DIGITS])
        if sha256:
            with cache.claim(path.stem) as mine:
                if not mine:
                    raise CacheError(
                        f"{names.get(sha256, sha256)}: {mine.owner} is extracting it; try later"
                    )


def _describe(copies: list[StoredRecord], names: dict[str, str]) -> RemovedRecord:
    """Return the row for a record, which may have lain in several shards."""
    entry = copies[0].entry
    return RemovedRecord(
        video=names.get(entry.source.sha256, entry.source.name),
        stream=entry.stream,
        config=config_digest(entry.config)[:SHOWN_DIGITS],
        nbytes=sum(stored.nbytes for stored in copies),
    )
