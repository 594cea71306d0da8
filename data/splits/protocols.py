"""The paper's three protocols (section 5.1, Table 2) and LAD's recipe for a test part."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from data.errors import LabelsError
from data.labels import VideoLabel, join_problems
from data.splits.divide import shuffled_groups, with_splits

Supervision = Literal["fully", "weakly", "unsupervised"]
Protocol = Supervision | Literal["video"]


def apply_protocol(labels: Sequence[VideoLabel], protocol: Protocol) -> list[VideoLabel]:
    """Return what a method may see under this protocol; test videos stay as they are.

    - "fully": frame labels reach training. Refused if some are unknown (`?`).
    - "weakly": of an abnormal training or validation video only that it is abnormal (`?`), and
      its clicks.
    - "unsupervised": only normal videos to train and validate on; the abnormal ones are left out.
    - "video": every frame of an abnormal training or validation video is taken to be abnormal. The
      paper's row of UCF-Crime, whose training videos have no frame labels, is trained so.

    Raises:
        LabelsError: "fully" with frames unknown, or no video to train on is left.
    """
    if protocol == "fully":
        weak = [label.video for label in labels if label.is_weak and label.split != "test"]
        if weak:
            raise LabelsError(
                f"{len(weak)} training videos with unknown frames ('?'), {weak[0]} the first;"
                " fully supervised training needs them: label them, or use --protocol weakly"
            )
        return list(labels)
    if protocol == "weakly":
        return [
            replace(label, extent="unknown", intervals=(), times=())
            if label.is_abnormal and not label.is_weak and label.split != "test"
            else label
            for label in labels
        ]
    if protocol == "video":
        return [
            replace(
                label, extent="all", intervals=(), times=(),
                source=f"video label of {label.source}" if label.source else "",
            )
            if label.is_abnormal and label.extent != "all" and label.split != "test"
            else label
            for label in labels
        ]  # fmt: skip
    kept = [label for label in labels if label.split == "test" or not label.is_abnormal]
    if not any(label.split == "train" for label in kept):
        raise LabelsError("no normal video to train on; unsupervised methods need some")
    return kept


def lad_recipe(
    labels: Sequence[VideoLabel],
    *,
    seed: int,
    per_category: int = 20,
    groups: Mapping[str, str] | None = None,
) -> list[VideoLabel]:
    """Return the labels with the split made as LAD's was (section 3.2).

    Of every category `per_category` abnormal and as many normal videos, drawn by the seed, are
    for testing; the rest trains. With 14 categories and 20 that is 560 of 2000 videos.

    Raises:
        LabelsError: a category has too few videos, or the groups cannot be kept whole.
    """
    sizes = Counter((label.category, label.is_abnormal) for label in labels)
    categories = sorted({label.category for label in labels})
    short = [
        f"category '{category}' has {sizes[category, abnormal]}"
        f" {'abnormal' if abnormal else 'normal'} videos, expected more than {per_category}"
        for category in categories
        for abnormal in (True, False)
        if sizes[category, abnormal] <= per_category
    ]
    if short:
        raise LabelsError(join_problems([*short, "too few videos; lower --per-category"]))
    missing = dict.fromkeys(sizes, per_category)
    test: set[str] = set()
    # as drawn: the largest groups first would make the test part one of shared scenes
    drawn = shuffled_groups(labels, seed=seed, groups=groups or {}, largest_first=False)
    for group in drawn:
        wanted = Counter((label.category, label.is_abnormal) for label in group)
        if all(missing[key] >= count for key, count in wanted.items()):
            for key, count in wanted.items():
                missing[key] -= count
            test.update(label.video for label in group)
    if any(missing.values()):
        key = next(key for key, count in missing.items() if count)
        raise LabelsError(
            f"category '{key[0]}': no way found to test exactly {per_category} videos without"
            " dividing a scene; try another --seed or --per-category, or --ignore-scenes"
        )
    return with_splits(labels, {x.video: "test" if x.video in test else "train" for x in labels})
