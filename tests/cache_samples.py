"""Records made up for the cache's tests: small, seeded, valid."""

import hashlib
from typing import Any

import numpy as np

from cache import ClipTable, FeatureRecord, SourceRecord

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
    stats = np.array([[0.5, 0.4, 6.0, 0.01]] * len(clips), np.float32)
    return FeatureRecord(
        stream=stream,
        config=config or make_config(stream),
        source=SourceRecord(**{**fields, **source}),
        features=rng.standard_normal((len(clips), dim)).astype(dtype),
        clips=clips,
        provenance={"feat": "0.1.0", "seconds": 1.5},
        flow_stats=stats if flow_stats else None,
    )
