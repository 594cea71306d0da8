"""From labels and a cache to what a method may see: its supervision decides, not its code."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np

from cache import FeatureCache
from cache.streams import FRAMES
from data.errors import ModelError
from data.labels import VideoLabel
from data.splits.divide import Group, shuffled_groups
from data.splits.leaks import linked_videos
from data.splits.protocols import Supervision, apply_protocol
from model.features.aligned import check_labels, videos_without_frames
from model.features.choose import (
    available_streams,
    choose_streams,
    drop_missing,
    named,
    require_streams,
)
from model.features.load import has_motion
from model.methods.base import Material, Method
from model.methods.registry import METHODS, choose_method

logger = logging.getLogger(f"feat.{__name__}")

_NEEDS: dict[Supervision, str] = {
    "fully": "both abnormal and normal frames that are known",
    "weakly": "both abnormal and normal videos",
    "unsupervised": "normal videos",
}


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Which features and labels of a cache are used, and what is let pass."""

    streams: tuple[str, ...] = ()
    """Which to put side by side; empty: those that all videos have."""
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Stream -> configuration, where the cache holds several; see `cache.configs`."""
    skip_missing: bool = False
    """Leave labelled videos out that the cache lacks, instead of refusing."""
    allow_misaligned: bool = False
    """Cut labels that go beyond their video, instead of refusing."""

    def for_method(self, method: Method) -> Self:
        """Return the options with the frames for a method that looks at them."""
        return replace(self, streams=self.streams or (FRAMES,)) if method.reads_frames else self


def gather(
    method: Method,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    options: DataOptions = DataOptions(),
    *,
    seed: int = 0,
) -> tuple[Method, Material]:
    """Return the method suited to the features, and the clips with what it may see of their labels.

    Args:
        method: what they are for.
        cache: the features.
        labels: of all videos; `test` ones are only checked for leaks.
        options: which features and labels.
        seed: of the choice of the videos that are held out.

    Raises:
        FeatError: labels and cache do not fit each other, or nothing is left to learn from.
    """
    require_learnable(method, labels)
    options = options.for_method(method)
    visible = sorted(_visible(method, labels), key=lambda label: label.video)
    seen = [label for label in visible if label.split != "test"]
    available = available_streams(
        cache, [label.video for label in visible], options.configs, named=options.streams
    )
    seen = drop_missing(seen, available, cache, skip_missing=options.skip_missing)
    require_streams({label.video: available[label.video] for label in seen}, options.streams)
    tests = [label for label in visible if label.split == "test" and available[label.video]]
    aligned = check_labels(
        cache,
        [*seen, *tests],
        allow_misaligned=options.allow_misaligned,
        streams=options.streams,
        configs=options.configs,
    )
    seen = aligned[: len(seen)]
    if method.learns_frames:
        uncounted = videos_without_frames(
            cache, seen, streams=options.streams, configs=options.configs
        )
        seen = [*_without_frames(seen, set(uncounted))]
    content = {label.video: cache.content(label.video) for label in seen}
    train, val = _divide(method, seen, seed, content)
    chosen = options.streams or choose_streams(
        {label.video: available[label.video] for label in (*train, *val)}
    )
    lead = cache.find(train[0].video, chosen[0], options.configs.get(chosen[0]))
    method = method.suited_to(
        clip_len=lead.clip_len,
        has_motion=method.wants_motion
        and has_motion(cache, [label.video for label in (*train, *val)], chosen, options.configs),
    )

    read = partial(method.load, cache, streams=chosen)

    def whole() -> Material:
        return Material(
            train=read(_in_order(method, train, val), configs=options.configs), val=None
        )

    data = read(train, configs=options.configs)
    same = {stream.name: stream.config for stream in data.streams}
    was_held_out = any(label.split == "train" for label in val)
    return method, Material(
        train=data,
        val=read(val, configs=same) if val else None,
        whole=whole if was_held_out else None,
    )


def require_learnable(method: Method, labels: Sequence[VideoLabel]) -> None:
    """Refuse labels whose training videos are not of the kinds that a method learns from.

    Raises:
        ModelError: names what there is, and the methods that it is enough for.
    """
    train = [label for label in labels if label.split == "train"]
    known = [label for label in train if not label.is_weak]
    normal = sum(not label.is_abnormal for label in train)
    abnormal = sum(label.is_abnormal for label in known)
    enough: dict[Supervision, bool] = {
        "fully": abnormal > 0 and any(label.extent != "all" for label in known),
        "weakly": 0 < normal < len(train),
        "unsupervised": normal > 0,
    }
    if enough[method.supervision]:
        return
    others = [choose_method(name) for name in METHODS]
    able = [
        one.name
        for one in others
        if enough[one.supervision]
        and not one.uses_flow_stats
        and one.reads_frames == method.reads_frames  # what the cache holds
    ]
    raise ModelError(
        f"{method.name} cannot learn from these labels: it needs {_NEEDS[method.supervision]}, "
        f"found {len(train)} training videos: {normal} normal, {abnormal} with known abnormal "
        f"frames, {len(train) - len(known)} with unknown ones (?); "
        + (f"--method takes {', '.join(able)} with these, or " if able else "")
        + "add rows with split 'train'"
    )


def _in_order(method: Method, *parts: Sequence[VideoLabel]) -> list[VideoLabel]:
    """Return the labels of all parts by name, behind them those that teach a category only."""
    rows = [label for part in parts for label in part]
    fully = method.supervision == "fully"
    return sorted(rows, key=lambda label: (fully and label.is_weak, label.video))


def _visible(method: Method, labels: Sequence[VideoLabel]) -> list[VideoLabel]:
    """Return the labels as the method's supervision has them."""
    if method.supervision != "fully":
        rows = apply_protocol(labels, method.supervision)
    else:
        rows = list(labels)
    if method.learns_categories:
        return rows
    # Without categories nothing is said of those that are rare.
    return [replace(label, category="") for label in rows]


def _divide(
    method: Method, labels: Sequence[VideoLabel], seed: int, content: Mapping[str, str]
) -> tuple[list[VideoLabel], list[VideoLabel]]:
    """Return the videos to learn from and those for choices.

    Raises:
        ModelError: nothing to learn from, or no frame of one of the two kinds.
    """
    if method.supervision != "fully":
        rows, weak = list(labels), []
    else:
        rows = [label for label in labels if not label.is_weak]
        weak = [label for label in labels if _teaches_category(label, method)]
        _tell_of_weak(labels, weak)
    train = [label for label in rows if label.split == "train"]
    val = [label for label in rows if label.split == "val"]
    if not val and method.held_out_share:
        train, val = hold_out(train, method.held_out_share, seed, content=content)
    require_learnable(method, [*train, *weak])  # of those that are left
    return _in_order(method, train, weak), _in_order(method, val)


def hold_out(
    labels: Sequence[VideoLabel],
    fraction: float,
    seed: int,
    *,
    content: Mapping[str, str] | None = None,
) -> tuple[list[VideoLabel], list[VideoLabel]]:
    """Return the videos to train on and those held out, of abnormal and normal ones alike.

    Videos of one scene and copies of one content stay together, as in `feat data split`. Where the
    scenes are too few to hold out any of a kind, as of a single camera, they are divided all the
    same, and that is said. Some of each kind stay to train on.

    Args:
        labels: the training videos in an order that does not depend on the file's.
        fraction: share to hold out; at least one video of each kind that has more than one.
        seed: of the choice.
        content: video -> what identifies its content.
    """
    total = Counter(label.is_abnormal for label in labels)
    wanted = {k: min(max(round(fraction * n), 1), n - 1) for k, n in total.items()}
    for scenes in (True, False):
        linked = linked_videos(labels, content=content, scenes=scenes)
        held = _draw_groups(labels, linked, wanted, seed)
        count = Counter(label.is_abnormal for label in labels if label.video in held)
        if all(count[kind] for kind, n in wanted.items() if n):
            break
    if not scenes and any(label.scene for label in labels):
        logger.warning(
            "the training videos are of too few scenes to hold any out whole: those held out share "
            "scenes with those learnt from; give videos of your choice the split val"
        )
    elif linked and any(n and not 0 < count[kind] < 2 * n for kind, n in wanted.items()):
        logger.warning(
            "%d abnormal and %d normal training videos are held out, %d and %d were wanted: those "
            "of one scene or content stay together; give videos of your choice the split val",
            *(number[kind] for number in (count, Counter(wanted)) for kind in (True, False)),
        )
    return (
        [label for label in labels if label.video not in held],
        [label for label in labels if label.video in held],
    )


def _draw_groups(
    labels: Sequence[VideoLabel], linked: Mapping[str, str], wanted: Mapping[bool, int], seed: int
) -> set[str]:
    """Return videos of whole groups, about so many of each kind as are wanted; some of each stay.

    Args:
        labels: as of `hold_out`.
        linked: video -> its group.
        wanted: abnormal -> how many, and normal -> how many.
        seed: of the choice.
    """
    groups = shuffled_groups(labels, seed=seed, groups=linked)
    group_of = {label.video: group for group in groups for label in group}
    total = Counter(label.is_abnormal for label in labels)
    count: Counter[bool] = Counter()
    held: set[str] = set()

    def gap(group: Group = ()) -> float:
        """Return how far the numbers held out would be from those wanted; inf: none would stay."""
        after = count + Counter(label.is_abnormal for label in group)
        if any(after[kind] and after[kind] == n for kind, n in total.items()):
            return math.inf
        return sum(abs(after[kind] - n) for kind, n in wanted.items())

    def add(group: Group) -> None:
        held.update(label.video for label in group)
        count.update(label.is_abnormal for label in group)

    rng = np.random.default_rng((seed, 1))
    for kind in (True, False):
        videos = [label.video for label in labels if label.is_abnormal == kind]
        drawn = [group_of[video] for video in rng.permutation(videos).tolist()]
        for group in drawn:
            if group[0].video not in held and gap(group) < gap():
                add(group)
        if videos and wanted[kind] and not count[kind]:
            smallest = min(drawn, key=gap)
            if gap(smallest) < math.inf:
                add(smallest)
    return held


def _teaches_category(label: VideoLabel, method: Method) -> bool:
    return (
        label.is_weak
        and label.split == "train"
        and bool(label.category)
        and method.learns_categories
    )


def _tell_of_weak(labels: Sequence[VideoLabel], teaching: Sequence[VideoLabel]) -> None:
    if teaching:
        logger.info("%d videos with unknown frames (?) teach their category only", len(teaching))
    useless = [label.video for label in labels if label.is_weak and label not in teaching]
    if useless:
        logger.warning(
            "%d videos with unknown frames (?) are left out of training: %s",
            len(useless),
            named(useless),
        )


def _without_frames(labels: Sequence[VideoLabel], uncounted: set[str]) -> Iterator[VideoLabel]:
    """Yield the labels; of videos whose frames nobody counted only what holds for the whole."""
    if uncounted:
        logger.warning(
            "%d videos whose frames nobody counted teach no scores: %s",
            len(uncounted),
            named(sorted(uncounted)),
        )
    for label in labels:
        if label.video not in uncounted:
            yield label
        elif label.is_abnormal:
            yield replace(label, extent="unknown", intervals=(), times=())
