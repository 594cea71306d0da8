"""Logistic regression per clip, shared by the trivial methods: they differ in what they look at."""

import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from data.errors import ModelError
from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.features.standardize import Standardizer
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, Parameters, clip_targets
from model.training.session import FitSession

logger = logging.getLogger(f"feat.{__name__}")

FOLDS = 3
MAX_ITERATIONS = 300
# At this many values a clip the solver needs single precision to be quick, and can do with it.
Inputs = NDArray[np.float32]
Targets = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LinearMethod(Method):
    """A logistic regression; a method says what of a clip it looks at. The seed does nothing."""

    supervision: ClassVar[Supervision] = "fully"
    is_random: ClassVar[bool] = False

    penalties: tuple[float, ...]
    """Candidates for C, ascending."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("penalties", all(c > 0 for c in self.penalties), "values above 0")
        self._require("penalties", bool(self.penalties), "at least one value")

    @abstractmethod
    def inputs(self, data: FeatureSet) -> Inputs:
        """Return (N, d): what it looks at."""

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Fit to the share of abnormal frames of each clip."""
        train, val = material.train, material.val
        return Fitted(
            parameters=fit_linear(
                self.inputs(train),
                clip_targets(train),
                train.video_of,
                penalties=self.penalties,
                val=(self.inputs(val), clip_targets(val)) if val else None,
            )
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the probability that a frame of the clip is abnormal."""
        return ClipScores(slots=score_linear(fitted.parameters, self.inputs(data)))


def fit_linear(
    inputs: Inputs,
    targets: Targets,
    videos: NDArray[np.int64],
    *,
    penalties: Sequence[float],
    val: tuple[Inputs, Targets] | None = None,
) -> dict[str, NDArray[Any]]:
    """Return the parameters of a standardised logistic regression.

    Args:
        inputs: (N, d) of the training clips.
        targets: (N,) share of abnormal frames of each; a clip counts in both classes, by that.
        videos: (N,) which video each clip is of: cross-validation divides no video.
        penalties: candidates for C, ascending. Of several the one with the highest clip-level AUC
            is taken, on `val` or, without it, on the left-out parts of a 3-fold cross-validation.
        val: inputs and targets of the clips that select.

    Raises:
        ModelError: the targets hold one class only.
    """
    if not (targets > 0).any() or not (targets < 1).any():
        raise ModelError(
            "the training videos need both abnormal and normal frames; add rows with split 'train'"
        )
    chosen = penalties[0]
    if len(penalties) > 1:
        parts = [(inputs, targets, *val)] if val else _folds(inputs, targets, videos)
        quality = np.mean([_qualities(*part, penalties) for part in parts], axis=0)
        chosen = penalties[int(np.argmax(quality))]
        logger.info("C = %g of %s, by validation", chosen, ", ".join(f"{c:g}" for c in penalties))
    standardizer = Standardizer.fit(inputs)
    model = _fit(standardizer.apply(inputs), targets, chosen)
    return {
        "mean": standardizer.mean,
        "std": standardizer.std,
        "weights": np.asarray(model.coef_[0], np.float64),
        "bias": np.asarray(model.intercept_, np.float64),
        "penalty": np.array([chosen]),
    }


def score_linear(parameters: Parameters, inputs: Inputs) -> NDArray[np.float64]:
    """Return (N,) probabilities."""
    standardizer = Standardizer(mean=parameters["mean"], std=parameters["std"])
    logits = standardizer.apply(inputs) @ parameters["weights"] + parameters["bias"]
    return np.asarray(expit(logits), np.float64)


def _folds(
    inputs: Inputs, targets: Targets, videos: NDArray[np.int64]
) -> Iterator[tuple[Inputs, Targets, Inputs, Targets]]:
    """Yield fitting and left-out parts in which both classes occur."""
    classes = targets > 0
    folds = min(FOLDS, *(len(np.unique(videos[classes == kind])) for kind in (True, False)))
    if folds < 2:
        raise ModelError(
            "only one training video with abnormal, or with normal, frames: C cannot be chosen; "
            "add videos or give the labels `val` ones"
        )
    divide = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
    for fit, left in divide.split(inputs, classes, videos):
        if all(len(np.unique(classes[part])) == 2 for part in (fit, left)):
            yield inputs[fit], targets[fit], inputs[left], targets[left]


def _qualities(
    inputs: Inputs,
    targets: Targets,
    val_inputs: Inputs,
    val_targets: Targets,
    penalties: Sequence[float],
) -> list[float]:
    """Return the AUC over the left-out clips for each C, abnormal and normal shares as weights."""
    standardizer = Standardizer.fit(inputs)
    fitted, left = standardizer.apply(inputs), standardizer.apply(val_inputs)
    classes, rows, weights = _expand(val_targets)
    if len(np.unique(classes)) < 2:
        raise ModelError("the `val` videos need both abnormal and normal frames to choose C by")
    qualities = []
    for penalty in penalties:
        scores = _fit(fitted, targets, penalty).decision_function(left)
        qualities.append(float(roc_auc_score(classes, scores[rows], sample_weight=weights)))
    return qualities


def _fit(inputs: Inputs, targets: Targets, penalty: float) -> LogisticRegression:
    classes, rows, weights = _expand(targets)
    # Both classes weigh the same, so that 0.5 means the same as for the balanced batches of the
    # ConvLSTM; in all they weigh as many as there are clips.
    for kind in (0, 1):
        weights[classes == kind] *= len(targets) / 2 / weights[classes == kind].sum()
    model = LogisticRegression(C=penalty, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        # An unfinished fit is a little more regularised, which validation judges like any other.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(inputs[rows], classes, sample_weight=weights)


def _expand(
    targets: Targets,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return class, clip and weight of each sample: a mixed clip is one of either class."""
    abnormal, normal = np.flatnonzero(targets > 0), np.flatnonzero(targets < 1)
    classes = np.repeat([1, 0], [len(abnormal), len(normal)])
    weights = np.concatenate([targets[abnormal], 1.0 - targets[normal]])
    return classes, np.concatenate([abnormal, normal]), weights
