"""What a cache knows of the videos themselves, for the check of labels against it."""

from collections.abc import Mapping

from cache.keys import JSON
from cache.records import FeatureEntry
from cache.store import FeatureCache
from data.annotation.alignment import VideoFacts


def video_facts(cache: FeatureCache) -> dict[str, VideoFacts]:
    """Return video -> facts for every video that has at least one stream in the cache.

    Where streams of one video differ in length, the shortest counts: windows need all of them.

    Raises:
        ShardError: a shard is damaged.
    """
    by_content: dict[str, VideoFacts] = {}
    for entry in cache.entries():
        fact = _facts_of(entry)
        other = by_content.get(fact.sha256)
        if other is None or fact.num_frames < other.num_frames:
            by_content[fact.sha256] = fact
    return {
        video: by_content[name.sha256]
        for video, name in cache.names().items()
        if name.sha256 in by_content
    }


def _facts_of(entry: FeatureEntry) -> VideoFacts:
    fps = _find_fps(entry.config)
    return VideoFacts(
        num_frames=entry.source.num_frames,
        sha256=entry.source.sha256,
        partial=entry.source.partial,
        resampled_to=float(fps) if isinstance(fps, int | float) else None,
    )


def _find_fps(config: Mapping[str, JSON]) -> JSON:
    """Return the rate that `feat extract --fps` resampled to, wherever the config keeps it."""
    for name, value in config.items():
        if name == "fps" and value is not None:
            return value
        if isinstance(value, dict):
            found = _find_fps(value)
            if found is not None:
                return found
    return None
