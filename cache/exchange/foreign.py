"""The records of features that somebody else made: what is said of them, and their clips."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cache.exchange.layouts import ClipRule, Part, parse_layout
from cache.exchange.recognise import FoundStream
from cache.keys import JSON, imported_sha256
from cache.records import (
    ClipTable,
    FeatureRecord,
    NameEntry,
    SourceRecord,
    check_stream,
    who_and_when,
)
from cache.streams import FEATURES
from data.errors import CacheError

#: mean: one feature a clip, the mean of its crops. keep: all of them, a stream of the kind `crops`.
Crops = Literal["mean", "keep"]


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """What is said of imported features; what they are found to be adds to their key."""

    origin: str = ""  # free text: who made them, with what; exports of feat say it themselves
    stream: str = ""  # "": as the file names call it
    layout: str = "auto"  # see cache.exchange.layouts
    clip_len: int = 16  # frames, where rows are clips
    clip_stride: int = 0  # frames from clip to clip; 0: clip_len
    crops: Crops = "mean"

    def __post_init__(self) -> None:
        if self.stream:
            check_stream(self.stream)
        parse_layout(self.layout)
        blank = self.origin and not self.origin.strip()
        if blank or len(self.origin) > 200 or not self.origin.isprintable():
            raise ValueError("origin must say who made the features, in at most 200 characters")
        if not 0 < self.clip_len < 2**31:
            raise ValueError(f"clip_len must be positive, got {self.clip_len}")
        if not 0 <= self.clip_stride < 2**31:
            raise ValueError(f"clip_stride must be positive, got {self.clip_stride}")
        if self.crops not in get_args(Crops):
            raise ValueError(f"crops must be one of {get_args(Crops)}, got {self.crops!r}")

    @property
    def rule(self) -> ClipRule:
        """How many rows a video has, where rows are clips."""
        return ClipRule(clip_len=self.clip_len, clip_stride=self.clip_stride or self.clip_len)


def stored_config(stream: FoundStream, config: ImportConfig) -> dict[str, JSON]:
    """Return the configuration under which the features of a stream are stored."""
    clips = stream.rows == "clips"
    stored: dict[str, JSON] = {
        "stream": stream.name,
        "kind": "imported",
        "origin": config.origin,
        "layout": stream.rows,
        "clip_len": config.clip_len if clips else 0,
        "dim": stream.dim,
        "dtype": stream.dtype,
        "crops": stream.num_crops,
    }
    if clips and config.rule.clip_stride != config.clip_len:
        stored["clip_stride"] = config.rule.clip_stride
    if config.crops == "keep" and stream.num_crops > 1:
        stored["crops_kept"] = True
    return stored


def read_records(
    stream: FoundStream,
    config: ImportConfig,
    frames: Mapping[str, int],
    rates: Mapping[str, float],
    known: Mapping[str, NameEntry],
    problems: list[str],
) -> Iterator[FeatureRecord]:
    """Yield the records of one stream; an array that cannot be used is added to `problems`."""
    stored = stored_config(stream, config)
    for video, parts in stream.videos.items():
        try:
            features = _read(stream, parts, keep_crops="crops_kept" in stored)
            yield _record(stream, video, features, config, stored, frames, rates, known)
        except CacheError as error:
            problems.append(str(error))
        except ValueError as error:
            problems.append(f"{parts[0].array.path}: {video!r:.80}: {error}")


def _read(stream: FoundStream, parts: Sequence[Part], *, keep_crops: bool) -> np.ndarray:
    """Return the features of one video, (S, D), or (S, C, D) with crops kept.

    Raises:
        CacheError: an array cannot be read.
        ValueError: a value is not finite.
    """
    arrays = [part.array.read() for part in parts]
    if stream.named_clips:
        array = np.stack([array.reshape(-1) for array in arrays])
    elif stream.axes == "crops-first":
        array = arrays[0].transpose(1, 0, 2)
    elif len(arrays) > 1:
        array = np.stack(arrays, axis=1)
    else:
        array = arrays[0]
    if array.ndim == 3 and not keep_crops:
        # the mean of one crop is that crop, to the bit
        array = array[:, 0] if array.shape[1] == 1 else array.mean(axis=1, dtype=np.float32)
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, stream.dtype)
    broken = ~np.isfinite(features.reshape(len(features), -1)).all(axis=1)
    if broken.any():
        rows = np.flatnonzero(broken)
        raise ValueError(
            f"{len(rows)} of {len(features)} rows (first: row {rows[0]}) with NaN or infinity"
        )
    return features


def _record(
    stream: FoundStream,
    video: str,
    features: np.ndarray,
    config: ImportConfig,
    stored: Mapping[str, JSON],
    frames: Mapping[str, int],
    rates: Mapping[str, float],
    known: Mapping[str, NameEntry],
) -> FeatureRecord:
    """Return the record of one video.

    Raises:
        ValueError: the features cannot be recorded so.
    """
    parts = stream.videos[video]
    num_frames, rate = frames.get(video), rates[video]
    rule = config.rule if stream.rows == "clips" else None
    provenance: dict[str, JSON] = {**who_and_when(), "imported_from": parts[0].array.path.name}
    if stream.named_clips:
        named = np.array([part.frames for part in parts]) + stream.named_clips
        clips = _timed(named[:, 0], named[:, 1], config.clip_len, rate)
        if num_frames is not None and clips.end_frame.max() > num_frames:
            raise ValueError(f"clips to frame {clips.end_frame.max()}, the video has {num_frames}")
    else:
        if rule and num_frames is not None and rule.difference(len(features), num_frames) > 0:
            features = features[: rule.expected(num_frames)[1]]  # no frame is left for the last
            provenance["rows_left_out"] = 1
        clips = clip_table(len(features), rule, num_frames, rate)
    if num_frames is None:
        num_frames = int(clips.end_frame.max()) if rule else 0
    return FeatureRecord(
        stream=stream.name,
        config=stored,
        source=SourceRecord(
            name=video,
            kind="imported",
            size=features.nbytes,
            sha256=known[video].sha256 if video in known else imported_sha256(video),
            num_frames=num_frames,
            frame_rate=rate,
            width=0,
            height=0,
        ),
        features=features,
        clips=clips,
        provenance={
            **provenance,
            "sha256_of_features": hashlib.sha256(features.tobytes()).hexdigest(),
        },
        kind="crops" if features.ndim == 3 else FEATURES,
    )


def clip_table(
    num_rows: int, rule: ClipRule | None, num_frames: int | None, frame_rate: float
) -> ClipTable:
    """Return which frames each row covers: a clip by `rule`, or without one an equal part.

    11 frames, clips of 4 frames, 3 rows:   0:4 4:8 8:11      (the last is short)
    11 frames, 4 segments:                  0:2 2:5 5:8 8:11
    unknown, 4 segments:                    0:1 1:2 2:3 3:4   (numbered, no frames)
    """
    rows = np.arange(num_rows + 1)
    if rule is not None:
        start = rows[:-1] * rule.clip_stride
        end = start + rule.clip_len
        if num_frames is not None:
            # a tail of less than a clip was dropped by whoever made them: nothing covers it
            end = np.minimum(end, num_frames)
    elif num_frames is None:
        start, end = rows[:-1], rows[1:]
    else:
        bounds = rows * num_frames // num_rows
        start = bounds[:-1]
        end = np.maximum(bounds[1:], start + 1)  # fewer frames than segments: some share a frame
    return _timed(start, end, rule.clip_len if rule else 0, frame_rate)


def _timed(start: np.ndarray, end: np.ndarray, clip_len: int, frame_rate: float) -> ClipTable:
    rate = frame_rate or np.inf
    return ClipTable(
        start_frame=start,
        end_frame=end,
        start_seconds=start / rate,
        end_seconds=end / rate,
        clip_len=clip_len,
    )
