"""Rules by which one-class papers change scores before they measure them.

Each test video is min-max normalised, with its own highest and lowest score and so with its future,
and its first frames, which a prediction from the frames before cannot score, are left out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data.errors import ModelError
from model.features.choose import named
from model.measures.metrics import VideoResult

Normalise = Literal["none", "video", "global"]
NORMALISATIONS: tuple[Normalise, ...] = get_args(Normalise)
NO_THRESHOLD = "a threshold fitted to scores as they are means nothing for normalised ones"
CONSTANT = 10 * np.finfo(np.float64).eps
"""Scores that differ by no more are rounding of one number (scikit-learn's bound, too)."""


@dataclass(frozen=True, kw_only=True)
class ScoreRule:
    """What is done to the frame scores of test videos before they are measured."""

    normalise: Normalise = "none"
    """`video`: each video's scores to [0, 1]; `global`: those of all videos together."""
    drop_first: int = 0
    """Frames at the beginning of each video that are not scored; normalised is what is left."""

    def __post_init__(self) -> None:
        if self.normalise not in NORMALISATIONS or self.drop_first < 0:
            raise ValueError(f"no rule for scores: {self.to_dict()}")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return asdict(self)

    @property
    def suffix(self) -> str:
        """What measures by this rule have behind their names, such as `_video_drop4`."""
        parts = [self.normalise] if self.normalise != "none" else []
        return "".join(f"_{part}" for part in [*parts, *self._drop(f"drop{self.drop_first}")])

    @property
    def title(self) -> str:
        """The rule in a few words; none for the one that changes nothing."""
        words = {"none": [], "video": ["min-max in each video"], "global": ["min-max over all"]}
        dropped = self._drop(f"first {self.drop_first} frames dropped")
        return ", ".join([*words[self.normalise], *dropped])

    def note(self) -> str:
        """Return what the rule does and what its measures are worth."""
        parts: list[str] = {
            "none": [],
            "video": [
                "video: the scores of each video go from 0 to 1 by its own lowest and highest, "
                "which are known only when it has ended; constant scores are 0. Every other video "
                "reaches 1, normal ones too, so that 0.5 means half-way within a video."
            ],
            "global": [
                "global: the scores of all videos together go from 0 to 1. Their order stays, and "
                "with it AUC and average precision; what changes is the meaning of 0.5."
            ],
        }[self.normalise]
        parts += self._drop(f"The first {self.drop_first} frames of each video are not scored.")
        return " ".join([*parts, "Results are the numbers of the scores as they are (none)."])

    def apply(self, results: Sequence[VideoResult]) -> list[VideoResult]:
        """Return results with the scores that the rule makes of theirs.

        Raises:
            ModelError: a video has no more frames than are to be dropped.
        """
        short = [r for r in results if r.is_counted and len(r.scores) <= self.drop_first]
        if short and self.drop_first:
            raise ModelError(
                f"no frame is left of {len(short)} videos without their first {self.drop_first}: "
                f"{named([result.video for result in short])}; --drop-first must be less than "
                f"{min(len(result.scores) for result in short)}"
            )
        kept = [
            replace(
                result,
                scores=result.scores[self.drop_first :],
                labels=None if result.labels is None else result.labels[self.drop_first :],
            )
            for result in results
        ]
        if self.normalise == "none":
            return kept
        bounds = [_bounds([result.scores]) for result in kept]
        if self.normalise == "global":
            bounds = [_bounds([result.scores for result in kept])] * len(kept)
        return [
            replace(result, scores=_min_max(result.scores, *each))
            for result, each in zip(kept, bounds, strict=True)
        ]

    def _drop(self, words: str) -> list[str]:
        return [words] if self.drop_first else []


def _bounds(parts: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """Return the lowest and the highest of some scores; 0 and 0 of none."""
    scores = np.concatenate([np.zeros(0), *parts])
    return (float(scores.min()), float(scores.max())) if len(scores) else (0.0, 0.0)


def _min_max(scores: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return (T,) scores, 0 at `low` and 1 at `high`."""
    span = high - low
    return (scores - low) / span if span > CONSTANT else np.zeros_like(scores)
