from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import assume, given
from hypothesis import strategies as st

from data.commands.prepare import data_group
from data.datasets.lad import CATEGORIES
from data.errors import LabelsError
from data.labels import VideoLabel, read_labels, write_labels
from data.splits.leaks import check_leaks, content_marks, find_leaks, linked_videos
from data.splits.protocols import apply_protocol, lad_recipe


def row(video: str, split: str = "train", extent: str = "normal", **fields) -> VideoLabel:
    if extent == "intervals":
        fields.setdefault("intervals", ((1, 3),))
    return VideoLabel(video=video, split=split, extent=extent, **fields)


MIXED = [
    row("a", extent="intervals", num_frames=5),
    row("b", extent="all"),
    row("c"),
    row("d", "val", "intervals"),
    row("e", "val"),
    row("f", "test", "intervals"),
    row("g", "test"),
]


def test_weak_supervision_hides_frames_from_training_only() -> None:
    weakly = apply_protocol(MIXED, "weakly")
    assert [x.anomaly for x in weakly] == ["?", "?", "", "?", "", "1:3", ""]
    assert weakly[0].num_frames == 5
    with pytest.raises(LabelsError, match=r"3 training videos with unknown frames \('\?'\), a the"):
        apply_protocol(weakly, "fully")


def test_unsupervised_training_sees_normal_videos_only() -> None:
    assert [x.video for x in apply_protocol(MIXED, "unsupervised")] == ["c", "e", "f", "g"]
    assert apply_protocol(MIXED, "fully") == MIXED
    with pytest.raises(LabelsError, match="no normal video to train on"):
        apply_protocol(MIXED[:2], "unsupervised")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "more", "train", "test"),
    [("ped2", [], 8, 14), ("shanghaitech", [], 175, 199), ("ucf-crime", ["--weak"], 800, 290)],
)
def test_the_unsupervised_row_of_table_2(shared_data, tmp_path, name, more, train, test) -> None:
    all_of, normal = tmp_path / "labels.csv", tmp_path / "normal.csv"
    root = shared_data / name.replace("-", "_")
    for words in (
        [name, "--root", root, "--out", all_of, *more],
        ["split", "--labels", all_of, "--out", normal, "--protocol", "unsupervised"],
    ):
        ignored = ["--ignore-scenes"] if words[0] == "split" else []
        done = CliRunner().invoke(data_group, [*map(str, words), *ignored])
        assert done.exit_code == 0, done.output
    rows = read_labels(normal)
    assert Counter(x.split for x in rows) == {"train": train, "test": test}
    assert not any(x.is_abnormal for x in rows if x.split == "train")
    whole = [x for x in read_labels(all_of) if x.split == "test"]
    assert [x for x in rows if x.split == "test"] == whole


def test_video_labels_as_frame_labels_reach_training_only() -> None:
    rows = [
        *apply_protocol(MIXED, "weakly"),
        row("h", extent="clicks", intervals=((4, 5),), source="Ann"),
    ]
    expected = ["all", "all", "", "all", "", "1:3", "", "all"]
    whole = apply_protocol(rows, "video")
    assert [x.anomaly for x in whole] == expected
    assert [x.anomaly for x in apply_protocol([*MIXED, rows[-1]], "video")] == expected
    assert (whole[0].num_frames, whole[-1].source) == (5, "video label of Ann")
    assert apply_protocol(whole, "fully") == whole


def lad_like(per_kind: dict[bool, int], categories: tuple[str, ...]) -> list[VideoLabel]:
    return [
        row(f"{name}/{kind}{i}", extent="all" if kind else "normal", category=name)
        for name in categories
        for kind, count in per_kind.items()
        for i in range(count)
    ]


def test_lads_recipe_gives_lads_numbers() -> None:
    # 14 categories of 143 videos are 2002; LAD's 2000 are not spread quite evenly
    labels = lad_recipe(lad_like({True: 72, False: 71}, CATEGORIES), seed=0)
    counts = Counter((x.category, x.is_abnormal) for x in labels if x.split == "test")
    assert counts == {(name, kind): 20 for name in CATEGORIES for kind in (True, False)}
    assert Counter(x.split for x in labels) == {"test": 560, "train": 1442}


def test_lads_recipe_says_what_is_too_small() -> None:
    labels = [*lad_like({True: 5, False: 3}, ("Fire",)), *lad_like({True: 9, False: 9}, ("Drop",))]
    with pytest.raises(LabelsError, match="'Fire' has 3 normal videos, expected more than 4"):
        lad_recipe(labels, seed=0, per_category=4)
    whole = {x.video: "scene" for x in labels if x.category == "Drop"}
    with pytest.raises(LabelsError, match="'Drop': no way found to test exactly 2 videos"):
        lad_recipe(labels, seed=0, per_category=2, groups=whole)


@given(st.lists(st.integers(0, 25), min_size=40, max_size=40), st.integers(0, 5))
def test_lads_recipe_keeps_scenes_whole(scenes: list[int], seed: int) -> None:
    labels = lad_like({True: 10, False: 10}, ("Fire", "Drop"))
    groups = {x.video: str(n) for x, n in zip(labels, scenes, strict=True) if n < 10}
    try:
        split_of = {
            x.video: x.split for x in lad_recipe(labels, seed=seed, per_category=3, groups=groups)
        }
    except LabelsError:  # sometimes the draw leaves no way
        assume(False)
    assert Counter(split_of.values())["test"] == 12
    for name in set(groups.values()):
        assert len({split_of[video] for video in groups if groups[video] == name}) == 1


def test_every_kind_of_leak_is_found() -> None:
    labels = [row("a", scene="s1"), row("b", "test", scene="s1"), row("c"), row("d", "test")]
    assert find_leaks(labels, scenes=False) == []
    content = {"c": "sha256 1", "d": "sha256 1", "a": "sha256 2"}
    leaks = find_leaks([*labels, row("d", "val")], content=content)
    assert [leak.split(":")[0] for leak in leaks] == [
        "the same video is in two splits",
        "the same content under two names is in two splits",
        "the same scene 's1' is in two splits",
    ]
    with pytest.raises(LabelsError, match="or --ignore-scenes"):
        check_leaks(labels)
    with pytest.raises(LabelsError, match=r"c in train, d in test (.|\n)*or remove one copy$"):
        check_leaks(labels, content=content)


def test_scene_and_content_together_link_videos() -> None:
    labels = [row("a", scene="s"), row("b", scene="s"), row("c"), row("d"), row("e")]
    content = {"b": "1", "c": "1", "d": "2", "e": "3"}
    assert linked_videos(labels, content=content) == {"a": "a", "b": "a", "c": "a"}
    assert linked_videos(labels, content=content, scenes=False) == {"b": "b", "c": "b"}
    assert linked_videos(labels, scenes=False) == {}


def test_copies_are_found_by_content(tmp_path: Path) -> None:
    for name, data in {"a.mp4": b"one", "b.mp4": b"two", "c.mp4": b"one", "d.mp4": b"four"}.items():
        (tmp_path / name).write_bytes(data)
    for name in ("f1", "f2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"image")
    names = ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "f1", "f2", "absent.mp4"]
    marks = content_marks([row(name) for name in names], tmp_path)
    assert set(marks) == set(names) - {"absent.mp4"}
    assert marks["a.mp4"] == marks["c.mp4"] != marks["b.mp4"]
    assert marks["f1"] == marks["f2"]
    assert marks["d.mp4"] == "4 bytes"
    (tmp_path / "cafe\u0301.mp4").write_bytes(b"two")  # as macOS stores an accent
    marks = content_marks([row("b.mp4"), row("caf\u00e9.mp4")], tmp_path)
    assert marks["b.mp4"] == marks["caf\u00e9.mp4"]
    assert content_marks([row("a.mp4")], tmp_path / "absent") == {}


def run_split(folder: Path, *arguments: str) -> tuple[Result, list[VideoLabel]]:
    out = folder / "out.csv"
    out.unlink(missing_ok=True)
    command = ["split", "--labels", str(folder / "labels.csv"), "--out", str(out), *arguments]
    result = CliRunner().invoke(data_group, command)
    return result, read_labels(out) if out.exists() else []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels = []
    for i in range(24):
        labels.append(row(f"{i:02d}.mp4", extent="intervals" if i % 2 else "normal"))
        (tmp_path / f"{i:02d}.mp4").write_bytes(b"x" * i)
    write_labels(tmp_path / "labels.csv", labels)
    return tmp_path


def test_the_command_divides_and_sets_a_validation_part_aside(folder: Path) -> None:
    result, labels = run_split(folder, "--scheme", "halves", "--val", "0.5", "--protocol", "weakly")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith(
        "train: 3 normal, 3 abnormal\nval: 3 normal, 3 abnormal\ntest: 6 normal, 6 abnormal\n"
    )
    assert Counter(x.anomaly for x in labels if x.split == "test") == {"": 6, "1:3": 6}
    assert Counter(x.anomaly for x in labels if x.split != "test") == {"": 6, "?": 6}


def test_folds_of_the_command_test_everything_once(folder: Path) -> None:
    tested = Counter()
    for fold in range(3):
        _, labels = run_split(folder, "--scheme", "folds", "--folds", "3", "--fold", str(fold))
        tested.update(x.video for x in labels if x.split == "test")
    assert len(tested) == 24
    assert set(tested.values()) == {1}
    result, _ = run_split(folder, "--scheme", "folds", "--folds", "3", "--fold", "3")
    assert result.exit_code == 2


def test_a_copy_in_another_part_fails_loudly_and_is_kept_together(folder: Path) -> None:
    (folder / "01.mp4").write_bytes((folder / "02.mp4").read_bytes())
    labels = read_labels(folder / "labels.csv")
    split = {"01.mp4": "test"}
    write_labels(
        folder / "labels.csv",
        [row(x.video, split.get(x.video, "train"), x.extent) for x in labels],
    )
    result, _ = run_split(folder)
    assert isinstance(result.exception, LabelsError)
    assert "01.mp4 in test, 02.mp4 in train (2 videos)" in str(result.exception)
    assert not (folder / "out.csv").exists()
    for seed in range(5):
        _, labels = run_split(folder, "--scheme", "halves", "--seed", str(seed))
        split_of = {x.video: x.split for x in labels}
        assert split_of["01.mp4"] == split_of["02.mp4"]


def test_scenes_stay_together_unless_told_otherwise(folder: Path) -> None:
    labels = read_labels(folder / "labels.csv")
    scenes = [row(x.video, extent=x.extent, scene=f"s{i // 4}") for i, x in enumerate(labels)]
    write_labels(folder / "labels.csv", scenes)
    _, labels = run_split(folder, "--scheme", "halves")
    assert len({(x.scene, x.split) for x in labels}) == 6
    _, labels = run_split(folder, "--scheme", "halves", "--ignore-scenes")
    assert len({(x.scene, x.split) for x in labels}) > 6


def test_videos_that_cannot_be_compared_are_told(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "empty"
    elsewhere.mkdir()
    result, labels = run_split(folder, "--videos", str(elsewhere))
    assert len(labels) == 24
    assert "24 videos not found under" in result.stderr
