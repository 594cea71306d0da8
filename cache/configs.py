"""The configurations that a cache holds, and how a user chooses among them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cache.contents import Contents
from cache.keys import JSON, config_difference
from data.errors import CacheError

SHOWN_DIGITS = 8
_START = re.compile(r"[0-9a-f]{1,64}")


@dataclass(frozen=True, kw_only=True)
class StoredConfig:
    """One configuration of one stream, as it is found in a cache."""

    digest: str  # 64 hex digits, see `cache.keys.config_digest`
    stream: str
    config: Mapping[str, JSON]
    num_videos: int  # contents that have features of it

    @property
    def short(self) -> str:
        """The start of the digest, as commands show it."""
        return self.digest[:SHOWN_DIGITS]


def choose_configs(cache: Contents, starts: Sequence[str]) -> dict[str, dict[str, JSON]]:
    """Return the configuration of each stream that a user chose with `--config`.

    A stream that no start names is absent from the result: it was left open. The result is what
    `FeatureCache.find`, `video_facts` and `load_features` take as the configurations to use.

    Args:
        cache: the cache that holds them.
        starts: digests of configurations, or so much of their start that only one has it.

    Raises:
        CacheError: a start fits no configuration or several (the message lists them with what
            differs), or two starts name configurations of one stream.
    """
    return choose_among(list_configs(cache), starts, where=str(cache.path))


def choose_among(
    found: Sequence[StoredConfig], starts: Sequence[str], *, where: str
) -> dict[str, dict[str, JSON]]:
    """Return what `choose_configs` does, from a list of configurations.

    Args:
        found: the configurations there are.
        starts: the starts of digests.
        where: where they were found, for messages.

    Raises:
        CacheError: as `choose_configs`.
    """
    chosen: dict[str, StoredConfig] = {}
    for start in starts:
        one = resolve_config(found, start, where=where)
        other = chosen.setdefault(one.stream, one)
        if other != one:
            raise CacheError(
                f"--config {other.short} and --config {one.short} are both of {one.stream}: "
                f"{describe_configs([other, one])}; give one for each stream"
            )
    return {stream: dict(one.config) for stream, one in chosen.items()}


def resolve_config(found: Sequence[StoredConfig], start: str, *, where: str) -> StoredConfig:
    """Return the one configuration whose digest begins with `start`.

    Args:
        found: the configurations there are.
        start: 1 to 64 hex digits.
        where: where they were found, for messages.

    Raises:
        CacheError: there is none, or more than one.
    """
    fitting = [one for one in found if one.digest.startswith(start.lower())]
    if _START.fullmatch(start.lower()) is None:
        raise CacheError(
            f"--config {start[:80]!r}: expected the hex digits that a digest begins with; "
            f"{where} has {describe_configs(found)}"
        )
    if not fitting:
        raise CacheError(
            f"--config {start}: no configuration begins so; {where} has {describe_configs(found)}"
        )
    if len(fitting) > 1:
        raise CacheError(
            f"--config {start}: {len(fitting)} configurations begin so in {where}, "
            f"give more digits: {describe_configs(fitting)}"
        )
    return fitting[0]


def list_configs(*caches: Contents) -> list[StoredConfig]:
    """Return every configuration in some caches, by stream, the one of most videos first.

    Opens one shard for each configuration.

    Raises:
        ShardError: one of these shards is damaged.
    """
    videos: dict[str, set[bytes]] = {}
    example: dict[str, tuple[Contents, str]] = {}
    for cache in caches:
        rows = cache.rows()
        columns = (rows[name].tolist() for name in ("config", "video", "key"))
        for config, video, key in zip(*columns, strict=True):
            videos.setdefault(config.hex(), set()).add(video)
            example.setdefault(config.hex(), (cache, key.hex()))
    found = []
    for digest, (cache, key) in example.items():
        entry = cache.entry(key)
        found.append(
            StoredConfig(
                digest=digest,
                stream=entry.stream,
                config=entry.config,
                num_videos=len(videos[digest]),
            )
        )
    return sorted(found, key=lambda one: (one.stream, -one.num_videos, one.digest))


def describe_configs(found: Sequence[StoredConfig]) -> str:
    """Return one line: each configuration's digest, stream and videos, and what differs.

    Each is compared with the first one of its stream.
    """
    first: dict[str, StoredConfig] = {}
    parts = []
    for one in found:
        text = f"{one.stream}, {one.num_videos} videos"
        lead = first.setdefault(one.stream, one)
        if lead != one:
            difference = config_difference(one.config, lead.config, where=f"in {lead.short}")
            text += f"; {difference}"
        parts.append(f"{one.short} ({text})")
    return ", ".join(parts) or "no features"
