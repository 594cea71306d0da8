import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from data.annotation.consensus import consensus, fleiss_kappa
from data.anomaly import parse_anomaly
from data.commands.prepare import data_group
from data.errors import LabelsError
from data.labels import VideoLabel, read_labels, write_labels
from feat import cli


def mark(*intervals: tuple[int, int], video: str = "v", **fields) -> VideoLabel:
    fields.setdefault("num_frames", 20)
    fields.setdefault("extent", "intervals" if intervals else "normal")
    return VideoLabel(video=video, split="train", intervals=intervals, **fields)


def test_five_annotators_vote_by_frame() -> None:
    marks = [mark((4, 10)), mark((5, 11)), mark((5, 10)), mark((9, 12)), mark()]
    (label,), (agreement,) = consensus([[one] for one in marks])
    # frames 5 to 9 have three votes or more; 4, 10 and 11 have one or two
    assert label.anomaly == "5:10"
    assert label.num_frames == 20
    assert agreement.same == 12 / 20  # all agree on 0..3 and 12..19
    assert agreement.start_deviation == (1 + 0 + 0 + 4) / 4
    assert agreement.end_deviation == (0 + 1 + 0 + 2) / 4


def test_an_exact_half_counts_as_abnormal() -> None:
    (label,), _ = consensus([[mark((2, 4))], [mark()]])
    assert label.anomaly == "2:4"


def test_nobody_and_everybody() -> None:
    (label,), (agreement,) = consensus([[mark()], [mark()], [mark((3, 5))]])
    assert label.extent == "normal"
    assert math.isnan(agreement.start_deviation)
    (label,), (agreement,) = consensus([[mark(extent="all")], [mark((0, 20))]])
    assert label.anomaly == "0:20"
    assert agreement.same == 1
    assert math.isnan(agreement.kappa)
    assert (agreement.start_deviation, agreement.end_deviation) == (0, 0)


def test_fleiss_kappa_of_a_table_in_the_literature() -> None:
    """Fleiss 1971's measure on a two-category table, worked out by hand.

    Four annotators, four frames with 4, 3, 1 and 0 votes. Agreement of a frame is the share of
    agreeing pairs: 1, 1/2, 1/2, 1; their mean is 3/4. Half of all votes are 1: chance gives 1/2.
    Kappa is (3/4 - 1/2) / (1 - 1/2) = 1/2.
    """
    marks = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=np.uint8)
    assert fleiss_kappa(marks) == pytest.approx(0.5)
    assert fleiss_kappa(np.array([[0, 1], [0, 1]], dtype=np.uint8)) == pytest.approx(1)
    assert fleiss_kappa(np.array([[0, 1], [1, 0]], dtype=np.uint8)) == pytest.approx(-1)


@given(st.integers(2, 6), st.integers(1, 30), st.integers(0, 99))
def test_the_consensus_is_the_thresholded_mean(count: int, num_frames: int, seed: int) -> None:
    from data.intervals import intervals_from_frames

    marks = np.random.default_rng(seed).integers(0, 2, (count, num_frames))
    labels = [[mark(*intervals_from_frames(row), num_frames=num_frames)] for row in marks]
    (label,), (agreement,) = consensus(labels)
    expected = (marks.mean(axis=0) >= 0.5).astype(int)
    assert label.frame_labels(num_frames).tolist() == expected.tolist()
    assert math.isnan(agreement.kappa) or -1 <= agreement.kappa <= 1


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([mark(video="w")], "v: not labelled by annotator 2(.|\n)*w: not labelled by annotator 1"),
        ([mark(num_frames=21)], "v: annotators give 20 and 21 frames"),
        ([mark(category="Fire")], "v: category is '' and 'Fire', expected the same"),
    ],
)
def test_annotators_that_do_not_fit_are_refused(second: list[VideoLabel], message: str) -> None:
    with pytest.raises(LabelsError, match=message):
        consensus([[mark((3, 5))], second])


def test_a_length_is_needed_and_two_annotators() -> None:
    with pytest.raises(LabelsError, match="number of frames unknown; add the column 'frames'"):
        consensus([[mark(num_frames=None)], [mark(num_frames=None)]])
    (label,), _ = consensus([[mark((1, 3))], [mark((1, 3), num_frames=None)]])
    assert label.anomaly == "1:3"
    with pytest.raises(LabelsError, match="at least two"):
        consensus([[mark()]])


def clicked(*frames: int, **fields) -> VideoLabel:
    return mark(*((frame, frame + 1) for frame in frames), extent="clicks", **fields)


def test_clicks_have_no_vote_and_are_compared_with_the_others() -> None:
    group = [
        [clicked(3, 6, 12)],
        [mark((2, 7), (10, 12))],
        [mark((2, 7))],
        [mark(extent="unknown")],
    ]
    (label,), (found,) = consensus(group)
    assert label.anomaly == "2:7;10:12"  # one of two voters is half of them
    assert (found.votes, found.clicks, found.clicks_inside) == (2, 3, 2)
    assert (found.events, found.events_clicked) == (2, 1)
    assert found.kappa == consensus(group[1:3])[1][0].kappa
    (label,), (found,) = consensus([group[0], group[1]])
    assert (label.anomaly, found.votes) == ("2:7;10:12", 1)
    assert math.isnan(found.kappa)
    assert found.same == 1


def test_where_nobody_marked_frames_the_clicks_stay() -> None:
    (label,), (found,) = consensus([[mark(extent="unknown")], [clicked(4)]])
    assert label.anomaly == "@4"
    assert (found.votes, found.clicks, found.clicks_inside) == (0, 1, 0)
    with pytest.raises(LabelsError, match="v: normal in all frames that were marked, but somebody"):
        consensus([[mark()], [clicked(4)]])


@pytest.mark.parametrize("others", [["?"], [""], ["0:5", "1:5"]])
def test_clicks_in_seconds_are_refused_as_intervals_in_seconds_are(others: list[str]) -> None:
    rows = []
    for text in ["@2.5s;@9s", *others]:
        extent, intervals, times = parse_anomaly(text)
        rows.append([mark(*intervals, extent=extent, times=times)])
    with pytest.raises(LabelsError, match=r"v: anomaly '@2\.5s;@9s' is in seconds"):
        consensus(rows)


@pytest.mark.realdata
def test_clicks_and_intervals_of_ucf_crime(shared_data: Path, tmp_path: Path) -> None:
    """Of 283 clicks into the videos with intervals 182 are inside, in 99 of 130 intervals.

    The published files counted alike, both from 1, give 183 and 100.
    """
    root = shared_data / "ucf_crime"
    common = ["ucf-crime", "--root", str(root), "--weak", "--partial"]
    files = []
    for name, extra in (
        ("intervals", ["--train-intervals", str(root / "videos.jsonl")]),
        ("clicks", ["--clicks", str(root / "ucf_glance_annotations.csv")]),
    ):
        out = tmp_path / f"{name}.csv"
        done = CliRunner().invoke(data_group, [*common, *extra, "--out", str(out)])
        assert done.exit_code == 0, done.output
        files.append(out)
    intervals, clicks = ({row.video: row for row in read_labels(file)} for file in files)
    marked = [v for v, row in intervals.items() if row.split == "train" and row.intervals]
    for video in marked:  # three have no count
        row = intervals[video]
        intervals[video] = replace(row, num_frames=row.num_frames or 100_000)
    _, found = consensus([[rows[video] for video in marked] for rows in (intervals, clicks)])
    counts = [sum(getattr(row, name) for row in found) for name in NAMES]
    assert counts == [283, 182, 130, 99]


NAMES = ("clicks", "clicks_inside", "events", "events_clicked")


def test_the_command(tmp_path: Path) -> None:
    for number, end in enumerate((10, 12, 14)):
        rows = [mark((5, end)), mark(video="calm")]
        write_labels(tmp_path / f"{number}.csv", rows)
    files = [str(tmp_path / f"{number}.csv") for number in range(3)]
    out = tmp_path / "labels.csv"
    result = CliRunner().invoke(data_group, ["consensus", *files, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [x.anomaly for x in read_labels(out)] == ["5:12", ""]
    lines = result.stdout.splitlines()
    assert lines[1].split()[:2] == ["v", "20"]
    assert lines[1].split()[-2:] == ["1.3", "3"]  # ends 10, 12, 14 against 12
    assert lines[2].split() == ["calm", "20", "-", "1.000", "-", "-", "3"]
    assert lines[3].split()[:2] == ["mean", "40"]
    result = CliRunner().invoke(data_group, ["consensus", *files, "--out", str(out), "--json"])
    plain = json.loads(result.stdout)
    assert plain["videos"][1]["kappa"] is None
    assert plain["videos"][0]["start_deviation"] == 0


@pytest.mark.parametrize(
    "command",
    [
        ["consensus", "ann.csv", "bob.csv", "--out", "./bob.csv"],
        ["split", "--labels", "bob.csv", "--out", "bob.csv", "--protocol", "video"],
        ["convert", "bob.csv", "bob.csv", "--fps", "25"],
        ["convert", "ann.csv", "link.csv", "--like", "bob.csv"],
    ],
)
def test_no_file_that_is_read_is_written_over(tmp_path: Path, monkeypatch, command) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ann.csv", "bob.csv"):
        write_labels(Path(name), [mark((2, 5), num_frames=10)])
    Path("link.csv").symlink_to("bob.csv")
    before = Path("bob.csv").read_bytes()
    found = CliRunner().invoke(cli, ["data", *command])
    assert found.exit_code == 1
    assert "is read here and would be written over; name another file to write" in found.stderr
    assert Path("bob.csv").read_bytes() == before
