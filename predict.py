"""`feat predict`: from a video to its scores.

The one command that needs both stages, which do not know each other: it stands above them as
`feat.py` does, and apart from it to keep that file a list of commands.
"""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from data.errors import FeatError
from data.help_text import examples

if TYPE_CHECKING:
    from cache import FeatureCache
    from data.videos import VideoSource
    from extract.config import ExtractConfig
    from model.prediction.prediction import VideoPrediction

logger = logging.getLogger(f"feat.{__name__}")

FOLDER = click.Path(file_okay=False, path_type=Path)
STILL_PIXELS = 180


@dataclass(kw_only=True)
class Sought:
    """A video that was asked for, and what became of it.

    Attributes:
        name: its path as the user wrote it.
        sha256: of its content; empty if that could not be read.
        cache: where its features are.
        error: what kept it from a prediction or a picture.
        written: files about it alone, by option: `scores`, `vtt`, `plot`.
    """

    name: str
    source: "VideoSource"
    sha256: str = ""
    cache: "FeatureCache | None" = None
    prediction: "VideoPrediction | None" = None
    error: str = ""
    written: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExtractOptions:
    """Where and with what features are extracted; nothing here changes them.

    Attributes:
        cache_dir: a cache that is only read; None for `features`, if that is there.
        keep_dir: the cache for what that one lacks; made when it is needed.
    """

    keep_dir: Path
    cache_dir: Path | None = None
    device: str = "auto"
    threads: int | None = None
    folder_fps: float = 25.0
    rgb_weights: Path | None = None
    flow_weights: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files that were asked for.

    Attributes:
        csv: the table of all videos' intervals.
        scores: a file ending in .csv for one video's frame scores, else a folder of such files.
        vtt: folder of WebVTT files.
        plot: folder of pictures.
    """

    csv: Path | None = None
    scores: Path | None = None
    vtt: Path | None = None
    plot: Path | None = None


@examples(
    "feat predict new.mp4",
    "feat predict clips/ --csv intervals.csv --vtt subtitles",
    "feat predict new.mp4 --run runs/mine --threshold 0.7 --plot pictures",
)
@click.command("predict")
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--run", type=FOLDER, help="The run folder.  [default: the newest in --runs]")
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@click.option(
    "--cache", "cache_dir", type=FOLDER,
    help="A cache in which features are looked for; nothing is written to it.  "
    "[default: features, if it is there]",
)  # fmt: skip
@click.option(
    "--keep", "keep_dir", type=FOLDER, default=Path("predict-features"), show_default=True,
    help="The cache that keeps features which --cache lacks, for the next time.",
)  # fmt: skip
@click.option(
    "--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True,
    help="Frames with this score or more are abnormal.",
)  # fmt: skip
@click.option(
    "--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path),
    help="Write a table of the abnormal intervals of all videos: a row an interval.",
)  # fmt: skip
@click.option(
    "--scores", "scores_path", type=click.Path(path_type=Path),
    help="Frame scores: a file ending in .csv for one video, else a folder of one file a video.",
)  # fmt: skip
@click.option(
    "--vtt", "vtt_dir", type=FOLDER,
    help="Folder for WebVTT subtitles of each video: players show them over its intervals.",
)  # fmt: skip
@click.option(
    "--plot", "plot_dir", type=FOLDER,
    help="Folder for a picture of each video: its score over time and the frames at its peaks.",
)  # fmt: skip
@click.option(
    "--rgb-weights", type=click.Path(path_type=Path, dir_okay=False),
    help="The checkpoint file that the run's features were made with, if it is not in the "
    "weights folder.",
)  # fmt: skip
@click.option(
    "--flow-weights", type=click.Path(path_type=Path, dir_okay=False), help="The same for flow."
)
@click.option(
    "--folder-fps", type=click.FloatRange(min=0, min_open=True), default=25.0, show_default=True,
    help="Frame rate of folders of images.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads in all; default: cores.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def predict_command(
    videos: tuple[Path, ...],
    run: Path | None,
    runs: Path,
    cache_dir: Path | None,
    keep_dir: Path,
    threshold: float,
    csv_path: Path | None,
    scores_path: Path | None,
    vtt_dir: Path | None,
    plot_dir: Path | None,
    rgb_weights: Path | None,
    flow_weights: Path | None,
    folder_fps: float,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score videos with a trained run: abnormal intervals, peak, category.

    VIDEOS are video files, folders of frames or folders of videos. Their features are made as
    the run's were, which the run folder records, and kept apart from those one trains on and
    shares; what either cache holds already is not done again.
    Of a run of several seeds (`feat train --seeds`) the scores are the mean of theirs.
    Frames count from 0 and the end of an interval is not in it. Exit code 1 if a video failed or
    could be decoded in part only.
    """
    from model.runs.folder import newest_run

    if run is None:
        run = newest_run(runs)
        logger.info("run: %s, the newest in %s", run, runs)
    options = ExtractOptions(
        cache_dir=cache_dir,
        keep_dir=keep_dir,
        device=device,
        threads=threads,
        folder_fps=folder_fps,
        rgb_weights=rgb_weights,
        flow_weights=flow_weights,
    )
    sought = find_sought(videos)
    if scores_path and scores_path.suffix == ".csv" and len(sought) > 1:
        raise click.UsageError(
            f"--scores {scores_path}: {len(sought)} videos need a folder, not a file"
        )
    config = run_prediction(sought, run, options, threshold=threshold)
    outputs = Outputs(csv=csv_path, scores=scores_path, vtt=vtt_dir, plot=plot_dir)
    write_outputs(sought, outputs, fps=config.decode.fps, folder_fps=folder_fps)
    if as_json:
        click.echo(json.dumps(report_json(sought, run, keep_dir, csv_path)))
    else:
        click.echo("\n".join(report_lines(sought)))
        if csv_path:
            click.echo(f"all intervals: {csv_path}")
    if any(each.error or (each.prediction and each.prediction.partial) for each in sought):
        click.get_current_context().exit(1)


def find_sought(paths: Sequence[Path]) -> list[Sought]:
    """Return the videos at or below these paths, none twice; a path without any has an error."""
    from data.errors import DecodeError
    from data.videos import VideoSource, find_videos
    from data.visible import one_line

    found: dict[Path, Sought] = {}
    for path in paths:
        unreadable: dict[str, str] = {}
        try:
            for source in find_videos(path, unreadable=unreadable):
                each = Sought(name=one_line(str(source.path)), source=source)
                found.setdefault(source.path.resolve(), each)
        except (DecodeError, OSError) as error:
            source = VideoSource(video_id=path.name, path=path, kind="file")
            found[path.resolve()] = Sought(
                name=one_line(str(path)), source=source, error=_cause(error, str(path))
            )
        for name, why in unreadable.items():
            source = VideoSource(video_id=name, path=path / name, kind="frames")
            found[path / name] = Sought(name=str(path / name), source=source, error=why)
    return list(found.values())


def run_prediction(
    sought: Sequence[Sought], run: Path, options: ExtractOptions, *, threshold: float
) -> "ExtractConfig":
    """Give every video its prediction, or the error that kept it from one.

    Returns:
        How the features were made.

    Raises:
        FeatError: nothing could be begun: no run, features that no video can give, no weights,
            no cache where one was named.
    """
    from extract.config import ExtractConfig
    from model.prediction.prediction import predict_video
    from model.runs.trained import load_run

    trained = load_run(run, device=options.device)
    configs: dict[Any, dict[str, Any]] = {
        stream.name: dict(stream.config) for stream in trained.info.streams
    }
    config = ExtractConfig.from_stream_configs(configs)
    groups = _group_missing(sought, _open_caches(options), configs)
    _extract_missing(groups, config, configs, options)
    for each in sought:
        if each.error or each.cache is None:
            continue
        with _noting_failure(each):
            each.prediction = predict_video(trained, each.cache, each.sha256, threshold=threshold)
            if each.prediction.seen:
                logger.warning(
                    "%s: the run was trained on this video: its scores flatter the model", each.name
                )
    return config


def write_outputs(
    sought: Sequence[Sought], outputs: Outputs, *, fps: float | None, folder_fps: float
) -> None:
    """Write what was asked for of every video that has a prediction.

    Raises:
        FeatError, OSError: it cannot be written.
    """
    from data.files import write_rows, write_whole
    from model.prediction.report import INTERVAL_COLUMNS, interval_rows, webvtt, write_frame_scores

    scores = outputs.scores
    as_file = scores is not None and scores.suffix == ".csv"
    scores_dir = scores.parent if scores and as_file else scores
    for folder in (outputs.csv and outputs.csv.parent, scores_dir, outputs.vtt, outputs.plot):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    done = [(each, each.prediction) for each in sought if each.prediction]
    if outputs.csv:
        rows = [row for each, prediction in done for row in interval_rows(each.name, prediction)]
        write_rows(outputs.csv, rows, INTERVAL_COLUMNS)
    for (each, prediction), stem in zip(done, _file_stems([e for e, _ in done]), strict=True):
        if scores:
            path = scores if as_file else scores / f"{stem}.csv"
            write_frame_scores(path, prediction)
            each.written["scores"] = str(path)
        if outputs.vtt:
            path = outputs.vtt / f"{stem}.vtt"
            write_whole(path, webvtt(prediction))
            each.written["vtt"] = str(path)
        if outputs.plot:
            with _noting_failure(each):
                path = outputs.plot / f"{stem}.png"
                _draw(path, each, prediction, fps=fps, folder_fps=folder_fps)
                each.written["plot"] = str(path)


def _file_stems(sought: Sequence[Sought]) -> list[str]:
    """Return a file name for each video: its own, with its folders where two have the same."""
    from model.runs.file_names import file_names

    own = [each.source.video_id for each in sought]
    return file_names(
        [
            name if own.count(name) == 1 else each.name
            for name, each in zip(own, sought, strict=True)
        ]
    )


def report_json(
    sought: Sequence[Sought], run: Path, keep_dir: Path, csv_path: Path | None
) -> dict[str, Any]:
    """Return what `feat predict --json` prints."""
    from model.prediction.report import prediction_json

    return {
        "run": str(run),
        "cache": str(keep_dir),
        **({"csv": str(csv_path)} if csv_path else {}),
        "videos": [
            {
                "video": each.name,
                "sha256": each.sha256,
                **prediction_json(each.prediction),
                **each.written,
            }
            for each in sought
            if each.prediction
        ],
        "failed": [{"video": each.name, "error": each.error} for each in sought if each.error],
    }


def report_lines(sought: Sequence[Sought]) -> list[str]:
    """Return the same as a person reads it."""
    from model.prediction.report import prediction_lines

    lines = []
    for each in sought:
        if each.prediction:
            lines += prediction_lines(each.name, each.prediction)
            lines += [f"  written   {path}" for path in each.written.values()]
        if each.error:
            lines.append(f"{each.name}: failed: {each.error}")
    return lines


def _open_caches(options: ExtractOptions) -> "list[FeatureCache]":
    """Return the caches to look in."""
    from cache import FeatureCache

    usual = Path("features")
    places = [options.cache_dir or (usual if usual.exists() else None)]
    places.append(options.keep_dir if options.keep_dir.exists() else None)
    return [FeatureCache(place) for place in places if place]


def _group_missing(
    sought: Sequence[Sought],
    caches: "Sequence[FeatureCache]",
    configs: "Mapping[str, Mapping[str, Any]]",
) -> list[list[Sought]]:
    """Hash every video; return those that lack features, copies of one content together.

    Names and times of files are not trusted as `feat extract` trusts them below one folder: two
    folders may hold different videos of one name.
    """
    from cache import feature_key
    from data.videos import content_sha256

    groups: dict[str, list[Sought]] = {}
    for each in sought:
        if each.error:
            continue
        with _noting_failure(each):
            each.sha256 = content_sha256(each.source)
            keys = [feature_key(each.sha256, config) for config in configs.values()]
            holding = (cache for cache in caches if all(cache.has(key) for key in keys))
            each.cache = next(holding, None)
            if each.cache is None:
                groups.setdefault(each.sha256, []).append(each)
    return list(groups.values())


def _extract_missing(
    groups: Sequence[Sequence[Sought]],
    config: "ExtractConfig",
    configs: "Mapping[str, Mapping[str, Any]]",
    options: ExtractOptions,
) -> None:
    """Extract the features of one video of every group; a failure is noted with all of it."""
    from cache import FeatureCache
    from data.videos import source_stamp
    from extract.backbones import BACKBONES
    from extract.config import recorded_weights
    from extract.devices import Resources, list_devices
    from extract.i3d.precision import precision_for
    from extract.runner import extract_videos

    if not groups:
        return
    files = {"rgb": options.rgb_weights, "flow": options.flow_weights}
    choices = {stream: str(path) for stream, path in files.items() if path}
    weights = {
        stream: BACKBONES[stream].find_weights(
            choices, recorded=recorded_weights(stream, configs[stream])
        )
        for stream in config.streams
    }
    precision_for(list_devices(options.device)[0], config.precision)
    keep = FeatureCache.create(options.keep_dir)
    by_id = _with_own_ids(groups)
    sources = [
        dataclasses.replace(group[0].source, video_id=video_id) for video_id, group in by_id.items()
    ]
    for result in extract_videos(
        sources,
        {source.video_id: source_stamp(source) for source in sources},
        options.keep_dir,
        config,
        weights,
        resources=Resources(device=options.device, threads=options.threads),
        folder_fps=options.folder_fps,
    ):
        for each in by_id[result.video_id]:
            each.error, each.cache = result.error, keep


def _with_own_ids(groups: Sequence[Sequence[Sought]]) -> dict[str, Sequence[Sought]]:
    """Return the groups by a `video_id` each, which names them in the log and in the shards.

    That is the path as the user wrote it, unless it leads out of the working folder: a shard is
    shared, and nobody need know where on this machine a video lay. Any name will do.
    """
    from data.visible import one_line

    by_id: dict[str, Sequence[Sought]] = {}
    for group in groups:
        path = group[0].source.path
        inside = not path.is_absolute() and ".." not in path.parts
        name = path.as_posix() if inside else group[0].source.video_id
        video_id = wanted = one_line(name).replace("\\", "_")  # which divides folders elsewhere
        number = 1
        while video_id in by_id:
            number += 1
            video_id = f"{number}/{wanted}"
        by_id[video_id] = group
    return by_id


def _draw(
    path: Path, each: Sought, prediction: "VideoPrediction", *, fps: float | None, folder_fps: float
) -> None:
    """Draw the timeline with the frames at the highest peaks."""
    from extract.decode.stills import read_stills
    from model.measures.peaks import highest_peaks
    from model.prediction.timeline import MAX_STILLS, Still, draw_timeline

    scores = prediction.scores
    # nearer to each other than this the pictures would show much the same
    peaks = highest_peaks(
        scores, max_peaks=MAX_STILLS, min_distance=max(1, len(scores) // (2 * MAX_STILLS))
    )
    abnormal = [frame for frame in peaks if scores[frame] >= prediction.threshold]
    shown = abnormal or [max(peaks, key=lambda frame: scores[frame])]
    images = read_stills(each.source, shown, height=STILL_PIXELS, fps=fps, folder_fps=folder_fps)
    stills = [Still(frame=f, image=image) for f, image in zip(shown, images, strict=True)]
    draw_timeline(path, each.name, prediction, stills)


@contextmanager
def _noting_failure(each: Sought) -> Iterator[None]:
    """Let the other videos go on when one fails."""
    try:
        yield
    except (FeatError, OSError) as error:
        each.error = _cause(error, each.name)


def _cause(error: Exception, name: str) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename and error.filename != name else ""
        return f"{where}{error.strerror or error}; check that it can be read"
    return str(error).removeprefix(f"{name}: ")
