"""The threshold of a run: fitted to held-out normal videos, whose scores are kept beside it.

`held-out.safetensors` holds the scores that models gave to normal videos which they had not learnt
from, so that `feat threshold` fits another budget in a moment and without the cache;
`threshold.json` what was fitted to them. A folder of several seeds has its own two.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError
from data.files import write_json
from model.features.load import FeatureSet
from model.measures.budget import (
    AlarmRule,
    FittedThreshold,
    NoThresholdError,
    fit_threshold,
    nth_highest,
)
from model.measures.metrics import THRESHOLD
from model.measures.scores import VideoScores
from model.runs.tensor_file import read_arrays, write_arrays

THRESHOLD_NAME = "threshold.json"
HELD_OUT_NAME = "held-out.safetensors"
KIND = "feat held-out scores"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class NormalVideo:
    """What a model says of a normal video that it has not learnt from."""

    video: str
    scores: NDArray[np.float64]
    """(T,) of its frames, before N of M clips are asked for."""
    first_frames: NDArray[np.int64]
    """(S,) of its clips."""
    frame_rate: float


@dataclass(frozen=True, kw_only=True)
class StoredThreshold:
    """A run's threshold, what it was fitted for and what it can be said to keep."""

    rule: AlarmRule
    fitted: FittedThreshold
    num_videos: int
    """Normal videos it was fitted to."""

    @property
    def value(self) -> float:
        """The threshold."""
        return self.fitted.threshold

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dictionary of JSON types."""
        return {**asdict(self.rule), **asdict(self.fitted), "num_videos": self.num_videos}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StoredThreshold":
        """Read what `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        rule, fitted = (
            {name: kind(values[name]) for name, kind in part.__annotations__.items()}
            for part in (AlarmRule, FittedThreshold)
        )
        found = cls(
            rule=AlarmRule(**rule),
            fitted=FittedThreshold(**fitted),
            num_videos=int(values["num_videos"]),
        )
        if not 0 < found.value <= 1:
            raise ValueError(f"a threshold of {found.value}")
        return found

    def stands_for(self) -> str:
        """Return in a few words what an alarm at it means."""
        clips = f", in {self.rule.needs} of {self.rule.of} clips" if self.rule.of > 1 else ""
        return f"fitted for {self.fitted.claimed_per_hour:.2g} false alarms an hour{clips}"

    def to_text(self) -> str:
        """Return one line for people."""
        fitted = self.fitted
        found = (
            f"threshold {self.value:g}, {self.stands_for()}: {fitted.false_alarms} in "
            f"{fitted.hours:.2g} h of {self.num_videos} normal videos that were held out"
        )
        if fitted.claimed_per_hour > self.rule.per_hour:
            found += (
                f"; so little can show no less than {fitted.claimed_per_hour:.2g} an hour, not the "
                f"{self.rule.per_hour:g} asked for"
            )
        return found


def threshold_words(stored: StoredThreshold | None) -> str:
    """Return a threshold and what it stands for, also that of a run without."""
    if stored is None:
        return f"{THRESHOLD:g}, no threshold was fitted"
    return f"{stored.value:g}, {stored.stands_for()}"


def normal_videos(answer: VideoScores, data: FeatureSet) -> list[NormalVideo]:
    """Return the scores of those videos that are normal and whose frames are known."""
    return [
        NormalVideo(
            video=label.video,
            scores=answer.frames[index],
            first_frames=data.start_frame[data.rows(index)],
            frame_rate=float(data.frame_rate[index]),
        )
        for index, label in enumerate(data.labels)
        if not label.is_abnormal and len(answer.frames[index])
    ]


def apply_rule(
    scores: Sequence[NDArray[np.float64]],
    first_frames: Sequence[NDArray[np.int64]],
    rule: AlarmRule,
) -> list[NDArray[np.float64]]:
    """Return scores that reach a threshold where N of M clips do, video by video."""
    return [
        nth_highest(one, first, needs=rule.needs, of=rule.of)
        for one, first in zip(scores, first_frames, strict=True)
    ]


def fit_stored(held: Sequence[NormalVideo], rule: AlarmRule) -> StoredThreshold:
    """Return the threshold of a rule.

    Raises:
        NoThresholdError: the videos give none.
    """
    if not held:
        raise NoThresholdError(
            "no held-out normal video: give some the split val (or hold some out, if the method "
            "has a setting held_out or val_fraction)"
        )
    scores = apply_rule([one.scores for one in held], [one.first_frames for one in held], rule)
    rates = [one.frame_rate for one in held]
    return StoredThreshold(
        rule=rule, fitted=fit_threshold(scores, rates, rule.per_hour), num_videos=len(held)
    )


def store_threshold(run: Path, held: Sequence[NormalVideo], rule: AlarmRule) -> StoredThreshold:
    """Fit the threshold of a run and write it into its folder, with what it was fitted to.

    Raises:
        NoThresholdError: the videos give none; the scores are kept all the same.
        ModelError: a file cannot be written.
    """
    write_arrays(
        run / HELD_OUT_NAME,
        KIND,
        {
            "videos": [one.video for one in held],
            "num_frames": [len(one.scores) for one in held],
            "num_clips": [len(one.first_frames) for one in held],
            "frame_rate": [one.frame_rate for one in held],
        },
        {
            "scores": np.concatenate([np.zeros(0), *(one.scores for one in held)]),
            "first_frames": np.concatenate(
                [np.zeros(0, np.int64), *(one.first_frames for one in held)]
            ),
        },
    )
    (run / THRESHOLD_NAME).unlink(missing_ok=True)
    stored = fit_stored(held, rule)
    write_json(run / THRESHOLD_NAME, {"format": FORMAT, **stored.to_dict()})
    return stored


def read_held_out(run: Path) -> list[NormalVideo] | None:
    """Return the held-out scores of a run; None for a run that has kept none.

    Raises:
        ModelError: the file is damaged.
    """
    path = run / HELD_OUT_NAME
    if not path.is_file():
        return None
    try:
        told, arrays = read_arrays(path, KIND)
        scores = np.split(arrays["scores"], np.cumsum(told["num_frames"], dtype=np.int64)[:-1])
        firsts = np.split(arrays["first_frames"], np.cumsum(told["num_clips"], dtype=np.int64)[:-1])
        rows = zip(told["videos"], scores, firsts, told["frame_rate"], strict=False)
        return [
            NormalVideo(video=str(video), scores=one, first_frames=first, frame_rate=float(rate))
            for video, one, first, rate in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise ModelError(
            f"{path}: its scores cannot be read: {what:.200}; train again for a "
            "threshold, or remove it and do without one"
        ) from error


def read_threshold(run: Path) -> StoredThreshold | None:
    """Return the threshold of a run, or of several seeds; None if none was fitted.

    Raises:
        ModelError: the file says something else.
    """
    path = run / THRESHOLD_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']}, this build reads {FORMAT}")
        return StoredThreshold.from_dict(values)
    except (OSError, KeyError, TypeError, ValueError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(
            f"{path}: not a threshold: {what:.200}; run `feat threshold {quote(str(run))}` to fit "
            "it again"
        ) from error


def check_threshold(run: Path) -> None:
    """Refuse files that are damaged, and a threshold that is not the one of the scores kept.

    Raises:
        ModelError: names the file.
    """
    held, stored = read_held_out(run), read_threshold(run)
    if stored is None:
        return
    try:
        is_same = held is not None and fit_stored(held, stored.rule) == stored
    except NoThresholdError:
        is_same = False
    if not is_same:
        raise ModelError(
            f"{run / THRESHOLD_NAME}: not what the scores in {HELD_OUT_NAME} give; run "
            f"`feat threshold {quote(str(run))}` to fit it again"
        )


def mean_of_seeds(seeds: Sequence[Sequence[NormalVideo]]) -> list[NormalVideo]:
    """Return each video with the mean scores of the seeds that held it out."""
    by_name: dict[str, list[NormalVideo]] = {}
    for one in (video for held in seeds for video in held):
        by_name.setdefault(one.video, []).append(one)
    return [
        NormalVideo(
            video=name,
            scores=np.mean([one.scores for one in each], axis=0),
            first_frames=each[0].first_frames,
            frame_rate=each[0].frame_rate,
        )
        for name, each in sorted(by_name.items())
    ]
