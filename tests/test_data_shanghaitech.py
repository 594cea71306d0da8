from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from data.commands.prepare import data_group
from data.datasets.shanghaitech import prepare_shanghaitech
from data.errors import LabelsError
from data.labels import read_labels


@pytest.fixture
def campus(tmp_path: Path) -> Path:
    masks = tmp_path / "test_frame_mask"
    masks.mkdir()
    np.save(masks / "01_0014.npy", np.array([0, 1, 1, 0], dtype=np.uint8))
    np.save(masks / "02_0015.npy", np.array([1, 0, 1], dtype=np.uint8))
    (tmp_path / "SH_Train.txt").write_text("01_0014\n01_002\n")
    (tmp_path / "SH_Test_NEW.txt").write_text("02_0015,1,-1\n02_003,0,77\n")
    return tmp_path


def rows(root: Path, split: str) -> list[tuple[str, str, str, str, int | None]]:
    labels = prepare_shanghaitech(root, split=split).labels
    return [(x.video, x.split, x.anomaly, x.scene, x.num_frames) for x in labels]


def test_the_weakly_supervised_split(campus: Path) -> None:
    assert rows(campus, "weak") == [
        ("01_0014", "train", "1:3", "01", 4),
        ("01_002", "train", "", "01", None),
        ("02_0015", "test", "0:1;2:3", "02", 3),
        ("02_003", "test", "", "02", 77),
    ]


def test_the_one_class_split_tests_what_has_a_mask(campus: Path) -> None:
    assert [(video, split) for video, split, *_ in rows(campus, "one-class")] == [
        ("01_0014", "test"),
        ("01_002", "train"),
        ("02_0015", "test"),
        ("02_003", "train"),
    ]


def test_the_one_class_split_needs_no_lists(campus: Path) -> None:
    for path in campus.glob("*.txt"):
        path.unlink()
    for name in ("training/videos/01_002.avi", "testing/frames/01_0014/000.jpg"):
        (campus / name).parent.mkdir(parents=True, exist_ok=True)
        (campus / name).write_bytes(b"x")
    prepared = prepare_shanghaitech(campus, split="one-class")
    assert {x.video: x.split for x in prepared.labels} == {
        "testing/frames/01_0014": "test",
        "training/videos/01_002.avi": "train",
    }
    assert prepared.problems[0].startswith("1 videos missing: 02_0015")
    with pytest.raises(LabelsError, match="training list of the 238/199 split not found"):
        prepare_shanghaitech(campus, split="weak")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("02_0015,1\n", r"NEW\.txt:1: found '02_0015,1', expected 'SCENE_NUMBER'"),
        ("02_003,0,77\n01_002,0,5\n", r"NEW\.txt:2: video '01_002' is listed twice"),
    ],
)
def test_a_bad_line_is_named(campus: Path, text: str, message: str) -> None:
    (campus / "SH_Test_NEW.txt").write_text(text)
    with pytest.raises(LabelsError, match=message):
        prepare_shanghaitech(campus)


def test_lists_and_masks_that_disagree_are_listed(campus: Path) -> None:
    (campus / "SH_Test_NEW.txt").write_text("02_003,1,-1\n")
    problems = prepare_shanghaitech(campus).problems
    assert problems[0].startswith("1 videos whose label in SH_Test_NEW.txt and whose mask disagree")
    assert problems[1].startswith("1 masks of videos in no list: 02_0015")


@pytest.mark.realdata
def test_shanghaitech_as_published(shared_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "labels.csv"
    root = shared_data / "shanghaitech"
    arguments = ["shanghaitech", "--root", str(root), "--out", str(out)]
    assert CliRunner().invoke(data_group, arguments).exit_code == 0
    labels = read_labels(out)
    assert Counter(x.split for x in labels) == {"train": 238, "test": 199}
    masked = [x for x in labels if (root / f"test_frame_mask/{x.video}.npy").exists()]
    assert sum(x.num_frames or 0 for x in masked) == 40791
    assert sum(b - a for x in labels for a, b in x.intervals) == 17326
    for label in masked:
        mask = np.load(root / f"test_frame_mask/{label.video}.npy")
        np.testing.assert_array_equal(label.frame_labels(len(mask)), mask)
    assert prepare_shanghaitech(root, split="one-class").problems == ()
