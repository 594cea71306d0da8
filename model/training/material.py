"""What a training works with: the videos chosen and checked, their features, the categories."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cache import FeatureCache
from data.annotation.alignment import VideoFacts, check_alignment
from data.errors import ModelError
from data.labels import VideoLabel
from model.config import ModelConfig, TrainConfig
from model.features.load import (
    SEGMENT_SLOTS,
    FeatureSet,
    available_streams,
    choose_streams,
    drop_missing,
    has_motion,
    load_features,
    named,
)
from model.features.standardize import Standardizer
from model.training.validation import split_training

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True, kw_only=True)
class Material:
    """The training and validation features and what was derived from them."""

    data: FeatureSet
    val: FeatureSet | None
    standardizer: Standardizer
    categories: tuple[str, ...]
    model: ModelConfig
    """With m resolved."""


def gather_material(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    model: ModelConfig,
    train: TrainConfig,
    streams: Sequence[str] = (),
    skip_missing: bool = False,
    allow_misaligned: bool = False,
) -> Material:
    """Choose and check the videos, load their features, measure the standardisation.

    Args:
        cache: the features.
        labels: of all videos; `test` ones are only checked for leaks.
        model: shape of the network.
        train: for the share and seed of the validation part.
        streams: which to use; default: those that all videos have.
        skip_missing: leave labelled videos out that the cache lacks, instead of refusing.
        allow_misaligned: cut labels that go beyond their video, instead of refusing.

    Raises:
        FeatError: labels and cache do not fit each other, or there is nothing to learn from.
    """
    seen = [label for label in labels if label.split != "test"]
    if not seen:
        raise ModelError("the labels name no video with split 'train'; add some")
    available = available_streams(cache, [label.video for label in labels])
    seen = drop_missing(seen, available, skip_missing=skip_missing)
    tests = [label for label in labels if label.split == "test" and available[label.video]]
    aligned = check_labels(cache, [*seen, *tests], allow_misaligned=allow_misaligned)
    uncounted = set(videos_without_frames(cache, aligned[: len(seen)]))
    if uncounted:
        logger.warning(
            "%d videos whose frames nobody counted teach no scores: %s",
            len(uncounted),
            named(sorted(uncounted)),
        )
    usable = [*_without_frames(aligned[: len(seen)], uncounted)]
    weak = [label for label in usable if _teaches_category_only(label)]
    if weak:
        logger.info("%d videos with unknown frames (?) teach their category only", len(weak))
    train_labels, val_labels = split_training(
        [label for label in usable if label not in weak],
        val_fraction=train.val_fraction,
        seed=train.seed,
    )
    train_labels += weak
    chosen = tuple(streams) or choose_streams(
        {label.video: available[label.video] for label in train_labels + val_labels}
    )
    used = [label.video for label in train_labels + val_labels]
    model = replace(model, motion=model.motion and has_motion(cache, used, chosen))
    data = load_features(cache, train_labels, streams=chosen, motion=model.motion)
    configs = {stream.name: stream.config for stream in data.streams}
    val = None
    if val_labels:
        val = load_features(cache, val_labels, streams=chosen, configs=configs, motion=model.motion)
    dim = data.features.shape[1]
    return Material(
        data=data,
        val=val,
        standardizer=(
            Standardizer.fit(data.features, limit=model.feature_clip)
            if model.standardize
            else Standardizer.identity(dim)
        ),
        categories=tuple(sorted({label.category for label in train_labels if label.category})),
        model=replace(model, clip_slots=model.clip_slots or data.clip_len or SEGMENT_SLOTS),
    )


def check_labels(
    cache: FeatureCache, labels: Sequence[VideoLabel], *, allow_misaligned: bool
) -> list[VideoLabel]:
    """Return the labels after comparing them with what was decoded.

    Args:
        cache: has at least one stream of every video.
        labels: the rows to check.
        allow_misaligned: say what is wrong as a warning, and cut labels that go beyond the end.

    Raises:
        LabelsError: they do not fit, or one content is in two splits.
    """
    facts = {label.video: _facts(cache, label.video) for label in labels}
    report = check_alignment(labels, facts)
    for finding in report.warnings:
        if finding.kind != "split":  # evaluation looks at one split only
            logger.warning("%s", finding)
    if not allow_misaligned:
        report.raise_if_misaligned()
        return list(labels)
    for finding in report.errors:
        logger.warning("%s", finding)
    return [label.clipped(facts[label.video].num_frames) for label in labels]


def videos_without_frames(cache: FeatureCache, labels: Sequence[VideoLabel]) -> list[str]:
    """Return the videos that were imported without a frame count: no frame of them has a score."""
    return [
        label.video
        for label in labels
        if not cache.find(label.video, cache.streams(label.video)[0]).source.num_frames
    ]


def _teaches_category_only(label: VideoLabel) -> bool:
    return label.is_weak and label.split == "train" and bool(label.category)


def _without_frames(labels: Sequence[VideoLabel], uncounted: set[str]) -> Iterator[VideoLabel]:
    """Yield the labels; of videos whose frames nobody counted only what holds for the whole."""
    for label in labels:
        if label.video not in uncounted:
            yield label
        elif label.is_abnormal:
            yield replace(label, extent="unknown", intervals=())


def _facts(cache: FeatureCache, video: str) -> VideoFacts:
    entry = cache.find(video, cache.streams(video)[0])
    decode = entry.config.get("decode")
    fps = decode.get("fps") if isinstance(decode, dict) else None
    return VideoFacts(
        num_frames=entry.source.num_frames,
        sha256=entry.source.sha256,
        partial=entry.source.partial,
        resampled_to=float(fps) if isinstance(fps, int | float) else None,
    )
