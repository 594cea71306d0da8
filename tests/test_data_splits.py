import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import LabelsError
from data.labels import VideoLabel
from data.splits.divide import assign_parts, k_fold, random_halves, validation_part


def videos(normal: int, abnormal: int, category: str = "") -> list[VideoLabel]:
    return [
        VideoLabel(
            video=f"{category}{extent}/{i:03d}", split="train", category=category, extent=extent
        )
        for extent, count in (("normal", normal), ("all", abnormal))
        for i in range(count)
    ]


def sizes(labels: list[VideoLabel]) -> Counter[tuple[str, bool]]:
    return Counter((label.split, label.is_abnormal) for label in labels)


# Table 2 of the paper: Avenue 19/18 with 8 normal to train, Ped2 14/14 with 8.
@pytest.mark.parametrize(
    ("normal", "abnormal", "train"), [(16, 12, (8, 6)), (16, 21, (8, 11)), (1, 1, (1, 1))]
)
def test_random_halves_divide_normal_and_abnormal(
    normal: int, abnormal: int, train: tuple[int, int]
) -> None:
    counts = sizes(random_halves(videos(normal, abnormal), seed=3))
    assert (counts["train", False], counts["train", True]) == train
    assert (counts["test", False], counts["test", True]) == (
        normal - train[0],
        abnormal - train[1],
    )


def test_a_seed_gives_one_division_whatever_the_order_of_rows() -> None:
    rows = videos(16, 12)
    shuffled = random.Random(5).sample(rows, len(rows))
    first = {label.video: label.split for label in random_halves(rows, seed=1)}
    assert first == {label.video: label.split for label in random_halves(shuffled, seed=1)}
    assert len({tuple(x.split for x in random_halves(rows, seed=s)) for s in range(10)}) == 10


def test_the_division_of_a_seed_never_changes() -> None:
    # sha256("0\n0:normal/00N") begins 3b, 51, bd, fd: in that order to train and test in turn
    halves = random_halves(videos(4, 0), seed=0)
    assert [label.split for label in halves] == ["train", "test", "train", "test"]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
    st.integers(2, 6),
    st.integers(0, 3),
)
def test_folds_test_every_video_once_and_are_stratified(
    classes: list[tuple[int, int]], folds: int, seed: int
) -> None:
    rows = [row for i, (n, a) in enumerate(classes) for row in videos(n, a, f"c{i}")]
    if len(rows) < folds:
        with pytest.raises(LabelsError, match="cannot fill"):
            k_fold(rows, folds=folds, fold=0, seed=seed)
        return
    tested: Counter[str] = Counter()
    for fold in range(folds):
        part = k_fold(rows, folds=folds, fold=fold, seed=seed)
        test = [label for label in part if label.split == "test"]
        tested.update(label.video for label in test)
        for i, counts in enumerate(classes):
            for abnormal in (False, True):
                size = sum(x.category == f"c{i}" and x.is_abnormal == abnormal for x in test)
                assert abs(size - counts[abnormal] / folds) < 1
    assert tested == Counter(label.video for label in rows)


@given(st.integers(2, 60), st.floats(0.05, 0.5), st.integers(0, 5))
def test_validation_part_has_its_share(count: int, share: float, seed: int) -> None:
    rows = videos(count, 0)
    part = validation_part(rows, share=share, seed=seed)
    assert abs(sizes(part)["val", False] - share * count) <= 1


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=14),
    st.integers(0, 40),
    st.integers(0, 5),
)
def test_validation_has_its_share_of_both_kinds_of_small_categories(
    categories: list[tuple[int, int]], normal: int, seed: int
) -> None:
    rows = [row for i, (n, a) in enumerate(categories) for row in videos(n, a, f"c{i}")]
    rows += videos(normal, 0)
    counts = Counter(label.is_abnormal for label in rows)
    if 1 in counts.values():
        with pytest.raises(LabelsError, match="cannot be in train and in val"):
            validation_part(rows, share=0.2, seed=seed)
        return
    val = [x for x in validation_part(rows, share=0.2, seed=seed) if x.split == "val"]
    for kind, count in counts.items():
        size = sum(label.is_abnormal == kind for label in val)
        assert size >= 1
        assert abs(size - 0.2 * count) <= 1
    of_category = Counter((label.category, label.is_abnormal) for label in val if label.category)
    assert max(of_category.values(), default=0) <= 1


def test_twelve_categories_of_two_and_two_give_five_videos_of_each_kind() -> None:
    rows = [row for i in range(12) for row in videos(2, 2, f"c{i}")]  # a fifth of 24 is 4.8
    counts = sizes(validation_part(rows, share=0.2, seed=0))
    assert (counts["val", False], counts["val", True]) == (5, 5)


def test_validation_of_large_categories_stays_as_it_was_drawn() -> None:
    rows = [row for i in range(3) for row in videos(10, 11, f"c{i}")]
    part_of = assign_parts(rows, (0.8, 0.2), seed=4)
    part = validation_part(rows, share=0.2, seed=4)
    assert {x.video for x in part if x.split == "val"} == {v for v, p in part_of.items() if p}


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_kind_is_in_both_parts_however_small_the_share(share: float) -> None:
    counts = sizes(validation_part(videos(3, 2), share=share, seed=0))
    assert min(counts[split, kind] for split in ("train", "val") for kind in (True, False)) == 1


def test_a_scene_that_holds_a_kind_alone_is_not_divided_for_validation() -> None:
    rows = videos(8, 4)
    groups = {label.video: "scene" for label in rows if label.is_abnormal}
    with pytest.raises(LabelsError, match="abnormal training videos cannot be in train and in val"):
        validation_part(rows, share=0.3, seed=0, groups=groups)


def test_validation_leaves_test_videos_alone() -> None:
    rows = random_halves(videos(20, 20), seed=0)
    part = validation_part(rows, share=0.2, seed=0)
    assert sizes(part) == {
        ("train", False): 8,
        ("train", True): 8,
        ("val", False): 2,
        ("val", True): 2,
        ("test", False): 10,
        ("test", True): 10,
    }
    assert [x for x in part if x.split == "test"] == [x for x in rows if x.split == "test"]


@given(st.lists(st.integers(0, 7), min_size=8, max_size=40), st.integers(2, 4), st.integers(0, 3))
def test_a_group_is_never_divided(scenes: list[int], folds: int, seed: int) -> None:
    rows = [
        VideoLabel(video=str(i), split="train", extent="all" if i % 2 else "normal")
        for i in range(len(scenes))
    ]
    groups = {str(i): f"scene {scene}" for i, scene in enumerate(scenes)}
    part_of = assign_parts(rows, (1,) * folds, seed=seed, groups=groups)
    assert set(part_of) == {label.video for label in rows}
    for scene in set(scenes):
        assert len({part_of[v] for v, name in groups.items() if name == f"scene {scene}"}) == 1


def test_groups_are_spread_evenly() -> None:
    rows = videos(40, 40)
    groups = {label.video: str(i // 4) for i, label in enumerate(rows)}
    counts = sizes(random_halves(rows, seed=0, groups=groups))
    assert counts["train", False] == counts["train", True] == 20


def test_a_rare_category_weighs_as_much_as_a_common_one() -> None:
    """Scenes of 6 + 1, 7 + 0 and 4 + 1 common and rare videos: the rare ones must part."""
    rows, groups = [], {}
    for scene, counts in {"x": (6, 1), "y": (7, 0), "z": (4, 1)}.items():
        for category, count in zip(("common", "rare"), counts, strict=True):
            for i in range(count):
                label = VideoLabel(video=f"{scene}{category}{i}", split="train", category=category)
                rows.append(label)
                groups[label.video] = scene
    part_of = assign_parts(rows, (1, 1), seed=0, groups=groups)
    assert part_of["xrare0"] != part_of["zrare0"]


def test_bad_shares_and_folds_are_refused() -> None:
    rows = videos(4, 4)
    with pytest.raises(ValueError, match="fold 5 of 5"):
        k_fold(rows, folds=5, fold=5, seed=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        validation_part(rows, share=1, seed=0)
    with pytest.raises(ValueError, match="positive"):
        assign_parts(rows, (1, 0), seed=0)
    with pytest.raises(LabelsError, match="fewer folds"):
        k_fold(rows, folds=3, fold=0, seed=0, groups={label.video: "one" for label in rows})
