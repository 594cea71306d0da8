"""What `feat predict` writes and prints of the videos that have a prediction."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import write_rows, write_whole
from extract.decode.stills import read_stills
from model.prediction.prediction import VideoPrediction, highest_peaks
from model.prediction.report import (
    INTERVAL_COLUMNS,
    interval_rows,
    prediction_json,
    prediction_lines,
    webvtt,
    write_frame_scores,
)
from model.prediction.timeline import MAX_STILLS, Still, draw_timeline
from model.runs.file_names import file_names
from predict.sought import Sought, noting_failure

STILL_PIXELS = 180


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


def write_outputs(
    sought: Sequence[Sought], outputs: Outputs, *, fps: float | None, folder_fps: float
) -> None:
    """Write what was asked for of every video that has a prediction.

    Raises:
        FeatError, OSError: it cannot be written.
    """
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
            with noting_failure(each):
                path = outputs.plot / f"{stem}.png"
                _draw(path, each, prediction, fps=fps, folder_fps=folder_fps)
                each.written["plot"] = str(path)


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
            lines += [f"  written   {path}" for path in each.written.values()]
        if each.error:
            lines.append(f"{each.name}: failed: {each.error}")
    return lines


def _draw(
    path: Path, each: Sought, prediction: VideoPrediction, *, fps: float | None, folder_fps: float
) -> None:
    """Draw the timeline with the frames at the highest peaks."""
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
