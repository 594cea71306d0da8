"""What a cache holds, as plain values for tables and JSON."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cache.configs import SHOWN_DIGITS
from cache.index import stream_of
from cache.keys import JSON, config_digest
from cache.records import FeatureEntry
from cache.store import FeatureCache
from cache.streams import CROPS, FRAMES, THUMBNAILS
from data.errors import CacheError
from data.visible import one_line

UNKNOWN = "unknown"


@dataclass(frozen=True)
class VideoRow:
    """One video of `feat cache ls`."""

    video: str
    num_frames: int
    num_clips: int  # of the stream that has most
    streams: list[str]
    configs: list[str]  # the start of each one's configuration's digest, in the streams' order
    nbytes: int  # the share of its shards


def iter_videos(cache: FeatureCache) -> Iterator[VideoRow]:
    """Yield every video that has features, by name; opens no shard."""
    rows = defaultdict(list)
    table = cache.rows()
    for video, row in zip(table["video"].tolist(), table, strict=True):
        rows[video.hex()].append(row)
    for name, entry in sorted(cache.names().items()):
        found = rows.get(entry.sha256)
        if found:
            pairs = sorted((stream_of(row), row["config"].tobytes().hex()) for row in found)
            # frames are no clips, and thumbnails may be of frames that were sampled otherwise
            clips = [row for row in found if stream_of(row) not in (THUMBNAILS, FRAMES)]
            told = clips or [row for row in found if stream_of(row) != THUMBNAILS] or found
            yield VideoRow(
                video=name,
                num_frames=int(told[0]["num_frames"]),
                num_clips=max((int(row["num_clips"]) for row in clips), default=0),
                streams=[stream for stream, _ in pairs],
                configs=[digest[:SHOWN_DIGITS] for _, digest in pairs],
                nbytes=sum(int(row["nbytes"]) for row in found),
            )


def describe_entry(entry: FeatureEntry) -> dict[str, JSON]:
    """Return all that is known of one stream of one video."""
    return {
        "key": entry.key,
        "stream": entry.stream,
        "kind": entry.kind,
        "shape": list(entry.feature_shape),
        "dtype": entry.dtype,
        "clip_len": entry.clip_len,
        "shard": entry.shard,
        "offset": entry.offset,
        "crc32": entry.crc32,
        "flow_stats": entry.has_flow_stats,
        "config_digest": config_digest(entry.config),
        "config": dict(entry.config),
        "source": entry.source.to_json(),
        "provenance": dict(entry.provenance),
    }


def describe_video(cache: FeatureCache, video: str) -> dict[str, JSON]:
    """Return all that a cache knows of one video, given by name or content.

    Raises:
        CacheError: it is not there.
    """
    streams: list[JSON] = []
    sha256 = ""
    for stream in cache.streams(video):
        for entry in cache.find_all(video, stream):
            streams.append(describe_entry(entry))
            sha256 = entry.source.sha256
    if not streams:
        raise CacheError(f"{video}: known in {cache.path}, but without features")
    names: list[JSON] = [
        name for name, entry in sorted(cache.names().items()) if entry.sha256 == sha256
    ]
    return {"video": video, "names": names, "sha256": sha256, "streams": streams}


def describe_cache(cache: FeatureCache) -> dict[str, JSON]:
    """Return a cache's totals, and each configuration with who wrote it, when, with what."""
    groups: dict[str, dict[str, Any]] = {}
    videos, shards = set(), set()
    for entry in cache.entries():
        digest = config_digest(entry.config)
        group = groups.setdefault(
            digest,
            {
                "digest": digest,
                "stream": entry.stream,
                "videos": 0,
                "clips": 0,
                "crops": entry.feature_shape[1] if entry.kind == CROPS else 1,
                "bytes": 0,
                "partial": 0,
                "times": set(),
                "written_by": Counter(),
                "writers": Counter(),
                "config": dict(entry.config),
            },
        )
        group["videos"] += 1
        group["clips"] += entry.num_clips
        group["bytes"] += entry.nbytes
        group["partial"] += bool(entry.source.partial)
        group["writers"][_writer(entry)] += 1
        group["written_by"][str(entry.provenance.get("by", UNKNOWN))] += 1
        if entry.provenance.get("time"):
            group["times"].add(str(entry.provenance["time"]))
        videos.add(entry.source.sha256)
        shards.add(entry.shard)
    for group in groups.values():
        times = group.pop("times")
        group["first_written"] = min(times, default=UNKNOWN)
        group["last_written"] = max(times, default=UNKNOWN)
        for column in ("written_by", "writers"):
            group[column] = dict(group.pop(column).most_common())
        group["config"] = group.pop("config")  # the longest comes last
    configs: list[Any] = sorted(groups.values(), key=lambda one: (one["stream"], one["digest"]))
    names = cache.names()
    folders = Counter(entry.origin or UNKNOWN for entry in names.values())
    return {
        "cache": str(cache.path),
        "videos": len(videos),
        "names": len(names),
        "names_by_folder": dict(folders.most_common()),
        "shards": len(shards),
        "damaged": dict(cache.bad_shards),
        "bytes": sum((cache.shards_dir / name).stat().st_size for name in shards),
        "labels": cache.labels_path.exists(),
        "configs": configs,
    }


def _writer(entry: FeatureEntry) -> str:
    """Return who made an entry, of what its provenance tells: versions and device."""
    if entry.source.kind == "imported":
        return "imported"
    known = entry.provenance
    parts = [f"{name} {known[name]}" for name in ("feat", "torch", "device") if known.get(name)]
    return ", ".join(parts) or UNKNOWN


def human_size(nbytes: int) -> str:
    """Return a size as people read it: `3.4 MB`, decimal units."""
    size, unit = float(nbytes), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, bigger
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"


def format_table(header: list[str], rows: list[list[str]], right: set[int]) -> list[str]:
    """Return the lines of a text table; columns in `right` are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in [header, *rows]:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def format_tree(value: dict[str, Any], indent: str = "") -> list[str]:
    """Return the lines that show nested values by indentation."""
    lines = []
    for key, inner in value.items():
        name = one_line(key)
        if isinstance(inner, dict) and inner:
            lines += [f"{indent}{name}:", *format_tree(inner, indent + "  ")]
        elif isinstance(inner, list) and inner and isinstance(inner[0], dict):
            lines.append(f"{indent}{name}:")
            for item in inner:
                first, *rest = format_tree(item, indent + "    ")
                lines += [f"{indent}  - {first.strip()}", *rest]
        else:
            plain = isinstance(inner, str) and inner.isprintable()  # no escapes for the terminal
            text = inner if plain else json.dumps(inner)
            lines.append(f"{indent}{name}: {text}")
    return lines
