"""The features of some labelled videos as one array, read from a cache once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache import ClipTable, FeatureCache, FeatureEntry, config_difference, config_digest
from cache.records import FLOW_STATS
from cache.streams import CROPS, READ_BY_MODELS
from data.errors import ConfigError, ModelError
from data.labels import VideoLabel
from model.features.array import empty_features

WhichCrops = Literal["none", "all", "maps"]
"""Which of a cache's crops are loaded beside their mean; `maps`: the places of feature maps, if all
streams have the same."""
SEGMENT_SLOTS = 16
"""Scores a clip where the cache's clips have no fixed length (imported segments)."""
MOTION_STATS = ("mean_abs_x", "mean_abs_y", "p99_magnitude", "max_cell_magnitude")
"""Statistics of the flow, pixels a frame, that the cache holds beside the flow features."""
MOTION_REPEAT = 64
"""Columns of each: four maps of 4x4. Three columns among two thousand would go unheard."""
MOTION_DIM = len(MOTION_STATS) * MOTION_REPEAT
_MOTION_FLOOR = 1e-3  # pixels: below it a logarithm tells noise from noise


@dataclass(frozen=True, kw_only=True)
class StreamFeatures:
    """One stream's part of the feature vectors and how it was made."""

    name: str
    dim: int
    config: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Identity of the configuration."""
        return str(config_digest(self.config))


@dataclass(frozen=True, kw_only=True)
class FeatureSet:
    """The features of V videos, N clips in all, video after video."""

    labels: tuple[VideoLabel, ...]
    features: NDArray[np.float32]
    """(N, D), the streams side by side; a memory map where they are too many for memory."""
    first_clip: NDArray[np.int64]
    """(V + 1,): first row of each video, then N."""
    start_frame: NDArray[np.int64]
    """(N,) first frame of each clip within its video."""
    end_frame: NDArray[np.int64]
    """(N,) frame after the last real one."""
    num_frames: NDArray[np.int64]
    """(V,) frames decoded."""
    frame_rate: NDArray[np.float64]
    """(V,) frames a second."""
    sha256: tuple[str, ...]
    """Of each video's content."""
    clip_len: int
    """Nominal frames a clip; 0 if it varies."""
    streams: tuple[StreamFeatures, ...]
    crops: NDArray[np.float32] | None = None
    """(N, C, D), of which `features` are the mean; only where several were asked for."""
    frames: tuple[NDArray[np.uint8], ...] = ()
    """Of each video (T, H, W, C), mapped; then a clip is a frame, and D is 0."""
    flow_stats: NDArray[np.float32] | None = None
    """(N, 6), columns `cache.records.FLOW_STATS`; only where they were asked for."""

    @property
    def each_crop(self) -> NDArray[np.float32]:
        """(N, C, D): the crops that were loaded, or the features as a single one."""
        return self.features[:, None] if self.crops is None else self.crops

    @property
    def video_of(self) -> NDArray[np.int64]:
        """(N,) index of each clip's video."""
        return np.repeat(np.arange(len(self.labels)), np.diff(self.first_clip))

    @property
    def contents(self) -> dict[str, str]:
        """Video -> sha256 of its content."""
        return {row.video: sha for row, sha in zip(self.labels, self.sha256, strict=True)}

    def rows(self, video: int) -> slice:
        """Return the rows of one video."""
        return slice(int(self.first_clip[video]), int(self.first_clip[video + 1]))


def load_features(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    streams: Sequence[str],
    configs: Mapping[str, Mapping[str, Any]] | None = None,
    motion: bool = False,
    flow_stats: bool = False,
    crops: WhichCrops = "none",
    memory_bytes: int | None = None,
) -> FeatureSet:
    """Return the features of the labelled videos, in the order of the labels.

    Of several crops of a clip it is their mean.

    Args:
        cache: where they are.
        labels: one for each video wanted; at least one.
        streams: which streams to put side by side.
        configs: the configuration of each stream, as a checkpoint names it; without it the
            videos must agree on one.
        motion: append `MOTION_DIM` columns, the logarithms of `MOTION_STATS`; `streams` must
            include flow and the cache hold its statistics, see `has_motion`.
        flow_stats: load the flow's statistics of every clip, too.
        crops: which crops to load, too.
        memory_bytes: features that need more are mapped from a file; default: half of the memory
            that is available.

    Raises:
        ModelError: a stream is missing, its clips differ from another stream's, a value is not a
            number, or there is no room for the features.
        ConfigError: features of several configurations, or of another than `configs` says.
    """
    per_stream = [
        [cache.find(label.video, stream, (configs or {}).get(stream)) for label in labels]
        for stream in streams
    ]
    parts = tuple(
        same_config(stream, entries) for stream, entries in zip(streams, per_stream, strict=True)
    )
    lead = per_stream[0]
    clips = _common_clips(cache, streams, per_stream)
    first_clip = np.cumsum([0] + [len(table) for table in clips])
    dim = sum(part.dim for part in parts) + motion * MOTION_DIM
    features = empty_features((int(first_clip[-1]), dim), memory_bytes=memory_bytes)
    each = None
    if crops == "maps" and not all(_has_map_of(parts[0], part) for part in parts):
        crops = "none"
    if crops != "none" and (count := _common_crops(streams, per_stream)) > 1:
        each = empty_features((len(features), count * dim), memory_bytes=memory_bytes)
        each = each.reshape(-1, count, dim)
    for video, label in enumerate(labels):
        place = slice(first_clip[video], first_clip[video + 1])
        rows = features[place]
        left = 0
        for part, entries in zip(parts, per_stream, strict=True):
            stored = cache.read_key(entries[video].key)
            rows[:, left : left + part.dim] = mean_crop(stored) if stored.ndim == 3 else stored
            if each is not None:
                of_crops = stored if stored.ndim == 3 else stored[:, None]
                each[place, :, left : left + part.dim] = of_crops
            left += part.dim
        if motion:
            flow = per_stream[list(streams).index("flow")]
            rows[:, left:] = _motion_columns(cache, flow[video])
            if each is not None:
                each[place, :, left:] = rows[:, None, left:]
        if not np.isfinite(rows).all():
            raise ModelError(
                f"{label.video}: features hold NaN or infinity; run `feat cache verify`"
            )
    return FeatureSet(
        labels=tuple(labels),
        features=features,
        first_clip=first_clip,
        start_frame=np.concatenate([table.start_frame for table in clips]),
        end_frame=np.concatenate([table.end_frame for table in clips]),
        num_frames=np.array([entry.source.num_frames for entry in lead], dtype=np.int64),
        frame_rate=np.array([entry.source.frame_rate for entry in lead], dtype=np.float64),
        sha256=tuple(entry.source.sha256 for entry in lead),
        clip_len=lead[0].clip_len,
        streams=parts,
        crops=each,
        flow_stats=(
            np.concatenate([_flow_stats(cache, entry) for entry in _flow_of(streams, per_stream)])
            if flow_stats
            else None
        ),
    )


def has_motion(
    cache: FeatureCache,
    videos: Sequence[str],
    streams: Sequence[str],
    configs: Mapping[str, Mapping[str, Any]] | None = None,
) -> bool:
    """Return whether flow is among `streams` and the cache holds its statistics of all videos."""
    config = (configs or {}).get("flow")
    return "flow" in streams and all(
        cache.find(video, "flow", config).has_flow_stats for video in videos
    )


def _motion_columns(cache: FeatureCache, entry: FeatureEntry) -> NDArray[np.float32]:
    """Return (S, MOTION_DIM) from the statistics stored with one video's flow features."""
    columns = [FLOW_STATS.index(name) for name in MOTION_STATS]
    stats = _flow_stats(cache, entry)[:, columns]
    logarithms = np.log(np.maximum(stats, 0.0) + _MOTION_FLOOR)
    return np.repeat(logarithms, MOTION_REPEAT, axis=1).astype(np.float32)


def _flow_of(
    streams: Sequence[str], per_stream: Sequence[Sequence[FeatureEntry]]
) -> Sequence[FeatureEntry]:
    if "flow" not in streams:
        raise ModelError(
            f"the method needs the stream flow, the features are {', '.join(streams)}; run "
            "`feat extract`, or name flow among --streams"
        )
    return per_stream[list(streams).index("flow")]


def _flow_stats(cache: FeatureCache, entry: FeatureEntry) -> NDArray[np.float32]:
    """Return (S, 6) statistics of the flow of one video's clips."""
    stats = cache.read_record(entry.key).flow_stats
    if stats is None:
        raise ModelError(
            f"{entry.source.name}: its flow features come without {', '.join(FLOW_STATS)}; "
            "extract it again"
        )
    return stats


def same_config(
    stream: str, entries: Sequence[FeatureEntry], *, kinds: Sequence[str] = READ_BY_MODELS
) -> StreamFeatures:
    """Return what the entries of several videos are alike in.

    Args:
        stream: its name.
        entries: of each video, at least one.
        kinds: which it may be of.

    Raises:
        ModelError: another kind, or rows of another shape.
        ConfigError: they were made differently.
    """
    first = entries[0]
    if first.kind not in kinds:
        raise ModelError(
            f"{stream}: found a stream of kind {first.kind}, the method takes "
            f"{' or '.join(kinds)}; name other streams"
        )
    for entry in entries[1:]:
        if config_digest(entry.config) != config_digest(first.config):
            raise ConfigError(
                f"{stream} features of {first.source.name} and {entry.source.name} were made "
                f"differently: {config_difference(first.config, entry.config)}; choose one with "
                "--config, `feat cache info` lists them"
            )
        if entry.feature_shape[1:] != first.feature_shape[1:]:
            raise ModelError(
                f"{stream} features of {entry.source.name} have {_values(entry)} values, "
                f"those of {first.source.name} {_values(first)}"
            )
    return StreamFeatures(name=stream, dim=int(first.feature_shape[-1]), config=first.config)


def _common_crops(streams: Sequence[str], per_stream: Sequence[Sequence[FeatureEntry]]) -> int:
    """Return how many crops each stream has of a clip."""
    counts = [one[0].feature_shape[1] if one[0].kind == CROPS else 1 for one in per_stream]
    if len(set(counts)) > 1:
        found = ", ".join(f"{name} {count}" for name, count in zip(streams, counts, strict=True))
        raise ModelError(
            f"the streams have not the same crops: {found}; name others with --streams, or "
            "take their means with --set crops=mean"
        )
    return counts[0]


def _has_map_of(first: StreamFeatures, other: StreamFeatures) -> bool:
    wanted = first.config.get("feature_map")
    return wanted is not None and other.config.get("feature_map") == wanted


def _values(entry: FeatureEntry) -> str:
    """Return how many values a clip has: `1024`, or of crops `10 x 1024`."""
    return " x ".join(map(str, entry.feature_shape[1:]))


def mean_crop(crops: NDArray[Any]) -> NDArray[np.float32]:
    """Return (S, D), the mean over the crops of (S, C, D), float16 summed as float32."""
    mean: NDArray[np.float32] = crops.mean(axis=1, dtype=np.float32)
    return mean


def _common_clips(
    cache: FeatureCache, streams: Sequence[str], per_stream: Sequence[Sequence[FeatureEntry]]
) -> list[ClipTable]:
    """Return the clip table of each video, which all its streams must share."""
    lead = per_stream[0]
    tables = [cache.read_clips(entry.key) for entry in lead]
    clip_len = tables[0].clip_len
    for stream, entries in zip(streams, per_stream, strict=True):
        for entry, expected in zip(entries, tables, strict=True):
            table = cache.read_clips(entry.key) if entries is not lead else expected
            if table.clip_len != clip_len:
                raise ModelError(
                    f"{entry.source.name}: clips of {table.clip_len} frames, other videos have "
                    f"{clip_len}; use a cache with one clip length"
                )
            if not (
                np.array_equal(table.start_frame, expected.start_frame)
                and np.array_equal(table.end_frame, expected.end_frame)
            ):
                raise ModelError(
                    f"{entry.source.name}: the clips of {stream} are not those of {streams[0]}; "
                    "extract both again with one clip length and stride"
                )
    return tables
