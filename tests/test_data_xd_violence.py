from pathlib import Path

import pytest
from click.testing import CliRunner

from data.commands.prepare import data_group
from data.datasets.xd_violence import parse_name, prepare_xd_violence, read_annotations
from data.errors import LabelsError
from data.labels import read_labels

ANNOTATIONS = """\
v=abc__#1_label_B6-0-0 26 80 210 288
Some.Film.1999__#00-01-00_00-02-00_label_B2-G-0.mp4 5 90
"""
TEST = [
    "v=abc__#1_label_B6-0-0",
    "Some.Film.1999__#00-01-00_00-02-00_label_B2-G-0",
    "quiet__#1_label_A",
]
TRAIN = ["loud__#1_label_B1-0-0", "calm__#1_label_A"]


@pytest.fixture
def violence(tmp_path: Path) -> Path:
    (tmp_path / "annotations.txt").write_text(ANNOTATIONS)
    for folder, names in (("1-1004", TRAIN), ("test_videos", TEST)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.mp4").write_bytes(b"video")
    return tmp_path


def test_names_folders_and_annotation_make_the_labels(violence: Path) -> None:
    prepared = prepare_xd_violence(violence)
    assert {(x.video, x.split, x.category, x.anomaly) for x in prepared.labels} == {
        ("1-1004/loud__#1_label_B1-0-0.mp4", "train", "Fighting", "?"),
        ("1-1004/calm__#1_label_A.mp4", "train", "", ""),
        (f"test_videos/{TEST[0]}.mp4", "test", "CarAccident", "26:80;210:288"),
        (f"test_videos/{TEST[1]}.mp4", "test", "Shooting", "5:90"),
        (f"test_videos/{TEST[2]}.mp4", "test", "", ""),
    }
    assert [p.split(";")[0] for p in prepared.problems] == [
        "xd-violence: 2 training videos found, 3954 published",
        "xd-violence: 3 test videos found, 800 published",
        "xd-violence: 2 violent test videos found, 500 published",
    ]


def test_feature_lists_do_for_names(tmp_path: Path) -> None:
    (tmp_path / "annotations.txt").write_text(ANNOTATIONS)
    for split, names in (("train", TRAIN), ("test", TEST)):
        lines = [f"/data/i3d/{name}__{crop}.npy" for name in names for crop in range(5)]
        (tmp_path / f"{split}.list").write_text("\n".join(lines))
    out = tmp_path / "labels.csv"
    arguments = ["xd-violence", "--root", str(tmp_path), "--out", str(out), "--partial"]
    for split in ("train", "test"):
        arguments += [f"--{split}-list", str(tmp_path / f"{split}.list")]
    result = CliRunner().invoke(data_group, arguments)
    assert result.exit_code == 0, result.output
    assert [(x.video, x.split) for x in read_labels(out)] == [
        *((f"{name}.mp4", "train") for name in TRAIN),
        *((f"{name}.mp4", "test") for name in TEST),
    ]


def test_what_does_not_fit_is_listed(violence: Path) -> None:
    (violence / "annotations.txt").write_text(
        "gone_label_B1-0-0 1 2\nloud__#1_label_B1-0-0 3 4\n" + ANNOTATIONS.splitlines()[0]
    )
    problems = prepare_xd_violence(violence).problems
    assert problems[0].startswith("2 annotated videos that are not in the test part: gone_label")
    assert problems[1].startswith("1 violent test videos without a line in annotations.txt: Some")


def test_names_carry_their_labels() -> None:
    assert parse_name("a_label_B2-G-0") == ["Shooting", "Explosion"]
    assert parse_name("a_label_A") == []
    for name in ("a", "a_label_C1-0-0", "a_label_0-0-0", "a_label_A-B1-0"):
        with pytest.raises(LabelsError, match="expected a name that ends in"):
            parse_name(name)


@pytest.mark.parametrize(
    "line",
    [
        "a_label_B1 1",
        "a_label_B1",
        "a_label_B1 5 5",
        "a_label_B1 1 2 3",
        f"a_label_B1 1 {'9' * 5000}",
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "annotations.txt"
    path.write_text(f"ok_label_B1-0-0 1 2\n{line}\n")
    with pytest.raises(LabelsError, match=rf"annotations\.txt:2: found '{line}'"):
        read_annotations(path)
    path.write_text(ANNOTATIONS)
    with pytest.raises(LabelsError, match="neither videos in a train and a test folder nor lists"):
        prepare_xd_violence(tmp_path)


def test_a_name_listed_twice_is_named(violence: Path) -> None:
    path = violence / "annotations.txt"
    path.write_text(f"{ANNOTATIONS}v=abc__#1_label_B6-0-0.mp4 300 310\n")
    told = r"annotations\.txt:3: video 'v=abc__#1_label_B6-0-0' is listed twice; keep one"
    with pytest.raises(LabelsError, match=told):
        read_annotations(path)
    path.write_text(ANNOTATIONS)
    for split in ("train", "test"):
        (violence / f"{split}.txt").write_text(f"{TEST[2]}\n")
    lists = {f"{split}_list": violence / f"{split}.txt" for split in ("train", "test")}
    with pytest.raises(LabelsError, match=r"test\.txt: video 'quiet__#1_label_A' is in .*train"):
        prepare_xd_violence(violence, **lists)
