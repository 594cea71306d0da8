"""One self-contained HTML page about an evaluation, with its pictures inside."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from model.evaluation.plots import draw_confusion, draw_curve, draw_roc
from model.evaluation.released import NOTE, CompatTable
from model.measures.bootstrap import (
    COVERAGE,
    NUM_RESAMPLES,
    NUM_RESAMPLES_ADDED,
    Interval,
)
from model.measures.metrics import VideoResult, confusion, frame_auc
from model.measures.registry import ADDED_MEASURES
from model.measures.table import AllMetrics, meaning_of
from model.runs.file_names import file_names

MAX_CURVES = 200
"""Curves in the page; each is some 20 kB. All of them lie beside it."""

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% }
.muted { color: #666 } pre { white-space: pre-wrap; font-size: 12px }
"""


def write_report(
    folder: Path,
    results: Sequence[VideoResult],
    metrics: AllMetrics,
    *,
    title: str,
    protocol: str,
    settings: Mapping[str, Any],
    released: CompatTable | None = None,
) -> None:
    """Write `report.html`, `roc.png`, `confusion.png` and `curves/<video>.png` into `folder`.

    Pictures that the results do not allow (a ROC curve of one kind of frame) are left out, and
    ones of an earlier evaluation removed.
    """
    for old in (*folder.glob("*.png"), *folder.glob("curves/*.png")):
        old.unlink()
    auc = metrics.values["auc"]
    if auc is not None:
        draw_roc(folder / "roc.png", results, auc)
    if confusion(results)[0]:
        draw_confusion(folder / "confusion.png", results)
    curves = folder / "curves"
    curves.mkdir(exist_ok=True)
    paths = [curves / f"{name}.png" for name in file_names([r.video for r in results])]
    for path, result in zip(paths, results, strict=True):
        draw_curve(path, result)
    page = "".join(
        [
            f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}"
            f"</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
            f"<p class='muted'>{escape(protocol)}</p>",
            _metrics_table(metrics),
            _released_table(released) if released else "",
            *(_image(folder / name) for name in ("roc.png", "confusion.png")),
            "<h2>Videos</h2>",
            _videos_table(results),
            _curves(paths),
            "<h2>Settings</h2><pre>",
            escape(json.dumps(settings, indent=1, ensure_ascii=False)),
            "</pre></body></html>\n",
        ]
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _metrics_table(metrics: AllMetrics) -> str:
    rows = [f"<tr><th></th><th></th><th>{COVERAGE:.0%} interval</th><th></th></tr>"]
    for name, value in metrics.values.items():
        if value is None:
            cells = f"<td colspan='2'>{escape(f'none: {metrics.reasons[name]}')}</td>"
        else:
            cells = f"<td class='number'>{value:.4f}</td>{_interval_cell(metrics.intervals[name])}"
        rows.append(
            f"<tr><th>{name}</th>{cells}<td class='muted'>{escape(meaning_of(name))}</td></tr>"
        )
    for name, count in metrics.counts.items():
        rows.append(f"<tr><th>{name}</th><td class='number'>{count}</td></tr>")
    fewer = f" ({NUM_RESAMPLES_ADDED} for {', '.join(ADDED_MEASURES)})" if ADDED_MEASURES else ""
    note = (
        f"<p class='muted'>Intervals: bootstrap over whole videos, {NUM_RESAMPLES} draws{fewer}. "
        "They do not tell how another training would do: for that, train several seeds.</p>"
    )
    return f"<table>{''.join(rows)}</table>{note}{_categories_table(metrics)}"


def _categories_table(metrics: AllMetrics) -> str:
    if not metrics.categories:
        return ""
    rows = [
        f"<tr><td>{escape(row.category)}</td><td class='number'>{row.num_videos}</td>"
        f"<td class='number'>{row.auc:.4f}</td>{_interval_cell(row.interval)}</tr>"
        for row in metrics.categories
    ]
    head = "".join(
        f"<th>{name}</th>"
        for name in ("category", "abnormal videos", "AUC", f"{COVERAGE:.0%} interval")
    )
    return (
        "<h2>Categories</h2><p class='muted'>Each one's abnormal videos against all normal ones."
        f"</p><table><tr>{head}</tr>{''.join(rows)}</table>"
    )


def _released_table(table: CompatTable) -> str:
    head, *rows = table.rows()
    lines = []
    for name, *row in rows:
        cells = "".join(f"<td class='number'>{cell}</td>" for cell in row)
        lines.append(f"<tr><th>{name}</th>{cells}</tr>")
    names = "".join(f"<th>{name}</th>" for name in head)
    return (
        "<h2>The authors' published evaluation</h2><table>"
        f"<tr>{names}</tr>{''.join(lines)}</table><p class='muted'>{escape(NOTE)}</p>"
    )


def _interval_cell(interval: Interval | None) -> str:
    shown = f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""
    return f"<td class='number'>{shown}</td>"


def _videos_table(results: Sequence[VideoResult]) -> str:
    rows = []
    for result in results:
        auc = frame_auc([result])[0]
        abnormal = "?" if result.labels is None else str(int(result.labels.sum()))
        rows.append(
            f"<tr><td>{escape(result.video)}</td><td class='number'>{len(result.scores)}</td>"
            f"<td class='number'>{abnormal}</td>"
            f"<td class='number'>{'' if auc is None else f'{auc:.3f}'}</td>"
            f"<td class='number'>{result.scores.max():.3f}</td>"
            f"<td>{escape(result.category)}</td><td>{escape(result.predicted)}</td></tr>"
        )
    head = "".join(
        f"<th>{name}</th>"
        for name in ("video", "frames", "abnormal", "AUC", "peak", "category", "predicted")
    )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _curves(paths: Sequence[Path]) -> str:
    left_out = len(paths) - MAX_CURVES
    note = (
        f"<p class='muted'>{left_out} more curves are in the folder curves.</p>"
        if left_out > 0
        else ""
    )
    legend = "<p class='muted'>Shaded: frames labelled abnormal. Dotted: the threshold.</p>"
    return legend + "".join(_image(path) for path in paths[:MAX_CURVES]) + note


def _image(path: Path) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"<p><img alt='{escape(path.stem)}' src='data:image/png;base64,{data}'></p>"
