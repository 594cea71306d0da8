"""`feat cache push` and `pull`: only what the other side lacks, every byte checked on arrival."""

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cache.conflicts import (
    LATEST_NAMES,
    config_conflicts,
    name_conflicts,
    refuse_conflicts,
)
from cache.exchange.connections import over_connections
from cache.exchange.elsewhere import (
    MAX_SHARD_BYTES,
    begin_cache,
    check_marker,
    download_labels,
    fetch_names,
    merge_labels,
    push_names_and_labels,
    shards_there,
)
from cache.exchange.merge import receive_shard
from cache.exchange.remote import Remote
from cache.files import hash_fd, open_regular
from cache.labels import LabelsFrom, add_labels
from cache.marker import MARKER
from cache.names import (
    NameLine,
    take_lines,
    without_other_folders,
    write_manifest,
)
from cache.records import FeatureEntry, NameEntry
from cache.shard.read import (
    ShardTable,
    parse_table,
    read_record,
    read_table,
    shard_name,
)
from cache.store import FeatureCache
from cache.streams import FRAMES, PICTURES, THUMBNAILS
from data.errors import CacheError, ShardError
from data.files import write_whole
from data.names import video_name
from data.progress import followed

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(kw_only=True)
class TransferReport:
    """What `push_cache` or `pull_cache` did."""

    cache: str
    url: str
    shards: int = 0  # sent or received
    nbytes: int = 0
    already: int = 0  # shards whose records the other side had
    names: int = 0  # files of names
    labels: int = 0  # videos added to labels.csv
    thumbnails_left_out: int = 0  # videos whose thumbnails were not sent
    frames_left_out: int = 0  # videos whose frames were not sent
    damaged: list[str] = field(default_factory=list)  # refused


def push_cache(
    cache: FeatureCache,
    remote: Remote,
    *,
    reread: bool = False,
    allow_mixed: bool = False,
    latest_names: bool = False,
    pictures: Collection[str] = (),
) -> TransferReport:
    """Send what the other side lacks. A shard damaged here is not sent.

    Thumbnails and frames are pictures of the people in the videos, who need not be meant for
    whoever gets the features: they stay here unless that is asked for.

    Args:
        cache: where from.
        remote: where to; a cache, or an empty or absent folder.
        reread: read back every shard that was sent and compare its sha256, not only its size.
        allow_mixed: admit a second configuration of a stream.
        latest_names: where a name stands for different contents, let the later entry decide.
        pictures: those of `cache.streams.PICTURES` to send as well.

    Raises:
        CacheError: the other side contradicts this one (nothing is sent then), or the connection
            failed for good; what has arrived is kept.
    """
    if remote.is_http:
        raise CacheError(f"{remote.url}: HTTP servers are read-only; push by sftp or s3")
    report = TransferReport(cache=os.fspath(cache.path), url=remote.url)
    if not check_marker(remote):
        begin_cache(remote, cache.path)
    there, _ = shards_there(remote)
    here = cache.shards()
    entries = _entries_there(remote, {n: s for n, s in there.items() if n not in here})
    names_there = _refuse_push(
        cache, remote, there, entries, allow_mixed=allow_mixed, latest_names=latest_names
    )
    keys_there = {entry.key for entry in entries}
    left_out: set[str] = set()
    private_in: dict[str, set[str]] = {}  # of each shard that is sent, the keys that stay here
    for name in followed(sorted(here), "push: look at shards", total=len(here)):
        try:
            size, keys = (cache.shards_dir / name).stat().st_size, set(cache.keys_of(name))
            if there.get(name) == size:
                report.already += 1
                continue
            private = {
                key
                for key in keys
                if (stream := cache.entry(key).stream) in PICTURES and stream not in pictures
            }
        except FileNotFoundError:
            continue  # compacted away; its records are in another shard, or go next time
        except ShardError as error:
            logger.warning("not sent: %s", error)
            report.damaged.append(name)
            continue
        left_out |= private - keys_there
        if keys - private <= keys_there:
            report.already += not keys <= private
        else:
            private_in[name] = private

    def send(connection: Remote, name: str) -> int | None:
        """Return the bytes that were sent; None if the shard is gone."""
        try:
            _check_local(cache.shards_dir / name)
            with _without(cache.shards_dir / name, private_in[name]) as sent:
                size = sent.stat().st_size
                connection.upload(sent, f"shards/{sent.name}")
        except FileNotFoundError:
            return None
        if reread:
            _check_remote(connection, sent.name, size)
        return size

    sent = over_connections(remote, list(private_in), send)
    for name, nbytes in followed(sent, "push: shards", total=len(private_in)):
        if isinstance(nbytes, ShardError):
            logger.warning("not sent: %s", nbytes)
            report.damaged.append(name)
        elif nbytes is not None:
            report.shards += 1
            report.nbytes += nbytes
    streams = [cache.entry(key).stream for key in left_out]
    report.thumbnails_left_out = streams.count(THUMBNAILS)
    report.frames_left_out = streams.count(FRAMES)
    report.damaged += [name for name in cache.bad_shards if name not in report.damaged]
    report.names, report.labels = push_names_and_labels(cache, remote, names_there)
    return report


def pull_cache(
    cache: FeatureCache, remote: Remote, *, allow_mixed: bool = False, latest_names: bool = False
) -> TransferReport:
    """Fetch what this side lacks; nothing of the other side is trusted.

    Raises:
        CacheError: there is no cache, it contradicts this one (nothing is fetched then), or the
            connection failed for good; what has arrived is kept.
    """
    report = TransferReport(cache=os.fspath(cache.path), url=remote.url)
    if not check_marker(remote):
        raise CacheError(f"{remote.url}: no feature cache there (no {MARKER})")
    there, impossible = shards_there(remote)
    for name, size in impossible.items():
        logger.warning(
            "refused: %s/shards/%s: %d bytes, expected 1 to %d",
            remote.url, name, size, MAX_SHARD_BYTES,
        )  # fmt: skip
    report.damaged += impossible
    missing = {name: size for name, size in there.items() if name not in cache.shards()}
    tables = _remote_tables(remote, missing, report.damaged)
    with tempfile.TemporaryDirectory(prefix="feat-pull-") as folder:
        manifests = fetch_names(cache, remote, Path(folder), report.damaged)
        labels = download_labels(remote, Path(folder))
        if labels:
            merge_labels([LabelsFrom.file(cache.labels_path), labels], remote)
        entries = [stored.entry for table in tables.values() for stored in table.records.values()]
        ours = cache.names()
        conflicts = []
        if not allow_mixed:
            conflicts += config_conflicts((entry.config for entry in entries), cache.configs())
        if not latest_names:
            conflicts += name_conflicts(
                _contents(manifests.values(), entries, ours=ours),
                {name: entry.sha256 for name, entry in ours.items()},
                where=os.fspath(cache.path),
                advice=LATEST_NAMES,
            )
        refuse_conflicts(remote.url, "pulled", conflicts)
        lacking = set(cache.lacking([key for table in tables.values() for key in table.records]))
        wanted = [name for name in sorted(tables) if not lacking.isdisjoint(tables[name].records)]
        report.already += len(tables) - len(wanted)
        needed, free = sum(missing[name] for name in wanted), shutil.disk_usage(cache.path).free
        if needed > free:
            raise CacheError(
                f"{cache.path}: {free} bytes free, {len(wanted)} shards of {remote.url} need "
                f"{needed}; make room"
            )

        def fetch(connection: Remote, name: str) -> None:
            place = f"shards/{name}"
            blocks = connection.blocks(place, missing[name])
            receive_shard(blocks, name, cache, origin=f"{remote.url}/{place}")

        fetched = over_connections(remote, wanted, fetch)
        for name, error in followed(fetched, "pull: shards", total=len(wanted)):
            if error:
                logger.warning("refused: %s", error)
                report.damaged.append(name)
            else:
                report.shards += 1
                report.nbytes += missing[name]
        for file, lines in manifests.items():
            told = without_other_folders(lines, ours)
            if len(told) == len(lines):
                content = (Path(folder) / file).read_bytes()
                write_whole(cache.path / "names" / file, content, error=CacheError)
                report.names += 1
            else:  # what is known stays, or the same lines would come again each time
                new = {name: line for name, line in told.items() if ours.get(name) != line.entry}
                if new:
                    write_manifest(cache.path / "names", new)
                report.names += bool(new)
        report.labels = add_labels(cache, labels) if labels else 0
    report.already += len(there) - len(missing)
    cache.refresh()
    return report


@contextmanager
def _without(path: Path, keys: Collection[str]) -> Iterator[Path]:
    """Yield a shard without some of its records: itself if they are none, else a temporary one.

    We put pictures into shards of their own; other programs need not.

    Raises:
        ShardError: a record is damaged.
    """
    if not keys:
        yield path
        return
    from cache.shard.write import write_shard

    table = read_table(path)
    with tempfile.TemporaryDirectory(prefix="feat-push-") as folder:
        kept = [read_record(table, key) for key in table.records if key not in keys]
        yield write_shard(Path(folder), kept)


def _remote_tables(
    remote: Remote, shards: dict[str, int], damaged: list[str]
) -> dict[str, ShardTable]:
    """Return the tables of some of the other side's shards, read without the arrays.

    The names of those that are refused are added to `damaged`.
    """

    def read(connection: Remote, name: str) -> ShardTable:
        place = f"shards/{name}"

        def read_range(count: int, offset: int) -> bytes:
            return connection.read_range(place, count, offset)

        return parse_table(read_range, Path(remote.url) / place, shards[name])[0]

    tables = {}
    found = over_connections(remote, list(shards), read)
    for name, table in followed(found, "look at shards", total=len(shards)):
        if isinstance(table, ShardError):
            logger.warning("refused: %s", table)
            damaged.append(name)
        else:
            tables[name] = table
    return tables


def _entries_there(remote: Remote, shards: dict[str, int]) -> list[FeatureEntry]:
    """Return what is in shards of the other side, as far as they are sound."""
    tables = _remote_tables(remote, shards, [])
    return [stored.entry for table in tables.values() for stored in table.records.values()]


def _refuse_push(
    cache: FeatureCache,
    remote: Remote,
    there: Collection[str],
    entries: Sequence[FeatureEntry],
    *,
    allow_mixed: bool,
    latest_names: bool,
) -> dict[str, NameLine]:
    """Return what the other side says of names, if this one and it do not contradict each other.

    Args:
        cache: this side.
        remote: the other one.
        there: the shards that it has.
        entries: what is in those of them that this side has not.
        allow_mixed: see `push_cache`.
        latest_names: the same.

    Raises:
        CacheError: they do.
    """
    conflicts = []
    if not allow_mixed:
        both = [entry.config for entry in cache.entries() if entry.shard in there]
        conflicts += config_conflicts(cache.configs(), [*both, *(e.config for e in entries)])
    with tempfile.TemporaryDirectory(prefix="feat-push-") as folder:
        manifests = fetch_names(cache, remote, Path(folder), [])
        if not latest_names:
            ours = cache.names()
            conflicts += name_conflicts(
                {name: entry.sha256 for name, entry in ours.items()},
                _contents(manifests.values(), entries, ours=ours),
                where=remote.url,
                advice=LATEST_NAMES,
            )
        refuse_conflicts(remote.url, "pushed", conflicts)
        theirs = download_labels(remote, Path(folder))
        if theirs:
            merge_labels([theirs, LabelsFrom.file(cache.labels_path)], remote)
    return _latest(manifests.values())


def _check_local(path: Path) -> None:
    fd = open_regular(path)
    try:
        if shard_name(hash_fd(fd)) != path.name:
            raise ShardError(f"{path}: its bytes' sha256 is not its name; feat cache verify")
    finally:
        os.close(fd)


def _check_remote(remote: Remote, name: str, size: int) -> None:
    digest = hashlib.sha256()
    for block in remote.blocks(f"shards/{name}", size):
        digest.update(block)
    if shard_name(digest.hexdigest()) != name:
        raise CacheError(f"{remote.url}: shards/{name} was damaged on its way; push again")


def _latest(manifests: Iterable[dict[str, NameLine]]) -> dict[str, NameLine]:
    latest: dict[str, NameLine] = {}
    for lines in manifests:
        take_lines(latest, lines)
    return latest


def _contents(
    manifests: Iterable[dict[str, NameLine]],
    entries: Iterable[FeatureEntry],
    *,
    ours: Mapping[str, NameEntry],
) -> dict[str, str]:
    """Return the content's sha256 of every name of the other side, as far as it is new here.

    A content that no name stands for goes by the name that was recorded with its features. What
    the folder that a name is here of has said of it earlier or later is left out: it contradicts
    nobody.

    Args:
        manifests: the other side's files of names that are new here.
        entries: its features that are new here.
        ours: the names here.
    """
    latest = _latest(manifests)
    named = {entry.sha256 for entry in ours.values()}
    named |= {line.sha256 for line in latest.values() if line.sha256}
    recorded = {
        name: entry.source.sha256
        for entry in entries
        if entry.source.sha256 not in named
        and (name := video_name(entry.source.name)) not in latest
    }
    told = {
        name: line.sha256
        for name, line in latest.items()
        if line.sha256 and not (line.origin and name in ours and ours[name].origin == line.origin)
    }
    return recorded | told
