"""What a report shows of a video beside its curve, to tell why it was scored so.

Pictures at the peaks and at the worst errors, as far as the cache holds thumbnails; the nearest
training clips to the peak; and a warning where a video is far from the training videos. `feat eval`
leaves it as `why.json`, so that `feat report` needs no cache.
"""

import base64
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import ClipTable, FeatureCache
from cache.streams import THUMBNAILS
from data.errors import CacheError, ShardError, StorageError
from data.visible import visible
from model.features.load import FeatureSet
from model.measures.detection import count_alarms
from model.measures.metrics import THRESHOLD, VideoResult
from model.measures.peaks import highest_peaks
from model.runs.reference import Neighbour, Reference

logger = logging.getLogger(f"feat.{__name__}")

WHY_NAME = "why.json"
MAX_PICTURES = 3
"""A video."""
NUM_NEIGHBOURS = 3
MAX_IMAGE_BYTES = 64_000
"""Larger ones are no thumbnails."""
PAGE_BYTES = 8_000_000
"""Of all pictures in a page, as text: with curves at their most it stays under 20 MB."""


def explain_videos(
    results: Sequence[VideoResult],
    data: FeatureSet,
    cache: FeatureCache,
    reference: Reference | None,
) -> dict[str, Any]:
    """Return what `why.json` holds, as JSON types.

    Args:
        results: of V videos.
        data: their features.
        cache: where thumbnails are looked for, of these videos and of those trained on.
        reference: of the run; None if it has none.

    Returns:
        `cards`, one for each video; `images`, data URIs that they name by number; `is_full`:
        there was no room for all.
    """
    images = _Images(cache)
    cards: list[dict[str, Any]] = [{}] * len(results)
    for index in _worst_first(results):
        result, rows, sha256 = results[index], data.rows(index), data.sha256[index]
        cards[index] = {
            "pictures": _pictures(result, sha256, images),
            "neighbours": [],
            "far": None,
        }
        if reference is None:
            continue
        distance = reference.distance(data.features[rows], sha256=sha256)
        if distance and distance.is_far:
            cards[index]["far"] = distance.to_text()
        if not result.is_counted:
            continue
        peak = int(result.scores.argmax())
        clip = rows.start + _clip_at(data.start_frame[rows], data.end_frame[rows], peak)
        cards[index]["neighbours"] = [
            _neighbour(one, images)
            for one in reference.neighbours(
                data.features[clip], count=NUM_NEIGHBOURS, sha256=sha256
            )
        ]
    return {"images": images.texts, "cards": cards, "is_full": images.is_full}


def far_videos(why: Mapping[str, Any]) -> list[bool]:
    """Return whether each video is far from the training videos."""
    return [bool(card["far"]) for card in why["cards"]]


def remarks(why: Mapping[str, Any]) -> list[str]:
    """Return sentences about all cards."""
    cards, words = why["cards"], []
    if count := sum(far_videos(why)):
        words.append(
            f"{count} of {len(cards)} videos are far from the training videos: their scores may "
            "mean little."
        )
    if why["is_full"]:
        shown = sum(bool(card["pictures"]) for card in cards)
        words.append(
            f"The page has room for pictures of the {shown} worst of {len(cards)} videos only."
        )
    return words


def read_why(folder: Path) -> dict[str, Any] | None:
    """Return what `explain_videos` gave at an evaluation; None if that left nothing of it.

    Raises:
        OSError, ValueError: the file cannot be read.
    """
    path = folder / WHY_NAME
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _worst_first(results: Sequence[VideoResult]) -> list[int]:
    """Return the videos in the order in which the page shows them first."""
    counts = count_alarms(results)
    mistakes = counts.false_alarms + counts.missed
    wrong = [
        0.0 if r.labels is None else float(((r.scores >= THRESHOLD) != r.labels).mean())
        for r in results
    ]
    return sorted(range(len(results)), key=lambda index: (-mistakes[index], -wrong[index]))


def _pictures(result: VideoResult, sha256: str, images: "_Images") -> list[dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for frame, what in _moments(result):
        shown = images.at(sha256, frame)
        if shown and len(found) < MAX_PICTURES:
            found.setdefault(shown[0], {"frame": frame, "what": what, "image": shown[1]})
    return sorted(found.values(), key=lambda picture: int(picture["frame"]))


def _moments(result: VideoResult) -> list[tuple[int, str]]:
    """Return frames worth a look, the most telling first: the peak, errors, further peaks."""
    scores, labels = result.scores, result.labels
    if not result.is_counted:
        return []
    peaks = highest_peaks(
        scores, max_peaks=MAX_PICTURES, min_distance=max(1, len(scores) // (2 * MAX_PICTURES))
    )
    peaks.sort(key=lambda frame: -scores[frame])
    if labels is None:
        return [(frame, "peak") for frame in peaks]
    first, *others = [(f, f"peak, labelled {'abnormal' if labels[f] else 'normal'}") for f in peaks]
    errors = []
    normal = np.where(labels == 0, scores, -np.inf)
    abnormal = np.where(labels == 1, scores, np.inf)
    if normal.max() >= THRESHOLD:
        errors.append((int(normal.argmax()), "highest of the frames labelled normal"))
    if abnormal.min() < THRESHOLD:
        errors.append((int(abnormal.argmin()), "lowest of the frames labelled abnormal"))
    return [first, *errors, *others]


def _neighbour(one: Neighbour, images: "_Images") -> dict[str, Any]:
    if math.isnan(one.abnormal):
        label = "in an abnormal video"
    else:
        label = "abnormal" if one.abnormal else "normal"
    shown = images.at(one.sha256, (one.start_frame + one.end_frame - 1) // 2)
    return {
        "video": visible(one.video),
        "frame": one.start_frame,
        "seconds": round(one.start_frame / one.frame_rate, 3) if one.frame_rate else None,
        "label": label,
        "distance": round(one.distance, 4),
        "image": shown[1] if shown else None,
    }


def _clip_at(start: NDArray[np.int64], end: NDArray[np.int64], frame: int) -> int:
    """Return the clip whose middle is nearest to a frame."""
    return int(np.abs(start + end - 1 - 2 * frame).argmin())


class _Images:
    """The pictures of a page, each once, as long as there is room."""

    def __init__(self, cache: FeatureCache) -> None:
        self.texts: list[str] = []
        self.is_full = False
        self._cache = cache
        self._numbers: dict[tuple[str, int], int] = {}
        self._room = PAGE_BYTES
        self._thumbnails = lru_cache(maxsize=64)(self._read)

    def at(self, sha256: str, frame: int) -> tuple[int, int] | None:
        """Return the clip of a frame, and the number of its picture; None if it has none.

        Args:
            sha256: of the video's content.
            frame: of the video.
        """
        found = None if self.is_full else self._thumbnails(sha256)
        if found is None:
            return None
        clips, strings = found
        clip = _clip_at(clips.start_frame, clips.end_frame, frame)
        key = (sha256, clip)
        if key not in self._numbers:
            text = _data_uri(strings[clip])
            if not text:
                return None
            self.is_full = len(text) > self._room
            if self.is_full:
                return None
            self._room -= len(text)
            self._numbers[key] = len(self.texts)
            self.texts.append(text)
        return clip, self._numbers[key]

    def _read(self, sha256: str) -> tuple[ClipTable, list[bytes]] | None:
        try:
            entries = self._cache.find_all(sha256, THUMBNAILS)
            keys = [entry.key for entry in entries if entry.kind == "images"]
            if not keys:
                return None
            record = self._cache.read_record(keys[0])
        except (ShardError, StorageError) as error:
            logger.warning("no pictures of a video: %s", error)
            return None
        except CacheError:  # a training video that this cache does not have
            return None
        return record.clips, record.strings()


def _data_uri(image: bytes) -> str:
    """Return an encoded picture as the page holds it; empty if it is no small JPEG or WebP."""
    if len(image) > MAX_IMAGE_BYTES:
        return ""
    if image.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif image.startswith(b"RIFF") and image[8:12] == b"WEBP":
        kind = "webp"
    else:
        return ""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"
