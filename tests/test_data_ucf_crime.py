from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from data.commands.prepare import data_group
from data.datasets.ucf_crime import prepare_ucf_crime
from data.errors import DecodeError, LabelsError
from data.labels import read_labels

TRAIN = """\
Abuse/Abuse001_x264.mp4
Arson/Arson002_x264.mp4
Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4
"""
TEST = """\
Abuse028_x264.mp4  Abuse  165  240  -1  -1  \n\
Arson011_x264.mp4  Arson  0  90  150  420  \n\
Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  \n\
"""


@pytest.fixture
def crime(tmp_path: Path) -> Path:
    (tmp_path / "Anomaly_Train.txt").write_text(TRAIN)
    (tmp_path / "Temporal_Anomaly_Annotation.txt").write_text(TEST)
    return tmp_path


def test_the_official_lists(crime: Path) -> None:
    labels = prepare_ucf_crime(crime).labels
    assert [(x.video, x.split, x.category, x.anomaly) for x in labels] == [
        ("Abuse/Abuse001_x264.mp4", "train", "Abuse", "all"),
        ("Arson/Arson002_x264.mp4", "train", "Arson", "all"),
        ("Training_Normal_Videos_Anomaly/Normal_Videos001_x264.mp4", "train", "", ""),
        ("Abuse/Abuse028_x264.mp4", "test", "Abuse", "164:240"),
        ("Arson/Arson011_x264.mp4", "test", "Arson", "0:90;149:420"),
        ("Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4", "test", "", ""),
    ]
    weak = prepare_ucf_crime(crime, train_frames="unknown").labels
    assert [x.anomaly for x in weak[:3]] == ["?", "?", ""]


def test_videos_that_the_archives_repeat_are_those_of_the_lists_folders(crime, caplog) -> None:
    """The archive Normal_Videos_for_Event_Recognition holds videos of the other two again."""
    listed = [label.video for label in prepare_ucf_crime(crime).labels]
    again = [f"Normal_Videos_for_Event_Recognition/{Path(x).name}" for x in listed if "Normal" in x]
    unpacked = [f"Anomaly-Videos-Part-1/{x}" if "Normal" not in x else x for x in listed]
    for video in [*unpacked, *again]:
        (crime / video).parent.mkdir(parents=True, exist_ok=True)
        (crime / video).touch()
    assert [label.video for label in prepare_ucf_crime(crime).labels] == unpacked
    assert "2 videos in Normal_Videos_for_Event_Recognition are in other folders" in caplog.text
    (crime / again[0]).rename(crime / "moved.mp4")
    (crime / unpacked[2]).rename(crime / again[0])  # the only one of its name is taken wherever
    assert prepare_ucf_crime(crime).labels[2].video == again[0]


@pytest.mark.parametrize(
    "text",
    [
        "Abuse001_x264.mp4 Abuse 10 20 31 40\n",
        '{"video": "Abuse001_x264", "anomaly_frames": [[10, 20], [31, 40]], "num_frames": 40}\n',
    ],
)
def test_supplied_intervals_reach_training_videos(crime: Path, text: str) -> None:
    path = crime / "intervals"
    path.write_text(text)
    label, other = prepare_ucf_crime(crime, train_intervals=path).labels[:2]
    assert (label.anomaly, other.anomaly) == ("9:20;30:40", "all")
    assert label.num_frames == (40 if "{" in text else None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"video": "Abuse001_x264"}', "intervals:2: KeyError: 'anomaly_frames'; expected JSON"),
        ('{"video": ', "intervals:2: JSONDecodeError"),
        (
            '{"video": "Abuse001_x264", "anomaly_frames": [[10, 20]], "num_frames": 19}',
            "intervals:2: num_frames is 19, fewer",
        ),
        (
            '{"video": "Abuse028_x264", "anomaly_frames": [], "num_frames": 239}',
            "Annotation.txt:1: abnormal to frame 240, but .*intervals gives 'Abuse028_x264' 239",
        ),
        ("Abuse001_x264.mp4 Abuse 20 10", "intervals:2: frames 20 to 10, expected first <= last"),
        ("Abuse001_x264.mp4 Abuse 20", "intervals:2: found"),
        ("Abuse001_x264.mp4 Abuse 1 " + "9" * 5000, "intervals:2: found"),
        ('{"video": "a", "anomaly_frames": [[1, 1e999]]}', "intervals:2: OverflowError"),
        ('{"video": "a", "anomaly_frames": [[1, 1e99]]}', "intervals:2: frames 1 to 99+"),
        ('{"video": "a", "anomaly_frames": [], "num_frames": 1e99}', "num_frames is 99+"),
        ('{"video": ' + "[" * 9000, "intervals:2: RecursionError"),
        (
            "Abuse001_x264.mp4 Abuse 1 2\nAbuse001_x264.mp4 Abuse 1 2\nAbuse001_x264 Abuse 1 3",
            "intervals:4: video 'Abuse001_x264' has other frames above",
        ),
    ],
)
def test_bad_supplied_lines_are_named(crime: Path, text: str, message: str) -> None:
    path = crime / "intervals"
    path.write_text("\n" + text + "\n")
    with pytest.raises(LabelsError, match=message):
        prepare_ucf_crime(crime, train_intervals=path)


def test_videos_are_found_wherever_the_archive_put_them(crime: Path) -> None:
    listed = [x.video for x in prepare_ucf_crime(crime).labels]
    for video in listed:
        path = crime / "Anomaly-Videos-Part-1" / video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    prepared = prepare_ucf_crime(crime)
    assert [x.video for x in prepared.labels] == [f"Anomaly-Videos-Part-1/{v}" for v in listed]
    (crime / prepared.labels[0].video).unlink()
    assert prepare_ucf_crime(crime).problems[0].startswith("1 videos missing: Abuse001_x264; put")
    copy = crime / "copy/Abuse028_x264.mp4"
    copy.parent.mkdir()
    copy.write_bytes(b"video")
    with pytest.raises(LabelsError, match=r"'Abuse028_x264' is both .* remove the other copy"):
        prepare_ucf_crime(crime)


def test_a_folder_that_cannot_be_looked_through_is_not_taken_for_one_without_videos(
    crime: Path,
) -> None:
    for name in ("Abuse001_x264.mp4", " Abuse001_x264.mp4 "):
        (crime / name).write_bytes(b"x")
    with pytest.raises(DecodeError, match=r"both go by the name Abuse001_x264\.mp4"):
        prepare_ucf_crime(crime)


def test_unknown_categories_and_doubles_are_named(crime: Path) -> None:
    (crime / "Anomaly_Train.txt").write_text("Abuse/Abuse001_x264.mp4\nLarceny/Larceny1.mp4\n")
    with pytest.raises(
        LabelsError, match=r"Train\.txt:2: category 'Larceny', expected Normal or one"
    ):
        prepare_ucf_crime(crime)
    (crime / "Anomaly_Train.txt").write_text("Abuse/Abuse028_x264.mp4\n")
    with pytest.raises(
        LabelsError, match=r"Annotation\.txt:1: video 'Abuse028_x264' is listed twice"
    ):
        prepare_ucf_crime(crime)


@pytest.mark.realdata
def test_ucf_crime_as_published(shared_data: Path, tmp_path: Path) -> None:
    out, root = tmp_path / "labels.csv", shared_data / "ucf_crime"
    arguments = ["ucf-crime", "--root", str(root), "--out", str(out)]
    assert CliRunner().invoke(data_group, arguments).exit_code == 0
    counts = Counter((x.split, x.is_abnormal) for x in read_labels(out))
    assert counts == {
        ("train", False): 800,
        ("train", True): 810,
        ("test", False): 150,
        ("test", True): 140,
    }
    assert len({x.category for x in read_labels(out)} - {""}) == 13
    arguments += ["--train-intervals", str(root / "videos.jsonl")]
    assert CliRunner().invoke(data_group, arguments).exit_code == 0
    train = [x for x in read_labels(out) if x.split == "train"]
    assert Counter(x.extent for x in train) == {"normal": 800, "intervals": 124, "all": 686}
