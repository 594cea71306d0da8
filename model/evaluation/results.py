"""The files of an evaluation's scores: written by `feat eval`, read by tables of many runs."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.files import new_file, write_rows
from data.visible import from_cell
from model.measures.metrics import VideoResult, frame_auc
from model.runs.file_names import file_names
from model.runs.folder import SCORES_NAME

FRAME_HEADER = "frame,score,label"


def video_rows(results: Sequence[VideoResult]) -> list[dict[str, str]]:
    """Return what there is to say of each video, as text."""
    rows = []
    for result in results:
        auc = frame_auc([result])[0]
        rows.append(
            {
                "video": result.video,
                "frames": str(len(result.scores)),
                "abnormal": "?" if result.labels is None else str(int(result.labels.sum())),
                "auc": "" if auc is None else f"{auc:.4f}",
                "peak": f"{result.scores.max():.4f}" if result.is_counted else "",
                "category": result.category,
                "predicted": result.predicted,
            }
        )
    return rows


def write_scores(folder: Path, results: Sequence[VideoResult]) -> None:
    """Write `scores.npz`, `scores/<video>.csv` for each video, and `videos.csv`.

    Scores that an earlier evaluation left there of other videos are removed.
    """
    with new_file(folder / SCORES_NAME) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            videos=np.array([result.video for result in results]),
            num_frames=np.array([len(result.scores) for result in results]),
            frame_rate=np.array([result.frame_rate for result in results]),
            scores=np.concatenate([result.scores.astype(np.float32) for result in results]),
            labels=np.concatenate(
                [
                    np.full(len(r.scores), -1, np.int8)
                    if r.labels is None
                    else r.labels.astype(np.int8)
                    for r in results
                ]
            ),
        )
    names = file_names([result.video for result in results])
    (folder / "scores").mkdir(exist_ok=True)
    _remove_others(folder / "scores", {f"{name}.csv" for name in names})
    for result, name in zip(results, names, strict=True):
        _write_frames(folder / "scores" / f"{name}.csv", result)
    rows = zip(video_rows(results), names, strict=True)
    write_rows(
        folder / "videos.csv",
        [
            {**row, "scores": f"scores/{name}.csv", "sha256": result.sha256}
            for result, (row, name) in zip(results, rows, strict=True)
        ],
    )


def read_results(folder: Path) -> list[VideoResult]:
    """Return what an evaluation left in `scores.npz` and `videos.csv`, without probabilities.

    Raises:
        OSError, ValueError, KeyError, BadZipFile: a file is absent, damaged or something else.
    """
    with (folder / "videos.csv").open(encoding="utf-8", newline="") as file:
        rows = {from_cell(row["video"]): row for row in csv.DictReader(file)}
    path = folder / SCORES_NAME
    with path.open("rb") as binary, np.load(binary, allow_pickle=False) as held:
        edges = np.cumsum(held["num_frames"])[:-1]
        scores = np.split(held["scores"].astype(np.float64), edges)
        labels = np.split(held["labels"], edges)
        # scores of an earlier build have no rates: then they are unknown
        rates = held["frame_rate"] if "frame_rate" in held else np.zeros(len(edges) + 1)
        return [
            VideoResult(
                video=str(video),
                scores=part,
                labels=label.astype(np.uint8) if len(label) and (label >= 0).all() else None,
                category=from_cell(rows[str(video)]["category"]),
                predicted=from_cell(rows[str(video)]["predicted"]),
                frame_rate=float(rate),
                sha256=rows[str(video)].get("sha256") or "",  # an earlier build kept none
            )
            for video, part, label, rate in zip(held["videos"], scores, labels, rates, strict=True)
        ]


def changed_contents(folder: Path, results: Sequence[VideoResult]) -> list[str]:
    """Return the videos that an evaluation before has seen with other contents, as far as known."""
    try:
        with (folder / "videos.csv").open(encoding="utf-8", newline="") as file:
            before = {from_cell(row["video"]): row.get("sha256") for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error):
        return []  # there is none that could be read
    return [
        result.video
        for result in results
        if result.sha256 and (before.get(result.video) or result.sha256) != result.sha256
    ]


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.glob("*.csv"):
        if path.name not in names and path.is_file():
            with path.open("rb") as file:
                is_ours = file.readline(len(FRAME_HEADER) + 3).strip() == FRAME_HEADER.encode()
            if is_ours:
                path.unlink()


def _write_frames(path: Path, result: VideoResult) -> None:
    with new_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FRAME_HEADER.split(","))
        for frame, score in enumerate(result.scores):
            label = "" if result.labels is None else int(result.labels[frame])
            writer.writerow([frame, f"{score:.6f}", label])
