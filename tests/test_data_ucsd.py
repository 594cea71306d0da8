import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from data.commands.prepare import data_group
from data.datasets.ucsd import prepare_ucsd, read_ucsd_list
from data.errors import LabelsError
from data.labels import read_labels

LIST = """\
TestVideoFile = {};
TestVideoFile{end+1}.gt_frame = [3:5];
% a comment
TestVideoFile{end+1}.gt_frame = [1:2, 6:8];  % two runs

TestVideoFile{end+1}.gt_frame = [1:8];
"""


def make_frames(folder: Path, count: int, suffix: str = ".tif") -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i + 1:03d}{suffix}").write_bytes(b"frame")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The layout of UCSD's own archive: three clips of eight frames to train, three to test."""
    for i in (1, 2, 3):
        make_frames(tmp_path / f"Train/Train00{i}", 8)
        make_frames(tmp_path / f"Test/Test00{i}", 8)
    make_frames(tmp_path / "Test/Test001_gt", 8, ".bmp")
    (tmp_path / "Test/UCSDped2.m").write_text(LIST)
    return tmp_path


def test_frames_of_the_list_count_from_one_and_include_the_last(archive: Path) -> None:
    assert read_ucsd_list(archive / "Test/UCSDped2.m") == [((2, 5),), ((0, 2), (5, 8)), ((0, 8),)]


def test_the_archive_layout_without_its_mask_folders(archive: Path) -> None:
    prepared = prepare_ucsd(archive, name="ped2", split="official")
    assert [(x.video, x.split, x.anomaly) for x in prepared.labels] == [
        ("Train/Train001", "train", ""),
        ("Train/Train002", "train", ""),
        ("Train/Train003", "train", ""),
        ("Test/Test001", "test", "2:5"),
        ("Test/Test002", "test", "0:2;5:8"),
        ("Test/Test003", "test", "0:8"),
    ]
    assert {x.num_frames for x in prepared.labels} == {8}
    assert "3 training clips found, 16 published" in prepared.problems[0]
    assert "16 abnormal test frames found, 1648 published" in prepared.problems[-1]


def test_the_repacked_layout(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    (tmp_path / "Train").rename(tmp_path / "training/frames")
    (tmp_path / "testing").mkdir()
    (tmp_path / "Test").rename(tmp_path / "testing/frames")
    (tmp_path / "testing/frames/UCSDped2.m").rename(tmp_path / "UCSDped2.m")
    labels = prepare_ucsd(tmp_path, name="ped2").labels
    assert {x.video.rpartition("/")[0] for x in labels} == {"training/frames", "testing/frames"}
    assert Counter((x.split, x.is_abnormal) for x in labels)["train", True] == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("TestVideoFile{end+1}.gt_frame = [5:3];", r"m:1: frames '5:3', expected first:last"),
        ("TestVideoFile{end+1}.gt_frame = [0:3];", r"m:1: frames '0:3', expected first:last"),
        ("TestVideoFile{end+1}.gt_frame = [a:3];", r"m:1: frames 'a:3', expected first:last"),
        ("gt_frame = 3", r"m:1: found 'gt_frame = 3', expected"),
    ],
)
def test_a_bad_line_of_the_list_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "UCSDped2.m"
    path.write_text(line)
    with pytest.raises(LabelsError, match=message):
        read_ucsd_list(path)


def test_what_does_not_fit_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"UCSDped1\.m not found|list of .* ped1 not found"):
        prepare_ucsd(archive, name="ped1")
    for name in ("Test/Test004", "Test/more", "Test/Test002_copy", "Test/002"):
        make_frames(archive / name, 8)
        with pytest.raises(LabelsError, match="3 clips listed, found Test/"):
            prepare_ucsd(archive, name="ped2")
        shutil.rmtree(archive / name)
    (archive / "Test/Test003/008.tif").unlink()
    with pytest.raises(LabelsError, match="abnormal to frame 8 in Test/Test003, which has 7"):
        prepare_ucsd(archive, name="ped2")
    with pytest.raises(LabelsError, match="neither Train and Test or training/frames"):
        prepare_ucsd(archive / "Train", name="ped2")


def test_some_clips_have_the_lines_of_their_numbers(archive: Path) -> None:
    shutil.rmtree(archive / "Test/Test001")
    shutil.rmtree(archive / "Train/Train002")
    prepared = prepare_ucsd(archive, name="ped2", split="official")
    assert [(x.video, x.anomaly) for x in prepared.labels if x.split == "test"] == [
        ("Test/Test002", "0:2;5:8"),
        ("Test/Test003", "0:8"),
    ]
    assert "3 clips in the list found, 12 published" in prepared.problems[2]
    assert "13 abnormal test frames found, 1648 published" in prepared.problems[-1]


def test_the_command_refuses_an_incomplete_download(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    arguments = ["ped2", "--root", str(archive), "--out", str(out)]
    result = CliRunner().invoke(data_group, arguments)
    assert isinstance(result.exception, LabelsError)
    assert "3 training clips found, 16 published" in str(result.exception)
    assert not out.exists()
    result = CliRunner().invoke(data_group, [*arguments, "--partial"])
    assert result.exit_code == 0
    assert "3 training clips found, 16 published" in result.stderr
    assert "train: 2 normal, 2 abnormal" in result.stdout
    assert len(read_labels(out)) == 6


@pytest.mark.realdata
def test_ped2_as_published(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    arguments = ["ped2", "--root", str(shared_data / "ped2"), "--out", str(out), "--seed", "1"]
    assert CliRunner().invoke(data_group, arguments).exit_code == 0
    labels = {label.video: label for label in read_labels(out)}
    counts = Counter((label.split, label.is_abnormal) for label in labels.values())
    assert counts == {
        ("train", False): 8,
        ("train", True): 6,
        ("test", False): 8,
        ("test", True): 6,
    }
    frames = {video: len(list((shared_data / "ped2" / video).glob("*.jpg"))) for video in labels}
    testing = [label for video, label in labels.items() if video.startswith("testing")]
    assert sum(frames[label.video] for label in testing) == 2010
    assert sum(int(label.frame_labels(frames[label.video]).sum()) for label in testing) == 1648


@pytest.mark.realdata
def test_the_weak_split_of_tevad_and_msad(shared_data: Path, tmp_path: Path) -> None:
    """Their lists name the same clips; their labels are ours, one frame late at interval edges."""
    out = tmp_path / "labels.csv"
    arguments = ["ped2", "--root", str(shared_data / "ped2"), "--split", "weak", "--out", str(out)]
    assert CliRunner().invoke(data_group, arguments).exit_code == 0
    by_name = {
        f"{'Test' if x.video.startswith('testing') else 'Train'}0{x.video[-2:]}": x
        for x in read_labels(out)
    }
    weak = shared_data / "ped2/weak"
    listed = {
        split: [name.removesuffix("_i3d.npy") for name in (weak / file).read_text().split()]
        for split, file in (("train", "ped2-i3d.list"), ("test", "ped2-i3d-test.list"))
    }
    for split, names in listed.items():
        assert {name for name, x in by_name.items() if x.split == split} == set(names)
    found = []
    for name in listed["test"]:
        frames = by_name[name].frame_labels(by_name[name].num_frames or 0)
        found.append(np.pad(frames, (0, -len(frames) % 16), mode="edge"))
    ours, theirs = np.concatenate(found), np.load(weak / "gt-ped2.npy")
    assert (len(listed["train"]), len(listed["test"]), len(ours), len(theirs)) == (
        10,
        18,
        3200,
        3200,
    )
    assert (ours.sum(), theirs.sum(), (ours != theirs).sum()) == (908, 904, 8)


def test_the_weak_split_by_number_in_both_layouts(archive: Path) -> None:
    prepared = prepare_ucsd(archive, name="ped2", split="weak")
    assert [x.split for x in prepared.labels] == ["test", "test", "test", "test", "train", "test"]
