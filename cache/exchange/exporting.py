"""Features as other people's code reads them: one .npy per video, or one Parquet file."""

import csv
import io
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from cache.configs import describe_configs, list_configs
from cache.exchange.manifest import NAME, PARQUET_KEY, seal, write_head, write_video
from cache.files import explain
from cache.keys import JSON, feature_key
from cache.records import ClipTable, FeatureRecord
from cache.store import FeatureCache
from cache.streams import FEATURES, THUMBNAILS, order_streams
from data.errors import CacheError
from data.files import new_file, write_whole
from data.output_file import Kind, check_outputs, table
from data.progress import followed

logger = logging.getLogger(f"feat.{__name__}")

#: plain: DIR/<video>.npy (S, D). lad: DIR/<video>/feature.npy (S, D), as the LAD2000 authors' code
#: reads it. rtfm: DIR/<video>_i3d.npy (S, 1, D), one crop, and features.list, as RTFM's.
Layout = Literal["plain", "lad", "rtfm"]


CLIPS_COLUMNS = (
    "video", "file", "row", "start_frame", "end_frame", "start_seconds", "end_seconds",
)  # fmt: skip
FEATURES_FILE = Kind("an array of features", b"\x93NUMPY\x01\x00v\x00{'descr': '<f")


@dataclass(kw_only=True)
class ExportReport:
    """What was exported."""

    out: str
    videos: int = 0
    clips: int = 0
    dim: int = 0
    nbytes: int = 0
    left_out: list[str] = field(default_factory=list)  # videos that lack a stream
    thumbnails: int = 0  # videos whose pictures were written
    thumbnails_left_out: int = 0  # videos that have some, which were not


@dataclass(frozen=True, kw_only=True)
class _Video:
    name: str
    records: Sequence[FeatureRecord]  # one for each stream, of the same clips

    @property
    def array(self) -> np.ndarray:
        """The streams side by side, (S, D), or (S, C, D) of crops."""
        return np.concatenate([record.features for record in self.records], axis=-1)

    @property
    def clips(self) -> ClipTable:
        """Which frames a row covers."""
        return self.records[0].clips


def export_npy(
    cache: FeatureCache,
    out: Path,
    *,
    streams: Sequence[str] = (),
    configs: Mapping[str, Mapping[str, JSON]] | None = None,
    layout: Layout = "plain",
    thumbnails: bool = False,
) -> ExportReport:
    """Write one .npy per video, streams side by side, and `clips.csv` with what each row covers.

    `feat-export.jsonl` has the rest, so that `feat cache import` gives the same records again.

    Args:
        cache: where from.
        out: folder, made if need be; files of the same names and kind are replaced, arrays of
            other names are refused.
        streams: which, in this order; default: all that the cache has, rgb before flow.
        configs: by stream, the configuration to take; a stream that has several needs one.
        layout: see `Layout`.
        thumbnails: write the pictures of each video as well, to `thumbnails` in `out`: a folder of
            the video's name with a JPEG for each clip, named by the clip's first frame. They do
            not come back by `feat cache import`.

    Raises:
        ValueError: an unknown layout.
        CacheError: streams that do not fit together, other arrays in `out`, or the disk is full or
            fails.
    """
    if layout not in get_args(Layout):
        raise ValueError(f"layout must be one of {get_args(Layout)}, got {layout!r}")
    report = ExportReport(out=os.fspath(out))
    chosen = _choose_streams(cache, streams, configs or {})
    files = _file_names(cache.videos(), layout)
    written = set(files.values())
    for path in sorted(out.rglob("*.npy")):
        if path.relative_to(out).as_posix() not in written:
            raise CacheError(
                f"{path}: not of this export, and would count as part of it; remove it if its "
                "video left the cache, or name another folder with --out"
            )
    there = [path for path in (out / name for name in files.values()) if path.exists()]
    check_outputs({**dict.fromkeys(there, FEATURES_FILE), out / "clips.csv": table(CLIPS_COLUMNS)})
    names = cache.names()
    manifest = [write_head(chosen.values())]
    clips = io.StringIO()
    clips_table = csv.writer(clips, lineterminator="\n")
    clips_table.writerow(CLIPS_COLUMNS)
    listed = []
    for video in _videos(cache, chosen, report):
        array = video.array
        path = out / files[video.name]
        _write_npy(path, array[:, None, :] if layout == "rtfm" and array.ndim == 2 else array)
        listed.append(os.fspath(path))
        manifest.append(
            write_video(video.name, files[video.name], names[video.name], video.records)
        )
        for row in range(len(video.clips)):
            cells = [column[row].item() for column in _columns(video.clips)]
            clips_table.writerow([video.name, files[video.name], row, *cells])
        report.videos += 1
        report.clips += len(array)
        report.dim = array.shape[-1]
        report.nbytes += array.nbytes
    if not report.videos:
        raise CacheError(f"{cache.path}: no video has all of {', '.join(chosen) or 'any stream'}")
    write_whole(out / "clips.csv", clips.getvalue(), error=CacheError)
    write_whole(out / NAME, seal(manifest), error=CacheError)
    if layout == "rtfm":
        text = "".join(f"{path}\n" for path in listed)
        write_whole(out / "features.list", text, error=CacheError)
    _export_thumbnails(cache, out / "thumbnails" if thumbnails else None, report)
    return report


def export_parquet(
    cache: FeatureCache,
    out: Path,
    *,
    streams: Sequence[str] = (),
    configs: Mapping[str, Mapping[str, JSON]] | None = None,
    thumbnails: bool = False,
) -> ExportReport:
    """Write one Parquet file with a row for each clip and a column for each stream.

    Columns: video, sha256, row, the four of the clip table, and for each stream a list of D
    values, or of C times D of crops. The configurations are in the metadata, key `feat.configs`,
    and in `feat.manifest` what `feat cache import` needs to give the same records again.
    Thumbnails, if they are asked for, lie beside the file as `export_npy` writes them.

    Raises:
        CacheError: pyarrow is not installed, streams do not fit together, or the disk fails.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise CacheError(
            "Parquet needs pyarrow: pip install pyarrow, or export --format npy"
        ) from error
    report = ExportReport(out=os.fspath(out))
    chosen = _choose_streams(cache, streams, configs or {})
    names = cache.names()
    manifest = [write_head(chosen.values())]
    check_outputs({out: Kind("a Parquet file", b"PAR1")})
    with new_file(out, error=CacheError) as partial, partial.open("wb") as file:
        writer: Any = None
        try:
            for video in _videos(cache, chosen, report):
                table = _arrow_table(pa, video)
                if writer is None:
                    made = json.dumps([dict(record.config) for record in video.records])
                    schema = table.schema.with_metadata({"feat.configs": made})
                    writer = pq.ParquetWriter(file, schema)
                writer.write_table(table.cast(writer.schema))
                manifest.append(write_video(video.name, out.name, names[video.name], video.records))
                report.videos += 1
                report.clips += len(video.clips)
                report.dim = video.array.shape[-1]
                report.nbytes += sum(record.features.nbytes for record in video.records)
            if writer is not None:
                writer.add_key_value_metadata({PARQUET_KEY: seal(manifest)})
        finally:
            if writer is not None:
                writer.close()
        if not report.videos:
            raise CacheError(f"{cache.path}: no video has all of {', '.join(chosen)}")
    _export_thumbnails(cache, out.parent / "thumbnails" if thumbnails else None, report)
    return report


def _export_thumbnails(cache: FeatureCache, out: Path | None, report: ExportReport) -> None:
    """Write the pictures of the exported videos, or only count who has some if `out` is None."""
    exported = sorted(set(cache.videos()) - set(report.left_out))
    having = [name for name in exported if THUMBNAILS in cache.streams(name)]
    if out is None:
        report.thumbnails_left_out = len(having)
        return
    folders = _file_names(having, "plain")
    for name in having:
        key = cache.find(name, THUMBNAILS).key
        folder = _make_folder(out / folders[name].removesuffix(".npy"))
        starts = cache.read_clips(key).start_frame.tolist()
        for start, image in zip(starts, cache.read_images(key), strict=True):
            write_whole(folder / f"{start:06d}.jpg", image, error=CacheError)
    report.thumbnails = len(having)


def _arrow_table(pa: Any, video: _Video) -> Any:
    count = len(video.clips)
    columns: dict[str, Any] = {
        "video": pa.array([video.name] * count),
        "sha256": pa.array([video.records[0].source.sha256] * count),
        "row": pa.array(np.arange(count, dtype=np.int64)),
    }
    columns.update(zip(_CLIP_COLUMNS, map(pa.array, _columns(video.clips)), strict=True))
    for record in video.records:
        values = pa.array(record.features.reshape(-1))
        width = record.features.size // count
        columns[record.stream] = pa.FixedSizeListArray.from_arrays(values, width)
    return pa.table(columns)


_CLIP_COLUMNS = CLIPS_COLUMNS[-4:]


def _columns(clips: ClipTable) -> list[np.ndarray]:
    return [getattr(clips, name) for name in _CLIP_COLUMNS]


def _choose_streams(
    cache: FeatureCache, streams: Sequence[str], configs: Mapping[str, Mapping[str, JSON]]
) -> dict[str, Mapping[str, JSON]]:
    """Return the streams asked for, each with its configuration.

    Without any: all that are features, or if there are none, all that are crops.
    """
    found = list_configs(cache)
    examples = {
        (row["stream"].item(), row["config"].item()): row["key"].item() for row in cache.rows()
    }
    entries = [cache.entry(key.hex()) for key in examples.values()]
    features, crops = (
        order_streams({entry.stream for entry in entries if entry.kind == wanted})
        for wanted in (FEATURES, "crops")
    )
    for stream in streams:
        if stream not in (*features, *crops):
            raise CacheError(
                f"{cache.path}: no stream {stream}, there is: {', '.join(features)} "
                f"(only features are exported, and crops: {', '.join(crops) or 'none'})"
            )
    if not features and not crops:
        held = ", ".join(order_streams({entry.stream for entry in entries})) or "nothing"
        raise CacheError(
            f"{cache.path}: no features to export, there is: {held}; run `feat extract`, or hand "
            "the cache on by `feat cache push`"
        )
    chosen = {}
    for stream in streams or features or crops:
        ours = [one for one in found if one.stream == stream]
        if len(ours) > 1 and stream not in configs:
            # rows of one matrix must mean the same
            raise CacheError(
                f"{cache.path}: {stream} in several configurations, choose one with --config: "
                f"{describe_configs(ours)}"
            )
        chosen[stream] = configs.get(stream, ours[0].config)
    return chosen


def _videos(
    cache: FeatureCache, chosen: Mapping[str, Mapping[str, JSON]], report: ExportReport
) -> Iterator[_Video]:
    """Yield the videos that have all streams, with the same clips in each."""
    names = cache.videos()
    for name in followed(names, "export: videos", total=len(names)):
        keys = [feature_key(cache.content(name), config) for config in chosen.values()]
        if not all(map(cache.has, keys)):
            report.left_out.append(name)
            logger.warning("%s: lacks one of %s, left out", name, ", ".join(chosen))
            continue
        records = [cache.read_record(key) for key in keys]
        first = records[0]
        for other in records[1:]:
            if not np.array_equal(other.clips.to_array(), first.clips.to_array()):
                raise CacheError(
                    f"{name}: its streams do not cover the same clips; export them apart"
                )
            if other.features.shape[:-1] != first.features.shape[:-1]:
                raise CacheError(f"{name}: its streams have not the same crops; export them apart")
        yield _Video(name=name, records=records)


def _file_names(videos: Sequence[str], layout: Layout) -> dict[str, str]:
    """Return each video's file: its name without suffix, with it where two would be the same."""
    stems = {video: PurePosixPath(video).with_suffix("").as_posix() for video in videos}
    # on Windows and macOS A.npy and a.npy are one file
    count = Counter(name.casefold() for video, stem in stems.items() for name in {stem, video})
    end = {"plain": ".npy", "lad": "/feature.npy", "rtfm": "_i3d.npy"}[layout]
    return {
        video: (stem if count[stem.casefold()] == 1 else video) + end
        for video, stem in stems.items()
    }


def _write_npy(path: Path, array: np.ndarray) -> None:
    _make_folder(path.parent)
    with new_file(path, error=CacheError) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explain("write", folder, error) from error
    return folder
