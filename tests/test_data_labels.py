import itertools
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import LabelsError
from data.intervals import frames_from_intervals, intervals_from_frames, merge_intervals
from data.labels import VideoLabel, read_labels, write_labels

HEADER = "video,split,category,anomaly\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    return path


def test_reads_the_four_forms_of_anomaly(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        HEADER
        + "a/one.mp4,train,Fire,60:180;200:221\n"
        + "two.mp4,test,Fire,\n"
        + "\n"
        + "three.mp4,val,Crash, all \n"
        + '"four, or so.mp4",test,, ? \n',
    )
    one, two, three, four = read_labels(path)
    assert one == VideoLabel(
        video="a/one.mp4",
        split="train",
        category="Fire",
        extent="intervals",
        intervals=((60, 180), (200, 221)),
    )
    assert (two.extent, two.is_abnormal, two.category) == ("normal", False, "Fire")
    assert (three.extent, three.split, three.is_abnormal) == ("all", "val", True)
    assert (four.video, four.is_weak, four.category) == ("four, or so.mp4", True, "")


def test_frame_labels_are_half_open_from_zero() -> None:
    label = VideoLabel(video="v", split="test", extent="intervals", intervals=((1, 3), (4, 5)))
    assert label.frame_labels(6).tolist() == [0, 1, 1, 0, 1, 0]
    assert label.frame_labels(5).dtype == np.uint8
    assert VideoLabel(video="v", split="test", extent="all").frame_labels(3).tolist() == [1, 1, 1]
    assert VideoLabel(video="v", split="test").frame_labels(2).tolist() == [0, 0]


def test_frame_labels_refuse_what_they_cannot_know() -> None:
    weak = VideoLabel(video="v", split="train", extent="unknown")
    with pytest.raises(LabelsError, match=r"v: anomaly is '\?'"):
        weak.frame_labels(10)
    late = VideoLabel(video="v", split="train", extent="intervals", intervals=((5, 11),))
    with pytest.raises(LabelsError, match=r"goes to frame 11, but the video has 10 frames"):
        late.frame_labels(10)
    assert late.clipped(10).frame_labels(10).sum() == 5
    with pytest.raises(LabelsError, match="wholly after the last"):
        late.clipped(5)


def test_spreadsheet_files_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, "\ufeffvideo,split,category,anomaly\r\na.mp4,train,,0:1\r\n\r\n,,,\r\n")
    assert [label.video for label in read_labels(path)] == ["a.mp4"]


# Each row alone is bad; the right column is what the message must say about that line.
BAD_ROWS = [
    (",train,,", "video is empty"),
    ("/data/a.mp4,train,,", "relative to the videos folder"),
    ("C:/a.mp4,train,,", "relative to the videos folder"),
    ("sub\\a.mp4,train,,", "expected '/' between folders"),
    ("../a.mp4,train,,", r"without empty, '.' or '..' parts"),
    ("a//b.mp4,train,,", r"without empty, '.' or '..' parts"),
    ('"a\nb.mp4",train,,', "no control character"),
    ("a.mp4,training,,", "split is 'training', expected train, val or test"),
    ("a.mp4,,,", "split is '', expected train, val or test"),
    ("a.mp4,train,,60-180", "anomaly is '60-180', expected frames like"),
    ("a.mp4,train,,60:180;", "anomaly is '60:180;', expected frames like"),
    ("a.mp4,train,,yes", "anomaly is 'yes', expected frames like"),
    ("a.mp4,train,,-5:10", "anomaly is '-5:10', expected frames like"),
    ("a.mp4,train,,1.5:10", "anomaly is '1.5:10', expected frames like"),
    ("a.mp4,train,,٣:٥", "anomaly is '٣:٥', expected frames like"),
    ("a.mp4,train,,180:60", "interval 180:60 is empty, expected start < end"),
    ("a.mp4,train,,60:60", "interval 60:60 is empty, expected start < end"),
    ("a.mp4,train,,60:180;170:200", "interval 170:200 begins before the one before it ends"),
    ("a.mp4,train,,60:70;20:30", "interval 20:30 begins before the one before it ends"),
    ("a.mp4,train,", "3 cells, expected 4"),
    ("a, b.mp4,train,,all", "5 cells, expected 4.*comma needs quotes"),
    ("good.mp4,train,,", "video 'good.mp4' is listed at line 2 already"),
    ("good.mp4,test,,", "'good.mp4' is in split test here and in train at line 2"),
]


@pytest.mark.parametrize(("row", "message"), BAD_ROWS)
def test_a_bad_row_is_named_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    path = write(tmp_path, HEADER + "good.mp4,train,,\n" + row + "\n")
    with pytest.raises(LabelsError, match=rf"labels\.csv:3: .*{message}"):
        read_labels(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.mp4,train,,0:5,4", "anomaly '0:5' goes to frame 5, but frames is 4"),
        ("a.mp4,train,,,0", "frames is 0, expected a positive number"),
        ("a.mp4,train,,,ten", "frames is 'ten', expected a number of frames or nothing"),
    ],
)
def test_the_optional_number_of_frames_is_checked(tmp_path: Path, row: str, message: str) -> None:
    text = "video,split,category,anomaly,frames\ngood.mp4,train,,0:5,5\nb.mp4,train,,,\n"
    path = write(tmp_path, text)
    assert [label.num_frames for label in read_labels(path)] == [5, None]
    path = write(tmp_path, text + row + "\n")
    with pytest.raises(LabelsError, match=rf"labels\.csv:4: {message}"):
        read_labels(path)


def test_every_mistake_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    rows = [row for row, _ in BAD_ROWS if "\n" not in row]
    path = write(tmp_path, HEADER + "good.mp4,train,,\n" + "\n".join(rows) + "\n")
    with pytest.raises(LabelsError) as caught:
        read_labels(path)
    lines = str(caught.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        f"{path}:{number}" for number in range(3, 3 + len(rows))
    ]


def test_a_row_after_a_two_line_cell_has_its_own_line_number(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER + '"a\nb",train,,\nc.mp4,no,,\n')
    with pytest.raises(LabelsError, match=r":2: video is(.|\n)*:4: split is 'no'"):
        read_labels(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty file"),
        (HEADER, "no rows below the header"),
        ("video;split;category;anomaly\na;train;;\n", ":1: header is 'video;split"),
        ("video,split,anomaly\na,train,\n", ":1: header is 'video,split,anomaly', expected"),
        (HEADER.strip() + ",note\na,train,,,\n", ":1: header is"),
        (HEADER.strip() + ",video\na,train,,,b\n", ":1: header is"),
        (HEADER + 'a.mp4,train,,\n"b.mp4,train,,\n', ":3: not valid CSV"),
    ],
)
def test_a_file_that_is_no_labels_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(LabelsError, match=message):
        read_labels(path)


def test_missing_and_undecodable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"absent\.csv: no such labels file"):
        read_labels(tmp_path / "absent.csv")
    with pytest.raises(LabelsError, match="cannot be read"):
        read_labels(tmp_path)
    path = tmp_path / "labels.csv"
    path.write_bytes(HEADER.encode() + b"caf\xe9.mp4,train,,\n")
    with pytest.raises(LabelsError, match=r"labels\.csv:2: not UTF-8"):
        read_labels(path)


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "before")
    label = VideoLabel(video="a", split="train")
    with pytest.raises(LabelsError, match="in the labels twice"):
        write_labels(path, [label, label])
    assert path.read_text() == "before"
    with pytest.raises(LabelsError, match="cannot be written"):
        write_labels(tmp_path / "absent" / "labels.csv", [label])
    with path.open() as reader:
        write_labels(path, [label])
        assert reader.read() == "before"  # whoever reads it now keeps the whole old file
    assert path.read_text() == HEADER + "a,train,,\n"
    assert list(tmp_path.iterdir()) == [path]


intervals_strategy = st.lists(st.integers(0, 400), unique=True, max_size=12).map(
    lambda edges: tuple(zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False))
)
text_strategy = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=12).map(
    str.strip
)
name_strategy = st.text(
    string.ascii_letters + string.digits + "äé 漢,\"'#;:._-()", min_size=1, max_size=12
).filter(lambda text: text.strip() == text and text not in (".", "..") and text[1:2] != ":")


@st.composite
def label_strategy(draw: st.DrawFn) -> VideoLabel:
    intervals = draw(intervals_strategy)
    others = ("normal", "all", "unknown")
    return VideoLabel(
        video="/".join(draw(st.lists(name_strategy, min_size=1, max_size=3))),
        split=draw(st.sampled_from(["train", "val", "test"])),
        category=draw(text_strategy),
        extent="intervals" if intervals else draw(st.sampled_from(others)),
        intervals=intervals,
        scene=draw(text_strategy),
        num_frames=draw(st.none() | st.integers(400, 10**9)),
    )


@given(st.lists(label_strategy(), min_size=1, unique_by=lambda label: label.video))
@settings(max_examples=25, deadline=None)  # each waits for the disk
def test_any_labels_survive_a_file(labels: list[VideoLabel]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        write_labels(path, labels)
        assert read_labels(path) == labels


@given(st.lists(st.integers(0, 3)))
@settings(deadline=None)
def test_intervals_and_frames_say_the_same(frames: list[int]) -> None:
    flags = np.array(frames, dtype=int) > 0
    intervals = intervals_from_frames(flags)
    assert frames_from_intervals(intervals, len(frames)).tolist() == flags.astype(int).tolist()
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(intervals))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=8))
@settings(deadline=None)
def test_merging_keeps_every_frame(spans: list[tuple[int, int]]) -> None:
    intervals = [(start, start + length) for start, length in spans]
    frames = np.zeros(100, dtype=np.uint8)
    for start, end in intervals:
        frames[start:end] = 1
    assert merge_intervals(intervals) == intervals_from_frames(frames)
