"""Taking back what `feat cache export` wrote: the same records, under the same names."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.conflicts import config_conflicts, name_conflicts, refuse_conflicts
from cache.exchange.arrays import find_arrays
from cache.exchange.manifest import NAME, PARQUET_KEY, ExportedVideo, parse_manifest, read_manifest
from cache.exchange.storing import Staging
from cache.records import FeatureRecord
from cache.store import FeatureCache
from data.errors import CacheError

#: What a manifest, or a Parquet file, can raise that says something impossible.
_DAMAGED = (
    ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, RuntimeError,
    MemoryError,
)  # fmt: skip


def is_export(path: Path) -> bool:
    """Return whether a folder or file was written by `feat cache export`."""
    return path.suffix.lower() == ".parquet" or (path / NAME).is_file()


def import_export(
    paths: Sequence[Path],
    cache: FeatureCache,
    *,
    stream: str = "",
    origin: str = "",
    allow_mixed: bool = False,
) -> tuple[Staging, list[str]]:
    """Add what exports hold to a cache, as it was in the cache that they were made from.

    Args:
        paths: folders with a manifest, or Parquet files.
        cache: where to.
        stream: what somebody takes them for; refused if they are not. "": anything.
        origin: the same.
        allow_mixed: admit a second configuration of a stream.

    Returns:
        What was added, and the streams.

    Raises:
        CacheError: an array has changed or is missing, or the cache has something else under the
            same names or keys. The message has a line for each problem, and nothing is written.
    """
    problems: list[str] = []
    exports = {path: _read_manifest(path) for path in paths}
    videos = [video for export in exports.values() for video in export]
    configs = [config for export in exports.values() if export for config in export[0].configs]
    for config in configs:
        for key, value in (("stream", stream), ("origin", origin)):
            if value and config.get(key) != value:
                raise CacheError(
                    f"{paths[0]}: its {NAME} says {key} {config.get(key)}, not {value}: leave out "
                    f"--{key}, or remove that file to import the arrays as somebody else's"
                )
    names = {video.name: video.entry for video in videos}
    conflicts = [] if allow_mixed else config_conflicts(configs, cache.configs())
    ours = cache.names()
    conflicts += name_conflicts(
        {video.name: video.sha256 for video in videos},
        {name: entry.sha256 for name, entry in ours.items()},
        where=str(cache.path),
    )
    refuse_conflicts(cache.path, "imported", conflicts)
    with Staging(cache) as staging:
        for path, export in exports.items():
            read = _parquet_records if path.suffix.lower() == ".parquet" else _folder_records
            staging.take(read(path, export, problems), problems)
        staging.publish(problems)
    cache.set_names(
        {name: entry for name, entry in names.items() if entry and ours.get(name) != entry}
    )
    return staging, list(dict.fromkeys(str(config["stream"]) for config in configs))


def _read_manifest(path: Path) -> list[ExportedVideo]:
    if path.suffix.lower() != ".parquet":
        return read_manifest(path / NAME)
    text = (_parquet(path).metadata.metadata or {}).get(PARQUET_KEY.encode())
    if text is None:
        raise CacheError(f"{path}: not written by `feat cache export`; save its arrays as .npy")
    return parse_manifest(text, path)


def _folder_records(
    folder: Path, videos: Sequence[ExportedVideo], problems: list[str]
) -> Iterator[FeatureRecord]:
    listed = {video.file for video in videos}
    for file in sorted(folder.rglob("*.npy")):
        if file.relative_to(folder).as_posix() not in listed:
            problems.append(f"{file}: not in {NAME}; move it elsewhere")
    for video in videos:
        path = folder / video.file
        try:
            for found in find_arrays(path, problems, []):
                yield from video.records(found.read())
        except CacheError as error:
            problems.append(str(error))
        except _DAMAGED as error:
            problems.append(f"{path}: {' '.join(str(error).split())[:200]}")


def _parquet_records(
    path: Path, videos: Sequence[ExportedVideo], problems: list[str]
) -> Iterator[FeatureRecord]:
    """Yield the records of a Parquet file; a video's rows follow each other."""
    file = _parquet(path)
    groups = iter(range(file.metadata.num_row_groups))
    for video in videos:
        rows: list[np.ndarray] = []
        try:
            wanted = len(video.line["clips"][0])
            while sum(map(len, rows)) < wanted:
                table = file.read_row_group(next(groups))
                if set(table["video"].to_pylist()) != {video.name}:
                    raise ValueError(f"rows of another video than {video.name}")
                rows.append(_side_by_side(table, video))
            yield from video.records(np.concatenate(rows))
        except StopIteration:
            problems.append(f"{path}: fewer rows than its manifest says")
            return
        except _DAMAGED as error:
            problems.append(f"{path}: {video.name!r:.80}: {' '.join(str(error).split())[:200]}")
            return


def _side_by_side(table: Any, video: ExportedVideo) -> np.ndarray:
    arrays = []
    for config, stream in zip(video.configs, video.line["streams"], strict=True):
        column = table[config["stream"]].combine_chunks()
        arrays.append(column.flatten().to_numpy().reshape(len(table), *stream["shape"][1:]))
    return np.concatenate(arrays, axis=-1)


def _parquet(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise CacheError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        problem = " ".join(str(error).split())[:200]
        raise CacheError(f"{path}: not a readable Parquet file: {problem}") from error
