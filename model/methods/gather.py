"""From labels and a cache to what a method may see: its supervision decides, not its code."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cache import FeatureCache
from cache.records import FLOW_STATS
from data.errors import ModelError
from data.labels import Split, VideoLabel
from data.splits.protocols import apply_protocol
from model.features.load import (
    FeatureSet,
    StreamFeatures,
    available_streams,
    choose_streams,
    drop_missing,
    load_features,
    named,
)
from model.methods.base import Clips, Material, Method
from model.training.material import check_labels

logger = logging.getLogger(f"feat.{__name__}")


def gather(
    method: Method,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    streams: Sequence[str] = (),
    skip_missing: bool = False,
    allow_misaligned: bool = False,
) -> Material:
    """Return the training and validation clips, with what the method may see of their labels.

    Args:
        method: what they are for.
        cache: the features.
        labels: of all videos; `test` ones are only checked for leaks.
        streams: which to put side by side; default: those that all videos have.
        skip_missing: leave labelled videos out that the cache lacks, instead of refusing.
        allow_misaligned: cut labels that go beyond their video, instead of refusing.

    Raises:
        FeatError: labels and cache do not fit each other, or nothing is left to learn from.
    """
    visible = sorted(_visible(method, labels), key=lambda label: label.video)
    seen = [label for label in visible if label.split != "test"]
    if not any(label.split == "train" for label in seen):
        raise ModelError(
            f"the labels name no video with split 'train' that {method.name} can learn from"
        )
    available = available_streams(cache, [label.video for label in visible])
    seen = drop_missing(seen, available, skip_missing=skip_missing)
    tests = [label for label in visible if label.split == "test" and available[label.video]]
    # No method here learns categories: without them nothing is said of those that are rare.
    plain = [replace(label, category="") for label in (*seen, *tests)]
    aligned = check_labels(cache, plain, allow_misaligned=allow_misaligned)
    parts: dict[Split, list[VideoLabel]] = {
        split: [label for label in aligned if label.split == split] for split in ("train", "val")
    }
    chosen = tuple(streams) or choose_streams(
        {label.video: available[label.video] for label in seen}
    )
    train = load_clips(method, cache, load_features(cache, parts["train"], streams=chosen))
    if not parts["val"]:
        return Material(train=train, val=None)
    configs = {stream.name: stream.config for stream in train.data.streams}
    val = load_features(cache, parts["val"], streams=chosen, configs=configs)
    return Material(train=train, val=load_clips(method, cache, val))


def load_clips(method: Method, cache: FeatureCache, data: FeatureSet) -> Clips:
    """Return the clips of loaded features with whatever else the method looks at.

    Raises:
        ModelError: it looks at the flow's statistics, and the cache has none.
    """
    if not method.uses_flow_stats:
        return Clips(data=data)
    flow = next((stream for stream in data.streams if stream.name == "flow"), None)
    if flow is None:
        raise ModelError(
            f"{method.name} needs the stream flow, the cache has "
            f"{', '.join(stream.name for stream in data.streams)}; run `feat extract`"
        )
    stats = [_flow_stats(cache, label.video, flow) for label in data.labels]
    return Clips(data=data, flow_stats=np.concatenate(stats))


def _flow_stats(
    cache: FeatureCache, video: str, flow: StreamFeatures
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    stats = cache.read_record(cache.find(video, "flow", flow.config).key).flow_stats
    if stats is None:
        raise ModelError(
            f"{video}: its flow features come without {', '.join(FLOW_STATS)}; extract it again"
        )
    return stats


def _visible(method: Method, labels: Sequence[VideoLabel]) -> list[VideoLabel]:
    """Return the labels as the method's supervision has them."""
    if method.supervision != "fully":
        return apply_protocol(labels, method.supervision)
    weak = [label.video for label in labels if label.is_weak and label.split != "test"]
    if weak:
        logger.warning(
            "%d videos with unknown frames (?) are left out of training: %s", len(weak), named(weak)
        )
    return [label for label in labels if not label.is_weak or label.split == "test"]
