"""What is said of videos as text, JSON, CSV and WebVTT."""

import csv
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from data.files import new_file
from data.visible import one_line
from model.prediction.prediction import VideoPrediction
from model.prediction.timeline import clock

INTERVAL_COLUMNS = (
    "video", "start_seconds", "end_seconds", "start_frame", "end_frame", "peak", "category",
    "far_from_training",
)  # fmt: skip
SCORE_COLUMNS = ("frame", "seconds", "score")


def prediction_json(prediction: VideoPrediction) -> dict[str, Any]:
    """Return all but the scores of single frames, as JSON types."""
    peak, distance = prediction.peak_frame, prediction.distance
    return {
        "num_frames": len(prediction.scores),
        "frame_rate": round(prediction.frame_rate, 6),
        "seconds": _rounded(prediction.edges_seconds[-1]),
        "partial": prediction.partial,
        "threshold": prediction.threshold,
        "threshold_means": prediction.threshold_means,
        "intervals": [
            {name: round(value, 6) for name, value in asdict(span).items()}
            for span in prediction.intervals
        ],
        "peak": {
            "score": _rounded(prediction.scores[peak]),
            "frame": peak,
            "seconds": _rounded(prediction.edges_seconds[peak]),
        },
        "category": prediction.category,
        "probabilities": {k: _rounded(value) for k, value in prediction.probabilities.items()},
        "seen_in_training": prediction.seen,
        "far_from_training": distance and distance.is_far,
        "training_distance": distance and _rounded(distance.median),
        "training_distance_limit": distance and _rounded(distance.limit),
    }


def prediction_lines(video: str, prediction: VideoPrediction) -> list[str]:
    """Return the same as a person reads it; intervals as `labels.csv` has them, half-open."""
    edges, peak = prediction.edges_seconds, prediction.peak_frame
    lines = [f"{video}: {len(prediction.scores)} frames, {clock(float(edges[-1]))}"]
    spans = prediction.intervals
    width = max((len(f"{span.start_frame}:{span.end_frame}") for span in spans), default=0)
    lines += [
        f"  abnormal  {f'{span.start_frame}:{span.end_frame}':{width}}  "
        f"{clock(span.start_seconds)} to {clock(span.end_seconds)}, up to {span.peak:.3f}"
        for span in spans
    ]
    if not spans:
        lines.append(f"  normal    no frame reaches {prediction.threshold:g}")
    lines.append(
        f"  peak      {prediction.scores[peak]:.3f} at frame {peak}, {clock(float(edges[peak]))}"
    )
    if prediction.category:
        share = prediction.probabilities[prediction.category]
        lines.append(f"  category  {prediction.category} ({share:.2f})")
    elif prediction.probabilities:
        verdict = "abnormal" if spans else "normal"
        lines.append(f"  category  none: no {verdict} video that was trained on had one")
    if prediction.distance and prediction.distance.is_far:
        lines.append(f"  far       {prediction.distance.to_text()}; its scores may mean little")
    if prediction.partial:
        lines.append(f"  partial   {prediction.partial}")
    return lines


def write_frame_scores(path: Path, prediction: VideoPrediction) -> None:
    """Write one row a frame: its number, when it is first shown, its score."""
    with new_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(SCORE_COLUMNS)
        seconds = prediction.edges_seconds
        for frame, score in enumerate(prediction.scores):
            writer.writerow([frame, f"{seconds[frame]:.6f}", f"{score:.6f}"])


def interval_rows(video: str, prediction: VideoPrediction) -> list[dict[str, str]]:
    """Return a row for each abnormal interval, of `INTERVAL_COLUMNS`; none for a normal video."""
    distance = prediction.distance
    far = "" if distance is None else "yes" if distance.is_far else "no"
    return [
        {
            "video": video,
            "start_seconds": f"{span.start_seconds:.6f}",
            "end_seconds": f"{span.end_seconds:.6f}",
            "start_frame": str(span.start_frame),
            "end_frame": str(span.end_frame),
            "peak": f"{span.peak:.6f}",
            "category": prediction.category,
            "far_from_training": far,
        }
        for span in prediction.intervals
    ]


def webvtt(prediction: VideoPrediction) -> str:
    """Return the abnormal intervals as subtitles that a player shows over the video.

    The format is W3C's WebVTT: a cue an interval, in hours, minutes, seconds and milliseconds.
    """
    cues = ["WEBVTT\n"]
    for span in prediction.intervals:
        start = round(span.start_seconds * 1000)
        end = max(round(span.end_seconds * 1000), start + 1)  # a cue must last
        text = f"abnormal, up to {span.peak:.3f}"
        if prediction.category:
            text += f": {escape(one_line(prediction.category), quote=False)}"
        cues.append(f"{_vtt_time(start)} --> {_vtt_time(end)}\n{text}\n")
    return "\n".join(cues)


def _vtt_time(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}"


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 6)
