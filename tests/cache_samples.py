"""Records made up for the cache's tests: small, seeded, valid."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache import ClipTable, FeatureRecord, SourceRecord
from cache.shard.checksums import Checksums
from cache.shard.read import HEADER, Place, structure_crc32

CLIP_LEN = 16


def sha256_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def make_clips(num_frames: int, rate: float = 25.0) -> ClipTable:
    start = np.arange(0, num_frames, CLIP_LEN)
    end = np.minimum(start + CLIP_LEN, num_frames)
    return ClipTable(
        start_frame=start,
        end_frame=end,
        start_seconds=start / rate,
        end_seconds=end / rate,
        clip_len=CLIP_LEN,
    )


def make_config(stream: str = "rgb", **changes: Any) -> dict[str, Any]:
    return {"stream": stream, "clip_len": CLIP_LEN, "weights": {"digest": "ab" * 32}, **changes}


def make_record(
    name: str = "a/one.mp4",
    stream: str = "rgb",
    *,
    num_frames: int = 75,
    dim: int = 8,
    dtype: str = "float32",
    config: dict[str, Any] | None = None,
    flow_stats: bool = False,
    **source: Any,
) -> FeatureRecord:
    clips = make_clips(num_frames)
    seed = int(sha256_of(f"{name} {stream} {config}")[:8], 16)
    rng = np.random.default_rng(seed)
    fields = {
        "name": name,
        "kind": "file",
        "size": 1000 + len(name),
        "sha256": sha256_of(name),
        "num_frames": num_frames,
        "frame_rate": 25.0,
        "width": 320,
        "height": 240,
        "codec": "h264",
        "pix_fmt": "yuv420p",
    }
    stats = np.array([[0.5, 0.4, 6.0, 0.01, 2.0, 3.0]] * len(clips), np.float32)
    return FeatureRecord(
        stream=stream,
        config=config or make_config(stream),
        source=SourceRecord(**{**fields, **source}),
        features=rng.standard_normal((len(clips), dim)).astype(dtype),
        clips=clips,
        provenance={"feat": "0.1.0", "seconds": 1.5},
        flow_stats=stats if flow_stats else None,
    )


def join_bytes(rows: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return the array (N,) uint8 and the bounds (rows + 1,) int64 of a ragged kind."""
    bounds = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return np.frombuffer(b"".join(rows), np.uint8), bounds


def make_other(
    kind: str, stream: str, name: str = "a/one.mp4", *, num_frames: int = 75, seed: int = 0
) -> FeatureRecord:
    """Return a record of a stream that is no features (S, D)."""
    plain = make_record(name, num_frames=num_frames)
    rng = np.random.default_rng(seed)
    num_clips, bounds = len(plain.clips), None
    if kind == "images":
        images = [rng.bytes(int(size)) for size in rng.integers(1, 90, num_clips)]
        array, bounds = join_bytes(images)
    elif kind == "frames":
        array = rng.integers(0, 256, (num_frames, 4, 5, 3), np.uint8)
    else:
        shape = {"crops": (num_clips, 10, 8), "maps": (num_clips, 2, 7, 7)}[kind]
        array = rng.standard_normal(shape).astype(np.float16)
    return altered(
        plain, kind=kind, stream=stream, config=make_config(stream), features=array, bounds=bounds
    )


def reseal(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the table of a shard as an attacker would: with its checksum made right again."""
    data = path.read_bytes()
    length = int(data[16:26])
    table = json.loads(data[92 : 92 + length])
    userblock = table["userblock"]
    change(table)
    text = json.dumps(table, separators=(",", ":")).encode().ljust(userblock - 92)
    head = HEADER.format(
        version=int(data[11:15]), table_len=len(text), table_sha256=hashlib.sha256(text).hexdigest()
    )
    block = head.encode() + text
    assert len(block) == userblock
    path.write_bytes(block + data[userblock:])


def reseal_structure(path: Path) -> Path:
    """Make every checksum of a tampered shard right again, its name included."""

    def change(table: dict[str, Any]) -> None:
        table["file_size"] = path.stat().st_size
        places = []
        for row in table["records"]:
            for name in ("features", "clips", "flow_stats", "bounds", "frame_seconds"):
                if row.get(name):
                    sizes = {
                        "float32": 4,
                        "float16": 2,
                        "clips": 32,
                        "uint8": 1,
                        "int64": 8,
                        "float64": 8,
                    }
                    item = sizes[row[name]["dtype"]]
                    dtype = np.dtype(f"V{item}")
                    shape, offset = tuple(row[name]["shape"]), row[name]["offset"]
                    places.append(Place(dtype, shape, offset, Checksums(0)))
        fd = os.open(path, os.O_RDONLY)
        size = table["file_size"]
        table["structure_crc32"] = structure_crc32(fd, path, places, table["userblock"], size)
        os.close(fd)

    reseal(path, change)
    final = path.with_name(hashlib.sha256(path.read_bytes()).hexdigest() + ".h5")
    path.rename(final)
    return final


def altered(record: FeatureRecord, **changes: Any) -> FeatureRecord:
    """Return a record with some fields replaced."""
    fields = {
        name: getattr(record, name)
        for name in (
            "stream",
            "config",
            "source",
            "features",
            "clips",
            "provenance",
            "flow_stats",
            "kind",
            "bounds",
            "frame_seconds",
        )
    }
    return FeatureRecord(**fields | changes)
