"""Clicks, one frame in each event of a video: GlanceVAD's files, and labels with them."""

import csv
import re
from dataclasses import replace
from pathlib import Path

from data.anomaly import FieldError
from data.datasets.dataset_labels import DatasetLabels, missing_problems
from data.datasets.locate import bare_name
from data.errors import LabelsError
from data.intervals import merge_intervals
from data.sources import source_of

COLUMNS = ["video-id", "glance"]


def read_clicks(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the clicked frames, ascending, of each video from a CSV of `video-id,glance`.

    That is the form of Zhang et al. 2024 (GlanceVAD) for UCF-Crime and XD-Violence; frames count
    from 0.

    Raises:
        LabelsError: it cannot be read, or a line is none of that form.
    """
    clicks: dict[str, set[int]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file)
            header = next(rows, [])
            if [cell.strip() for cell in header] != COLUMNS:
                raise LabelsError(
                    f"{path}:1: columns {','.join(header)[:80]!r}, expected {','.join(COLUMNS)}"
                )
            for row in rows:
                cells = [cell.strip() for cell in row]
                if len(cells) != 2 or not cells[0] or not re.fullmatch("[0-9]{1,12}", cells[1]):
                    raise LabelsError(
                        f"{path}:{rows.line_num}: {','.join(row)[:80]!r}, expected a video's name "
                        "and a frame"
                    )
                clicks.setdefault(cells[0], set()).add(int(cells[1]))
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelsError(f"{path}: not a readable CSV file: {error}") from error
    return {video: tuple(sorted(frames)) for video, frames in clicks.items()}


def with_clicks(dataset: DatasetLabels, path: Path) -> DatasetLabels:
    """Return the labels with the clicks of a file, and with the problem of those that do not fit.

    Abnormal training videos whose frames nobody marked get them; videos with intervals, and test
    videos, stay as they are. A video is found by its bare name.

    Raises:
        LabelsError: as of `read_clicks`; or a click is beyond the frames that a label names.
    """
    clicks = read_clicks(path)
    by_name = {bare_name(label.video): label for label in dataset.labels}
    trained = {
        name for name, label in by_name.items() if label.is_abnormal and label.split != "test"
    }
    problems = missing_problems(
        f"videos in {path} that are no abnormal training videos",
        clicks.keys() - trained,
        "mend their names",
    )
    labels = []
    source = source_of("clicks", path)
    for label in dataset.labels:
        frames = clicks.get(bare_name(label.video), ())
        if frames and label.extent in ("all", "unknown") and label.split != "test":
            spans = merge_intervals([(frame, frame + 1) for frame in frames])
            try:
                label = replace(label, extent="clicks", intervals=spans, source=source)
            except FieldError as error:
                raise LabelsError(f"{path}: {label.video}: {error}; mend the clicks") from error
        labels.append(label)
    return replace(dataset, labels=labels, problems=(*dataset.problems, *problems))
