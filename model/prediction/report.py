"""What is said of videos as text, JSON and CSV."""

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from model.prediction.prediction import VideoPrediction
from model.prediction.timeline import clock


def prediction_json(prediction: VideoPrediction) -> dict[str, Any]:
    """Return all but the scores of single frames, as JSON types."""
    peak = prediction.peak_frame
    return {
        "num_frames": len(prediction.scores),
        "frame_rate": round(prediction.frame_rate, 6),
        "seconds": _rounded(prediction.edges_seconds[-1] - prediction.edges_seconds[0]),
        "partial": prediction.partial,
        "threshold": prediction.threshold,
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
    }


def prediction_lines(video: str, prediction: VideoPrediction) -> list[str]:
    """Return the same as a person reads it; intervals as `labels.csv` has them, half-open."""
    edges, peak = prediction.edges_seconds, prediction.peak_frame
    lines = [f"{video}: {len(prediction.scores)} frames, {clock(float(edges[-1] - edges[0]))}"]
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
    if prediction.partial:
        lines.append(f"  partial   {prediction.partial}")
    return lines


def write_frame_scores(path: Path, prediction: VideoPrediction) -> None:
    """Write one row a frame: its number, when it is first shown, its score."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "seconds", "score"])
        seconds = prediction.edges_seconds
        for frame, score in enumerate(prediction.scores):
            writer.writerow([frame, f"{seconds[frame]:.6f}", f"{score:.6f}"])


def _rounded(value: float | np.floating[Any]) -> float:
    return round(float(value), 6)
