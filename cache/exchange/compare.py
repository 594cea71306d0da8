"""How two caches differ: what each lacks, and how far what both have is apart."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from cache.keys import config_difference
from cache.records import FeatureEntry
from cache.store import FeatureCache
from cache.streams import KINDS


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How far two arrays of features of the same shape are apart, row by row."""

    mean_cosine: float
    min_cosine: float

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> "Closeness":
        """Compare two `(S, ...)` arrays; rows that are zero in both count as equal."""
        x, y = (array.astype(np.float64).reshape(len(array), -1) for array in (a, b))
        norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
        same = (x == y).all(axis=1)
        cosine = np.where(same, 1.0, (x * y).sum(axis=1) / np.where(norms > 0, norms, 1.0))
        return cls(
            mean_cosine=float(cosine.mean()),
            min_cosine=float(cosine.min()),
        )


@dataclass(kw_only=True)
class StreamDiff:
    """What two caches have of one stream."""

    stream: str
    only_a: list[str] = field(default_factory=list)  # videos
    only_b: list[str] = field(default_factory=list)
    both: int = 0
    identical: int = 0
    other_shape: list[str] = field(default_factory=list)
    mean_cosine: float | None = None  # of all rows that both have
    min_cosine: float | None = None
    min_cosine_video: str = ""
    config_difference: str = ""  # of the first pair made differently


def diff_caches(a: FeatureCache, b: FeatureCache) -> list[StreamDiff]:
    """Compare two caches stream by stream; videos are matched by content, not by name.

    Where both hold a stream of a video under several configurations the same ones are compared,
    else the first of each.

    Raises:
        CacheError: a cache cannot be read.
    """
    ours, theirs = _by_content(a), _by_content(b)
    result = []
    for stream in sorted({stream for _, stream in ours.keys() | theirs.keys()}):
        diff = StreamDiff(stream=stream)
        cosines = []
        for content in sorted(key for key in ours.keys() | theirs.keys() if key[1] == stream):
            left, right = ours.get(content, []), theirs.get(content, [])
            if not left or not right:
                side = diff.only_a if left else diff.only_b
                side.append((left or right)[0].source.name)
                continue
            cosines += _compare(diff, a, b, *_pair(left, right))
        if cosines:
            diff.mean_cosine = sum(mean * rows for mean, rows in cosines) / sum(
                rows for _, rows in cosines
            )
        for names in (diff.only_a, diff.only_b):
            names.sort()
        result.append(diff)
    return result


def _by_content(cache: FeatureCache) -> dict[tuple[str, str], list[FeatureEntry]]:
    found = defaultdict(list)
    for entry in cache.entries():
        found[entry.source.sha256, entry.stream].append(entry)
    return found


def _pair(left: list[FeatureEntry], right: list[FeatureEntry]) -> tuple[FeatureEntry, FeatureEntry]:
    keys = {entry.key: entry for entry in right}
    same = [(entry, keys[entry.key]) for entry in left if entry.key in keys]
    return same[0] if same else (left[0], right[0])


def _compare(
    diff: StreamDiff, a: FeatureCache, b: FeatureCache, ours: FeatureEntry, theirs: FeatureEntry
) -> list[tuple[float, int]]:
    """Add one video that both have; return (mean cosine, rows) if it can be compared."""
    diff.both += 1
    name = ours.source.name
    if not diff.config_difference and ours.key != theirs.key:
        difference = config_difference(ours.config, theirs.config)
        diff.config_difference = difference.replace(" here, ", " in A, ").replace("the cache", "B")
    kind, same_shape = KINDS[ours.kind], ours.feature_shape == theirs.feature_shape
    if ours.kind != theirs.kind or not (same_shape or kind.ragged):
        diff.other_shape.append(name)
        return []
    is_same = same_shape and (ours.crc32, ours.dtype) == (theirs.crc32, theirs.dtype)
    diff.identical += is_same
    if not kind.is_measured:
        return []
    if is_same:
        close = Closeness(mean_cosine=1.0, min_cosine=1.0)
    else:
        close = Closeness.of(a.read_key(ours.key), b.read_key(theirs.key))
    if diff.min_cosine is None or close.min_cosine < diff.min_cosine:
        diff.min_cosine, diff.min_cosine_video = close.min_cosine, name
    return [(close.mean_cosine, ours.num_clips)]
