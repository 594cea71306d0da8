"""One self-contained HTML page about an evaluation, with its pictures inside."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from data.files import write_whole
from model.evaluation.plots import draw_confusion, draw_curve, draw_roc
from model.evaluation.released import NOTE, CompatTable
from model.evaluation.results import video_rows
from model.measures.bootstrap import COVERAGE, NUM_RESAMPLES, NUM_RESAMPLES_ADDED, Interval
from model.measures.metrics import VideoResult, confusion
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
    videos = video_rows(results)
    page = "".join(
        [
            f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}"
            f"</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
            f"<p class='muted'>{escape(protocol)}</p>",
            _metrics_tables(metrics),
            _released_table(released) if released else "",
            *(_image(folder / name) for name in ("roc.png", "confusion.png")),
            "<h2>Videos</h2>",
            _table([*videos[0]], [[*row.values()] for row in videos]),
            _curves(paths),
            "<h2>Settings</h2><pre>",
            escape(json.dumps(settings, indent=1, ensure_ascii=False)),
            "</pre></body></html>\n",
        ]
    )
    write_whole(folder / "report.html", page)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table; what begins like a number stands to the right."""
    lines = ["".join(f"<th>{escape(name)}</th>" for name in head)]
    for name, *cells in rows:
        line = f"<th>{escape(name)}</th>"
        for cell in cells:
            kind = " class='number'" if cell.lstrip("+-")[:1].isdigit() else ""
            line += f"<td{kind}>{escape(cell)}</td>"
        lines.append(line)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _metrics_tables(metrics: AllMetrics) -> str:
    interval = f"{COVERAGE:.0%} interval"
    rows = [
        [name, f"none: {metrics.reasons[name]}", "", meaning_of(name)]
        if value is None
        else [name, f"{value:.4f}", _interval(metrics.intervals[name]), meaning_of(name)]
        for name, value in metrics.values.items()
    ]
    counts = [[name, str(count), "", ""] for name, count in metrics.counts.items()]
    fewer = f" ({NUM_RESAMPLES_ADDED} for {', '.join(ADDED_MEASURES)})" if ADDED_MEASURES else ""
    page = _table(["", "", interval, ""], rows + counts) + (
        f"<p class='muted'>Intervals: bootstrap over whole videos, {NUM_RESAMPLES} draws{fewer}. "
        "They do not tell how another training would do: for that, train several seeds.</p>"
    )
    if not metrics.categories:
        return page
    head = ["category", "abnormal videos", "AUC", interval]
    return (
        f"{page}<h2>Categories</h2>"
        + ("<p class='muted'>Each one's abnormal videos against all normal ones.</p>")
        + _table(
            head,
            [
                [row.category, str(row.num_videos), f"{row.auc:.4f}", _interval(row.interval)]
                for row in metrics.categories
            ],
        )
    )


def _released_table(table: CompatTable) -> str:
    head, *rows = table.rows()
    return (
        f"<h2>The authors' published evaluation</h2>{_table(head, rows)}"
        f"<p class='muted'>{escape(NOTE)}</p>"
    )


def _interval(interval: Interval | None) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}" if interval else ""


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
