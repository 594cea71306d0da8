"""`feat data template`: every video in a labels file that is to be filled in."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from data.errors import LabelsError
from data.labels import labelled_videos, read_labels
from feat import cli


@pytest.fixture
def videos(tmp_path: Path, make_video: Callable[..., Path]) -> Path:
    make_video(tmp_path / "videos" / "b, c.mp4", num_frames=15)  # 10 frames a second
    make_video(tmp_path / "videos" / "a" / "x.mp4", num_frames=7)
    make_video(tmp_path / "videos" / "one.mp4", num_frames=1)
    (tmp_path / "videos" / "frames").mkdir()
    for number in (1, 2, 3):
        shutil.copy(tmp_path / "videos/a/x.mp4", tmp_path / f"videos/frames/{number}.jpg")
    return tmp_path / "videos"


def template(videos: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["data", "template", "--videos", str(videos), *options])


def test_every_video_with_its_frames_and_seconds(videos: Path) -> None:
    result = template(videos)
    assert result.exit_code == 0
    assert f"{videos / 'labels.csv'}: 4 videos added, 0 there before; fill in" in result.stdout
    lines = (videos / "labels.csv").read_text().splitlines()
    assert lines == [
        "video,split,category,anomaly,frames,seconds",
        "a/x.mp4,,,,7,0.7",
        '"b, c.mp4",,,,15,1.5',
        "frames,,,,3,",
        "one.mp4,,,,1,",
    ]
    # not filled in, it is no labels file: nobody trains on it by mistake
    with pytest.raises(LabelsError, match=r"labels.csv:2: split is '', expected train, val or"):
        read_labels(videos / "labels.csv")
    filled = [line.replace(",,,,", ",train,,,") for line in lines]
    filled[2] = filled[2].replace("train,,,", "train,,0.5s:0:01.5,").replace("0.5s:", "0.5s-")
    (videos / "labels.csv").write_text("\n".join(filled))
    assert [label.anomaly for label in read_labels(videos / "labels.csv")] == [
        "",
        "0.5s-0:01.5",
        "",
        "",
    ]


def test_what_is_there_stays_byte_for_byte(videos: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    before = b"\xef\xbb\xbfvideo,category,anomaly,split,frames\r\na\\x.mp4 ,fall,1:2,test\r\nb,?"
    path.write_bytes(before)
    result = template(videos, "--labels", str(path))
    assert "mine.csv: 3 videos added, 1 there before" in result.stdout
    assert path.read_bytes() == before + b'\n"b, c.mp4",,,,15\nframes,,,,3\none.mp4,,,,1\n'
    again = path.read_bytes()
    assert "0 videos added, 4 there before\n" in template(videos, "--labels", str(path)).stdout
    assert path.read_bytes() == again


def test_what_cannot_be_counted_is_told(videos: Path, make_video: Callable[..., Path]) -> None:
    (videos / "text.mp4").write_text("no video")
    make_video(videos / "cut.avi", num_frames=30, codec="mjpeg")
    data = (videos / "cut.avi").read_bytes()
    (videos / "cut.avi").write_bytes(data[: len(data) // 2])
    shutil.copy(videos / "frames" / "1.jpg", videos / "frames" / "5.jpg")
    result = template(videos)
    assert result.exit_code == 1
    assert "cut.avi: partial: ffmpeg: " in result.stderr
    assert "frames: no image between 3.jpg and 5.jpg" in result.stderr
    assert "text.mp4: no frame can be decoded" in result.stderr
    rows = [line.split(",") for line in (videos / "labels.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["a/x.mp4", '"b', "cut.avi", "one.mp4"]
    assert 0 < int(rows[2][4]) < 30


def test_names_that_no_label_can_have_are_told_before_the_work(videos: Path) -> None:
    (videos / "one.mp4").rename(videos / "two\nlines\x1b[31m.mp4")
    os.rename(os.fsencode(videos / "a" / "x.mp4"), os.fsencode(videos / "a") + b"/\xff.mp4")
    result = template(videos)
    assert result.exit_code == 1
    told = result.stderr.splitlines()
    assert len(told) == 2
    assert all("must be UTF-8 without control characters" in line for line in told)
    assert all("rename it" in line for line in told)
    assert "\x1b" not in result.stderr
    assert labelled_videos(videos / "labels.csv") == {"b, c.mp4", "frames"}


def test_a_stall_time_that_is_none_is_told_once(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEAT_STALL_SECONDS", "soon")
    result = template(videos)
    assert result.exit_code == 2
    assert result.stderr.count("FEAT_STALL_SECONDS") == 1
    assert not (videos / "labels.csv").exists()


def test_what_a_video_may_cost_is_that_of_an_extraction(videos: Path) -> None:
    """Also where a clip is drawn."""
    result = template(videos, "--max-frames", "14")
    assert result.exit_code == 1
    assert result.stderr.count("more than") == 1
    assert "b, c.mp4: more than 14 frames" in result.stderr
    assert labelled_videos(videos / "labels.csv") == {"a/x.mp4", "frames", "one.mp4"}
    arguments = ["preview", str(videos / "b, c.mp4"), "--max-pixels", "100"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(videos / "b.png")])
    assert result.exit_code == 1
    assert "more than --max-pixels 100" in result.stderr
    assert not (videos / "b.png").exists()
