"""What all pages have in common: their templates, and scores in the form a page holds them.

A page is made of `page/base.html.j2` and a template that extends it, `page.css`, `common.js` and a
script of its own. It holds every video's scores and asks for nothing else.
"""

import base64
import hashlib
import logging
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray

from data.intervals import intervals_from_frames
from data.videos import VideoSource, content_sha256
from data.visible import visible
from model.features.choose import named
from model.measures.metrics import THRESHOLD, VideoResult, frames_of

logger = logging.getLogger(f"feat.{__name__}")

PAGE = Path(__file__).parent / "page"
MAX_POINTS = 4_000_000
"""Scores in a page, a byte each and a third more as base64: enough for the test sets of UCF-Crime
and XD-Violence, few enough to open at once."""
NUM_STEPS = 100
"""Equal steps of the threshold between 0 and 1."""
NUM_QUANTILES = 150
"""Further thresholds, where the scores are: many models stay far below 0.5. All fit into a byte."""


def render_page(template: str, *script_names: str, **content: Any) -> str:
    """Return a page of a template and its scripts, self-contained."""
    parts = [(PAGE / name).read_text(encoding="utf-8") for name in ("common.js", *script_names)]
    script = "\n".join(parts)
    environment = Environment(
        loader=FileSystemLoader(PAGE),
        autoescape=True,  # whatever a name holds is text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
    )
    return environment.get_template(template).render(
        style=(PAGE / "page.css").read_text(encoding="utf-8"),
        script=script,
        # no other script runs, whatever a name holds
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **content,
    )


def encode_curves(
    runs: Sequence[Sequence[VideoResult]], links: Sequence[str], threshold: float = THRESHOLD
) -> tuple[dict[str, Any], list[dict[str, list[int]]]]:
    """Return the videos with their scores, and each run's frames by threshold, as JSON types.

    A score is stored as the number of the highest threshold that it reaches, so that it reaches
    exactly the same thresholds in the page. Of very many frames each `stride` neighbours share one
    number, their highest.

    Args:
        runs: for each run its results, of the same V videos with the same frames and labels.
        links: (V,) addresses of the video files, relative to the page; empty where there is none.
        threshold: one more that the page must know exactly.
    """
    every = np.concatenate([result.scores for run in runs for result in run])
    sample = every[:: 1 + len(every) // 1_000_000]  # quantiles of all would take seconds
    shares = np.linspace(0, 1, NUM_QUANTILES)
    further = np.quantile(sample, shares).round(4) if len(every) else ()
    thresholds = np.unique([threshold, *(np.arange(NUM_STEPS + 1) / NUM_STEPS), *further])
    stride = max(1, -(-len(every) // MAX_POINTS))
    points = [
        np.maximum.reduceat(result.scores, np.arange(0, len(result.scores), stride))
        for run in runs
        for result in run
    ]
    reached = _steps_reached(np.concatenate(points), thresholds)
    data = {
        "thresholds": thresholds.tolist(),
        "stride": stride,
        "points": base64.b64encode(reached.tobytes()).decode("ascii"),
        "videos": [
            {
                "name": visible(result.video),
                "frames": len(result.scores),
                "rate": result.frame_rate,
                "events": None if result.labels is None else intervals_from_frames(result.labels),
                "link": link,
            }
            for result, link in zip(runs[0], links, strict=True)
        ],
    }
    return data, [_frames_by_threshold(run, thresholds) for run in runs]


def _frames_by_threshold(
    results: Sequence[VideoResult], thresholds: NDArray[np.float64]
) -> dict[str, list[int]]:
    """Return how many abnormal and normal frames reach each threshold and none above it."""
    labels, scores = frames_of(results)
    own = _steps_reached(scores, thresholds)
    return {
        "positives": np.bincount(own[labels > 0], minlength=len(thresholds)).tolist(),
        "negatives": np.bincount(own[labels == 0], minlength=len(thresholds)).tolist(),
    }


def _steps_reached(
    scores: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> NDArray[np.uint8]:
    """Return for each score the index of the highest threshold that it reaches."""
    reached = np.searchsorted(thresholds, scores, side="right") - 1
    return np.maximum(reached, 0).astype(np.uint8)


def links_to(folder: Path, videos: Path | None, results: Sequence[VideoResult]) -> list[str]:
    """Return (V,) addresses of the videos' files for a page in `folder`; empty for none.

    Files of other contents than those evaluated are left out and said: a curve would stand beside
    pictures that it is not of.

    Args:
        folder: where the page will be.
        videos: folder of the files; None: without any.
        results: of V videos.
    """
    links, others = [""] * len(results), []
    for place, result in enumerate(results):
        if videos is None or not (path := videos / result.video).is_file():
            continue
        try:
            is_it = not result.sha256 or _content(path, path.stat().st_mtime_ns) == result.sha256
        except OSError:
            is_it = False
        if is_it:
            links[place] = relative_url(folder, path)
        else:
            others.append(result.video)
    if others:
        logger.warning(
            "%d files in %s cannot be read or are not the videos that were evaluated, and are left "
            "out of the page in %s: %s",
            len(others),
            videos,
            folder,
            named(others),
        )
    return links


@cache
def _content(path: Path, mtime_ns: int) -> str:
    """Return the sha256 of a video file, which several pages may show."""
    return content_sha256(VideoSource(video_id=path.name, path=path, kind="file"))


def relative_url(folder: Path, path: Path) -> str:
    """Return the address of a file for a page in `folder`."""
    # of the names as given: a browser takes `..` for the folder named before, not for where a link
    # leads
    return quote(os.fsencode(Path(os.path.relpath(path, folder)).as_posix()))
