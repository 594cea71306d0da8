"""Statistics of a set of labels: counts as in the paper's Tables 1 and 2, shares as in Figure 3."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from data.labels import SPLITS, VideoLabel
from data.visible import to_cell

TableFormat = Literal["text", "csv", "markdown"]
NO_CATEGORY = "(none)"


@dataclass(frozen=True, kw_only=True)
class VideoStats:
    """Frames of one video.

    Attributes:
        label: the row it comes from.
        num_frames: of the whole video, None if unknown.
        num_abnormal: frames, None if unknown: a weak label, one in seconds, or `all` of an unknown
            number.
    """

    label: VideoLabel
    num_frames: int | None
    num_abnormal: int | None

    @property
    def share(self) -> float | None:
        """Abnormal frames out of all, 0 to 1; None if one of them is unknown."""
        if self.num_frames is None or self.num_abnormal is None:
            return None
        return self.num_abnormal / self.num_frames


@dataclass(frozen=True, kw_only=True)
class StatsTable:
    """A table of text cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def video_stats(
    labels: Sequence[VideoLabel], num_frames: Mapping[str, int] | None = None
) -> list[VideoStats]:
    """Return the frames of every video; `num_frames` (as decoded) goes before the labels' own."""
    stats = []
    for label in labels:
        total = (num_frames or {}).get(label.video, label.num_frames)
        abnormal: int | None = sum(end - start for start, end in label.intervals)
        if label.extent == "all":
            abnormal = total
        elif label.is_weak or label.times:
            abnormal = None
        stats.append(VideoStats(label=label, num_frames=total, num_abnormal=abnormal))
    return stats


def category_shares(stats: Sequence[VideoStats]) -> dict[str, float]:
    """Return category -> share of abnormal frames over its abnormal videos, the largest first.

    Videos whose frames are not all known are left out, as are categories without any other.
    """
    frames: Counter[str] = Counter()
    abnormal: Counter[str] = Counter()
    for row in stats:
        if row.label.is_abnormal and row.share is not None:
            category = row.label.category or NO_CATEGORY
            frames[category] += row.num_frames or 0
            abnormal[category] += row.num_abnormal or 0
    shares = {category: abnormal[category] / frames[category] for category in frames}
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def database_table(stats: Sequence[VideoStats], name: str) -> StatsTable:
    """Return one row like the paper's Table 1."""
    labels = [row.label for row in stats]
    abnormal = [label for label in labels if label.is_abnormal]
    weak = sum(label.is_weak for label in abnormal)
    supervision = "video and frame level" if not weak else f"video level ({weak} without frames)"
    scenes = {label.scene for label in labels} - {""}
    categories = {label.category for label in abnormal} - {""}
    known = [row.num_frames for row in stats if row.num_frames is not None]
    frames = f"{sum(known):,}" + ("" if len(known) == len(stats) else f" ({len(known)} videos)")
    return StatsTable(
        title="Database",
        header=("database", "videos", "abnormal", "scenes", "frames", "supervision", "categories"),
        rows=(
            (
                name,
                str(len(labels)),
                str(len(abnormal)),
                str(len(scenes)) if scenes else "not specified",
                frames if known else "unknown",
                supervision,
                str(len(categories)) if categories else "not specified",
            ),
        ),
    )


def protocol_table(stats: Sequence[VideoStats]) -> StatsTable:
    """Return the videos and frames of each protocol and part, as in the paper's Table 2."""
    splits = [x for x in SPLITS if x != "val" or any(row.label.split == "val" for row in stats)]
    rows = []
    for protocol in ("unsupervised", "weakly supervised", "fully supervised"):
        for split in splits:
            group = [row for row in stats if row.label.split == split]
            if protocol == "unsupervised" and split != "test":
                group = [row for row in group if not row.label.is_abnormal]
            cells = _count_cells(group)
            if protocol == "weakly supervised" and split != "test":
                cells = (*cells[:3], "hidden")  # which frames is what such a method may not see
            rows.append((protocol, split, str(len(group)), *cells))
    return StatsTable(
        title="Protocols",
        header=("protocol", "part", "videos", "normal", "abnormal", "frames", "abnormal frames"),
        rows=tuple(rows),
    )


def category_table(stats: Sequence[VideoStats]) -> StatsTable:
    """Return videos, frames and the share of abnormal ones for each category, and in all."""
    categories = sorted({row.label.category for row in stats}, key=lambda name: (not name, name))
    groups = [
        (name or NO_CATEGORY, [x for x in stats if x.label.category == name]) for name in categories
    ]
    if len(groups) > 1:
        groups.append(("all", list(stats)))
    return StatsTable(
        title="Categories",
        header=("category", "normal", "abnormal", "frames", "abnormal frames", "share"),
        rows=tuple(_category_row(name, group) for name, group in groups),
    )


def _category_row(name: str, group: Sequence[VideoStats]) -> tuple[str, ...]:
    known = [row for row in group if row.share is not None]
    frames = sum(row.num_frames or 0 for row in known)
    marked = sum(row.num_abnormal or 0 for row in known)
    return (name, *_count_cells(group), f"{marked / frames:.3f}" if frames else "-")


def _count_cells(group: Sequence[VideoStats]) -> tuple[str, str, str, str]:
    """Return normal and abnormal videos, frames and abnormal frames of those that tell both."""
    abnormal = sum(row.label.is_abnormal for row in group)
    known = [row for row in group if row.share is not None]
    unknown = len(group) - len(known)
    frames, marked = "unknown", "unknown"
    if known or not group:
        more = f" (+{unknown} videos)" if unknown else ""
        frames = f"{sum(row.num_frames or 0 for row in known):,}{more}"
        marked = f"{sum(row.num_abnormal or 0 for row in known):,}"
    return str(len(group) - abnormal), str(abnormal), frames, marked


def render_table(table: StatsTable, form: TableFormat) -> str:
    """Return a table as aligned text, CSV or Markdown, with a line feed at the end."""
    if form == "csv":
        buffer = io.StringIO(newline="")
        rows = ([to_cell(cell) for cell in row] for row in (table.header, *table.rows))
        csv.writer(buffer, lineterminator="\n").writerows(rows)
        return buffer.getvalue()
    cells = [table.header, *table.rows]
    if form == "markdown":
        cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in cells]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    number = [i for i in range(len(widths)) if all(_is_number(row[i]) for row in table.rows)]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if i in number else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(
            f"| {' | '.join(padded)} |" if form == "markdown" else "  ".join(padded).rstrip()
        )
    if form == "markdown":
        rule = [
            "-" * (width - 1) + ":" if i in number else "-" * width
            for i, width in enumerate(widths)
        ]
        lines.insert(1, f"| {' | '.join(rule)} |")
    else:
        lines.insert(0, table.title)
    return "\n".join(lines) + "\n"


def _is_number(cell: str) -> bool:
    return cell[:1].isdigit() or cell in ("-", "hidden", "unknown")
