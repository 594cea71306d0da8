"""A run's reference: clips of its training videos, to tell what another clip is like, and how far.

The distance of two clips is the root mean square difference of their features, in standard
deviations of the training set. A method has no part in it, so that it is the same for each.

A video is far from the training videos if it is clearly farther from them than they are from each
other. For each of them the distances of its clips to the nearest clip of another one are measured,
and the limit is a high quantile of their medians and a tenth more. A video that is drawn as the
training videos were has a median as likely as any of theirs to be among the highest, whatever the
features are, so that without the tenth 1 - `QUANTILE` of such videos, or 1 / (V + 1) of V videos
where that is more, would be called far (conformal prediction: Vovk et al. 2005, Algorithmic
Learning in a Random World). The tenth is for test videos of the same cameras on another day, with
anomalies that normal training videos do not have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError
from model.features.load import FeatureSet
from model.features.standardize import BLOCK_ROWS, Standardizer
from model.methods.base import video_targets
from model.runs.folder import REFERENCE_NAME
from model.runs.tensor_file import read_arrays, write_arrays

KIND = "feat reference"
MAX_CLIPS = 2000
"""Kept of all training videos together, as evenly as their lengths allow; one a video at least."""
MAX_VIDEO_CLIPS = 32
"""Of a video that is held against them, evenly spread."""
MAX_DEVIATIONS = 10.0
"""Standardised features are clamped to it: one that hardly varied in training shall not decide."""
STEP = MAX_DEVIATIONS / 127
"""Of the standardised features kept, a byte each; a distance over a thousand is right to 0.002."""
QUANTILE = 0.95
MARGIN = 1.1
MIN_VIDEOS = 5
"""Training videos below which nothing is said to be far."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training clip, and how far another clip is from it."""

    video: str
    sha256: str
    """Of the training video's content."""
    start_frame: int
    end_frame: int
    frame_rate: float
    """0: unknown."""
    abnormal: float
    """Share of its frames that are labelled abnormal; NaN where the method knew of the video as a
    whole only that it is abnormal."""
    distance: float


@dataclass(frozen=True, kw_only=True)
class Distance:
    """How far a video is from the training videos."""

    median: float
    """Over its clips, of the distance to the nearest training clip."""
    limit: float
    """Of the median of a video that is not far."""
    share: float
    """Of its clips, those farther than the limit."""

    @property
    def is_far(self) -> bool:
        """Whether the video is far."""
        return self.median > self.limit

    def to_text(self) -> str:
        """Return it in words."""
        return (
            f"{self.share:.0%} of its clips are farther than {self.limit:.2f} from every training "
            f"clip (median {self.median:.2f}), the training videos are nearer to each other"
        )


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Clips of V training videos, n in all, video after video."""

    videos: tuple[str, ...]
    sha256: tuple[str, ...]
    """Of the videos' contents."""
    frame_rate: NDArray[np.float64]
    """(V,); 0: unknown."""
    video: NDArray[np.int64]
    """(n,) index of each clip's video."""
    start_frame: NDArray[np.int64]
    """(n,)."""
    end_frame: NDArray[np.int64]
    """(n,)."""
    abnormal: NDArray[np.float32]
    """(n,) share of abnormal frames, NaN: unknown."""
    clips: NDArray[np.int8]
    """(n, D) standardised features, in steps of `STEP`."""
    standardizer: Standardizer
    limit: float
    """Of the distance of a video that is not far; infinite: too few training videos to tell."""

    def distance(self, features: NDArray[np.float32], *, sha256: str = "") -> Distance | None:
        """Return how far a video is; None if the training videos were too few to tell.

        Args:
            features: (S, D) of its clips, as cached.
            sha256: of its content, which is not compared with itself.
        """
        others = self._others(sha256)
        if not math.isfinite(self.limit) or not others.any():
            return None
        clips = features[_spread(len(features), MAX_VIDEO_CLIPS)]
        found = self._distances(clips)[:, others].min(axis=1)
        return Distance(
            median=float(np.median(found)),
            limit=self.limit,
            share=float((found > self.limit).mean()),
        )

    def neighbours(
        self, feature: NDArray[np.float32], *, count: int, sha256: str = ""
    ) -> list[Neighbour]:
        """Return the nearest training clips, nearest first, each of another video.

        Neighbouring clips of one video are much alike: several of them would tell no more.

        Args:
            feature: (D,) of a clip, as cached.
            count: clips at most.
            sha256: of its video's content, whose own clips do not count.
        """
        others = np.flatnonzero(self._others(sha256))
        found = self._distances(feature[None])[0, others]
        order = np.argsort(found, kind="stable")
        _, first = np.unique(self.video[others[order]], return_index=True)
        return [
            Neighbour(
                video=self.videos[self.video[clip]],
                sha256=self.sha256[self.video[clip]],
                start_frame=int(self.start_frame[clip]),
                end_frame=int(self.end_frame[clip]),
                frame_rate=float(self.frame_rate[self.video[clip]]),
                abnormal=float(self.abnormal[clip]),
                distance=float(found[place]),
            )
            for place in order[np.sort(first)[:count]]
            for clip in (others[place],)
        ]

    def _others(self, sha256: str) -> NDArray[np.bool_]:
        """Return (n,) whether a clip is of another content."""
        return np.array([own != sha256 for own in self.sha256])[self.video]

    @cached_property
    def _points(self) -> "_Points":
        return _Points.of(self.clips)

    def _distances(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (m, n) how far (m, D) clips, as cached, are from the training clips."""
        return self._points.distances(self.standardizer.apply(features))


def make_reference(parts: Sequence[FeatureSet]) -> Reference:
    """Return the reference of training videos.

    Args:
        parts: their features; the first gives means and deviations.
    """
    fitted = Standardizer.fit(parts[0].features)
    standardizer = Standardizer(mean=fitted.mean, std=fitted.std, limit=MAX_DEVIATIONS)
    quota = _quota(np.concatenate([np.diff(part.first_clip) for part in parts]))
    # each video with those of its rows that are kept
    picked = [
        (part, v, part.first_clip[v] + _spread(int(np.diff(part.first_clip)[v]), quota))
        for part in parts
        for v in range(len(part.labels))
    ]
    clips = np.concatenate(
        [np.rint(standardizer.apply(part.features[kept]) / STEP) for part, _, kept in picked]
    ).astype(np.int8)
    video = np.repeat(np.arange(len(picked)), [len(kept) for *_, kept in picked])
    return Reference(
        videos=tuple(label.video for part in parts for label in part.labels),
        sha256=tuple(sha for part in parts for sha in part.sha256),
        frame_rate=np.concatenate([part.frame_rate for part in parts]),
        video=video,
        start_frame=np.concatenate([part.start_frame[kept] for part, _, kept in picked]),
        end_frame=np.concatenate([part.end_frame[kept] for part, _, kept in picked]),
        abnormal=np.concatenate(
            [_abnormal_shares(part, v)[kept - part.first_clip[v]] for part, v, kept in picked]
        ),
        clips=clips,
        standardizer=standardizer,
        limit=_limit(_Points.of(clips), video),
    )


def write_reference(run: Path, reference: Reference) -> None:
    """Write the reference of a run folder; the file appears only when it is whole."""
    write_arrays(
        run / REFERENCE_NAME,
        KIND,
        {
            "videos": list(reference.videos),
            "sha256": list(reference.sha256),
            "limit": reference.limit if math.isfinite(reference.limit) else None,
        },
        {
            **{name: getattr(reference, name) for name in _ARRAYS},
            "mean": reference.standardizer.mean,
            "std": reference.standardizer.std,
        },
    )


def read_reference(run: Path) -> Reference | None:
    """Return the reference of a run folder, None if it has none, as an imported run.

    Raises:
        ModelError: the file is damaged or of another build.
    """
    path = run / REFERENCE_NAME
    if not path.is_file():
        return None
    try:
        described, arrays = read_arrays(path, KIND)
        limit = described["limit"]
        return Reference(
            videos=tuple(described["videos"]),
            sha256=tuple(described["sha256"]),
            standardizer=Standardizer(mean=arrays["mean"], std=arrays["std"], limit=MAX_DEVIATIONS),
            limit=math.inf if limit is None else float(limit),
            **{name: arrays[name] for name in _ARRAYS},
        )
    except (KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise ModelError(
            f"{path}: not a reference this build can read: {what:.300}; put the file back, or "
            "remove it to go without nearest training clips"
        ) from error


_ARRAYS = ("frame_rate", "video", "start_frame", "end_frame", "abnormal", "clips")


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Standardised features (n, D), and the sum (n,) of the squares of each row."""

    features: NDArray[np.float32]
    squares: NDArray[np.float32]

    @classmethod
    def of(cls, clips: NDArray[np.int8]) -> "_Points":
        """Return those that are kept as a byte each."""
        features = clips * np.float32(STEP)
        return cls(features=features, squares=np.square(features).sum(axis=1))

    def distances(self, others: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (m, n) root mean square differences to (m, D) standardised features."""
        squares: NDArray[np.float32] = others @ self.features.T
        squares *= -2
        squares += np.square(others).sum(axis=1)[:, None]
        squares += self.squares
        # where two are equal, rounding may leave less than nothing
        return np.sqrt(np.maximum(squares, 0) / np.float32(others.shape[1]))


def _limit(points: _Points, video: NDArray[np.int64]) -> float:
    """Return `MARGIN` times the quantile of how far each video is from the others."""
    count = int(video[-1]) + 1
    if count < MIN_VIDEOS:
        return math.inf
    found = np.empty(len(video), np.float32)
    for first in range(0, len(video), BLOCK_ROWS):
        block = slice(first, first + BLOCK_ROWS)
        distances = points.distances(points.features[block])
        distances[video[block, None] == video] = np.inf
        found[block] = distances.min(axis=1)
    edges = np.searchsorted(video, np.arange(1, count))
    medians = np.sort([np.median(part) for part in np.split(found, edges)])
    place = min(math.ceil((count + 1) * QUANTILE), count) - 1
    return float(MARGIN * medians[place])


def _quota(counts: NDArray[np.int64]) -> int:
    """Return the most clips of each video that keep all within `MAX_CLIPS`, or 1."""
    quota = 1
    while quota < counts.max() and np.minimum(counts, quota + 1).sum() <= MAX_CLIPS:
        quota += 1
    return quota


def _spread(count: int, wanted: int) -> NDArray[np.int64]:
    """Return at most `wanted` of `count` rows, evenly spread."""
    if count <= wanted:
        return np.arange(count)
    return ((np.arange(wanted) + 0.5) * count / wanted).astype(np.int64)


def _abnormal_shares(data: FeatureSet, video: int) -> NDArray[np.float32]:
    """Return (S,) the share of abnormal frames of a video's clips; NaN where it is unknown."""
    label = data.labels[video]
    if label.is_weak:
        return np.full(int(np.diff(data.first_clip)[video]), np.nan, np.float32)
    return video_targets(data, video, label).astype(np.float32)
