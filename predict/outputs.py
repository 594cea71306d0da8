"""What `feat predict` writes and prints of the videos that have a prediction."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DecodeError
from data.files import write_rows, write_whole
from data.output_file import PNG, Kind, check_folder, check_outputs, table
from data.videos import content_paths
from extract.decode.stills import read_stills
from extract.encode import (
    WRITTEN_HERE,
    Part,
    Reading,
    Strip,
    cut_parts,
    render_below,
    shown_size,
)
from model.measures.peaks import highest_peaks
from model.prediction.prediction import VideoPrediction
from model.prediction.report import (
    INTERVAL_COLUMNS,
    SCORE_COLUMNS,
    interval_rows,
    prediction_json,
    prediction_lines,
    webvtt,
    write_frame_scores,
)
from model.prediction.timeline import MAX_STILLS, Still, draw_strip, draw_timeline
from model.runs.file_names import file_names
from predict.sought import Sought, noting_failure

STILL_PIXELS = 180
KINDS = {
    "scores": table(SCORE_COLUMNS),
    "vtt": Kind("a WebVTT file", b"WEBVTT"),
    "plot": PNG,
    "render": WRITTEN_HERE,
}
"""Of the files about one video, by option; those of `--cut` are named when they are known."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files that were asked for.

    Attributes:
        csv: the table of all videos' intervals.
        scores: a file ending in .csv for one video's frame scores, else a folder of such files.
        vtt: folder of WebVTT files.
        plot: folder of pictures.
        cut: folder for the abnormal intervals of each video.
        pad_seconds: that are cut out with an interval before and after it.
        render: folder for videos with their scores below.
    """

    csv: Path | None = None
    scores: Path | None = None
    vtt: Path | None = None
    plot: Path | None = None
    cut: Path | None = None
    pad_seconds: float = 0.0
    render: Path | None = None

    def of_video(self, stem: str) -> dict[str, Path]:
        """Return the files of one video, by option, that can be named before it is scored."""
        as_file = self.scores is not None and self.scores.suffix == ".csv"
        wanted = (
            ("scores", self.scores, "" if as_file else f"{stem}.csv"),
            ("vtt", self.vtt, f"{stem}.vtt"),
            ("plot", self.plot, f"{stem}.png"),
            ("render", self.render, f"{stem}.mp4"),
        )
        return {option: place / name for option, place, name in wanted if place}


def check_outputs_of(sought: Sequence[Sought], outputs: Outputs) -> None:
    """Refuse what could not be written, or would replace something else, before any work.

    Raises:
        FeatError: names the file or folder.
    """
    wanted = {outputs.csv: table(INTERVAL_COLUMNS)} if outputs.csv else {}
    for stem in _file_stems(sought):
        wanted |= {path: KINDS[name] for name, path in outputs.of_video(stem).items()}
    check_outputs(wanted, inputs=_inputs(sought))
    if outputs.cut:
        check_folder(outputs.cut)


def _inputs(sought: Sequence[Sought]) -> Iterator[Path]:
    for each in sought:
        with suppress(DecodeError, OSError):  # told of when it is read
            yield from content_paths(each.source)


def write_outputs(sought: Sequence[Sought], outputs: Outputs, reading: Reading) -> None:
    """Write what was asked for of each video that has a prediction; what fails is noted with it.

    Args:
        sought: the videos.
        outputs: what was asked for.
        reading: how the videos were read for their features.
    """
    for each, stem in zip(sought, _file_stems(sought), strict=True):
        if each.prediction is None:
            continue
        for name, path in outputs.of_video(stem).items():
            with noting_failure(each):
                _write(name, path, each, each.prediction, reading)
                each.written[name] = str(path)
        if outputs.cut:
            with noting_failure(each):
                parts = _parts(outputs.cut / stem, each.prediction, outputs.pad_seconds)
                check_outputs({part.path: WRITTEN_HERE for part in parts}, inputs=_inputs(sought))
                cut_parts(each.source, parts, reading)
                each.written["cut"] = [str(part.path) for part in parts]


def _write(
    name: str, path: Path, each: Sought, prediction: VideoPrediction, reading: Reading
) -> None:
    """Write the file of one video that an option names."""
    if name == "scores":
        write_frame_scores(path, prediction)
    elif name == "vtt":
        write_whole(path, webvtt(prediction))
    elif name == "plot":
        _draw(path, each, prediction, reading)
    else:
        _render(path, each, prediction, reading)


def write_intervals(path: Path, sought: Sequence[Sought]) -> None:
    """Write the table of the abnormal intervals of all videos.

    Raises:
        FeatError: it cannot be written.
    """
    done = [(each.name, each.prediction) for each in sought if each.prediction]
    rows = [row for name, prediction in done for row in interval_rows(name, prediction)]
    write_rows(path, rows, INTERVAL_COLUMNS)


def _file_stems(sought: Sequence[Sought]) -> list[str]:
    """Return a file name for each video: its own, with its folders where two have the same."""
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
    lines = []
    for each in sought:
        if each.prediction:
            lines += prediction_lines(each.name, each.prediction)
            paths = [p if isinstance(p, list) else [p] for p in each.written.values()]
            lines += [f"  written   {path}" for several in paths for path in several]
        if each.error:
            lines.append(f"{each.name}: failed: {each.error}")
    used = next((each.prediction for each in sought if each.prediction), None)
    if used:
        lines.append(f"threshold {used.threshold:g}, {used.threshold_means}")
    return lines


def _parts(stem: Path, prediction: VideoPrediction, pad_seconds: float) -> list[Part]:
    """Return the abnormal intervals with the frames that appear so long before and after them.

    What a pad joins stays apart: a file an interval, named by its own frames.
    """
    edges = prediction.edges_seconds
    parts = []
    for span in prediction.intervals:
        first = int(np.searchsorted(edges[:-1], span.start_seconds - pad_seconds))
        last = int(np.searchsorted(edges[:-1], span.end_seconds + pad_seconds))
        start, end = min(first, span.start_frame), max(last, span.end_frame)
        parts.append(
            Part(
                path=stem.with_name(f"{stem.name}-{span.start_frame}-{span.end_frame}.mp4"),
                start_frame=start,
                end_frame=end,
                start_seconds=float(edges[start]),
                end_seconds=float(edges[end]),
            )
        )
    return parts


def _render(path: Path, each: Sought, prediction: VideoPrediction, reading: Reading) -> None:
    """Write the video with its curve below."""
    width, _ = shown_size(each.source, reading)
    edges = prediction.edges_seconds
    strip = Strip(
        image=draw_strip(prediction, width),
        start_seconds=float(edges[0]),
        end_seconds=float(edges[-1]),
    )
    render_below(each.source, path, strip, reading, num_frames=len(prediction.scores))


def _draw(path: Path, each: Sought, prediction: VideoPrediction, reading: Reading) -> None:
    """Draw the timeline with the frames at the highest peaks."""
    scores = prediction.scores
    # nearer to each other than this the pictures would show much the same
    peaks = highest_peaks(
        scores, max_peaks=MAX_STILLS, min_distance=max(1, len(scores) // (2 * MAX_STILLS))
    )
    abnormal = [frame for frame in peaks if scores[frame] >= prediction.threshold]
    shown = abnormal or [max(peaks, key=lambda frame: scores[frame])]
    images = read_stills(
        each.source,
        shown,
        height=STILL_PIXELS,
        fps=reading.fps,
        folder_fps=reading.folder,
        limits=reading.limits,
    )
    stills = [Still(frame=f, image=image) for f, image in zip(shown, images, strict=True)]
    draw_timeline(path, each.name, prediction, stills)
