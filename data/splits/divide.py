"""Division of videos into train, val and test: random halves, folds, validation parts, leaks.

What is random depends on the seed and the videos' names only: not on the order of the rows, on a
random generator of some library version, or on the machine.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace

from data.errors import LabelsError
from data.labels import SPLITS, Split, VideoLabel

Group = tuple[VideoLabel, ...]


def assign_parts(
    labels: Sequence[VideoLabel],
    shares: Sequence[float],
    *,
    seed: int,
    groups: Mapping[str, str] | None = None,
    stratum: Callable[[VideoLabel], Hashable] | None = None,
    neighbours: Callable[[VideoLabel], bytes] = lambda label: b"",
) -> dict[str, int]:
    """Return for every video the number of its part, each part having its share of every stratum.

    Groups are taken in an order drawn from the seed, the largest first, and each goes where it is
    missing most. For groups of one video that is Webster's apportionment within each stratum, so
    that two halves of 11 videos are 6 and 5.

    Args:
        labels: the videos to divide.
        shares: a positive weight for each part, for example `(0.8, 0.2)`.
        seed: any integer.
        groups: video -> name of a group that must stay together; a video not in it is on its own.
        stratum: what to keep in balance; default: category and normal or abnormal.
        neighbours: lone videos for which it is equal are taken one after the other, so that the
            parts share them as far as their stratum lets them.
    """
    if not shares or min(shares) <= 0:
        raise ValueError(f"shares are {shares}, expected positive numbers")
    stratum = stratum or (lambda label: (label.category, label.is_abnormal))
    totals = Counter(stratum(label) for label in labels)
    counts: list[Counter[Hashable]] = [Counter() for _ in shares]
    sizes = [0] * len(shares)
    part_of: dict[str, int] = {}
    drawn = shuffled_groups(labels, seed=seed, groups=groups or {})
    for group in sorted(drawn, key=lambda group: (-len(group), neighbours(group[0]))):
        wanted = Counter(stratum(label) for label in group)

        def cost(
            part: int, wanted: Counter[Hashable] = wanted, size: int = len(group)
        ) -> tuple[float, float, int]:
            crowding = sum(
                (2 * counts[part][key] * n + n * n) / totals[key] ** 2 for key, n in wanted.items()
            )
            # rounded, so that 1/3 + 1/3 against 2/3 is a tie on every machine
            return (
                round(crowding / shares[part], 9),
                round((sizes[part] + size) / shares[part], 9),
                part,
            )

        best = min(range(len(shares)), key=cost)
        counts[best] += wanted
        sizes[best] += len(group)
        part_of.update({label.video: best for label in group})
    return part_of


def shuffled_groups(
    labels: Sequence[VideoLabel],
    *,
    seed: int,
    groups: Mapping[str, str],
    largest_first: bool = True,
) -> list[Group]:
    """Return the groups, and lone videos as groups of one, in an order drawn from the seed."""
    members: dict[tuple[int, str], list[VideoLabel]] = defaultdict(list)
    for label in labels:
        # (0, ...) and (1, ...): a group's name never collides with the name of a lone video
        name = groups.get(label.video)
        members[(0, label.video) if name is None else (1, name)].append(label)
    order = sorted(members, key=lambda key: _draw(seed, f"{key[0]}:{key[1]}"))
    if largest_first:
        order.sort(key=lambda key: -len(members[key]))
    return [tuple(members[key]) for key in order]


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{name}".encode()).digest()


def random_halves(
    labels: Sequence[VideoLabel], *, seed: int, groups: Mapping[str, str] | None = None
) -> list[VideoLabel]:
    """Return the labels with half of the normal and half of the abnormal videos to train on.

    An odd one goes to training, as in the paper (section 5.1, Table 2): UCSD Ped2 6 + 8 of
    12 + 16 videos, Avenue 11 + 8 of 21 + 16.
    """

    def parts(chosen: Sequence[VideoLabel]) -> dict[str, int]:
        return assign_parts(chosen, (1, 1), seed=seed, groups=groups, stratum=_is_abnormal)

    if groups:
        part_of = parts(labels)
    else:  # apart, so that both odd ones go to training instead of one to each half
        part_of = parts([label for label in labels if label.is_abnormal])
        part_of |= parts([label for label in labels if not label.is_abnormal])
    return with_splits(labels, {v: "test" if part else "train" for v, part in part_of.items()})


def _is_abnormal(label: VideoLabel) -> Hashable:
    return label.is_abnormal


def k_fold(
    labels: Sequence[VideoLabel],
    *,
    folds: int,
    fold: int,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> list[VideoLabel]:
    """Return the labels with fold number `fold` (from 0) as the test part and the rest to train.

    Raises:
        LabelsError: there are fewer videos, or groups of them, than folds.
        ValueError: `fold` is not one of the folds.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise ValueError(f"fold {fold} of {folds}, expected 0 to folds - 1 of at least 2 folds")
    part_of = assign_parts(labels, (1,) * folds, seed=seed, groups=groups)
    if len(set(part_of.values())) < folds:
        raise LabelsError(
            f"{len(labels)} videos cannot fill {folds} folds without dividing a group;"
            " ask for fewer folds"
        )
    return with_splits(labels, {v: "test" if p == fold else "train" for v, p in part_of.items()})


def validation_part(
    labels: Sequence[VideoLabel],
    *,
    share: float,
    seed: int,
    groups: Mapping[str, str] | None = None,
) -> list[VideoLabel]:
    """Return the labels with a stratified share of the training videos (0 to 1) moved to val.

    Videos that are in val or test stay there. The normal and the abnormal videos of a category are
    shared out by themselves where the share of them is a whole video or more. Those of smaller
    categories are shared out together, abnormal and normal ones apart. Of both kinds at least one
    goes to val, and at least one stays.

    Raises:
        LabelsError: the training videos of a kind cannot be in both parts: there is one, or all
            are in one group.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, expected a number between 0 and 1")
    train = [label for label in labels if label.split == "train"]
    sizes = Counter((label.category, label.is_abnormal) for label in train)

    def is_small(label: VideoLabel) -> bool:
        size = sizes[label.category, label.is_abnormal]
        return round(min(share, 1 - share) * size, 9) < 1

    part_of = assign_parts(
        train,
        (1 - share, share),
        seed=seed,
        groups=groups,
        stratum=lambda x: (None if is_small(x) else x.category, x.is_abnormal),
        neighbours=lambda x: _draw(seed, x.category) if is_small(x) else b"",
    )
    _fill_both(part_of, shuffled_groups(train, seed=seed, groups=groups or {}))
    return with_splits(labels, {v: "val" for v, part in part_of.items() if part == 1})


def _fill_both(part_of: dict[str, int], groups: Sequence[Group]) -> None:
    """Move a group, the smallest that will do, to each of the two parts that lacks a kind."""

    def kinds(part: int, without: Group = ()) -> set[bool]:
        there = (group for group in groups if part_of[group[0].video] == part)
        return {label.is_abnormal for group in there if group != without for label in group}

    for part in (0, 1):
        for kind in sorted(kinds(1 - part) - kinds(part)):
            for group in reversed(groups):
                has = {label.is_abnormal for label in group}
                if kind in has and has <= kinds(1 - part, without=group):
                    part_of.update({label.video: part for label in group})
                    break
            else:
                raise LabelsError(
                    f"the {'abnormal' if kind else 'normal'} training videos cannot be in train and"
                    " in val: they are one, or of one scene or content; label more of them, or"
                    " leave out --val"
                )


def with_splits(labels: Sequence[VideoLabel], split_of: Mapping[str, Split]) -> list[VideoLabel]:
    """Return the labels with the splits given for some of the videos, in the same order."""
    return [replace(label, split=split_of.get(label.video, label.split)) for label in labels]


def split_summary(labels: Sequence[VideoLabel]) -> str:
    """Return a line for each part that has videos: how many normal and abnormal ones."""
    counts = Counter((label.split, label.is_abnormal) for label in labels)
    return "\n".join(
        f"{split}: {counts[split, False]} normal, {counts[split, True]} abnormal"
        for split in SPLITS
        if counts[split, False] + counts[split, True]
    )
