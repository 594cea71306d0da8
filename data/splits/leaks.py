"""What two parts of a split must not share: a video, its content under another name, a scene."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from data.errors import DecodeError, LabelsError
from data.labels import VideoLabel, join_problems
from data.videos import VideoSource, content_sha256, find_videos, source_stamp


def find_leaks(
    labels: Sequence[VideoLabel],
    *,
    content: Mapping[str, str] | None = None,
    scenes: bool = True,
) -> list[str]:
    """Return one line for everything that is in more than one split.

    Args:
        labels: the rows to check.
        content: video -> what identifies its content (a hash), for the videos where it is known.
        scenes: whether a scene may not be in two splits either.
    """
    leaks = _shared(labels, {x.video: x.video for x in labels}, "the same video")
    if content:
        leaks += _shared(labels, content, "the same content under two names")
    if scenes:
        leaks += _shared(labels, {x.video: x.scene for x in labels if x.scene}, "the same scene")
    return leaks


def _shared(labels: Sequence[VideoLabel], mark_of: Mapping[str, str], what: str) -> list[str]:
    marked: dict[str, list[VideoLabel]] = defaultdict(list)
    for label in labels:
        if label.video in mark_of:
            marked[mark_of[label.video]].append(label)
    leaks = []
    for group in marked.values():
        first = group[0]
        other = next((label for label in group if label.split != first.split), None)
        if other is not None:
            scene = f" '{first.scene}'" if "scene" in what else ""
            leaks.append(
                f"{what}{scene} is in two splits: {first.video} in {first.split},"
                f" {other.video} in {other.split} ({len(group)} videos)"
            )
    return leaks


def check_leaks(
    labels: Sequence[VideoLabel],
    *,
    content: Mapping[str, str] | None = None,
    scenes: bool = True,
) -> None:
    """Do nothing if no two splits share anything.

    Raises:
        LabelsError: they do; every leak is a line of the message.
    """
    leaks = find_leaks(labels, content=content, scenes=scenes)
    if leaks:
        todo = "split again with a scheme that keeps them together, or remove one copy"
        if not scenes or not all(leak.startswith("the same scene") for leak in leaks):
            raise LabelsError(join_problems([*leaks, f"leaks found; {todo}"]))
        raise LabelsError(join_problems([*leaks, f"leaks found; {todo}, or --ignore-scenes"]))


def linked_videos(
    labels: Sequence[VideoLabel],
    *,
    content: Mapping[str, str] | None = None,
    scenes: bool = True,
) -> dict[str, str]:
    """Return video -> group for videos that must stay together, by scene or by content."""
    parent = {label.video: label.video for label in labels}

    def top(video: str) -> str:
        while parent[video] != video:
            parent[video] = parent[parent[video]]
            video = parent[video]
        return video

    marks = [{x.video: x.scene for x in labels if x.scene}] if scenes else []
    for mark_of in [*marks, content or {}]:
        first_of: dict[str, str] = {}
        for video in sorted(parent.keys() & mark_of.keys()):
            first = first_of.setdefault(mark_of[video], video)
            # the smaller name stays on top, so that the result does not depend on the order
            low, high = sorted((top(first), top(video)))
            parent[high] = low
    sizes = Counter(top(video) for video in parent)
    return {video: top(video) for video in parent if sizes[top(video)] > 1}


def content_marks(labels: Iterable[VideoLabel], root: Path) -> dict[str, str]:
    """Return video -> a mark that two of the labelled videos under `root` share if they are equal.

    Only videos of one size are read: others cannot be equal. Videos that are not there have no
    mark.

    Raises:
        DecodeError: the images of a labelled folder do not form one video.
    """
    wanted = {label.video for label in labels}
    sources: list[VideoSource] = []
    with suppress(DecodeError):  # the videos are elsewhere
        sources = find_videos(root, unreadable={})
    by_size: dict[int, list[VideoSource]] = defaultdict(list)
    for source in sources:
        if source.video_id in wanted:
            by_size[source_stamp(source).size].append(source)
    marks = {}
    for size, group in by_size.items():
        for source in group:
            marks[source.video_id] = (
                f"{size} bytes" if len(group) == 1 else f"sha256 {content_sha256(source)}"
            )
    return marks
