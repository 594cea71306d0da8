"""Gaussian mixture: a clip is abnormal where the density of normal clips is low.

The idea of the GMM row of Wan et al. 2021, Table 3 (Leyva et al. 2017 there), on cached features.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from model.methods.base import Parameters
from model.methods.one_class.novelty import NoveltyMethod


@dataclass(frozen=True, kw_only=True)
class GaussianMixtureMethod(NoveltyMethod):
    """Negative log-likelihood under a mixture of axis-parallel Gaussians."""

    name: ClassVar[str] = "gmm"

    num_gaussians: int = 8
    """At most; at least ten clips for each."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_gaussians")

    def fit_model(
        self, inputs: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> dict[str, NDArray[Any]]:
        """Fit by expectation maximisation from k-means."""
        count = max(min(self.num_gaussians, len(inputs) // 10), 1)
        # A floor of a hundredth of the mean variance: no Gaussian may shrink onto a still video.
        floor = max(0.01 * float(inputs.var(axis=0).mean()), 1e-6)
        mixture = GaussianMixture(
            count, covariance_type="diag", reg_covar=floor, random_state=seed, max_iter=200
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(inputs.astype(np.float64))
        return {
            "weights": mixture.weights_,
            "means": mixture.means_,
            "variances": mixture.covariances_,
        }

    def distance(
        self, model: Parameters, inputs: NDArray[np.float32], videos: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the negative log-likelihood."""
        mixture = GaussianMixture(len(model["weights"]), covariance_type="diag")
        mixture.weights_, mixture.means_ = model["weights"], model["means"]
        mixture.covariances_ = model["variances"]
        mixture.precisions_cholesky_ = 1.0 / np.sqrt(model["variances"])
        return -np.asarray(mixture.score_samples(inputs.astype(np.float64)))
