"""Which video an array of somebody else's is of, told by its name."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from data.names import video_name


@dataclass(kw_only=True)
class MatchedNames:
    """What `match_names` found."""

    videos: dict[str, str] = field(default_factory=dict)  # array's name -> video
    ambiguous: dict[str, list[str]] = field(default_factory=dict)  # array's name -> videos
    by_file_name: list[str] = field(default_factory=list)  # arrays whose folders are others


def match_names(
    names: Collection[str], labelled: Sequence[str], cached: Sequence[str] = ()
) -> MatchedNames:
    """Return the video of each array: a labelled one before one that is only cached.

    `Abuse002_x264` and `RGB/Abuse/Abuse002_x264` are `Abuse/Abuse002_x264.mp4`: with or without
    the file's suffix, one of the two paths ends in the other. Where the folders differ, the file
    name alone decides if only one array and one labelled video have it. Names are compared as
    `data.names.video_name` has them.
    """
    found = MatchedNames()
    alone = _take(found, names, labelled)
    _take(found, names, cached)
    counts = Counter([*found.videos.values(), *alone.values()])
    for name, video in alone.items():
        if counts[video] == 1 and name not in found.videos:
            found.videos[name] = video
            found.by_file_name.append(name)
    return found


def _take(found: MatchedNames, names: Iterable[str], videos: Sequence[str]) -> dict[str, str]:
    """Match the names that have no video yet; return those that share a file name alone."""
    by_stem: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for video in videos:
        path = PurePosixPath(video_name(video))
        for form in {path, path.with_suffix("")}:
            by_stem[form.name].add((str(form), video))
    alone = {}
    for name in names:
        plain = video_name(name)
        near = by_stem.get(PurePosixPath(plain).name, set())
        if name in found.videos or name in found.ambiguous or not near:
            continue
        fitting = {video for form, video in near if form == plain} or {
            video
            for form, video in near
            if form.endswith(f"/{plain}") or plain.endswith(f"/{form}")
        }
        if len(fitting) == 1:
            found.videos[name] = fitting.pop()
        elif fitting:
            found.ambiguous[name] = sorted(fitting)
        elif len({video for _, video in near}) == 1:
            alone[name] = next(video for _, video in near)
    return alone
