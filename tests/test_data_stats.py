import csv
import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from marks import quick_first

from cache.commands.labels import stats_command
from data.annotation.stats import (
    category_shares,
    category_table,
    database_table,
    protocol_table,
    render_table,
    video_stats,
)
from data.annotation.stats_plots import plot_stats
from data.errors import LabelsError
from data.labels import VideoLabel, write_labels


def row(video: str, split: str, category: str, intervals=(), **fields) -> VideoLabel:
    extent = fields.pop("extent", "intervals" if intervals else "normal")
    return VideoLabel(
        video=video, split=split, category=category, extent=extent, intervals=intervals, **fields
    )


LABELS = [
    row("a", "train", "Fire", ((0, 50),), num_frames=100, scene="s1"),
    row("b", "train", "Fire", ((10, 20),), num_frames=300, scene="s1"),
    row("c", "train", "Fire", num_frames=1000, scene="s2"),
    row("d", "test", "Crash", extent="all", num_frames=40, scene="s3"),
    row("e", "test", "Crash", extent="unknown", num_frames=77, scene="s3"),
    row("f", "test", "Drop", ((5, 6),), scene="s3"),
]


def test_a_categorys_share_is_over_its_abnormal_videos_with_known_frames() -> None:
    shares = category_shares(video_stats(LABELS))
    assert shares == {"Crash": 1.0, "Fire": 60 / 400}
    assert list(shares) == ["Crash", "Fire"]
    decoded = category_shares(video_stats(LABELS, {"f": 10, "a": 50}))
    assert decoded == {"Crash": 1.0, "Fire": 60 / 350, "Drop": 0.1}


def test_tables_count_like_the_papers() -> None:
    stats = video_stats(LABELS)
    (cells,) = database_table(stats, "Mine").rows
    assert cells == (
        ("Mine", "6", "5", "3", "1,517 (5 videos)", "video level (1 without frames)", "3")
    )
    assert protocol_table(stats).rows == (
        ("unsupervised", "train", "1", "1", "0", "1,000", "0"),
        ("unsupervised", "test", "3", "0", "3", "40 (+2 videos)", "40"),
        ("weakly supervised", "train", "3", "1", "2", "1,400", "hidden"),
        ("weakly supervised", "test", "3", "0", "3", "40 (+2 videos)", "40"),
        ("fully supervised", "train", "3", "1", "2", "1,400", "60"),
        ("fully supervised", "test", "3", "0", "3", "40 (+2 videos)", "40"),
    )
    assert category_table(stats).rows == (
        ("Crash", "0", "2", "40 (+1 videos)", "40", "1.000"),
        ("Drop", "0", "1", "unknown", "unknown", "-"),
        ("Fire", "1", "2", "1,400", "60", "0.043"),
        ("all", "1", "5", "1,440 (+2 videos)", "100", "0.069"),
    )


def test_tables_in_three_formats() -> None:
    table = category_table(video_stats(LABELS))
    read = list(csv.reader(io.StringIO(render_table(table, "csv"))))
    assert tuple(map(tuple, read)) == (table.header, *table.rows)
    lines = render_table(table, "markdown").splitlines()
    assert lines[1].startswith("| -------- | -----: |")
    assert len({len(line) for line in lines}) == 1
    text = render_table(table, "text").splitlines()
    assert text[0] == "Categories"
    assert text[1].split()[:2] == ["category", "normal"]


@pytest.mark.parametrize("suffix", quick_first([".png", ".svg", ".pdf"]))
def test_pictures_in_three_formats_are_reproducible(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        plot_stats(video_stats(LABELS), path, title="Mine")
    data = paths[0].read_bytes()
    assert data.startswith({".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix])
    assert data == paths[1].read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", f"b{suffix}"]


@pytest.mark.slow
def test_the_picture_shows_the_data(tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot_stats(video_stats(LABELS), tmp_path / "a.png")
    plot_stats(video_stats(LABELS, {"f": 10}), tmp_path / "b.png")
    one, two = (imread(tmp_path / name) for name in ("a.png", "b.png"))
    assert one.shape != two.shape or not np.array_equal(one, two)
    assert one.shape[1] == 1200


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    stats = video_stats(LABELS)
    with pytest.raises(LabelsError, match=r"expected a name that ends in \.png, \.svg, \.pdf"):
        plot_stats(stats, tmp_path / "a.jpg")
    with pytest.raises(LabelsError, match="no video has a known number of frames"):
        plot_stats([x for x in stats if x.num_frames is None], tmp_path / "a.png")
    with pytest.raises(LabelsError, match="cannot be written"):
        plot_stats(stats, tmp_path / "absent" / "a.png")


def test_the_command(tmp_path: Path) -> None:
    labels, plot = tmp_path / "labels.csv", tmp_path / "stats.svg"
    write_labels(labels, LABELS)
    arguments = ["--labels", str(labels), "--name", "Mine", "--plot", str(plot)]
    result = CliRunner().invoke(stats_command, [*arguments, "--format", "markdown"])
    assert result.exit_code == 0, result.output
    assert "| Mine     |      6 |" in result.stdout
    assert plot.stat().st_size > 5000
    assert CliRunner().invoke(stats_command, []).exit_code == 2
