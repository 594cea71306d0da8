"""Bringing caches together: what is there already is skipped, what contradicts is refused."""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cache.conflicts import (
    LATEST_NAMES,
    config_conflicts,
    name_conflicts,
    refuse_conflicts,
)
from cache.exchange.compare import Closeness
from cache.files import open_regular, pread_exact
from cache.keys import JSON
from cache.labels import EDIT_LABELS, LabelsFrom, add_labels, merged_labels
from cache.names import without_other_folders
from cache.shard.read import SUFFIX, is_shard_name, read_record, read_table
from cache.store import FeatureCache
from cache.streams import KINDS
from data.errors import CacheError, ShardError
from data.files import partial_file, publish, temp_path
from data.progress import followed

logger = logging.getLogger(f"feat.{__name__}")

#: Two computations of the same features differ by float noise; below this they contradict.
MIN_COSINE = 0.999
_BLOCK = 1 << 20


@dataclass(kw_only=True)
class MergeReport:
    """What `merge_caches` did."""

    target: str
    shards: int = 0  # copied whole
    records: int = 0  # new in the target
    duplicates: int = 0  # records it had
    names: int = 0  # new or changed
    labels: int = 0  # videos added to labels.csv
    damaged: list[str] = field(default_factory=list)  # shards of the sources that were refused


def merge_caches(
    sources: Sequence[FeatureCache],
    target: FeatureCache,
    *,
    configs: Mapping[str, Mapping[str, JSON]] | None = None,
    allow_mixed: bool = False,
    latest_names: bool = False,
) -> MergeReport:
    """Add what `sources` hold to `target`; nothing is written if anything contradicts.

    Args:
        sources: caches that need not be trusted; they are only read.
        target: the cache to add to.
        configs: by stream, the only configuration to take; default: all there are.
        allow_mixed: admit a second configuration of a stream.
        latest_names: where a name stands for different contents, let the later source decide.

    Raises:
        CacheError: there are conflicts (all are found first, the first few are told), or a cache
            cannot be read or written.
    """
    chosen = configs or {}
    taken = [
        [config for config in source.configs() if _is_chosen(config, chosen)] for source in sources
    ]
    conflicts: list[str] = []
    for number, source in enumerate(sources):
        others = [(target, target.configs()), *zip(sources, taken, strict=True)][: number + 1]
        for other, present in others:
            found = _feature_conflicts(source, other, chosen)
            if not allow_mixed:
                found += config_conflicts(taken[number], present)
            if not latest_names:
                found += name_conflicts(
                    _contents(source),
                    _contents(other),
                    where=os.fspath(other.path),
                    advice=LATEST_NAMES,
                )
            conflicts += [f"{source.path}: {conflict}" for conflict in found]
    labels = [LabelsFrom.file(cache.labels_path) for cache in (target, *sources)]
    differing = merged_labels(labels)[1]
    advice = EDIT_LABELS if differing else ""
    refuse_conflicts(target.path, "merged", conflicts + differing, advice=advice)
    report = MergeReport(target=os.fspath(target.path))
    known = target.names()
    for source in sources:
        copy_records(source, target, report, chosen)
        # a recorded name (mtime -1) is no statement about a file: it is in the shard anyway
        told = {name: entry for name, entry in source.names().items() if entry.mtime_ns != -1}
        told = without_other_folders(told, known)
        report.names += target.set_names(told)
        known |= told
    report.labels = sum(add_labels(target, more) for more in labels[1:])
    return report


def copy_records(
    source: FeatureCache,
    target: FeatureCache,
    report: MergeReport,
    chosen: Mapping[str, Mapping[str, JSON]],
) -> None:
    """Copy those chosen features that `target` lacks, every byte checked on the way."""
    names = sorted(source.shards())
    before = replace(report, damaged=[*report.damaged])
    for name in followed(names, f"merge {source.path}: shards", total=len(names)):
        path = source.shards_dir / name
        try:
            table = read_table(path)
            wanted = [
                key
                for key, stored in table.records.items()
                if _is_chosen(stored.entry.config, chosen)
            ]
            missing = target.lacking(wanted)
            if len(missing) == len(table.records):
                copy_shard(path, target)
                report.shards += 1
            elif missing:
                target.write([read_record(table, key) for key in missing])
        except FileNotFoundError:
            # compacted away since: its records are in a shard of another name, which comes later
            # in a second round, that finds what this one added there
            source.refresh()
            report.duplicates = before.duplicates - (report.records - before.records)
            report.damaged = before.damaged
            copy_records(source, target, report, chosen)
            return
        except ShardError as error:
            logger.warning("not merged: %s", error)
            report.damaged.append(os.fspath(path))
            continue
        report.records += len(missing)
        report.duplicates += len(wanted) - len(missing)
    for name, why in source.bad_shards.items():
        logger.warning("not merged: %s", why)
        report.damaged.append(os.fspath(source.shards_dir / name))


def copy_shard(path: Path, target: FeatureCache) -> None:
    """Copy a whole shard into `target`, if its bytes are what its name says.

    Raises:
        FileNotFoundError: it is gone.
        ShardError: it is damaged.
        CacheError: it cannot be read or written.
    """
    fd = open_regular(path)
    try:
        size = os.fstat(fd).st_size
        blocks = (
            pread_exact(fd, min(_BLOCK, size - offset), offset, path)
            for offset in range(0, size, _BLOCK)
        )
        receive_shard(blocks, path.name, target, origin=os.fspath(path))
    finally:
        os.close(fd)


def receive_shard(blocks: Iterable[bytes], name: str, target: FeatureCache, *, origin: str) -> None:
    """Write a shard that comes from elsewhere, if its bytes are what its name says.

    Raises:
        ShardError: they are not, or make no shard.
        CacheError: it cannot be written.
    """
    if not is_shard_name(name):
        raise ShardError(f"{origin}: no shard's name")
    digest = hashlib.sha256()
    temp = temp_path(target.shards_dir)
    with partial_file(temp, target=target.shards_dir, error=CacheError):
        with temp.open("wb") as file:
            for block in blocks:
                digest.update(block)
                file.write(block)
        if digest.hexdigest() + SUFFIX != name:
            raise ShardError(f"{origin}: its bytes' sha256 is not its name: damaged or exchanged")
        try:
            read_table(temp)
        except ShardError as error:
            raise ShardError(f"{origin}: {str(error).removeprefix(f'{temp}: ')}") from error
        publish(temp, target.shards_dir / name)
    target.added(name)


def _is_chosen(config: Mapping[str, JSON], chosen: Mapping[str, Mapping[str, JSON]]) -> bool:
    """Return whether features of a configuration are taken: no other of its stream is chosen."""
    return chosen.get(str(config["stream"]), config) == config


def _feature_conflicts(
    source: FeatureCache, target: FeatureCache, chosen: Mapping[str, Mapping[str, JSON]]
) -> list[str]:
    """Return which chosen keys both have with features that are not the same."""
    conflicts = []
    lacking = set(target.lacking([key.hex() for key in source.rows()["key"].tolist()]))
    for entry in source.entries(without=lacking):
        if not _is_chosen(entry.config, chosen):
            continue
        ours = target.entry(entry.key)
        where = f"{entry.source.name} {entry.stream}"
        if not KINDS[entry.kind].is_measured:
            continue  # encoded images differ with the library that encoded them
        if ours.feature_shape != entry.feature_shape:
            conflicts.append(
                f"{where}: shape {entry.feature_shape}, but {ours.feature_shape} in {target.path}"
            )
        elif (ours.crc32, ours.dtype) != (entry.crc32, entry.dtype):
            try:
                close = Closeness.of(source.read_key(entry.key), target.read_key(entry.key))
            except ShardError as error:
                logger.warning("not compared: %s", error)
                continue
            if not close.min_cosine >= MIN_COSINE:
                conflicts.append(
                    f"{where}: same key, other features than in {target.path} "
                    f"(lowest cosine {close.min_cosine:.4f})"
                )
    return conflicts


def _contents(cache: FeatureCache) -> dict[str, str]:
    """Return the content's sha256 of every name."""
    return {name: entry.sha256 for name, entry in cache.names().items()}
