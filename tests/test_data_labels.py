import itertools
import string
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.anomaly import FieldError, parse_anomaly
from data.errors import LabelsError
from data.intervals import frames_from_intervals, intervals_from_frames, merge_intervals
from data.labels import (
    VideoLabel,
    name_problems,
    read_labels,
    write_labels,
)
from data.times import TimeSpan

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
    ("../a.mp4,train,,", r"without empty, '.' or '..' parts"),
    ("a//b.mp4,train,,", r"without empty, '.' or '..' parts"),
    ('"a\nb.mp4",train,,', "no control character"),
    ("a.mp4,training,,", "split is 'training', expected train, val or test"),
    ("a.mp4,,,", "split is '', expected train, val or test"),
    ("a.mp4,train,,60-180", "anomaly is '60-180', expected frames like.*'60s-180s'$"),
    ("a.mp4,train,,60:180;", "anomaly is '60:180;', expected frames like"),
    ("a.mp4,train,,yes", "anomaly is 'yes', expected frames like"),
    ("a.mp4,train,,-5:10", "anomaly is '-5:10', expected frames like"),
    ("a.mp4,train,,1.5:10", "anomaly is '1.5:10', expected frames like.*seconds need an 's'"),
    ("a.mp4,train,,63:00:00", "'63:00:00' is one time: a spreadsheet makes times of frames"),
    ("a.mp4,train,,1:02 AM", "'1:02 AM' is one time: a spreadsheet"),
    ("a.mp4,train,,02-Mar", "'02-Mar', expected frames like.*looks like a date"),
    ('a.mp4,train,,"1,5s:3,0s"', "decimals need a point, not a comma"),
    ("a.mp4,train,,3s:1.5s", "interval 3s:1.5s is empty, expected start < end"),
    ("a.mp4,train,,0:01:75-0:02:00", "time is '0:01:75', expected minutes and seconds below 60"),
    ("a.mp4,train,,0:10-0:20;15s-30s", "interval 15s-30s begins before the one before it ends"),
    ("a.mp4,train,,1s:2", "anomaly is '1s:2', expected frames like"),
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
        ("a.mp4,train,,,0", "frames is 0, expected 1 to 999999999999"),
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
        (
            "video;split;category;anomaly\na;train;;\n",
            ":1: header is 'video;split.*divided by commas",
        ),
        ("video\tsplit\tcategory\tanomaly\na\ttrain\t\t\n", "divided by commas"),
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
    path.write_bytes((HEADER + "a.mp4,train,,\n").encode("utf-16"))
    with pytest.raises(LabelsError, match=r"labels\.csv: UTF-16 text, .* save it as 'CSV UTF-8'"):
        read_labels(path)
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
clock_strategy = st.sampled_from(["{}.{:03}s", "0:{}.{:03}", "0:0:{}.{:03}", "00:00:{:02}.{:03}"])
times_strategy = st.lists(
    st.tuples(st.integers(0, 59_999), clock_strategy), unique_by=lambda pair: pair[0], max_size=8
).map(
    lambda edges: tuple(
        TimeSpan(a / 1000, b / 1000, "-".join(f.format(*divmod(ms, 1000)) for ms, f in (one, two)))
        for one, two in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)
        for a, b in [(one[0], two[0])]
    )
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
    times = draw(times_strategy)
    others = ("normal", "all", "unknown")
    return VideoLabel(
        video="/".join(draw(st.lists(name_strategy, min_size=1, max_size=3))),
        split=draw(st.sampled_from(["train", "val", "test"])),
        category=draw(text_strategy),
        extent="intervals" if intervals or times else draw(st.sampled_from(others)),
        intervals=intervals,
        times=times,
        scene=draw(text_strategy),
        num_frames=draw(st.none() | st.integers(400, 10**9)),
        num_seconds=draw(st.none() | st.integers(4 * 10**8, 10**12).map(lambda us: us / 1e6)),
    )


@given(st.lists(label_strategy(), min_size=1, unique_by=lambda label: label.video))
@settings(max_examples=25)  # each waits for the disk
def test_any_labels_survive_a_file(labels: list[VideoLabel]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.csv"
        write_labels(path, labels)
        assert read_labels(path) == labels
        assert [label.anomaly for label in read_labels(path)] == [one.anomaly for one in labels]


def at_rate(num_frames: int, rate: float) -> np.ndarray:
    return np.arange(num_frames) / rate


# anomaly, times of the frames, abnormal frames; by hand
TIMES = [
    ("1.5s:3s", at_rate(100, 10), range(15, 30)),
    ("0:01.5-0:03", at_rate(100, 10), range(15, 30)),
    ("0:01:02-0:01:05.5", at_rate(700, 10), range(620, 655)),
    ("1:02 \u2013 62.4 s", at_rate(700, 10), range(620, 624)),
    ("1:00:00-1:00:01", at_rate(40_000, 10), range(36_000, 36_010)),
    # between two frames: the span holds those that appear in it
    ("0.05s:0.25s", at_rate(10, 10), [1, 2]),
    # a frame's time in whole milliseconds: frame 45 of 29.97 frames a second appears at 1.5015
    ("1.502s:1.535s", at_rate(100, 30000 / 1001), [45]),
    ("0s:1s", np.array([0.08, 0.5, 1.0]), [0, 1]),  # video that begins after its sound
    ("0s:1s", np.array([-0.04, 0.5, 1.0]), [0, 1]),
    ("1s:2s", np.array([0.0, 1.0, 1.1, 1.9, 2.0, 7.0]), [1, 2, 3]),  # variable rate
    ("1s:2s", np.array([0.0, 1.0, 2.0, 1.5, 3.0]), [1, 3]),  # a broken file's times go back
    ("0.5s:9s", at_rate(20, 10), range(5, 20)),  # ends after the video: told elsewhere
    ("0:3;1s:1.5s", at_rate(20, 10), [0, 1, 2, *range(10, 15)]),
    ("0:12;1s:1.5s", at_rate(20, 10), range(15)),
]


@pytest.mark.parametrize(("anomaly", "seconds", "frames"), TIMES)
def test_times_are_the_frames_that_appear_in_them(
    tmp_path: Path, anomaly: str, seconds: np.ndarray, frames: list[int]
) -> None:
    (label,) = read_labels(write(tmp_path, HEADER + f"a.mp4,train,,{anomaly}\n"))
    assert label.anomaly == anomaly
    with pytest.raises(LabelsError, match=r"a.mp4: anomaly '.*' is in seconds, expected frames"):
        label.frame_labels(len(seconds))
    with pytest.raises(LabelsError, match="is in seconds, expected frames"):
        label.clipped(len(seconds))
    converted = label.in_frames(seconds)
    assert np.flatnonzero(converted.frame_labels(len(seconds))).tolist() == list(frames)
    assert not converted.times


@given(st.text("0123456789:.,-;s@ \u2013apm?ll", max_size=24))
@settings(max_examples=400)
def test_any_anomaly_is_read_or_refused(text: str) -> None:
    try:
        extent, intervals, times = parse_anomaly(text)
    except FieldError:
        return
    label = VideoLabel(video="v", split="test", extent=extent, intervals=intervals, times=times)
    again = parse_anomaly(label.anomaly)
    assert again == (extent, intervals, times)


def test_a_time_without_a_frame_is_refused_not_dropped(tmp_path: Path) -> None:
    (label,) = read_labels(write(tmp_path, HEADER + "a.mp4,train,,0s:1s;7:00-8:00\n"))
    with pytest.raises(
        LabelsError, match=r"no frame appears in 7:00-8:00: .* from 0:00:00.000 to 0:00:09.900"
    ):
        label.in_frames(at_rate(100, 10))


def test_the_optional_length_in_seconds_is_checked(tmp_path: Path) -> None:
    header = "video,split,category,anomaly,seconds\n"
    (label,) = read_labels(write(tmp_path, header + "a.mp4,train,,5s:10s,9.5\n"))
    assert label.num_seconds == 9.5  # a player shows 0:10
    path = write(tmp_path, header + "a.mp4,train,,5s:10s,8.9\nb.mp4,train,,,0\nc.mp4,train,,,x\n")
    with pytest.raises(LabelsError) as caught:
        read_labels(path)
    assert [line.split(": ", 1)[1] for line in str(caught.value).splitlines()] == [
        "anomaly '5s:10s' ends after the video, which has 8.9 seconds (0:00:08.900)",
        "seconds is 0.0, expected a positive number",
        "seconds is 'x', expected a number of seconds or nothing",
    ]


def test_one_name_however_it_is_written(tmp_path: Path) -> None:
    rows = 'sub\\a.mp4,train,,\n" b.mp4 ",train,,\ncafe\u0301.mp4,train,,\n'
    labels = read_labels(write(tmp_path, HEADER + rows))
    assert [label.video for label in labels] == ["sub/a.mp4", "b.mp4", "caf\u00e9.mp4"]
    twice = write(tmp_path, HEADER + "cafe\u0301.mp4,train,,\ncaf\u00e9.mp4,train,,\n")
    with pytest.raises(LabelsError, match="is listed at line 2 already"):
        read_labels(twice)


def test_unknown_names_come_with_those_that_may_be_meant() -> None:
    labels = [VideoLabel(video=name, split="train") for name in ("cam1.mp", "x/night.mp4", "zzz")]
    there = ["cam1.mp4", "y/night.mp4", "other.mp4"]
    assert name_problems(labels, there) == [
        "no video 'cam1.mp' there; did you mean cam1.mp4?",
        "no video 'x/night.mp4' there; did you mean y/night.mp4?",
        "no video 'zzz' there",
    ]
    many = [VideoLabel(video=f"{number}.mp4", split="train") for number in range(7)]
    assert name_problems(many, [])[5:] == ["7 of 7 labelled videos are not there in all"]
    assert name_problems(labels, [label.video for label in labels]) == []


@given(st.lists(st.integers(0, 3)))
def test_intervals_and_frames_say_the_same(frames: list[int]) -> None:
    flags = np.array(frames, dtype=int) > 0
    intervals = intervals_from_frames(flags)
    assert frames_from_intervals(intervals, len(frames)).tolist() == flags.astype(int).tolist()
    assert all(b < c for (_, b), (c, _) in itertools.pairwise(intervals))


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), max_size=8))
def test_merging_keeps_every_frame(spans: list[tuple[int, int]]) -> None:
    intervals = [(start, start + length) for start, length in spans]
    frames = np.zeros(100, dtype=np.uint8)
    for start, end in intervals:
        frames[start:end] = 1
    assert merge_intervals(intervals) == intervals_from_frames(frames)


def test_clicks_in_frames_and_in_seconds() -> None:
    extent, intervals, times = parse_anomaly("@7; @8;@40")
    label = VideoLabel(video="v", split="train", extent=extent, intervals=intervals, times=times)
    assert (label.extent, label.clicks, label.anomaly) == ("clicks", (7, 8, 40), "@7;@8;@40")
    assert label.is_weak
    assert label.is_abnormal
    with pytest.raises(LabelsError, match=r"v: anomaly is '@7;@8;@40' \(frames unknown\)"):
        label.frame_labels(50)
    assert label.clipped(20).clicks == (7, 8)
    with pytest.raises(LabelsError, match="lies wholly after the last of its 5 frames"):
        label.clipped(5)
    with pytest.raises(FieldError, match="goes to frame 41, but frames is 30"):
        replace(label, num_frames=30)
    _, _, times = parse_anomaly("@0s;@1.05s;@0:03")
    timed = VideoLabel(video="v", split="train", extent="clicks", times=times)
    assert timed.anomaly == "@0s;@1.05s;@0:03"
    with pytest.raises(LabelsError, match=r"v: anomaly '@0s;@1\.05s;.*' is in seconds"):
        _ = timed.clicks
    # of ten frames a second the one that is shown then; the first also before it appears
    assert timed.in_frames(at_rate(40, 10)).clicks == (0, 10, 30)
    assert timed.in_frames(0.5 + at_rate(40, 10)).clicks == (0, 5, 25)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("60:80;@90", "expected intervals or clicks"),
        ("@9;@7", "ascending"),
        ("@1:75", "below 60"),
        ("@", "expected frames like"),
        ("@-3", "expected frames like"),
    ],
)
def test_clicks_that_are_none(text: str, told: str) -> None:
    with pytest.raises(FieldError, match=told):
        parse_anomaly(text)
