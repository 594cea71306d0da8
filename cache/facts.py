"""What a cache knows of the videos themselves: how many frames, at which rate.

The one rule for it: the check of labels (`feat data check`), training and evaluation ask here.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cache.keys import JSON, config_digest
from cache.records import FeatureEntry
from cache.store import FeatureCache
from cache.streams import THUMBNAILS
from data.annotation.alignment import VideoFacts
from data.names import video_name


def video_facts(
    cache: FeatureCache,
    videos: Collection[str] | None = None,
    *,
    streams: Collection[str] = (),
    configs: Mapping[str, Mapping[str, JSON]] | None = None,
    timed: Collection[str] = (),
) -> dict[str, VideoFacts]:
    """Return video -> facts for every video that has at least one stream in the cache.

    Thumbnails are no such stream: they may be of frames that were sampled otherwise. Of the streams
    and configurations that are considered, the shortest counts: windows need all of them. Features
    that were imported without a frame count tell no length; a video that has no others has 0
    frames.

    Args:
        cache: the cache.
        videos: names, or contents' sha256; default: all names.
        streams: the streams to consider; default: all.
        configs: by stream, the only configuration to consider; see `cache.configs.choose_configs`.
        timed: videos of which the times of all frames are wanted.

    Raises:
        ShardError: a shard is damaged.
    """
    contents = {name: entry.sha256 for name, entry in cache.names().items()}
    if videos is not None:
        contents = {video: contents.get(video_name(video), video) for video in videos}
    by_content: dict[str, list[FeatureEntry]] = defaultdict(list)
    for key in _keys(cache.rows(), set(contents.values()), streams, configs or {}):
        entry = cache.entry(key)
        by_content[entry.source.sha256].append(entry)
    facts = {digest: _facts(entries) for digest, entries in by_content.items()}
    for digest in {contents[video] for video in timed if video in contents} & facts.keys():
        lead = _shortest(by_content[digest])[0]
        seconds = cache.read_frame_seconds(lead.key) if lead.source.num_frames else None
        facts[digest] = replace(facts[digest], frame_seconds=seconds)
    return {video: facts[digest] for video, digest in contents.items() if digest in facts}


def _keys(
    rows: np.ndarray,
    contents: set[str],
    streams: Collection[str],
    configs: Mapping[str, Mapping[str, JSON]],
) -> list[str]:
    """Return the keys to consider, shard by shard."""
    digests = {stream: config_digest(config) for stream, config in configs.items()}
    columns = (rows[name].tolist() for name in ("shard", "key", "video", "stream", "config"))
    found = []
    for shard, key, video, raw, config in zip(*columns, strict=True):
        stream = raw.decode("ascii", "replace")
        if (
            video.hex() in contents
            and stream != THUMBNAILS
            and (not streams or stream in streams)
            and digests.get(stream, config.hex()) == config.hex()
        ):
            found.append((shard, key.hex()))
    return [key for _, key in sorted(found)]


def _shortest(entries: Sequence[FeatureEntry]) -> list[FeatureEntry]:
    """Return those entries of one content whose frames are fewest, of those that are counted."""
    counted = [entry for entry in entries if entry.source.num_frames] or entries
    num_frames = min(entry.source.num_frames for entry in counted)
    return [entry for entry in counted if entry.source.num_frames == num_frames]


def _facts(entries: Sequence[FeatureEntry]) -> VideoFacts:
    """Return the facts of one content from its streams and configurations."""
    shortest = _shortest(entries)
    return VideoFacts(
        num_frames=shortest[0].source.num_frames,
        sha256=entries[0].source.sha256,
        partial=min(
            (entry.source.partial for entry in shortest if entry.source.partial), default=""
        ),
        resampled_to=min(filter(None, map(_resampled_to, shortest)), default=None),
    )


def _resampled_to(entry: FeatureEntry) -> float | None:
    """Return the frame rate that `feat extract --fps` resampled to, None if it did not."""
    decode = entry.config.get("decode")
    fps = decode.get("fps") if isinstance(decode, dict) else None
    return float(fps) if isinstance(fps, int | float) else None
