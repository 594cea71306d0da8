"""What lies in a folder of videos: the videos, under their names in a cache, and their labels."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cache import FeatureCache
from cache.admission import folder_origin
from cache.labels import LabelsFrom, add_labels
from cache.records import check_video_name
from data.errors import FeatError
from data.labels import name_problems, read_labels
from data.names import video_name
from data.videos import Stamp, VideoSource, find_videos, source_stamp
from data.visible import one_line
from extract.run.report import VideoOutcome
from extract.run.worker import failed

logger = logging.getLogger(f"feat.{__name__}")

#: Whose label is taken where that of a video differs; "" refuses.
LabelsOf = Literal["", "cache", "videos"]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What lies in the videos' folder, under the names that it has in the cache."""

    sources: list[VideoSource]
    stamps: dict[str, Stamp]
    failures: list[VideoOutcome]
    labels: LabelsFrom | None
    origin: str


def look_into(videos_dir: Path, prefix: str) -> Folder:
    """Return the videos and the labels; what is wrong with labels is an error before all else."""
    unreadable: dict[str, str] = {}
    found_videos = find_videos(videos_dir, unreadable=unreadable)
    named, unusable = name_sources(found_videos, prefix)
    labels = _read_labels(videos_dir, named, prefix)
    sources, stamps, unstamped = _stamp(named)
    failures = [VideoOutcome(video_id=n, status="failed", error=w) for n, w in unreadable.items()]
    return Folder(
        sources=sources,
        stamps=stamps,
        failures=[*failures, *unusable, *unstamped],
        labels=labels,
        origin=folder_origin(videos_dir if videos_dir.is_dir() else videos_dir.parent),
    )


def name_sources(
    sources: Sequence[VideoSource], prefix: str
) -> tuple[list[VideoSource], list[VideoOutcome]]:
    """Return the videos under their names in the cache, and those that can have none.

    Args:
        sources: the videos.
        prefix: put before their names.
    """
    named = []
    unusable = []
    for source in sources:
        name = video_name(prefix + source.video_id)
        try:
            named.append(dataclasses.replace(source, video_id=check_video_name(name)))
        except ValueError as error:
            unusable.append(
                VideoOutcome(video_id=one_line(name), status="failed", error=f"{error}; rename it")
            )
    return named, unusable


def _stamp(
    sources: Sequence[VideoSource],
) -> tuple[list[VideoSource], dict[str, Stamp], list[VideoOutcome]]:
    """Return the videos that can be looked at, the stamp of each, and the others."""
    stamps = {}
    failures = []
    for source in sources:
        try:
            stamps[source.video_id] = source_stamp(source)
        except (FeatError, OSError) as error:
            failures.append(failed(source, error))
    return [source for source in sources if source.video_id in stamps], stamps, failures


def _read_labels(
    videos_dir: Path, sources: Sequence[VideoSource], prefix: str
) -> LabelsFrom | None:
    """Return the labels beside the videos, so that errors come first; None: there are none."""
    path = videos_dir / "labels.csv"
    if not path.is_file():
        return None
    labels = [
        dataclasses.replace(label, video=video_name(prefix + label.video))
        for label in read_labels(path)
    ]
    for problem in name_problems(labels, [source.video_id for source in sources]):
        logger.warning("warning: %s: %s", path, problem)
    return LabelsFrom(str(path), labels)


def add_labels_of(
    cache: FeatureCache, labels: LabelsFrom | None, labels_of: LabelsOf, *, dry_run: bool = False
) -> None:
    """Add the labels beside the videos to the cache's.

    Args:
        cache: the cache.
        labels: those that were read; None: there are none.
        labels_of: whose label is taken where that of a video differs.
        dry_run: only look whether they could be added.

    Raises:
        FeatError: labels differ, or the cache cannot be written.
    """
    if labels is None:
        return
    if labels_of == "cache":
        known = {label.video for label in LabelsFrom.file(cache.labels_path).labels}
        labels = LabelsFrom(labels.where, [one for one in labels.labels if one.video not in known])
    count = add_labels(
        cache,
        labels,
        replace=labels_of == "videos",
        advice="make them agree, or say whose to take: --labels-of videos or --labels-of cache",
        dry_run=dry_run,
    )
    if count and not dry_run:
        logger.info("%s: %d labels added or changed", cache.labels_path, count)
