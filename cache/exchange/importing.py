"""Taking in features that somebody else made: kept apart from ours, their origin on record."""

import csv
import json
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cache.conflicts import config_conflicts, refuse_conflicts
from cache.exchange.arrays import FoundArray, find_arrays
from cache.exchange.exported import import_export, is_export
from cache.exchange.foreign import ImportConfig, read_records, stored_config
from cache.exchange.layouts import ClipRule, Part, parse_layout, take_apart
from cache.exchange.recognise import FoundStream, recognise
from cache.exchange.storing import Staging
from cache.exchange.video_names import match_names
from cache.facts import video_facts
from cache.files import explain
from cache.labels import EDIT_LABELS, LabelsFrom, add_labels, merged_labels
from cache.records import (
    FeatureRecord,
    NameEntry,
)
from cache.store import FeatureCache
from data.errors import CacheError
from data.labels import join_problems, read_labels
from data.names import video_name
from data.progress import followed

#: Numbers of the whole video that v-iashin/video_features writes beside its features.
_SIDE_FILES = ("_fps", "_timestamps_ms")


@dataclass(kw_only=True)
class ImportReport:
    """What `import_features` did."""

    cache: str
    videos: int = 0  # with features that are new
    skipped: int = 0  # there already
    rows: int = 0
    streams: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what files were taken for, a line each
    without_frames: list[str] = field(default_factory=list)  # frame count unknown
    odd_rows: list[str] = field(default_factory=list)  # another number of rows than most segments
    without_features: list[str] = field(default_factory=list)  # frame count, but no features
    one_row_less: list[str] = field(default_factory=list)  # than the frames give
    one_row_more: list[str] = field(default_factory=list)  # the last, which was left out
    labels: int = 0  # added to labels.csv
    labelled: int = 0  # videos in labels.csv
    unfound_labels: list[str] = field(default_factory=list)  # of them, no features

    @property
    def oddities(self) -> dict[str, list[str]]:
        """What whoever uses these features should know -> the videos."""
        return {
            "videos without a frame count (usable for video-level work only)": self.without_frames,
            "videos with another number of rows (each is divided into as many parts)": (
                self.odd_rows
            ),
            "videos with a row less than their frames give (the last frames have none)": (
                self.one_row_less
            ),
            "videos with a row more than their frames give (the last row was left out)": (
                self.one_row_more
            ),
            "videos with a frame count but no features": self.without_features,
            "labelled videos without features": self.unfound_labels,
        }


def import_with_labels(
    paths: Sequence[Path],
    cache: FeatureCache,
    config: ImportConfig,
    labels_path: Path | None,
    *,
    frames: Mapping[str, int] | None = None,
    frame_rate: float = 0.0,
    allow_mixed: bool = False,
) -> ImportReport:
    """Add features and their labels to a cache; see `import_features` for the other arguments.

    The videos' names are those of the labels, and the report says which of them found features.

    Args:
        paths: as `import_features`.
        cache: where to.
        config: what is said of the features; of exports only the stream and origin, if at all.
        labels_path: labels to add to the cache's; None if there are none but the cache's.
        frames: as `import_features`.
        frame_rate: as `import_features`.
        allow_mixed: as `import_features`.

    Raises:
        CacheError: as `import_features`, or the labels contradict the cache's. Nothing is written.
        LabelsError: the labels cannot be read.
    """
    more = LabelsFrom(os.fspath(labels_path or ""), read_labels(labels_path) if labels_path else [])
    merged, conflicts = merged_labels([LabelsFrom.file(cache.labels_path), more])
    refuse_conflicts(cache.path, "imported", conflicts, advice=EDIT_LABELS)
    names = list(dict.fromkeys(label.video for label in [*more.labels, *merged]))
    exports = [path for path in paths if is_export(path)]
    if exports and len(exports) < len(paths):
        raise CacheError(f"{exports[0]}: was exported by feat; import it by itself")
    if exports:
        added, streams = import_export(
            paths, cache, stream=config.stream, origin=config.origin, allow_mixed=allow_mixed
        )
        report = ImportReport(
            cache=os.fspath(cache.path),
            videos=len(added.videos),
            skipped=added.skipped,
            rows=added.rows,
            streams=streams,
            notes=["exported by feat: taken back as it was; other options are not used"],
        )
    else:
        report = import_features(
            paths,
            cache,
            config,
            frames=frames,
            names=names,
            frame_rate=frame_rate,
            allow_mixed=allow_mixed,
        )
    report.labels = add_labels(cache, more)
    report.labelled = len(names)
    held = set(cache.videos())
    report.unfound_labels = [
        name
        for name in names
        if name not in held or not set(report.streams) <= set(cache.streams(name))
    ]
    return report


def import_features(
    paths: Sequence[Path],
    cache: FeatureCache,
    config: ImportConfig,
    *,
    frames: Mapping[str, int] | None = None,
    names: Sequence[str] = (),
    frame_rate: float = 0.0,
    allow_mixed: bool = False,
) -> ImportReport:
    """Add other people's features to a cache: all of them, or nothing if anything does not fit.

    How the arrays lie is recognised, see `cache.exchange.layouts`. A video whose name is in the
    cache already is taken to be that video; else its name is its identity.

    Args:
        paths: files of arrays, or folders of them; see `cache.exchange.arrays`.
        cache: where to.
        config: what is said of them.
        frames: frame count by video; the cache's own counts add to it. Without one a clip table
            of clips counts whole clips; one of segments numbers them, and the video has 0 frames.
        names: the labels' video names; arrays are matched with them and with the cache's, see
            `cache.exchange.video_names`.
        frame_rate: frames per second for the clips' times, where no file tells it; 0 = unknown,
            times are 0.
        allow_mixed: admit a second configuration of a stream.

    Raises:
        CacheError: an array cannot be used (the message has a line for each problem), it is not
            clear what the arrays are, a video has other features of the same origin, or the cache
            has the stream in another configuration.
    """
    if not config.origin:
        raise CacheError("say who made the features, and with what: --origin TEXT")
    report = ImportReport(cache=os.fspath(cache.path))
    problems: list[str] = []
    ignored: list[Path] = []
    found = [array for path in paths for array in find_arrays(path, problems, ignored)]
    if ignored:
        report.notes.append(f"no numbers in {_few(ignored)}: ignored")
    known = cache.names()
    streams = []
    layout = parse_layout(config.layout)
    try:
        found, told = _take_side_files(found, config.rule, problems, report)
        parts = _name_parts(found, layout, names, list(known), report)
        videos = {part.video for part in parts}
        counts, report.without_features = _by_video(frames or {}, videos)
        rates = dict.fromkeys(videos, frame_rate) | _by_video(told, videos)[0]
        facts = video_facts(cache, {video for video in videos - counts.keys() if video in known})
        counts |= {video: fact.num_frames for video, fact in facts.items() if fact.num_frames}
        for name, group in _by_stream(parts, config, report).items():
            stream = recognise(
                name, group, layout=layout, rule=config.rule, frames=counts, problems=problems
            )
            if stream:
                streams.append(stream)
                report.notes.append(stream.describe(config.rule, crops_kept=config.crops == "keep"))
    except CacheError as error:
        raise CacheError(join_problems([*problems, str(error)])) from error
    if not allow_mixed:
        made = [stored_config(stream, config) for stream in streams]
        refuse_conflicts(cache.path, "imported", config_conflicts(made, cache.configs()))
    fresh: dict[str, NameEntry] = {}
    with Staging(cache) as staging:
        for stream in streams:
            records = read_records(stream, config, counts, rates, known, problems)
            shown = followed(records, "import: videos", total=len(stream.num_rows))
            staging.take(_noting_names(shown, known, fresh), problems)
        staging.publish(problems)
    cache.set_names(fresh)
    report.videos, report.rows = len(staging.videos), staging.rows
    report.skipped = staging.skipped
    report.streams = [stream.name for stream in streams]
    _note_oddities(report, streams, config, counts)
    return report


def read_frame_counts(path: Path) -> dict[str, int]:
    """Return frame counts by video from JSON lines or CSV with the fields video and num_frames.

    A labels.csv with a column `frames` will do. Videos without a count are left out.

    Raises:
        CacheError: the file cannot be read or says something else.
    """
    counts = {}
    number = 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows: Any = file
            if path.suffix.lower() == ".csv":
                rows = csv.DictReader(file)
                header = rows.fieldnames or []
                if "video" not in header or not {"num_frames", "frames"} & set(header):
                    raise ValueError(f"the header is {','.join(header)}")
            for number, item in enumerate(rows, 1):  # noqa: B007 - the line that is told
                row = json.loads(item if item.strip() else "{}") if rows is file else item
                value = row.get("num_frames", row.get("frames"))
                if value not in (None, ""):
                    if (count := float(value)) < 1 or count != int(count):
                        raise ValueError(f"{value} frames")
                    counts[str(row["video"])] = int(count)
    except OSError as error:
        raise explain("read", path, error) from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        line = getattr(rows, "line_num", number)
        raise CacheError(
            f"{path}:{line}: {' '.join(str(error).split())[:200]}; expected JSON lines or CSV, "
            "divided by commas, with video and num_frames"
        ) from error
    return counts


def _take_side_files(
    found: list[FoundArray], rule: ClipRule, problems: list[str], report: ImportReport
) -> tuple[list[FoundArray], dict[str, float]]:
    """Return the arrays without the numbers of whole videos, and the frame rates among those."""
    names = {array.name for array in found}
    kept, rates, times = [], {}, {}
    for array in found:
        end = next((end for end in _SIDE_FILES if array.name.endswith(end)), "")
        video = array.name.removesuffix(end)
        if not end or not {video, f"{video}_rgb", f"{video}_flow"} & names:
            kept.append(array)
        elif end == "_fps" and array.shape in ((), (1,)):
            rates[video] = float(array.read().reshape(-1)[0])
        elif end == "_timestamps_ms" and len(array.shape) == 1:
            times[video] = array
        else:
            kept.append(array)
    rates = {video: rate for video, rate in rates.items() if 0 < rate < np.inf}
    for video in sorted(times.keys() & rates.keys()):
        steps = np.diff(times[video].read().astype(np.float64))
        apart = float(np.median(steps)) * rates[video] / 1000 if len(steps) else 0.0
        if round(apart) != rule.clip_stride and len(steps):
            problems.append(
                f"{times[video].path}: the clips are {apart:.4g} frames apart, expected "
                f"{rule.clip_stride}; give --clip-len and --clip-stride"
            )
    if rates:
        report.notes.append(f"frame rates from {len(rates)} files <video>_fps")
    return kept, rates


def _name_parts(
    found: Sequence[FoundArray],
    layout: Collection[str],
    names: Sequence[str],
    cached: Sequence[str],
    report: ImportReport,
) -> list[Part]:
    """Return the arrays with the names of their videos.

    Raises:
        CacheError: a name can be read in two ways, or is of several videos.
    """

    def count_matches(videos: Iterable[str]) -> int:
        return len(match_names(set(videos), names, cached).videos)

    parts, used = take_apart(found, layout, count_matches)
    matched = match_names({part.video for part in parts}, names, cached)
    if matched.ambiguous:
        name, videos = min(matched.ambiguous.items())
        raise CacheError(
            f"{len(matched.ambiguous)} arrays are of several videos: {name} of "
            f"{' or '.join(videos[:3])}; put them in folders as the videos are"
        )
    if matched.by_file_name:
        name = min(matched.by_file_name)
        report.notes.append(
            f"{len(matched.by_file_name)} arrays matched by file name alone: {name} is "
            f"{matched.videos[name]}"
        )
    parts = [
        replace(part, video=matched.videos.get(part.video, video_name(part.video)))
        for part in parts
    ]
    if used:
        report.notes.append(f"{', '.join(used)}: {parts[-1].describe()}")
    return parts


def _noting_names(
    records: Iterable[FeatureRecord], known: Collection[str], fresh: dict[str, NameEntry]
) -> Iterator[FeatureRecord]:
    """Yield the records; add to `fresh` what names stand for that the cache does not know."""
    for record in records:
        source = record.source
        if source.name not in known:
            fresh[source.name] = NameEntry(sha256=source.sha256, size=source.size, mtime_ns=0)
        yield record


T = TypeVar("T")


def _by_video(values: Mapping[str, T], videos: Iterable[str]) -> tuple[dict[str, T], list[str]]:
    """Return what somebody says of videos by the names used here, and the names that fit none.

    Raises:
        CacheError: different things are said of one video.
    """
    targets = list(videos)
    found = match_names(values, (), targets).videos
    left = {name.rpartition(".")[0] or name: name for name in values if name not in found}
    without_suffix = match_names(left, (), targets).videos
    found |= {left[short]: video for short, video in without_suffix.items()}
    told: dict[str, T] = {}
    for name, video in found.items():
        if told.setdefault(video, values[name]) != values[name]:
            raise CacheError(f"{video}: {told[video]} frames, or as {name} {values[name]}")
    return told, sorted(values.keys() - found.keys())


def _by_stream(
    parts: Iterable[Part], config: ImportConfig, report: ImportReport
) -> dict[str, list[Part]]:
    """Return the parts by the name that their stream gets.

    Raises:
        CacheError: a stream has no name.
    """
    groups = defaultdict(list)
    for part in parts:
        groups[part.stream].append(part)
    if len(groups) > 1 and config.stream in groups:
        left = [name for name in sorted(groups) if name != config.stream]
        report.notes.append(f"left out: {', '.join(left)}")
        return {config.stream: groups[config.stream]}
    if len(groups) > 1 and config.stream:
        return {f"{config.stream}-{name}": groups[name] for name in sorted(groups)}
    named = {config.stream or name: group for name, group in sorted(groups.items())}
    if "" in named:
        raise CacheError("the files do not name their stream: give it with --stream")
    return named


def _note_oddities(
    report: ImportReport,
    streams: Iterable[FoundStream],
    config: ImportConfig,
    frames: Mapping[str, int],
) -> None:
    """Put on record, and say, what whoever uses these features should know."""
    odd, without, less, more = set[str](), set[str](), set[str](), set[str]()
    for stream in streams:
        if stream.rows == "segments":
            without |= stream.videos.keys() - frames.keys()
            usual = Counter(stream.num_rows.values()).most_common(1)[0][0]
            odd |= {video for video, count in stream.num_rows.items() if count != usual}
        elif not stream.named_clips:
            unknown = len(stream.videos.keys() - frames.keys())
            if unknown:
                report.notes.append(
                    f"{stream.name}: no frame count of {unknown} videos (--frames), taken to end "
                    "with their last clip"
                )
            for video, count in stream.num_rows.items():
                difference = config.rule.difference(count, frames[video]) if video in frames else 0
                less |= {video} if difference < 0 else set()
                more |= {video} if difference > 0 else set()
    report.odd_rows, report.without_frames = sorted(odd), sorted(without)
    report.one_row_less, report.one_row_more = sorted(less), sorted(more)


def _few(items: Iterable[object]) -> str:
    texts = [str(item) for item in items]
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
