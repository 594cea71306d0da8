"""One self-contained HTML page about an evaluation, which people open before they read numbers.

Its slider moves the threshold: `page/page.js` counts as `model/measures/detection.py` does.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.files import write_whole
from model.evaluation.compat import TITLES, CompatTable
from model.evaluation.pages import encode_curves, links_to, render_page
from model.evaluation.ruled import rule_of, ruled_rows
from model.evaluation.snapshots import snapshot_rows
from model.evaluation.why import far_videos, remarks
from model.measures.bootstrap import COVERAGE, NUM_RESAMPLES, NUM_RESAMPLES_ADDED
from model.measures.metrics import THRESHOLD, VideoResult, confusion
from model.measures.registry import ADDED_MEASURES
from model.measures.table import meaning_of

REPORT_NAME = "report.html"
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
    stored = found.get("threshold")
    start = float(stored["threshold"]) if stored else THRESHOLD
    compat = CompatTable(**found["compat"]) if "compat" in found else None
    links = links_to(folder, videos, results)
    data = page_data(results, links, start)
    if why:
        data["images"] = why["images"]
        for video, card in zip(data["videos"], why["cards"], strict=True):
            video["why"] = card
    content = render_page(
        "report.html.j2",
        "page.js",
        "why.js",
        title=title,
        found=found,
        figures=[
            {"label": label, **_figure(name, found, is_fitted=bool(stored))}
            for name, label in FIGURES.items()
        ],
        start=f"{start:g}",
        measures=[_measure(name, found) for name in found["intervals"]],
        counts={name: found[name] for name in found if name.startswith("num_")},
        results=results,
        categories=sorted({result.category for result in results if result.category}),
        confusion=zip(names, counts.tolist(), strict=True),
        predicted=names,
        compat=compat,
        compat_title=TITLES[compat.name] if compat else "",
        ruled=ruled_rows(found) if "ruled" in found else None,
        rule_note=rule_of(found).note(),
        snapshots=snapshot_rows(found["snapshots"]) if found.get("snapshots") else None,
        settings=json.dumps(settings, indent=1, ensure_ascii=False),
        coverage=f"{COVERAGE:.0%}",
        draws=f"{NUM_RESAMPLES} draws"
        + (f" ({NUM_RESAMPLES_ADDED} for {', '.join(ADDED_MEASURES)})" if ADDED_MEASURES else ""),
        far=far_videos(why) if why else [False] * len(results),
        remarks=remarks(why) if why else [],
        data=data,
    )  # fmt: skip
    write_whole(folder / REPORT_NAME, content)
    return folder / REPORT_NAME


def page_data(
    results: Sequence[VideoResult], links: Sequence[str], threshold: float = THRESHOLD
) -> dict[str, Any]:
    """Return what the page computes with, as JSON types.

    Args:
        results: of V videos.
        links: (V,) addresses of the video files, relative to the page; empty where there is none.
        threshold: at which the page's slider starts.
    """
    data, (counts,) = encode_curves([results], links, threshold)
    start = int(np.searchsorted(data["thresholds"], threshold))
    return {**data, **counts, "start": start}


def format_measure(name: str, value: float, *, digits: int = 4, sign: str = "") -> str:
    """Return the value of a measure as the pages show it.

    Args:
        name: of the measure.
        value: of it, or a difference of two.
        digits: behind the point, if it is a share.
        sign: "+" to write that of a positive difference.
    """
    hourly = name.startswith("far_per_hour")  # as page.js writes it
    return f"{value:{sign}.{(1 if abs(value) < 100 else 0) if hourly else digits}f}"


def _figure(name: str, found: Mapping[str, Any], *, is_fitted: bool) -> dict[str, str]:
    """Return a measure at the threshold that the page starts at, under its plain name."""
    own = f"{name}_fitted" if is_fitted and name == "far_per_hour" else name
    return {**_measure(own, found, digits=3), "name": name}


def _measure(name: str, found: Mapping[str, Any], *, digits: int = 4) -> dict[str, str]:
    """Return a measure in words."""
    value = found[name]
    bounds = found["intervals"][name] or ()
    return {
        "name": name,
        "value": "" if value is None else format_measure(name, value, digits=digits),
        "reason": found["reasons"].get(name, ""),
        "interval": " to ".join(format_measure(name, bound, digits=digits) for bound in bounds),
        "meaning": meaning_of(name),
    }
