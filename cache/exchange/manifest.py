"""What exported arrays cannot say themselves: the side file that lets them come back unchanged.

`feat-export.jsonl` lies beside the arrays; Parquet has the same text in its metadata. Its first
line names the format and the configuration of each stream. Every other line is a video: its name
and file, which frames its rows cover, and for each stream the source, the frames' times if the rows
do not tell them, the kind, the shape and the sha256 of its features, which stand side by side in
the array's last axis. The last line is the sha256 of all lines before it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.files import read_limited
from cache.keys import JSON, canonical_json
from cache.records import (
    CLIP_DTYPE,
    ClipTable,
    FeatureRecord,
    NameEntry,
    SourceRecord,
    check_video_name,
)
from cache.streams import FEATURES, KINDS
from data.errors import CacheError

NAME = "feat-export.jsonl"
#: Where a Parquet file's metadata has the manifest.
PARQUET_KEY = "feat.manifest"
_HEAD = {"format": "feat export", "version": 1}
_MAX_BYTES = 1 << 30
_COLUMNS = tuple(CLIP_DTYPE.names or ())


@dataclass(frozen=True, kw_only=True)
class ExportedVideo:
    """One video of an export: what a manifest's line says."""

    name: str
    file: str  # POSIX path below the manifest's folder
    line: Mapping[str, Any]
    configs: Sequence[Mapping[str, JSON]]  # of the streams, in their order

    @property
    def sha256(self) -> str:
        """Digest of the video's content."""
        return str(self.line["streams"][0]["source"]["sha256"])

    @property
    def entry(self) -> NameEntry | None:
        """What the name stood for, None if it was only recorded with the features."""
        if self.line["mtime_ns"] == -1:
            return None
        return NameEntry(
            sha256=self.sha256,
            size=self.line["size"],
            mtime_ns=self.line["mtime_ns"],
            origin=self.line.get("origin", ""),
        )

    def records(self, array: np.ndarray) -> list[FeatureRecord]:
        """Return the records of all streams, from the array (S, ..., D of all streams).

        Raises:
            ValueError: the array has changed, or the manifest says something impossible.
        """
        records, begin = [], 0
        columns = zip(_COLUMNS, self.line["clips"], strict=True)
        clips = {name: np.array(values, CLIP_DTYPE[name]) for name, values in columns}
        for config, stream in zip(self.configs, self.line["streams"], strict=True):
            shape = tuple(stream["shape"])
            if stream["dtype"] not in KINDS[FEATURES].dtypes:
                raise ValueError(f"dtype {stream['dtype']!r:.20} of no features")
            part = array[..., begin : begin + shape[-1]]
            begin += shape[-1]
            features = np.ascontiguousarray(part, stream["dtype"]).reshape(shape)
            if hashlib.sha256(features.tobytes()).hexdigest() != stream["sha256"]:
                raise ValueError(
                    f"its values are not those that were exported; without {NAME} it can be "
                    "imported as somebody else's"
                )
            stats, seconds = stream["flow_stats"], stream.get("frame_seconds")
            records.append(
                FeatureRecord(
                    stream=str(config["stream"]),
                    config=config,
                    source=SourceRecord.from_json(stream["source"]),
                    features=features,
                    clips=ClipTable(clip_len=stream["clip_len"], **clips),
                    provenance=stream["provenance"],
                    flow_stats=None if stats is None else np.array(stats, np.float32),
                    frame_seconds=None if seconds is None else np.array(seconds, np.float64),
                    kind=stream["kind"],
                )
            )
        if begin != array.shape[-1]:
            raise ValueError(f"rows of {array.shape[-1]} values, expected {begin}")
        return records


def write_head(configs: Iterable[Mapping[str, JSON]]) -> str:
    """Return the first line of a manifest."""
    return _line({**_HEAD, "configs": [dict(config) for config in configs]})


def write_video(name: str, file: str, entry: NameEntry, records: Sequence[FeatureRecord]) -> str:
    """Return the line of one video; its records have the same clips."""
    clips = records[0].clips
    return _line(
        {
            "video": name,
            "file": file,
            "size": entry.size,
            "mtime_ns": entry.mtime_ns,
            "origin": entry.origin,
            "clips": [getattr(clips, column).tolist() for column in _COLUMNS],
            "streams": [_stream(record) for record in records],
        }
    )


def seal(lines: Sequence[str]) -> str:
    """Return the text of a manifest of these lines."""
    text = "".join(lines)
    return text + _last_line(text.encode())


def _last_line(text: bytes) -> str:
    return _line({"sha256": hashlib.sha256(text).hexdigest()})


def _stream(record: FeatureRecord) -> dict[str, JSON]:
    stats, seconds = record.flow_stats, record.frame_seconds
    return {
        "source": record.source.to_json(),
        "kind": record.kind,
        "shape": list(record.features.shape),
        "dtype": record.features.dtype.name,
        "sha256": hashlib.sha256(record.features.tobytes()).hexdigest(),
        "clip_len": record.clips.clip_len,
        "flow_stats": None if stats is None else stats.tolist(),
        "frame_seconds": None if seconds is None else seconds.tolist(),
        "provenance": dict(record.provenance),
    }


def _line(value: dict[str, Any]) -> str:
    return canonical_json(value).decode() + "\n"


def read_manifest(path: Path) -> list[ExportedVideo]:
    """Return the videos of the manifest in a file.

    Raises:
        CacheError: it cannot be read, or is none.
    """
    return parse_manifest(read_limited(path, _MAX_BYTES), path)


def parse_manifest(data: bytes, path: Path) -> list[ExportedVideo]:
    """Return the videos of a manifest.

    Args:
        data: its text.
        path: where it was found, for messages.

    Raises:
        CacheError: it is none, or damaged.
    """
    number = 1
    try:
        *lines, last = data.splitlines(keepends=True) or [b""]
        head = json.loads(lines[0]) if lines else None
        if not isinstance(head, dict) or {key: head.get(key) for key in _HEAD} != _HEAD:
            raise ValueError(f"expected a line {json.dumps(_HEAD)}")
        if last != _last_line(b"".join(lines)).encode():
            raise ValueError("its last line is not the sha256 of the others")
        configs = head["configs"]
        if not all(isinstance(config["stream"], str) for config in configs):
            raise ValueError("a configuration names no stream")
        videos = []
        for number, text in enumerate(lines[1:], 2):  # noqa: B007 - the line that is told
            line = json.loads(text)
            video = ExportedVideo(
                name=check_video_name(line["video"]),
                file=check_video_name(line["file"]),
                line=line,
                configs=configs,
            )
            if len(line["streams"]) != len(configs) or not configs:
                raise ValueError(f"{len(line['streams'])} streams, expected {len(configs)}")
            if {SourceRecord.from_json(stream["source"]).sha256 for stream in line["streams"]} != {
                video.sha256
            }:
                raise ValueError("its streams are of different videos")
            _ = video.entry  # checks itself
            videos.append(video)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = " ".join(str(error).split())[:200]
        raise CacheError(
            f"{path}:{number}: {type(error).__name__}: {problem}; export again, or remove it to "
            "import the arrays as somebody else's"
        ) from error
    return videos
