"""Taking in features that somebody else made: kept apart from ours, their origin on record."""

import csv
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from cache.exchange.arrays import iter_arrays
from cache.files import explain
from cache.keys import JSON, feature_key
from cache.records import (
    ClipTable,
    FeatureRecord,
    NameEntry,
    SourceRecord,
    check_stream,
    check_video_name,
)
from cache.store import FeatureCache
from data.errors import CacheError

logger = logging.getLogger(f"feat.{__name__}")

#: clips: row i is clip i of `clip_len` frames. segments: the rows divide the video equally.
Layout = Literal["clips", "segments"]

_BATCH_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What is said of imported features; part of their key."""

    stream: str
    origin: str  # free text: who made them, with what
    layout: Layout = "clips"
    clip_len: int = 16  # of layout "clips"

    def __post_init__(self) -> None:
        check_stream(self.stream)
        if self.layout not in get_args(Layout):
            raise ValueError(f"layout must be one of {get_args(Layout)}, got {self.layout!r}")
        if not self.origin.strip() or len(self.origin) > 200 or not self.origin.isprintable():
            raise ValueError("origin must say who made the features, in at most 200 characters")
        if not 0 < self.clip_len < 2**31:
            raise ValueError(f"clip_len must be positive, got {self.clip_len}")

    def to_json(self, *, dim: int, dtype: str, crops: int) -> dict[str, JSON]:
        """Return the configuration under which features are stored."""
        return {
            "stream": self.stream,
            "kind": "imported",
            "origin": self.origin,
            "layout": self.layout,
            "clip_len": self.clip_len if self.layout == "clips" else 0,
            "dim": dim,
            "dtype": dtype,
            "crops": crops,
        }


@dataclass(kw_only=True)
class ImportReport:
    """What `import_features` did."""

    cache: str
    videos: int = 0
    skipped: int = 0  # there already
    rows: int = 0
    without_frames: list[str] = field(default_factory=list)  # frame count unknown
    odd_rows: list[str] = field(default_factory=list)  # another number of rows than most segments
    without_features: list[str] = field(default_factory=list)  # frame count, but no features

    def to_json(self) -> dict[str, JSON]:
        """Return the report as JSON."""
        return asdict(self)


def import_features(
    paths: Sequence[Path],
    cache: FeatureCache,
    config: ImportConfig,
    *,
    frames: Mapping[str, int] | None = None,
    names: Sequence[str] = (),
    frame_rate: float = 0.0,
) -> ImportReport:
    """Add other people's features to a cache.

    Every array is `(S, D)`, or `(S, crops, D)`, whose mean over the crops is kept. A video whose
    name is in the cache already is taken to be that video; else its name is its identity.

    Args:
        paths: .npy, .npz or .csv files, or folders of them; see `arrays.iter_arrays`.
        cache: where to.
        config: what is said of them.
        frames: frame count by video. Without one a clip table of layout "clips" counts whole
            clips; one of layout "segments" numbers the segments, and the video has 0 frames.
        names: video names to use, matched by name or, if that is unique, by stem: array
            `Abuse002_x264` is `Abuse/Abuse002_x264.mp4`.
        frame_rate: frames per second for the clips' times; 0 = unknown, times are 0.

    Raises:
        CacheError: an array cannot be used, or a video has other features of the same origin.
    """
    report = ImportReport(cache=os.fspath(cache.path))
    rename = _stems(names)
    frames = {rename.get(name, name): count for name, count in (frames or {}).items()}
    known = cache.names()
    pending: list[FeatureRecord] = []
    fresh: dict[str, NameEntry] = {}
    counts: dict[str, int] = {}
    for path in paths:
        for raw_name, array in iter_arrays(path):
            name = rename.get(raw_name, raw_name)
            if name in counts:
                raise CacheError(f"{path}: {name} comes twice")
            record = _record(path, name, array, config, frames.get(name), frame_rate, known)
            counts[name] = len(record.features)
            if name not in known:
                fresh[name] = NameEntry(
                    sha256=record.source.sha256, size=record.source.size, mtime_ns=0
                )
            if not record.source.num_frames:
                report.without_frames.append(name)
            if _is_there(cache, record):
                report.skipped += 1
                continue
            pending.append(record)
            report.videos += 1
            report.rows += len(record.features)
            if sum(item.features.nbytes for item in pending) >= _BATCH_BYTES:
                cache.write(pending)
                pending = []
    if pending:
        cache.write(pending)
    cache.set_names(fresh)
    _note_oddities(report, counts, frames, config)
    return report


def read_frame_counts(path: Path) -> dict[str, int]:
    """Return frame counts by video from JSON lines or CSV with the fields video and num_frames.

    A labels.csv with a column `frames` will do. Videos without a count are left out.

    Raises:
        CacheError: the file cannot be read or says something else.
    """
    counts = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows: Any = (
                csv.DictReader(file)
                if path.suffix.lower() == ".csv"
                else (json.loads(line) for line in file if line.strip())
            )
            for row in rows:
                value = row.get("num_frames", row.get("frames"))
                if value not in (None, ""):
                    counts[str(row["video"])] = int(value)
    except OSError as error:
        raise explain("read", path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise CacheError(
            f"{path}: {' '.join(str(error).split())[:200]}; expected JSON lines or CSV with video "
            "and num_frames"
        ) from error
    return counts


def clip_table(
    num_rows: int, config: ImportConfig, num_frames: int | None, frame_rate: float
) -> ClipTable:
    """Return which frames each row covers.

    11 frames, clips of 4 frames, 3 rows:   0:4 4:8 8:11      (the last is short)
    11 frames, 4 segments:                  0:2 2:5 5:8 8:11
    unknown, 4 segments:                    0:1 1:2 2:3 3:4   (numbered, no frames)

    Raises:
        ValueError: the rows do not fit the number of frames.
    """
    rows = np.arange(num_rows + 1)
    if config.layout == "clips":
        start, end = rows[:-1] * config.clip_len, rows[1:] * config.clip_len
        if num_frames is not None:
            if not start[-1] < num_frames <= end[-1] + config.clip_len - 1:
                raise ValueError(
                    f"{num_rows} rows of {config.clip_len} frames do not fit {num_frames} frames"
                )
            # a tail of less than a clip was dropped by whoever made them: nothing covers it
            end = np.minimum(end, num_frames)
    elif num_frames is None:
        start, end = rows[:-1], rows[1:]
    else:
        bounds = rows * num_frames // num_rows
        start = bounds[:-1]
        end = np.maximum(bounds[1:], start + 1)  # fewer frames than segments: some share a frame
    rate = frame_rate or np.inf
    return ClipTable(
        start_frame=start,
        end_frame=end,
        start_seconds=start / rate,
        end_seconds=end / rate,
        clip_len=config.clip_len if config.layout == "clips" else 0,
    )


def _record(
    path: Path,
    name: str,
    array: np.ndarray,
    config: ImportConfig,
    num_frames: int | None,
    frame_rate: float,
    known: Mapping[str, NameEntry],
) -> FeatureRecord:
    try:
        check_video_name(name)
        crops = array.shape[1] if array.ndim == 3 else 1
        if array.ndim == 3:
            array = array.mean(axis=1, dtype=np.float32)
        dtype = np.float16 if array.dtype == np.float16 else np.float32
        features = np.ascontiguousarray(array, dtype)
        clips = clip_table(len(features), config, num_frames, frame_rate)
        if features.ndim != 2:
            raise ValueError(f"shape {array.shape}, expected (S, D) or (S, crops, D)")
        stored = config.to_json(dim=features.shape[1], dtype=features.dtype.name, crops=crops)
        whole = (
            0 if num_frames is None and config.layout == "segments" else int(clips.end_frame[-1])
        )
        identity = hashlib.sha256(f"feat imported video\n{name}".encode()).hexdigest()
        source = SourceRecord(
            name=name,
            kind="imported",
            size=features.nbytes,
            sha256=known[name].sha256 if name in known else identity,
            num_frames=whole if num_frames is None else num_frames,
            frame_rate=frame_rate,
            width=0,
            height=0,
        )
        digest = hashlib.sha256(features.tobytes()).hexdigest()
        return FeatureRecord(
            stream=config.stream,
            config=stored,
            source=source,
            features=features,
            clips=clips,
            provenance={"imported_from": path.name, "sha256_of_features": digest},
        )
    except ValueError as error:
        raise CacheError(f"{path}: {name!r:.80}: {error}") from error


def _is_there(cache: FeatureCache, record: FeatureRecord) -> bool:
    """Return whether a record is in the cache already.

    Raises:
        CacheError: other features are, under the same name and origin.
    """
    key = feature_key(record.source.sha256, record.config)
    if not cache.has(key):
        return False
    old = cache.entry(key).provenance.get("sha256_of_features")
    if old != record.provenance["sha256_of_features"]:
        raise CacheError(
            f"{record.source.name}: {cache.path} has other features of origin "
            f"{record.config['origin']!r}; give these another --origin"
        )
    return True


def _stems(names: Sequence[str]) -> dict[str, str]:
    """Return the video for each stem (and each path without suffix) that only one video has."""
    found: dict[str, set[str]] = {}
    for name in names:
        path = Path(name)
        for short in (path.stem, path.name, path.with_suffix("").as_posix()):
            found.setdefault(short, set()).add(name)
    unique = {short: hits.pop() for short, hits in found.items() if len(hits) == 1}
    return {**unique, **{name: name for name in names}}


def _note_oddities(
    report: ImportReport,
    counts: Mapping[str, int],
    frames: Mapping[str, int],
    config: ImportConfig,
) -> None:
    """Put on record, and say, what whoever uses these features should know."""
    report.without_features = sorted(frames.keys() - counts.keys())
    if config.layout == "segments" and counts:
        values = list(counts.values())
        usual = max(set(values), key=values.count)
        report.odd_rows = sorted(name for name, count in counts.items() if count != usual)
        if report.odd_rows:
            logger.warning(
                "%d videos have not %d rows as the others; each is divided into as many parts as "
                "it has rows", len(report.odd_rows), usual,
            )  # fmt: skip
    if report.without_frames:
        logger.warning(
            "%d videos without a frame count: usable for video-level work only",
            len(report.without_frames),
        )
    if report.without_features:
        logger.warning("%d videos with a frame count but no features", len(report.without_features))
