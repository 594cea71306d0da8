"""Reads everything in a cache again and says what is wrong; sets bad shards aside on request."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from cache.contents import QUARANTINE
from cache.files import explain, hash_fd, open_regular
from cache.index import table_rows
from cache.keys import JSON
from cache.names import read_manifest
from cache.records import FLOW_STATS, ClipTable, FeatureRecord, SourceRecord
from cache.shard.hdf5_view import Hdf5Viewer
from cache.shard.read import (
    ShardTable,
    check_record,
    is_shard_name,
    read_record,
    read_table,
    shard_name,
)
from cache.store import FeatureCache
from cache.streams import KINDS
from data.errors import CacheError, CheckerError, NewerLayoutError, ShardError, StorageError
from data.files import TEMP_PREFIX, sync_folder
from data.progress import followed

logger = logging.getLogger(f"feat.{__name__}")

#: A clip whose flow reaches this, in pixels per frame, shows motion.
MOVING_PIXELS = 0.5
#: Share of equal x and y above which no real motion lies.
MAX_EQUAL_FRACTION = 0.999


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    file: str  # relative to the cache
    problem: str
    video: str = ""
    stream: str = ""
    checked: bool = True  # False: the check itself failed, the file may be sound

    def __str__(self) -> str:
        where = f"{self.file}: " + (f"{self.video} {self.stream}: " if self.video else "")
        return where + ("" if self.checked else "could not be checked: ") + self.problem


@dataclass(kw_only=True)
class VerifyReport:
    """What `verify_cache` found."""

    cache: str
    shards: int = 0
    records: int = 0
    nbytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    salvaged: int = 0  # records of quarantined shards that were sound and were kept

    def to_json(self) -> dict[str, JSON]:
        """Return the report as JSON."""
        return {**asdict(self), "ok": not self.problems}


@dataclass(kw_only=True)
class _ShardResult:
    name: str
    problems: list[Problem]
    sound: list[str]  # keys
    is_named_right: bool = False  # by the sha256 of its bytes
    nbytes: int = 0
    records: int = 0

    @property
    def is_damaged(self) -> bool:
        """Whether all of it was looked at and something is wrong."""
        return bool(self.problems) and all(problem.checked for problem in self.problems)


def verify_cache(
    cache: FeatureCache, *, repair: bool = False, part: tuple[int, int] = (1, 1)
) -> VerifyReport:
    """Read every byte of a cache again and report what is wrong.

    With `repair`, shards and name files that are damaged are moved to `quarantine/` (nothing is
    ever deleted), after the sound records of such a shard were written to a new one. A file that
    could not be checked stays where it is.

    Args:
        cache: the cache.
        repair: see above.
        part: (k, n): only the k-th of n parts, 1 to n, which have about as many shards each.
            Files of names are checked with the first.

    Raises:
        CacheError: the cache cannot be read, or somebody else is removing shards right now.
    """
    report = VerifyReport(cache=os.fspath(cache.path))
    if not repair:
        _verify(cache, report, repair=False, part=part)
        return report
    with cache.maintenance():
        _verify(cache, report, repair=True, part=part)
    cache.rebuild_index()
    return report


def _verify(
    cache: FeatureCache, report: VerifyReport, *, repair: bool, part: tuple[int, int]
) -> None:
    # by the name, not by the place in the list: shards come while other parts are checked
    number, count = part
    names = sorted(
        name
        for name in _list(cache.shards_dir)
        if int(hashlib.sha256(name.encode()).hexdigest(), 16) % count == number - 1
    )
    damaged = []
    with (
        Hdf5Viewer() as viewer,
        ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool,
    ):
        checked = pool.map(lambda name: _check_shard(cache, name), names)
        for result in followed(checked, "verify: shards", total=len(names)):
            if result is None:
                continue  # compacted away in the meantime: its records are in another
            report.shards += 1
            report.records += result.records
            report.nbytes += result.nbytes
            if not result.problems:
                result.problems += _view(viewer, cache.shards_dir / result.name)
            report.problems += result.problems
            if result.is_damaged:
                damaged.append(result)
    if repair and damaged:
        _repair_shards(cache, damaged, report)
    for file, problem in _check_names(cache) if number == 1 else ():
        report.problems.append(problem)
        if repair and problem.checked:
            report.quarantined.append(_set_aside(cache, "names", file, os.rename))
    if not repair:
        report.problems += _check_index(cache, names)


def _check_shard(cache: FeatureCache, name: str) -> _ShardResult | None:
    """Check one shard but for its HDF5 structure; None if it is gone."""
    path = cache.shards_dir / name
    result = _ShardResult(name=name, problems=[], sound=[])
    try:
        table = _check_bytes(path, result)
        if table is None:
            return result
        result.records = len(table.records)
        for key, stored in table.records.items():
            video, stream = stored.entry.source.name, stored.entry.stream
            try:
                check_record(table, key, every=True)
                found = list(find_flaws(read_record(table, key)))
            except ShardError as error:
                found = [_without_path(error, path)]
            result.problems += [_problem(name, flaw, video, stream) for flaw in found]
            if not found:
                result.sound.append(key)
    except FileNotFoundError:
        return None
    except CacheError as error:
        newer = isinstance(error, NewerLayoutError) and result.is_named_right
        checked = not (newer or isinstance(error, StorageError))
        problem = _without_path(error, path)
        result.problems.append(Problem(file=f"shards/{name}", problem=problem, checked=checked))
    return result


def _view(viewer: Hdf5Viewer, path: Path) -> list[Problem]:
    """Check the HDF5 structure of a shard that our own reader reads."""
    try:
        difference = viewer.compare(path)
    except CheckerError as error:
        return [Problem(file=f"shards/{path.name}", problem=str(error), checked=False)]
    return [_problem(path.name, difference)] if difference else []


def _check_bytes(path: Path, result: _ShardResult) -> ShardTable | None:
    """Check a shard's name against its bytes and return its table; None: not a shard's name."""
    if not is_shard_name(path.name):
        result.problems.append(_problem(path.name, "no shard's name, which is 64 hex digits + .h5"))
        return None
    fd = open_regular(path)
    try:
        result.nbytes = os.fstat(fd).st_size
        result.is_named_right = shard_name(hash_fd(fd)) == path.name
        if not result.is_named_right:
            result.problems.append(
                _problem(path.name, "its bytes' sha256 is not its name: damaged or exchanged")
            )
    except OSError as error:
        raise explain("read", path, error) from error
    finally:
        os.close(fd)
    return read_table(path)


def find_flaws(record: FeatureRecord) -> Iterator[str]:
    """Yield what is wrong with the numbers of one record whose checksums are right."""
    if KINDS[record.kind].is_measured:
        yield from _row_flaws(record.features.reshape(len(record.features), -1))
    yield from _uncovered(record.clips, record.source)
    if record.flow_stats is not None:
        yield from _flow_flaws(record.flow_stats)


def _row_flaws(features: np.ndarray) -> Iterator[str]:
    """Yield what is wrong with rows of measurements, (S, D)."""
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        yield f"{_rows(broken)} with NaN or infinity"
    zero = np.logical_not(features.any(axis=1))
    if zero.any():
        yield f"{_rows(zero)} all zero"
    constant = (features.max(axis=1) == features.min(axis=1)) & ~(zero | broken)
    if np.any(constant) and features.shape[1] > 1:
        yield f"{_rows(constant)} of one constant value"


def _rows(mask: np.ndarray) -> str:
    where = np.flatnonzero(mask)
    return f"{len(where)} of {len(mask)} rows (first: row {where[0]})"


def _uncovered(clips: ClipTable, source: SourceRecord) -> Iterator[str]:
    """Yield how a clip table leaves out frames that were decoded."""
    start, end = clips.start_frame, clips.end_frame
    if not source.num_frames:
        return  # imported features of unknown length
    if int(end.max()) > source.num_frames:
        yield f"clips end at frame {end.max()}, the video has {source.num_frames}"
    if start[0] != 0:
        yield f"the first clip starts at frame {start[0]}, not 0"
    strides = np.diff(start)
    if len(strides) and (strides == strides[0]).all() and strides[0] > clips.clip_len > 0:
        reach = int(start[-1] + strides[0])  # gaps on purpose: clips further apart than long
    else:
        reach = int(end.max())
        gaps = np.flatnonzero(start[1:] > np.maximum.accumulate(end)[:-1])
        if len(gaps):
            yield f"no clip covers frame {np.maximum.accumulate(end)[gaps[0]]}"
    if source.kind == "imported":
        # whoever made them may have dropped the tail, and the last full clip as well
        reach += max(0, 2 * clips.clip_len - 1)
    if reach < source.num_frames:
        yield f"clips end at frame {reach}, the video has {source.num_frames}"


def _flow_flaws(stats: np.ndarray) -> Iterator[str]:
    columns = dict(zip(FLOW_STATS, stats.T, strict=True))
    if not np.isfinite(stats).all() or (stats < 0).any():
        yield "flow statistics that are negative or not finite"
        return
    moving = columns["max_abs"] > MOVING_PIXELS
    if moving.any() and (columns["equal_fraction"][moving] > MAX_EQUAL_FRACTION).all():
        yield "flow whose x equals its y: one component was read twice"


def _check_names(cache: FeatureCache) -> Iterator[tuple[str, Problem]]:
    for file in sorted(_list(cache.path / "names")):
        path = cache.path / "names" / file
        try:
            read_manifest(path)
        except FileNotFoundError:
            continue
        except CacheError as error:
            checked = not isinstance(error, StorageError)
            problem = _without_path(error, path)
            yield file, Problem(file=f"names/{file}", problem=problem, checked=checked)


def _check_index(cache: FeatureCache, names: Iterable[str]) -> list[Problem]:
    """Compare the look-up with these shards; a wrong one is rebuilt, and said."""
    held = set(cache.rows()["key"].tolist())
    missing = 0
    for name in sorted(cache.shards().intersection(names)):
        try:
            rows = table_rows(read_table(cache.shards_dir / name))
        except (CacheError, FileNotFoundError, ValueError):
            continue  # said above
        missing += sum(key not in held for key in rows["key"].tolist())
    if not missing:
        return []
    return [Problem(file="index", problem=f"{missing} records are missing; delete the folder")]


def _repair_shards(
    cache: FeatureCache, damaged: Sequence[_ShardResult], report: VerifyReport
) -> None:
    """Set damaged shards aside and keep their sound records in new ones.

    Every sound record is in `shards/` at every moment: the new shards are all written before the
    first file moves, and are in place before a damaged one goes.
    """
    try:
        # where `feat cache gc` finds it after a kill
        staging = tempfile.TemporaryDirectory(prefix=TEMP_PREFIX, dir=cache.path)
    except OSError as error:
        raise explain("write", cache.path, error) from error
    with staging as folder:
        going: set[str] = set()
        rescued: dict[Path, int] = {}  # new shard -> its records
        for result in damaged:
            if result.sound:
                path = _rescue(cache, result, Path(folder))
                if path is None:
                    continue
                rescued[path] = len(result.sound)
            going.add(result.name)
        for path in rescued:
            if path.name in going:  # names that were exchanged: a damaged file lies in its place
                report.quarantined.append(_set_aside(cache, "shards", path.name, os.link))
                going.remove(path.name)
            try:
                os.replace(path, cache.shards_dir / path.name)
                sync_folder(cache.shards_dir)
            except OSError as error:
                raise explain("write", cache.shards_dir / path.name, error) from error
    report.salvaged = sum(rescued.values())
    report.quarantined += [_set_aside(cache, "shards", name, os.rename) for name in sorted(going)]


def _rescue(cache: FeatureCache, result: _ShardResult, folder: Path) -> Path | None:
    """Write the sound records of a damaged shard to a new one in `folder`.

    None: it must stay where it is, because nothing better can be written.
    """
    from cache.shard.write import write_shard

    table = read_table(cache.shards_dir / result.name)
    try:
        path = write_shard(folder, [read_record(table, key) for key in result.sound])
    except ValueError as error:
        logger.warning("%s: left where it is, cannot be written anew: %s", table.path, error)
        return None
    if path.name == result.name and result.is_named_right:  # the same bytes
        logger.warning("%s: left where it is, this build writes the same", table.path)
        return None
    return path


def _set_aside(
    cache: FeatureCache, folder: str, name: str, action: Callable[[Path, Path], None]
) -> str:
    """Move or link a file to `quarantine/`; return its new place relative to the cache."""
    target = cache.path / QUARANTINE / name
    try:
        target.parent.mkdir(exist_ok=True)
        number = 1
        while os.path.lexists(target):
            number += 1
            target = target.with_name(f"{name}.{number}")
        action(cache.path / folder / name, target)
    except OSError as error:
        raise explain("quarantine", cache.path / folder / name, error) from error
    return f"{QUARANTINE}/{target.name}"


def _list(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith((TEMP_PREFIX, "."))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise explain("list", folder, error) from error


def _problem(shard: str, problem: str, video: str = "", stream: str = "") -> Problem:
    return Problem(file=f"shards/{shard}", problem=problem, video=video, stream=stream)


def _without_path(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
