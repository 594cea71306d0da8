from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from data.commands.prepare import data_group
from data.datasets.folders import prepare_folders
from data.errors import LabelsError
from data.labels import read_labels


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    for name, count in (("fight", 10), ("fire", 5), ("calm", 10)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.mp4").write_bytes(b"video")
    return root


def test_the_folder_is_the_category_and_the_label(classes: Path) -> None:
    labels = prepare_folders(classes, normal=["calm"], folds=5, fold=1).labels
    assert Counter((x.category, x.extent) for x in labels) == {
        ("fight", "all"): 10,
        ("fire", "all"): 5,
        ("calm", "normal"): 10,
    }
    test = Counter(x.category for x in labels if x.split == "test")
    assert test == {"fight": 2, "fire": 1, "calm": 2}
    weak = prepare_folders(classes, normal=["calm"], abnormal_frames="unknown").labels
    assert sum(label.is_weak for label in weak) == 15


def test_five_folds_test_every_video_once(classes: Path, tmp_path: Path) -> None:
    tested: Counter[str] = Counter()
    for fold in range(5):
        out = tmp_path / f"{fold}.csv"
        arguments = ["folders", "--root", str(classes), "--normal", "calm", "--out", str(out)]
        result = CliRunner().invoke(data_group, [*arguments, "--fold", str(fold)])
        assert result.exit_code == 0, result.output
        tested.update(x.video for x in read_labels(out) if x.split == "test")
    assert set(tested.values()) == {1}
    assert len(tested) == 25


def test_mistakes_are_named(classes: Path) -> None:
    with pytest.raises(LabelsError, match="no class folder named Calm, found calm, fight, fire"):
        prepare_folders(classes, normal=["Calm"])
    (classes / "stray.mp4").write_bytes(b"video")
    with pytest.raises(LabelsError, match=r"stray\.mp4 lies in no class folder"):
        prepare_folders(classes, normal=["calm"])
    arguments = ["folders", "--root", str(classes), "--normal", "calm", "--out", "x"]
    result = CliRunner().invoke(data_group, [*arguments, "--folds", "3", "--fold", "3"])
    assert result.exit_code == 2
    assert "expected 0 to 2" in result.stderr
