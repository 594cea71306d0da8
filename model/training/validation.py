"""Which videos are trained on and which select the model. Test videos never do either."""

import logging
from collections.abc import Sequence

import numpy as np

from data.errors import ModelError
from data.labels import VideoLabel
from model.features.load import named

logger = logging.getLogger(f"feat.{__name__}")


def split_training(
    labels: Sequence[VideoLabel], *, val_fraction: float, seed: int
) -> tuple[list[VideoLabel], list[VideoLabel]]:
    """Return the videos to train on and those that select the model.

    The latter are the labels' `val` videos if there are any, else a seeded share of the training
    videos, taken from abnormal and normal ones alike. Weak (`?`) videos are left out of both:
    their frames have no labels to learn from.

    Args:
        labels: all rows; `test` ones are not looked at.
        val_fraction: share to hold out; at least one video of each kind that has more than one.
        seed: of the choice.

    Raises:
        ModelError: nothing to train on, or no frame of one of the two kinds.
    """
    weak = [label.video for label in labels if label.is_weak and label.split != "test"]
    if weak:
        logger.warning(
            "%d videos with unknown frames (?) are left out of training: %s", len(weak), named(weak)
        )
    usable = sorted((label for label in labels if not label.is_weak), key=lambda row: row.video)
    train = [label for label in usable if label.split == "train"]
    val = [label for label in usable if label.split == "val"]
    if not val:
        train, val = _hold_out(train, val_fraction, np.random.default_rng((seed, 1)))
    abnormal = sum(label.is_abnormal for label in train)
    if abnormal == 0 or all(label.extent == "all" for label in train):
        raise ModelError(
            f"{len(train)} training videos, {abnormal} of them with known abnormal frames: the "
            "model needs both abnormal and normal frames; add rows with split 'train' to the labels"
        )
    return train, val


def _hold_out(
    labels: Sequence[VideoLabel], fraction: float, rng: np.random.Generator
) -> tuple[list[VideoLabel], list[VideoLabel]]:
    held: set[str] = set()
    for kind in (True, False):
        videos = [label.video for label in labels if label.is_abnormal == kind]
        count = min(max(round(fraction * len(videos)), 1), len(videos) - 1) if fraction else 0
        held.update(rng.permutation(videos)[: max(count, 0)].tolist())
    return (
        [label for label in labels if label.video not in held],
        [label for label in labels if label.video in held],
    )
