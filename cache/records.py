"""What the cache stores of one stream of one video. Every class checks itself."""

import getpass
import math
import os
import re
import socket
import time
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal, Self, get_args

import numpy as np

from cache.keys import JSON, canonical_json, feature_key, is_sha256
from cache.streams import FEATURES, KINDS, split_bytes

Kind = Literal["file", "frames", "imported"]

#: Columns of `FeatureRecord.flow_stats`, pixels per frame before clamping.
FLOW_STATS = (
    "mean_abs_x",
    "mean_abs_y",
    "max_abs",
    "equal_fraction",
    "p99_magnitude",
    "max_cell_magnitude",
)

#: A clip table as it lies in a shard, one row a clip.
CLIP_DTYPE = np.dtype(
    [
        ("start_frame", "<i8"),
        ("end_frame", "<i8"),
        ("start_seconds", "<f8"),
        ("end_seconds", "<f8"),
    ]
)

#: Times in whole milliseconds, as some containers hold them, lie so near to a constant rate's.
_EVEN_SECONDS = 0.0011

_ORIGIN = re.compile("(?:[0-9a-f]{16})?")
_STREAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_MAX_NAME = 1024  # bytes of UTF-8
_MAX_TEXT = 4096
_MAX_WHO = 200
MAX_INT = 2**62
#: A video of 2.7 years at 25 frames a second.
MAX_FRAMES = 2**31


def check_stream(stream: object) -> str:
    """Return `stream`; it must be 1 to 32 of a-z, 0-9, `_` and `-`.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(stream, str) or _STREAM.fullmatch(stream) is None:
        raise ValueError(f"a stream's name is 1 to 32 of a-z 0-9 _ -, got {stream!r:.80}")
    return stream


def check_video_name(name: object) -> str:
    """Return `name`; it must be a relative POSIX path that stays below its root.

    Raises:
        ValueError: it is empty, absolute or too long, has an empty, `.` or `..` part, or has
            characters that cannot be printed or encoded.
    """
    if are_plain_names([name]):
        return str(name)
    if not isinstance(name, str) or not name:
        raise ValueError(f"a video's name must be a text that is not empty, got {name!r:.80}")
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
        raise ValueError(
            f"a video's name must be UTF-8 without control characters, got {name!r:.80}"
        )
    if len(name.encode()) > _MAX_NAME:
        raise ValueError(f"a video's name is at most {_MAX_NAME} bytes, got {name!r:.80}...")
    # A backslash or a drive letter means nothing here, but would on the Windows machine of a
    # teammate who exports this cache; and `data.names.video_name` leaves blanks at the ends out.
    plain = name.strip()
    parts = re.split(r"[/\\]", plain)
    if any(part in ("", ".", "..") for part in parts) or re.match(r"[A-Za-z]:[/\\]", plain):
        raise ValueError(f"a video's name must stay below its folder, got {name!r:.80}")
    return name


def are_plain_names(names: Sequence[object]) -> bool:
    """Return whether all names are good at first sight; a False means that each must be checked."""
    if not all(type(name) is str and 0 < len(name) <= _MAX_NAME // 4 for name in names):
        return False
    text = "\n".join(names)  # type: ignore[arg-type]
    return (
        text.count("\n") == max(0, len(names) - 1)
        and text.replace("\n", "").isprintable()
        and _UNUSUAL.search(f"\n{text}\n") is None
    )


#: A part that begins with a dot or is empty, a backslash, a colon, a blank at an end.
_UNUSUAL = re.compile(r"[/\n][./]|/\n|[\\:]|\n[^\S\n]|[^\S\n]\n")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipTable:
    """Which frames each clip covers; S rows.

    Frames are 0-based, `end_frame` exclusive, and count real frames only: a tail that was padded
    to `clip_len` has `end_frame - start_frame < clip_len`.
    """

    start_frame: np.ndarray  # (S,) int64
    end_frame: np.ndarray  # (S,) int64
    start_seconds: np.ndarray  # (S,) float64
    end_seconds: np.ndarray  # (S,) float64
    clip_len: int  # nominal frames a clip; 0: they differ (imported segments)

    def __post_init__(self) -> None:
        for name, dtype in CLIP_DTYPE.fields.items() if CLIP_DTYPE.fields else ():
            column = np.asarray(getattr(self, name))
            if column.ndim != 1 or not np.can_cast(column.dtype, dtype[0], "same_kind"):
                raise ValueError(
                    f"clip table: {name} must be (S,) {dtype[0]}, got {column.shape} {column.dtype}"
                )
            object.__setattr__(self, name, column.astype(dtype[0], copy=False))
        if len({len(getattr(self, name)) for name in CLIP_DTYPE.names or ()}) != 1:
            raise ValueError("clip table: the four columns differ in length")
        _check_int("clip_len", self.clip_len, 0, 2**31)
        problem = self._problem()
        if problem:
            raise ValueError(f"clip table: {problem}")

    def __len__(self) -> int:
        return len(self.start_frame)

    @classmethod
    def from_array(cls, table: np.ndarray, clip_len: int) -> Self:
        """Return the clip table of an array of `CLIP_DTYPE`, shape (S,)."""
        columns = {name: np.ascontiguousarray(table[name]) for name in CLIP_DTYPE.names or ()}
        return cls(clip_len=clip_len, **columns)

    def to_array(self) -> np.ndarray:
        """Return the table as one array of `CLIP_DTYPE`, shape (S,)."""
        table = np.empty(len(self), CLIP_DTYPE)
        for name in CLIP_DTYPE.names or ():
            table[name] = getattr(self, name)
        return table

    def frame_seconds(self, num_frames: int, frame_rate: float) -> np.ndarray | None:
        """Return the time of each frame, (num_frames,) float64, as far as the clips tell.

        Frames within a clip are taken to be equally far apart. None if that would be a guess: the
        clips follow no constant rate, or nobody knows the rate.
        """
        frames = np.append(self.start_frame, [self.end_frame[-1], num_frames])
        seconds = np.append(self.start_seconds, self.end_seconds[-1])
        left = num_frames - self.end_frame[-1]  # frames behind the last clip
        seconds = np.append(seconds, seconds[-1] + (left / frame_rate if frame_rate else 0.0))
        frames, first = np.unique(frames, return_index=True)
        times: np.ndarray = np.interp(np.arange(num_frames), frames, seconds[first])
        even = np.linspace(seconds[0], seconds[-1], num_frames, endpoint=False)
        if frame_rate <= 0 or np.abs(times - even).max(initial=0.0) > _EVEN_SECONDS:
            return None
        return times

    def _problem(self) -> str:
        start, end = self.start_frame, self.end_frame
        if not (np.isfinite(self.start_seconds).all() and np.isfinite(self.end_seconds).all()):
            return "a time is not finite"
        if (start < 0).any() or (end <= start).any():
            row = int(np.flatnonzero((start < 0) | (end <= start))[0])
            return f"row {row} covers frames {start[row]} to {end[row]}, expected 0 <= start < end"
        if self.clip_len and (end - start > self.clip_len).any():
            row = int(np.flatnonzero(end - start > self.clip_len)[0])
            return f"row {row} covers {end[row] - start[row]} frames, clip_len is {self.clip_len}"
        if (np.diff(start) < 0).any():
            return "the rows are not in the order of their first frames"
        return ""


@dataclass(frozen=True, kw_only=True)
class SourceRecord:
    """The video that features were made from, as it was found and decoded."""

    name: str  # video_id: POSIX path below the videos' root
    kind: Kind
    size: int  # bytes
    sha256: str  # of the content; of the name for imported features
    num_frames: int  # frames delivered by the decoder, not the container's claim
    frame_rate: float  # frames per second, 0 = unknown
    width: int
    height: int
    codec: str = ""
    pix_fmt: str = ""
    rotation: int = 0  # degrees
    stream_index: int = 0
    partial: str = ""  # why decoding stopped early; "" = it did not

    def __post_init__(self) -> None:
        check_video_name(self.name)
        if self.kind not in get_args(Kind):
            raise ValueError(f"source: kind must be one of {get_args(Kind)}, got {self.kind!r:.80}")
        if not is_sha256(self.sha256):
            raise ValueError(f"source: sha256 must be 64 hex digits, got {self.sha256!r:.80}")
        for name in ("size", "width", "height", "stream_index"):
            _check_int(f"source: {name}", getattr(self, name), 0, MAX_INT)
        _check_int("source: num_frames", self.num_frames, 0, MAX_FRAMES)
        _check_int("source: rotation", self.rotation, -360, 360)
        rate = self.frame_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= MAX_INT:
            raise ValueError(
                f"source: frame_rate must be a number from 0 to {MAX_INT}, got {rate!r:.80}"
            )
        for name in ("codec", "pix_fmt", "partial"):
            text = getattr(self, name)
            if not isinstance(text, str) or len(text) > _MAX_TEXT:
                raise ValueError(f"source: {name} must be a text below {_MAX_TEXT} characters")

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Return the source in `value`.

        Raises:
            ValueError: a field is missing, unknown or wrong.
        """
        if not isinstance(value, dict) or value.keys() != _SOURCE_FIELDS:
            raise ValueError(f"source: expected the fields {sorted(_SOURCE_FIELDS)}")
        return cls(**value)

    def to_json(self) -> dict[str, JSON]:
        """Return the fields as JSON."""
        return {name: getattr(self, name) for name in _SOURCE_FIELDS}


_SOURCE_FIELDS = {item.name for item in fields(SourceRecord)}


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureRecord:
    """One stream of one video, with all that is known of how it was made."""

    stream: str  # "rgb", "flow", or an imported stream's name
    config: Mapping[str, JSON]  # all that changes the numbers; part of the key
    source: SourceRecord
    features: np.ndarray  # what `kind` says, such as (S, D) float32 or float16
    clips: ClipTable  # S rows
    provenance: Mapping[str, JSON] = field(default_factory=dict)  # who, when, where: not in the key
    flow_stats: np.ndarray | None = None  # (S, 6) float32, columns FLOW_STATS
    kind: str = FEATURES  # one of cache.streams.KINDS
    bounds: np.ndarray | None = None  # (rows + 1,) int64, of a ragged kind
    frame_seconds: np.ndarray | None = None  # (T,) float64, where the clips do not tell them

    def __post_init__(self) -> None:
        check_stream(self.stream)
        if self.config.get("stream") != self.stream:
            raise ValueError(
                f"record: config names stream {self.config.get('stream')!r}, not {self.stream!r}"
            )
        if self.kind not in KINDS:
            raise ValueError(f"record: kind must be one of {list(KINDS)}, got {self.kind!r:.80}")
        KINDS[self.kind].check(
            self.features.shape,
            self.features.dtype,
            bounds=None if self.bounds is None else self.bounds.shape,
            num_clips=len(self.clips),
            num_frames=self.source.num_frames,
        )
        if self.bounds is not None:
            _check_bounds(self.bounds, len(self.features))
        stats = self.flow_stats
        if stats is not None and (
            stats.shape != (len(self.clips), len(FLOW_STATS)) or stats.dtype != np.float32
        ):
            raise ValueError(
                f"flow_stats must be ({len(self.clips)}, {len(FLOW_STATS)}) float32, "
                f"got {stats.shape} {stats.dtype}"
            )
        times = self.frame_seconds
        if times is not None and (
            times.shape != (self.source.num_frames,) or times.dtype != np.float64
        ):
            raise ValueError(
                f"frame_seconds must be ({self.source.num_frames},) float64, "
                f"got {times.shape} {times.dtype}"
            )
        if times is not None and not np.isfinite(times).all():
            raise ValueError("frame_seconds: a time is not finite")
        canonical_json(dict(self.provenance))

    def strings(self) -> list[bytes]:
        """Return the rows of a ragged kind, such as one encoded image for each clip.

        Raises:
            ValueError: the kind is not ragged.
        """
        if self.bounds is None:
            raise ValueError(f"rows of {self.kind} are no strings of bytes")
        return split_bytes(self.features, self.bounds)

    @cached_property
    def key(self) -> str:
        """The key of these features: of the source's content and the configuration."""
        return feature_key(self.source.sha256, self.config)


@dataclass(frozen=True, kw_only=True)
class FeatureEntry:
    """What a cache holds of one stream of one video, and where. Holds no arrays."""

    key: str
    stream: str
    config: Mapping[str, JSON]
    source: SourceRecord
    provenance: Mapping[str, JSON]
    shard: str  # file name below shards/
    kind: str  # one of cache.streams.KINDS
    feature_shape: tuple[int, ...]  # (S, D) of the kind "features"
    dtype: str  # such as "float32"
    num_clips: int  # S
    clip_len: int
    offset: int  # of the first feature's first byte in the shard
    crc32: int  # of the features' bytes
    has_flow_stats: bool

    @property
    def nbytes(self) -> int:
        """Bytes of the features alone."""
        return math.prod(self.feature_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class NameEntry:
    """Which content a name stood for when it was last looked at."""

    sha256: str
    size: int  # bytes
    mtime_ns: int  # of the file; the newest image's for a folder
    origin: str = ""  # of the folder it was named in, see `cache.admission`; "" = not known

    def __post_init__(self) -> None:
        if not is_sha256(self.sha256):
            raise ValueError(f"sha256 must be 64 hex digits, got {self.sha256!r:.80}")
        check_stamp(self.size, self.mtime_ns)
        check_origin(self.origin)


def check_stamp(size: object, mtime_ns: object) -> None:
    """Do nothing if a file can have this size and time.

    Raises:
        ValueError: it cannot.
    """
    _check_int("size", size, 0, MAX_INT)
    _check_int("mtime_ns", mtime_ns, -MAX_INT * 2, MAX_INT * 2)


def check_origin(origin: object) -> str:
    """Return `origin`; it must be 16 hex digits, or empty.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(origin, str) or _ORIGIN.fullmatch(origin) is None:
        raise ValueError(f"an origin is 16 hex digits or nothing, got {origin!r:.80}")
    return origin


def who_and_when() -> dict[str, JSON]:
    """Return what a record's provenance says of who wrote it: `time` (UTC) and `by`.

    `by` is FEAT_USER if that is set, nobody if it is set to nothing, else `user@machine`.
    """
    made: dict[str, JSON] = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    who = os.environ.get("FEAT_USER")
    if who is None:
        with suppress(KeyError, OSError, ImportError):  # a container's user need not have a name
            who = f"{getpass.getuser()}@{socket.gethostname()}"
    if who:
        made["by"] = who[:_MAX_WHO]
    return made


def kind_json(kind: str) -> dict[str, JSON]:
    """Return what a shard says of a record's kind: nothing of features, as in layout 1."""
    return {} if kind == FEATURES else {"kind": kind}


def _check_bounds(bounds: np.ndarray, size: int) -> None:
    if bounds.dtype != np.int64 or bounds[0] != 0 or bounds[-1] != size:
        raise ValueError(f"bounds must be int64 from 0 to {size}")
    if (np.diff(bounds) <= 0).any():
        raise ValueError("bounds must grow: no row may be empty")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be an integer from {low} to {high}, got {value!r:.80}")
