"""What would contradict a cache: a stream made in another way, a name for another content.

Extracting, merging and pulling ask here before they write anything.
"""

from collections.abc import Iterable, Mapping, Sequence

from cache.keys import JSON, config_difference, imported_sha256
from data.errors import CacheError

#: What `feat cache merge` and `pull` can do about names.
LATEST_NAMES = "--latest-names lets the later entry decide"
#: What every command that adds features can do about configurations.
ALLOW_MIXED = "--allow-mixed keeps both"
#: Conflicts that a message tells.
MAX_SHOWN = 5


def config_conflicts(
    configs: Iterable[Mapping[str, JSON]], present: Iterable[Mapping[str, JSON]]
) -> list[str]:
    """Return what is made otherwise than in a cache, a text for each configuration.

    A stream that the cache does not have yet contradicts nothing.

    Args:
        configs: the configurations that are to be added.
        present: those that the cache has.
    """
    by_stream: dict[JSON, list[dict[str, JSON]]] = {}
    for config in present:
        by_stream.setdefault(config["stream"], []).append(dict(config))
    conflicts: dict[str, None] = {}
    for config in configs:
        there = by_stream.get(config["stream"], [])
        if there and dict(config) not in there:
            difference = config_difference(config, there[0])
            text = f"{config['stream']} made otherwise: {difference} ({ALLOW_MIXED})"
            conflicts[text] = None
    return list(conflicts)


def name_conflicts(
    names: Mapping[str, str], present: Mapping[str, str], *, where: str, advice: str = ""
) -> list[str]:
    """Return which names stand for another content than in a cache, a text for each name.

    Args:
        names: video name -> content's sha256, of those that are to be added.
        present: the same of those that the cache has.
        where: whose the `present` ones are, for the texts.
        advice: what to do about one.
    """
    conflicts = []
    for name, sha256 in sorted(names.items()):
        other = present.get(name, sha256)
        if other == sha256:
            continue
        hint = f" ({advice})" if advice else ""
        if imported_sha256(name) in (sha256, other):
            # nobody can tell whether they are of this video
            hint = " (imported without the video: import again where the video was extracted)"
        conflicts.append(f"{name}: content {sha256[:12]} here, {other[:12]} in {where}{hint}")
    return conflicts


def refuse_conflicts(
    place: object, verb: str, conflicts: Sequence[str], *, advice: str = ""
) -> None:
    """Do nothing if there are no conflicts.

    Args:
        place: the cache, or the address of one, that the message begins with.
        verb: what was not done: `merged`.
        conflicts: what was found.
        advice: what to do about them.

    Raises:
        CacheError: there are; the first few are told.
    """
    if conflicts:
        more = len(conflicts) - MAX_SHOWN
        rest = f"; and {more} more" if more > 0 else ""
        rest += f"; {advice}" if advice else ""
        raise CacheError(
            f"{place}: nothing {verb}, {len(conflicts)} conflicts: "
            f"{'; '.join(conflicts[:MAX_SHOWN])}{rest}"
        )
