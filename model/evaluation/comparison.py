"""One self-contained HTML page about several evaluated runs, on the videos that all of them know.

All runs are measured with the labels of the first, on the same frames. Differences are those from
the first run, with intervals from draws of videos that are the same for both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import ModelError
from data.files import write_whole
from data.labels import Split
from data.visible import visible
from model.evaluation.evaluate import evaluation_folder, reading_evaluation
from model.evaluation.pages import encode_curves, links_to, relative_url, render_page
from model.evaluation.report import FIGURES, REPORT_NAME, format_measure
from model.evaluation.ruled import rule_of
from model.measures.bootstrap import COVERAGE, NUM_RESAMPLES, Interval, paired_intervals
from model.measures.detection import count_alarms
from model.measures.metrics import THRESHOLD, VideoResult, compute_metrics, frame_auc
from model.measures.normalising import ScoreRule
from model.measures.ranking import ratio
from model.runs.trained import load_run


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """A run with the results of its evaluation."""

    path: Path
    name: str
    """The folder's own, or its path where several have the same."""
    protocol: str
    results: Sequence[VideoResult]
    """With the scores as they are."""
    rule: ScoreRule = ScoreRule()  # noqa: RUF009 - frozen
    """By which its evaluation has measured changed scores, too."""


def read_runs(runs: Sequence[Path], split: Split) -> list[EvaluatedRun]:
    """Return what the evaluations of runs left in their folders.

    Raises:
        FeatError: one is no finished run, is not evaluated, or its files cannot be read.
    """
    found = []
    for run in runs:
        load_run(run)  # first: what is no run cannot be evaluated either
        is_unique = [other.resolve().name for other in runs].count(run.resolve().name) == 1
        with reading_evaluation(run, split) as (measures, results):
            found.append(
                EvaluatedRun(
                    path=run,
                    name=run.resolve().name if is_unique else str(run),
                    protocol=measures["protocol"],
                    results=results,
                    rule=rule_of(measures),
                )
            )
    return found


def write_comparison(
    runs: Sequence[EvaluatedRun], *, split: Split = "test", out: Path, videos: Path | None = None
) -> Path:
    """Write the page that compares runs with the first of them, and return its path.

    Args:
        runs: two or more.
        split: which evaluations these are.
        out: the page.
        videos: folder of the video files, for the page to play.

    Raises:
        FeatError: the runs have no video in common, or the page cannot be written.
    """
    results, notes = common_results(runs)
    figures = _figures(results)
    for rule in dict.fromkeys(run.rule for run in runs if run.rule != ScoreRule()):
        changed = [rule.apply(run) for run in results]
        (figure,) = _figures(changed, {"auc": f"AUC, {rule.title}: NOT a result"})
        figures.append({**figure, "name": f"auc{rule.suffix}"})
        notes.append(rule.note())
    names = [run.name for run in runs]
    content = render_page(
        "comparison.html.j2",
        "comparison.js",
        title=f"{', '.join(names)} compared: {split} videos",
        runs=[
            {
                "name": run.name,
                "protocol": run.protocol,
                "num_videos": len(run.results),
                "link": relative_url(out.parent, evaluation_folder(run.path, split) / REPORT_NAME),
            }
            for run in runs
        ],
        notes=notes,
        figures=figures,
        results=results[0],
        num_frames=sum(len(result.scores) for result in results[0]),
        split=split,
        categories=sorted({result.category for result in results[0] if result.category}),
        coverage=f"{COVERAGE:.0%}",
        draws=NUM_RESAMPLES,
        data=comparison_data(names, results, links_to(out.parent, videos, results[0])),
    )
    write_whole(out, content)
    return out


def common_results(runs: Sequence[EvaluatedRun]) -> tuple[list[list[VideoResult]], list[str]]:
    """Return each run's results of the videos that all have, and what must be known of the choice.

    They come in the order of the first run, with its labels, categories and frame rates.

    Raises:
        ModelError: there is no such video.
    """
    first, *others = ({result.video: result for result in run.results} for run in runs)
    shared = [name for name in first if all(name in other for other in others)]
    alike = [
        name
        for name in shared
        if all(len(other[name].scores) == len(first[name].scores) for other in others)
    ]
    names = ", ".join(str(run.path) for run in runs)
    if not alike:
        raise ModelError(
            f"{names}: no video with the same frames was evaluated by all of them; evaluate them "
            "with the same labels and cache"
        )
    notes = []
    if any(len(run.results) != len(shared) for run in runs):
        counts = ", ".join(f"{run.name}: {len(run.results)}" for run in runs)
        notes.append(f"Only what all have evaluated counts: {_videos(len(shared))} ({counts}).")
    if len(alike) < len(shared):
        notes.append(
            "Left out because the runs have scored different numbers of frames: "
            f"{_videos(len(shared) - len(alike))}."
        )
    relabelled = sum(
        any(not _same_truth(first[name], other[name]) for other in others) for name in alike
    )
    if relabelled:
        notes.append(
            f"The labels of {_videos(relabelled)} differ between the runs; here those of "
            f"{runs[0].name} count for all."
        )
    exchanged = sum(
        len({run[name].sha256 for run in (first, *others)} - {""}) > 1 for name in alike
    )
    if exchanged:
        notes.append(f"The contents of {_videos(exchanged)} differ between the runs.")
    results = [
        [
            replace(
                run[name],
                labels=first[name].labels,
                category=first[name].category,
                frame_rate=first[name].frame_rate,
            )
            for name in alike
        ]
        for run in (first, *others)
    ]
    return results, notes


def comparison_data(
    names: Sequence[str], results: Sequence[Sequence[VideoResult]], links: Sequence[str]
) -> dict[str, Any]:
    """Return what the page computes with, as JSON types.

    Args:
        names: of the runs.
        results: for each run those of the same V videos.
        links: (V,) addresses of the video files, relative to the page; empty where there is none.
    """
    data, counts = encode_curves(results, links)
    for video, row in zip(data["videos"], zip(*results, strict=True), strict=True):
        video["auc"] = [frame_auc([result])[0] for result in row]
        video["wrong"] = [_share_wrong(result) for result in row]
    runs = [{"name": visible(name), **own} for name, own in zip(names, counts, strict=True)]
    return {**data, "runs": runs, "threshold": THRESHOLD}


def _videos(count: int) -> str:
    return f"{count} video{'' if count == 1 else 's'}"


def _same_truth(one: VideoResult, other: VideoResult) -> bool:
    if one.labels is None or other.labels is None:
        return one.labels is other.labels and one.category == other.category
    return one.category == other.category and np.array_equal(one.labels, other.labels)


def _share_wrong(result: VideoResult) -> float | None:
    """Return the share of frames on the wrong side of the threshold; None without labels."""
    if result.labels is None:
        return None
    return float(((result.scores >= THRESHOLD) != result.labels).mean())


def _figures(
    results: Sequence[Sequence[VideoResult]], labels: Mapping[str, str] = FIGURES
) -> list[dict[str, Any]]:
    """Return each measure, of `FIGURES`, with a row for each run, in words."""
    values = [_values(run) for run in results]
    intervals = paired_intervals(results, measures=[*labels])
    figures = []
    for name, label in labels.items():
        rows = []
        for own, (interval, change) in zip(values, intervals, strict=True):
            known = own[name] is not None and values[0][name] is not None
            rows.append(
                {
                    "value": _words(name, own[name]),
                    "interval": _range(name, interval[name]),
                    "difference": _words(name, own[name] - values[0][name], "+") if known else "",
                    "difference_interval": _range(name, change[name], "+"),
                }
            )
        figures.append({"name": name, "label": label, "rows": rows})
    return figures


def _values(results: Sequence[VideoResult]) -> dict[str, Any]:
    """Return the measures of `FIGURES`, as `measure_all` computes them; None: undefined."""
    predicted = sorted({result.predicted for result in results if result.predicted})
    part, whole = count_alarms(results).shares()["far_per_hour"]
    hourly = float(ratio(part.sum(keepdims=True), whole.sum(keepdims=True))[0])
    values = compute_metrics(results, predicted).values
    return {**values, "far_per_hour": hourly if np.isfinite(hourly) else None}


def _words(name: str, value: float | None, sign: str = "") -> str:
    return "none" if value is None else format_measure(name, value, digits=3, sign=sign)


def _range(name: str, interval: Interval | None, sign: str = "") -> str:
    if interval is None:
        return ""
    return f"{_words(name, interval.low, sign)} to {_words(name, interval.high, sign)}"
