"""Makes small feature caches with a known answer, through the real FeatureCache."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cache import ClipTable, FeatureCache, FeatureRecord, SourceRecord
from data.anomaly import parse_anomaly
from data.labels import VideoLabel, write_labels
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import METHODS, choose_method
from model.runs.folder import file_digest

# those that learn from features, as the caches here hold them
FEATURE_METHODS = [name for name in METHODS if not choose_method(name).reads_frames]
RATE = 25.0
# trains in a tenth of a second
SMALLEST = ConvLSTMMethod(
    hidden=1, head_widths=(), layers=1, clip_slots=1, steps=4, eval_every=2, batch_size=8
)


class KilledError(Exception):
    """Ends a training as a kill would: nothing after it is written."""


def label(video: str, split: str, anomaly: str = "", category: str = "") -> VideoLabel:
    extent, intervals, times = parse_anomaly(anomaly)
    return VideoLabel(
        video=video,
        split=split,
        category=category,
        extent=extent,
        intervals=intervals,
        times=times,
    )


def stream_config(stream: str, **changes: object) -> dict:
    return {"stream": stream, "clip_len": 16, "weights": {"digest": "a" * 64}, **changes}


def clip_table(num_frames: int, clip_len: int = 16, stride: int | None = None) -> ClipTable:
    start = np.arange(0, num_frames, stride or clip_len)
    end = np.minimum(start + clip_len, num_frames)
    return ClipTable(
        start_frame=start,
        end_frame=end,
        start_seconds=start / RATE,
        end_seconds=end / RATE,
        clip_len=clip_len,
    )


def segment_table(num_frames: int, segments: int) -> ClipTable:
    edges = np.linspace(0, num_frames, segments + 1).astype(int)
    return ClipTable(
        start_frame=edges[:-1],
        end_frame=edges[1:],
        start_seconds=edges[:-1] / RATE,
        end_seconds=edges[1:] / RATE,
        clip_len=0,
    )


def add_video(
    cache: FeatureCache,
    video: str,
    streams: Mapping[str, np.ndarray],
    num_frames: int,
    *,
    clips: ClipTable | None = None,
    content: str = "",
    sha256: str = "",
    config: Mapping[str, object] | None = None,
) -> None:
    """Write one video; `streams` maps a stream to its (S, D) features, or (S, C, D)."""
    source = SourceRecord(
        name=video,
        kind="file",
        size=1000,
        sha256=sha256 or hashlib.sha256((content or video).encode()).hexdigest(),
        num_frames=num_frames,
        frame_rate=RATE,
        width=320,
        height=240,
    )
    cache.write(
        [
            FeatureRecord(
                stream=stream,
                config=stream_config(stream, **(config or {})),
                source=source,
                features=features.astype(np.float32),
                kind="crops" if features.ndim == 3 else "features",
                clips=clips or clip_table(num_frames),
            )
            for stream, features in streams.items()
        ]
    )


def spiky_features(
    rng: np.random.Generator, row: VideoLabel, clips: ClipTable, dim: int, num_frames: int
) -> np.ndarray:
    """Noise, the share of the clip that is abnormal in 8 values and the category in 4 others."""
    features = rng.normal(0.0, 0.3, (len(clips), dim)).astype(np.float32)
    frames = row.frame_labels(num_frames)
    for index, (start, end) in enumerate(zip(clips.start_frame, clips.end_frame, strict=True)):
        features[index, :8] += 3.0 * frames[start:end].mean()
    if row.category:
        first = 8 + 4 * (sum(row.category.encode()) % 4)
        features[:, first : first + 4] += 1.5
    return features


def make_cache(
    path: Path,
    rows: Sequence[VideoLabel],
    *,
    num_frames: Mapping[str, int] | int = 160,
    streams: Mapping[str, int] | None = None,
    seed: int = 0,
    files: Mapping[str, Path] | None = None,
) -> FeatureCache:
    """Make a cache whose features show where the labels say the abnormal frames are.

    Some videos are taken to have the content of `files`.
    """
    cache = FeatureCache.create(path)
    rng = np.random.default_rng(seed)
    for row in rows:
        frames = num_frames if isinstance(num_frames, int) else num_frames[row.video]
        clips = clip_table(frames)
        known = row if not row.is_weak else label(row.video, row.split)
        add_video(
            cache,
            row.video,
            {
                stream: spiky_features(rng, known, clips, dim, frames)
                for stream, dim in (streams or {"rgb": 32, "flow": 32}).items()
            },
            frames,
            sha256=file_digest(files[row.video]) if files and row.video in files else "",
        )
    write_labels(cache.labels_path, rows)
    return cache


def demo_rows() -> list[VideoLabel]:
    """Twelve videos of two categories, eight to train on."""
    spans = ["32:64", "80:128", "16:48", "96:144", "64:112", "48:96"]
    return [
        label(
            f"{kind}/{index}.mp4",
            "train" if index < 4 else "test",
            spans[index] if kind == "bad" else "",
            ("run", "fall")[index % 2] if kind == "bad" else "",
        )
        for kind in ("bad", "good")
        for index in range(6)
    ]
