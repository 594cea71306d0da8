"""A labels file with every video of a folder, to be filled in.

It lives here because frames are counted by the decoder that extracts them: what a container says
of its length is often wrong.
"""

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from data.errors import FeatError
from data.labels import NewRow, add_rows, labelled_videos
from data.output_file import check_folder
from data.progress import followed
from data.times import end_of_video
from data.videos import VideoSource, find_videos, frame_paths
from extract.decode.limits import Limits
from extract.run.folder import name_sources
from extract.run.worker import failed

WRITE_SECONDS = 10.0  # of counting that a kill costs
_READ_FRAMES = 64


@dataclass(kw_only=True)
class TemplateReport:
    """What `fill_template` did.

    Attributes:
        added: videos with a new row.
        kept: videos whose row was there.
        problems: why a video, or a folder, could not be read or in part only.
    """

    added: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


def fill_template(
    videos_dir: Path, labels_file: Path, limits: Limits | None = None
) -> TemplateReport:
    """Add a row for every video that the labels file lacks; what is in it stays as it is.

    Args:
        videos_dir: folder of videos.
        labels_file: made if it is not there.
        limits: what each video may cost; None for the defaults.

    Raises:
        FeatError: there are no videos, FEAT_STALL_SECONDS is no number, or the file cannot be read
            or written.
    """
    report = TemplateReport()
    limits = limits or Limits()  # of which FEAT_STALL_SECONDS may be wrong
    found = find_videos(videos_dir, unreadable=report.problems)
    sources, unusable = name_sources(found, "")
    report.problems |= {video.video_id: video.error for video in unusable}
    known = labelled_videos(labels_file) if labels_file.exists() else set()
    report.kept = [source.video_id for source in sources if source.video_id in known]
    todo = [source for source in sources if source.video_id not in known]
    if todo:
        check_folder(labels_file.parent)
    pending: list[NewRow] = []
    written = time.monotonic()
    try:
        for source, (row, problem) in zip(todo, _count_all(todo, limits), strict=True):
            if problem:
                report.problems[source.video_id] = problem
            if row:
                pending.append(row)
                report.added.append(source.video_id)
            if time.monotonic() - written > WRITE_SECONDS:
                add_rows(labels_file, pending)
                pending, written = [], time.monotonic()
    finally:
        if pending:
            add_rows(labels_file, pending)
    return report


def _count_all(sources: list[VideoSource], limits: Limits) -> Iterator[tuple[NewRow | None, str]]:
    """Yield each video's row, if there is one, and its problem; a bar shows how far it is."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        try:
            counted = pool.map(partial(_count, limits=limits), sources)
            yield from followed(counted, "count frames: videos", total=len(sources))
        finally:
            pool.shutdown(cancel_futures=True)


def _count(source: VideoSource, *, limits: Limits) -> tuple[NewRow | None, str]:
    try:
        if source.kind == "frames":  # of which nobody knows the rate
            return NewRow(source.video_id, len(frame_paths(source))), ""
        return _decode(source, limits)
    except (FeatError, OSError) as error:
        return None, failed(source, error).error


def _decode(source: VideoSource, limits: Limits) -> tuple[NewRow, str]:
    from extract.decode.config import DecodeConfig
    from extract.decode.open import open_video

    with open_video(source, DecodeConfig(size=8), threads=1, limits=limits) as stream:
        while len(stream.read(_READ_FRAMES)[0]):
            pass
        seconds = end_of_video(stream.pts_seconds)  # 0 of a single frame, or without any times
        row = NewRow(source.video_id, stream.num_frames, seconds if seconds > 0 else None)
        return row, stream.partial and f"partial: {stream.partial}"
