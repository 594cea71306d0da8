"""The mean of a video's features, and the video like it: the C3D row of Table 6.

Sultani, Chen, Shah 2018 (Real-world Anomaly Detection, section 5.5): the C3D features of a video's
16-frame clips are averaged and brought to length 1, and the video is of the category of its nearest
neighbour among the training videos. Theirs are four folds of 50 videos of each category;
`feat data split --scheme folds --folds 4` makes such folds of any labels.

Ours are the linear classifier as the other way, the features of any stream, and the score: they
only tell categories apart. It is one for the whole video, by the nearest normal and the nearest
abnormal training video, so that it finds no frames.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from data.splits.protocols import Supervision
from model.features.load import FeatureSet
from model.features.standardize import Standardizer
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, Parameters
from model.methods.baselines.linear import MAX_ITERATIONS, fit_linear, score_linear
from model.methods.baselines.logistic import unit_rows
from model.methods.classifiers.whole_video import video_targets, whole_video_scores
from model.methods.weak.mil import segment_means
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class MeanFeature(Method):
    """Compares the mean features of whole videos. The seed does nothing."""

    name: ClassVar[str] = "mean-feature"
    supervision: ClassVar[Supervision] = "weakly"
    is_random: ClassVar[bool] = False
    learns_categories: ClassVar[bool] = True

    classifier: Literal["nearest", "linear"] = "nearest"
    """The nearest training video (published), or a logistic regression."""
    unit_clips: bool = False
    """Bring each clip's features to length 1 before the mean, too."""
    penalty: float = 1e-3
    """C of the logistic regression."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("penalty", self.penalty > 0, "above 0")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Keep the training videos, or fit one regression for the score and one for categories."""
        categories = material.categories
        videos = self._videos(material.train)
        abnormal, category = video_targets(material.train.labels, categories)
        parameters: dict[str, NDArray[Any]]
        if self.classifier == "nearest":
            parameters = {"videos": videos, "abnormal": abnormal, "category": category}
        else:
            parameters = fit_linear(
                videos, abnormal.astype(float), np.arange(len(videos)), penalties=(self.penalty,)
            )
            known = category >= 0
            inputs = _standardized(parameters, videos[known])
            parameters |= self._fit_categories(inputs, category[known], len(categories))
        return Fitted(parameters=parameters, categories=categories)

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return a score and the categories' probabilities, the same for all clips of a video."""
        parameters, videos = fitted.parameters, self._videos(data)
        if self.classifier == "nearest":
            apart = np.maximum(cdist(videos, parameters["videos"]), 1e-9)
            abnormal, category = parameters["abnormal"].astype(bool), parameters["category"]
            far, near = (apart[:, kind].min(axis=1) for kind in (~abnormal, abnormal))
            scores = far / (far + near)  # 0.5 where the nearest two are as near
            nearness = np.stack(
                [1 / apart[:, category == c].min(axis=1) for c in range(len(fitted.categories))]
                or [np.zeros(len(videos))],
                axis=1,
            )[:, : len(fitted.categories)]
            shares = nearness / np.maximum(nearness.sum(axis=1, keepdims=True), 1e-12)
        else:
            scores = score_linear(parameters, videos)
            logits = _standardized(parameters, videos) @ parameters["category.weights"].T
            logits = logits + parameters["category.bias"]
            shares = softmax(logits, axis=1) if fitted.categories else logits
        return whole_video_scores(data, scores, fitted.categories, shares)

    def _videos(self, data: FeatureSet) -> NDArray[np.float32]:
        """Return (V, D) mean features of length 1."""
        if not self.unit_clips:
            return unit_rows(segment_means(data, 1)[:, 0])
        means = [
            unit_rows(data.features[data.rows(v)]).mean(axis=0) for v in range(len(data.labels))
        ]
        return unit_rows(np.stack(means))

    def _fit_categories(
        self, inputs: NDArray[np.float32], category: NDArray[np.int64], count: int
    ) -> dict[str, NDArray[Any]]:
        """Return weights (C, D) and biases (C,) whose softmax tells categories apart."""
        weights, bias = np.zeros((count, inputs.shape[1])), np.zeros(count)
        if count > 1:
            model = LogisticRegression(C=self.penalty, max_iter=MAX_ITERATIONS)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # as of `linear`
                model.fit(inputs, category)
            # of two categories there is one row, for the second
            weights[-len(model.coef_) :] = model.coef_
            bias[-len(model.coef_) :] = model.intercept_
        return {"category.weights": weights, "category.bias": bias}


def _standardized(parameters: Parameters, videos: NDArray[np.float32]) -> NDArray[np.float32]:
    return Standardizer(mean=parameters["mean"], std=parameters["std"]).apply(videos)
