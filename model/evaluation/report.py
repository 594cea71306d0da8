"""One self-contained HTML page about an evaluation, which people open before they read numbers.

The page is made of `page/report.html.j2`, `page.css` and `page.js`. It holds every video's scores,
so that its slider can move the threshold: `page.js` counts as `model/measures/detection.py` does.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from data.files import write_whole
from data.intervals import intervals_from_frames
from data.visible import visible
from model.evaluation.released import NOTE, CompatTable
from model.evaluation.why import far_videos, remarks
from model.measures.bootstrap import COVERAGE, NUM_RESAMPLES, NUM_RESAMPLES_ADDED
from model.measures.metrics import THRESHOLD, VideoResult, confusion, frames_of
from model.measures.registry import ADDED_MEASURES
from model.measures.table import meaning_of

REPORT_NAME = "report.html"
PAGE = Path(__file__).parent / "page"
MAX_POINTS = 4_000_000
"""Scores in a page, a byte each and a third more as base64: enough for the test sets of UCF-Crime
and XD-Violence, few enough to open at once."""
NUM_STEPS = 100
"""Equal steps of the threshold between 0 and 1."""
NUM_QUANTILES = 150
"""Further thresholds, where the scores are: many models stay far below 0.5. All fit into a byte."""
FIGURES = {
    "auc": "AUC",
    "ap": "Average precision",
    "far_per_hour": "False alarms an hour",
    "accuracy_video": "Category accuracy",
}
"""The measures at the top of the page."""


def write_report(
    folder: Path,
    results: Sequence[VideoResult],
    found: Mapping[str, Any],
    *,
    title: str,
    settings: Mapping[str, Any],
    videos: Path | None = None,
    why: Mapping[str, Any] | None = None,
) -> Path:
    """Write `report.html` into `folder` and return its path.

    Args:
        folder: of the evaluation.
        results: one for each video.
        found: what `metrics.json` holds of them.
        title: of the page.
        settings: of the run.
        videos: folder of the video files, which the page then plays where they are.
        why: what `explain_videos` gave; None where an evaluation has none of it.

    Raises:
        FeatError: the file cannot be written.
    """
    names, counts = confusion(results)
    released = found.get("released")
    script = "".join((PAGE / name).read_text(encoding="utf-8") for name in ("page.js", "why.js"))
    data = page_data(results, [_link(folder, videos, result.video) for result in results])
    if why:
        data["images"] = why["images"]
        for video, card in zip(data["videos"], why["cards"], strict=True):
            video["why"] = card
    content = _environment().get_template("report.html.j2").render(
        title=title,
        found=found,
        figures=[
            {"label": label, **_measure(name, found, digits=3)} for name, label in FIGURES.items()
        ],
        measures=[_measure(name, found) for name in found["intervals"]],
        counts={name: found[name] for name in found if name.startswith("num_")},
        results=results,
        categories=sorted({result.category for result in results if result.category}),
        confusion=zip(names, counts.tolist(), strict=True),
        predicted=names,
        released=CompatTable(**released).rows() if released else None,
        released_note=NOTE,
        settings=json.dumps(settings, indent=1, ensure_ascii=False),
        coverage=f"{COVERAGE:.0%}",
        draws=f"{NUM_RESAMPLES} draws"
        + (f" ({NUM_RESAMPLES_ADDED} for {', '.join(ADDED_MEASURES)})" if ADDED_MEASURES else ""),
        far=far_videos(why) if why else [False] * len(results),
        remarks=remarks(why) if why else [],
        data=data,
        style="".join((PAGE / name).read_text("utf-8") for name in ("page.css", "why.css")),
        script=script,
        # no other script runs, whatever a name holds
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip
    write_whole(folder / REPORT_NAME, content)
    return folder / REPORT_NAME


def page_data(results: Sequence[VideoResult], links: Sequence[str]) -> dict[str, Any]:
    """Return what the page computes with, as JSON types.

    A score is stored as the number of the highest threshold that it reaches, so that it reaches
    exactly the same thresholds in the page. Of very many frames each `stride` neighbours share one
    number, their highest.

    Args:
        results: of V videos.
        links: (V,) addresses of the video files, relative to the page; empty where there is none.
    """
    labels, scores = frames_of(results)
    every = np.concatenate([result.scores for result in results])
    sample = every[:: 1 + len(every) // 1_000_000]  # quantiles of all would take seconds
    shares = np.linspace(0, 1, NUM_QUANTILES)
    thresholds = np.unique(
        [*(np.arange(NUM_STEPS + 1) / NUM_STEPS), *np.quantile(sample, shares).round(4)]
    )
    stride = -(-len(every) // MAX_POINTS)
    points = [
        np.maximum.reduceat(result.scores, np.arange(0, len(result.scores), stride))
        for result in results
    ]
    reached = _steps_reached(np.concatenate(points), thresholds)
    own = _steps_reached(scores, thresholds)
    return {
        "thresholds": thresholds.tolist(),
        "start": int(np.searchsorted(thresholds, THRESHOLD)),
        "stride": stride,
        "positives": np.bincount(own[labels > 0], minlength=len(thresholds)).tolist(),
        "negatives": np.bincount(own[labels == 0], minlength=len(thresholds)).tolist(),
        "points": base64.b64encode(reached.tobytes()).decode("ascii"),
        "videos": [
            {
                "name": visible(result.video),
                "frames": len(result.scores),
                "rate": result.frame_rate,
                "events": None if result.labels is None else intervals_from_frames(result.labels),
                "link": link,
            }
            for result, link in zip(results, links, strict=True)
        ],
    }


def _steps_reached(
    scores: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return for each score the index of the highest threshold that it reaches."""
    reached = np.searchsorted(thresholds, scores, side="right") - 1
    return np.maximum(reached, 0).astype(np.uint8)


def _environment() -> Environment:
    """Return templates in which whatever a name holds is text."""
    return Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )


def _measure(name: str, found: Mapping[str, Any], *, digits: int = 4) -> dict[str, str]:
    """Return a measure in words."""

    def text(value: float) -> str:
        hourly = name == "far_per_hour"  # as page.js writes it
        return f"{value:.{(1 if value < 100 else 0) if hourly else digits}f}"

    value = found[name]
    return {
        "name": name,
        "value": "" if value is None else text(value),
        "reason": found["reasons"].get(name, ""),
        "interval": " to ".join(text(bound) for bound in found["intervals"][name] or ()),
        "meaning": meaning_of(name),
    }


def _link(folder: Path, videos: Path | None, name: str) -> str:
    """Return the address of a video's file for a page in `folder`; empty if it is not there."""
    if videos is None or not (videos / name).is_file():
        return ""
    # of the names as given: a browser takes `..` for the folder named before, not for where a link
    # leads
    return quote(os.fsencode(Path(os.path.relpath(videos / name, folder)).as_posix()))
