import math
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from click.testing import CliRunner

from data.commands.prepare import data_group
from data.datasets.lad import CATEGORIES, is_normal_name, prepare_lad
from data.errors import LabelsError
from data.labels import read_labels

# name -> category, frames; the third part from the end says normal or abnormal
VIDEOS = {
    "v_Fire_a_1_x": ("Fire", [0, 0, 1, 1, 0]),
    "v_Fire_n_2_x": ("Fire", [0, 0, 0, 0]),
    "v_Crash_a_1_x": ("Crash", [1, 1, 1]),
    "v_Crash_n_2_x": ("Crash", [0, 0]),
}
TRAIN = ["v_Fire_a_1_x", "v_Crash_n_2_x"]


def write_lists(root: Path) -> None:
    (root / "train_split.txt").write_text("\n".join(TRAIN) + "\n")
    (root / "test_split.txt").write_text("\n".join(n for n in VIDEOS if n not in TRAIN) + "\n")


def write_pickles(root: Path) -> None:
    (root / "GT").mkdir()
    frames = {name: np.array([frames], dtype=float) for name, (_, frames) in VIDEOS.items()}
    numbers = {name: CATEGORIES.index(category) for name, (category, _) in VIDEOS.items()}
    (root / "GT/frame_label_IET.pickle").write_bytes(pickle.dumps(frames))
    (root / "GT/video_label_IET.pickle").write_bytes(pickle.dumps(numbers))


def write_mats(root: Path) -> None:
    for name, (category, frames) in VIDEOS.items():
        for folder in (category, "all"):
            path = root / "GT/GT_mat" / folder / name.replace("v_", "gt_")
            path.parent.mkdir(parents=True, exist_ok=True)
            scipy.io.savemat(f"{path}.mat", {"gt": np.array([frames])})


@pytest.fixture(params=[write_pickles, write_mats])
def lad(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    write_lists(tmp_path)
    request.param(tmp_path)
    return tmp_path


def test_pickles_and_mat_files_give_the_same_labels(lad: Path) -> None:
    prepared = prepare_lad(lad)
    assert {(x.video, x.split, x.category, x.anomaly, x.num_frames) for x in prepared.labels} == {
        ("Fire/v_Fire_a_1_x", "train", "Fire", "2:4", 5),
        ("Fire/v_Fire_n_2_x", "test", "Fire", "", 4),
        ("Crash/v_Crash_a_1_x", "test", "Crash", "0:3", 3),
        ("Crash/v_Crash_n_2_x", "train", "Crash", "", 2),
    }
    assert "lad: 2 training videos found, 1440 published" in prepared.problems[0]
    assert any(
        "Drop has 0 abnormal and 0 normal test videos, 20 and 20" in p for p in prepared.problems
    )


def test_videos_are_found_as_files_and_as_frame_folders(lad: Path) -> None:
    for name, (category, _) in VIDEOS.items():
        folder = lad / "videos" / category
        folder.mkdir(parents=True, exist_ok=True)
        if category == "Fire":
            (folder / f"{name}.avi").write_bytes(b"video")
        else:
            (folder / name / "img").mkdir(parents=True)
            (folder / name / "img/1.jpg").write_bytes(b"image")
    assert {x.video for x in prepare_lad(lad).labels} == {
        "videos/Fire/v_Fire_a_1_x.avi",
        "videos/Fire/v_Fire_n_2_x.avi",
        "videos/Crash/v_Crash_a_1_x/img",
        "videos/Crash/v_Crash_n_2_x/img",
    }
    (lad / "videos/Fire/v_Fire_a_1_x.avi").unlink()
    prepared = prepare_lad(lad)
    assert "1 videos missing: v_Fire_a_1_x; put them under" in prepared.problems[0]
    assert len(prepared.labels) == 3


def test_names_tell_normal_videos() -> None:
    assert is_normal_name("v_Fire_n_2_x")
    assert not is_normal_name("v_Fire_a_2_x")
    assert not is_normal_name("v_n")


def test_what_names_and_labels_disagree_on_is_listed(tmp_path: Path) -> None:
    write_lists(tmp_path)
    write_mats(tmp_path)
    for folder in ("Fire", "all"):
        mats = tmp_path / "GT/GT_mat" / folder
        scipy.io.savemat(mats / "gt_Fire_n_2_x.mat", {"gt": np.array([[0, 1]])})
        (mats / "gt_Fire_a_1_x.mat").unlink()
    problems = prepare_lad(tmp_path).problems
    assert any("1 videos whose name and frame labels disagree" in p for p in problems)
    assert any(
        "1 videos abnormal by name but without frame labels: v_Fire_a_1_x" in p for p in problems
    )
    out = tmp_path / "labels.csv"
    arguments = ["lad", "--root", str(tmp_path), "--out", str(out), "--partial"]
    assert CliRunner().invoke(data_group, arguments).exit_code == 0
    weak = [x for x in read_labels(out) if x.is_weak]
    assert [x.video for x in weak] == ["v_Fire_a_1_x"]


def test_damage_is_named(lad: Path) -> None:
    (lad / "test_split.txt").write_text("v_Fire_a_1_x\n")
    with pytest.raises(
        LabelsError, match=r"test_split\.txt:1: video 'v_Fire_a_1_x' is listed twice"
    ):
        prepare_lad(lad)
    (lad / "test_split.txt").unlink()
    with pytest.raises(LabelsError, match="LAD's test list not found"):
        prepare_lad(lad)


def test_an_unknown_category_number_is_named(tmp_path: Path) -> None:
    write_lists(tmp_path)
    write_pickles(tmp_path)
    numbers = dict.fromkeys(VIDEOS, 14)
    (tmp_path / "GT/video_label_IET.pickle").write_bytes(pickle.dumps(numbers))
    with pytest.raises(LabelsError, match="category of 'v_Fire_a_1_x' is 14, expected 0 to 13"):
        prepare_lad(tmp_path)
    numbers = dict.fromkeys(VIDEOS, math.inf)
    (tmp_path / "GT/video_label_IET.pickle").write_bytes(pickle.dumps(numbers))
    with pytest.raises(LabelsError, match="category of 'v_Fire_a_1_x' is inf, expected a number"):
        prepare_lad(tmp_path)


def test_labels_that_are_no_array_are_named(tmp_path: Path) -> None:
    write_lists(tmp_path)
    write_pickles(tmp_path)
    ragged = {name: [[0, 1], [1]] for name in VIDEOS}
    (tmp_path / "GT/frame_label_IET.pickle").write_bytes(pickle.dumps(ragged, protocol=2))
    with pytest.raises(LabelsError, match="labels of 'v_Fire_a_1_x' are no array"):
        prepare_lad(tmp_path)


def test_a_whole_lad_has_no_problems(tmp_path: Path) -> None:
    """1440 and 560 videos, 20 + 20 to test a category, 958 normal to train: as published."""
    (tmp_path / "GT").mkdir()
    frames, numbers, lists = {}, {}, {"train": [], "test": []}
    train_normal, train_abnormal = 958, 482
    for index, category in enumerate(CATEGORIES):
        counts = {
            ("test", "n"): 20,
            ("test", "a"): 20,
            ("train", "n"): train_normal // 14 + (index < train_normal % 14),
            ("train", "a"): train_abnormal // 14 + (index < train_abnormal % 14),
        }
        for (split, kind), count in counts.items():
            for i in range(count):
                name = f"v_{category}{split}_{kind}_{i}_x"
                frames[name] = np.array([[0.0, kind == "a"]])
                numbers[name] = index
                lists[split].append(name)
    for split, names in lists.items():
        (tmp_path / f"{split}_split.txt").write_text("\n".join(names))
    (tmp_path / "GT/frame_label_IET.pickle").write_bytes(pickle.dumps(frames))
    (tmp_path / "GT/video_label_IET.pickle").write_bytes(pickle.dumps(numbers))
    prepared = prepare_lad(tmp_path)
    assert prepared.problems == ()
    assert Counter(x.split for x in prepared.labels) == {"train": 1440, "test": 560}
