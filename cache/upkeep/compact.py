"""Fewer, larger shards: new ones are written first, then the old ones are removed."""

import logging
import os
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from cache.files import explain
from cache.records import FeatureRecord
from cache.shard.read import ShardTable, check_record, read_record, read_table
from cache.store import FeatureCache
from cache.streams import PICTURES
from data.errors import CacheError, ShardError

logger = logging.getLogger(f"feat.{__name__}")

#: Large enough for fast copying, small enough to hold in memory and to send again.
TARGET_BYTES = 64 << 20
MAX_RECORDS = 1000


@dataclass(kw_only=True)
class CompactReport:
    """What `compact_cache` did."""

    cache: str
    shards_before: int = 0
    shards_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    duplicates: int = 0  # records that were there twice
    damaged: int = 0  # shards left alone


def compact_cache(cache: FeatureCache, *, target_bytes: int = TARGET_BYTES) -> CompactReport:
    """Pack shards smaller than half of `target_bytes` together and drop second copies.

    Shards of pictures are packed apart, so that they can still be left out of what is shared.
    Readers and writers may go on meanwhile. Killed at any moment, every record is in a shard.

    Raises:
        CacheError: somebody else removes shards right now, or the disk is full or fails.
    """
    with cache.maintenance() as mine:
        cache.refresh()
        report = CompactReport(cache=os.fspath(cache.path))
        report.shards_before, report.bytes_before = _totals(cache)
        tables = _tables(cache, report)
        plan = _Plan(tables)
        parts = (
            [one for one in tables if _is_of_pictures(one) == apart] for apart in (False, True)
        )
        for batch in chain.from_iterable(_batches(part, plan, target_bytes) for part in parts):
            if not mine.renew():
                raise CacheError(
                    f"{cache.path}: lost the claim on it; run feat cache compact again"
                )
            _pack(cache, batch, plan, report)
        cache.refresh()
        report.shards_after, report.bytes_after = _totals(cache)
    return report


def _tables(cache: FeatureCache, report: CompactReport) -> list[ShardTable]:
    """Return the tables of all sound shards, in the order of their first videos' names."""
    tables = []
    for name in cache.shards():
        with suppress(FileNotFoundError):
            try:
                tables.append(read_table(cache.shards_dir / name))
            except ShardError as error:
                logger.warning("left alone: %s", error)
                report.damaged += 1
    report.damaged += len(cache.bad_shards)
    return sorted(tables, key=_first_name)


def _is_of_pictures(table: ShardTable) -> bool:
    return all(item.entry.stream in PICTURES for item in table.records.values())


def _first_name(table: ShardTable) -> tuple[str, str]:
    return min(item.entry.source.name for item in table.records.values()), table.path.name


class _Plan:
    """Which shard of those that hold a key keeps it, and where its records are by now."""

    def __init__(self, tables: list[ShardTable]) -> None:
        self._holder: dict[str, str] = {}
        self._moved: dict[str, str] = {}
        for table in tables:
            for key in table.records:
                self._holder.setdefault(key, table.path.name)

    def is_second_copy(self, key: str, shard: str) -> bool:
        return self._holder[key] != shard

    def holder(self, key: str) -> str:
        """Return the name of the shard that has a key now."""
        name = self._holder[key]
        return self._moved.get(name, name)

    def move(self, old: str, new: str) -> None:
        """Note that the records of a shard were written to another."""
        self._moved[old] = new

    def keep(self, key: str, shard: str) -> None:
        """Let another shard be the one that has a key: the first one's copy is damaged."""
        self._holder[key] = shard


def _batches(
    tables: list[ShardTable], plan: _Plan, target_bytes: int
) -> Iterator[list[ShardTable]]:
    """Yield groups of shards worth rewriting as one each."""
    small: list[ShardTable] = []
    for table in tables:
        twice = any(plan.is_second_copy(key, table.path.name) for key in table.records)
        if table.file_size >= target_bytes // 2 and not twice:
            continue
        full = sum(one.file_size for one in small) + table.file_size > target_bytes
        many = sum(len(one.records) for one in small) + len(table.records) > MAX_RECORDS
        if small and (full or many):
            yield small
            small = []
        small.append(table)
    if small:
        yield small


def _pack(cache: FeatureCache, batch: list[ShardTable], plan: _Plan, report: CompactReport) -> None:
    """Write the records of a batch into one shard, then remove the batch."""
    records: dict[str, FeatureRecord] = {}
    sound: list[ShardTable] = []
    duplicates = 0
    for table in batch:
        try:
            fresh = _fresh_records(cache, table, records, plan)
        except (ShardError, FileNotFoundError) as error:
            logger.warning("left alone: %s", error)
            report.damaged += 1
            continue
        duplicates += len(table.records) - len(fresh)
        records.update(fresh)
        sound.append(table)
    if len(sound) == 1 and not duplicates:
        return  # alone and all its own: nothing to gain
    written = cache.write(list(records.values())) if records else None
    for table in sound:
        if written is not None:
            plan.move(table.path.name, written.name)
        if table.path != written:
            _remove(table.path)
    report.duplicates += duplicates


def _fresh_records(
    cache: FeatureCache, table: ShardTable, taken: Container[str], plan: _Plan
) -> dict[str, FeatureRecord]:
    """Return the records of a shard of which there is no other sound copy that stays."""
    fresh = {}
    for key in table.records:
        if plan.is_second_copy(key, table.path.name):
            if key in taken or _is_sound(cache, plan.holder(key), key):
                continue
            plan.keep(key, table.path.name)
        fresh[key] = read_record(table, key)
    return fresh


def _is_sound(cache: FeatureCache, shard: str, key: str) -> bool:
    """Return whether a shard's copy of a record can be read: only then another may go."""
    try:
        table = read_table(cache.shards_dir / shard)
        check_record(table, key)
    except (CacheError, FileNotFoundError, KeyError) as error:
        logger.warning("second copy kept: %s", error)
        return False
    return True


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise explain("remove", path, error) from error


def _totals(cache: FeatureCache) -> tuple[int, int]:
    sizes = []
    for name in cache.shards():
        with suppress(FileNotFoundError):
            sizes.append((cache.shards_dir / name).stat().st_size)
    return len(sizes), sum(sizes)
