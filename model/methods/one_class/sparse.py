"""Sparse coding: a clip is abnormal if few atoms of a dictionary of normal ones cannot make it.

The idea of Lu, Shi, Jia 2013 (Abnormal Event Detection at 150 FPS), on cached features.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import MiniBatchDictionaryLearning, sparse_encode
from sklearn.exceptions import ConvergenceWarning

from model.methods.base import Parameters
from model.methods.one_class.novelty import NoveltyMethod


@dataclass(frozen=True, kw_only=True)
class SparseCoding(NoveltyMethod):
    """Error of rebuilding a clip from a few atoms, chosen by orthogonal matching pursuit."""

    name: ClassVar[str] = "sparse"

    num_atoms: int = 128
    """Atoms of the dictionary, at most one for every two clips."""
    num_nonzero: int = 8
    """Atoms that may make up a clip."""
    rounds: int = 20
    """Times that the training clips are gone through."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_atoms", "num_nonzero", "rounds")

    def fit_model(
        self, inputs: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> dict[str, NDArray[Any]]:
        """Learn the dictionary."""
        count = max(min(self.num_atoms, len(inputs) // 2), 1)
        learner = MiniBatchDictionaryLearning(
            count,
            alpha=1.0,
            max_iter=self.rounds,
            batch_size=64,
            fit_algorithm="cd",
            random_state=seed,
        )
        # At a common scale one penalty suits every kind of features.
        scale = max(float(inputs.std()), 1e-12)
        with warnings.catch_warnings():
            # Codes that are a little off are what mini-batches live with anyway.
            warnings.simplefilter("ignore", ConvergenceWarning)
            learner.fit(inputs.astype(np.float64) / scale)
        return {"atoms": learner.components_}

    def distance(
        self, model: Parameters, inputs: NDArray[np.float32], videos: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the length of what the atoms leave."""
        atoms = model["atoms"]
        wide = inputs.astype(np.float64)
        with warnings.catch_warnings():
            # A clip that fewer atoms make up exactly ends the pursuit early, with this warning.
            warnings.simplefilter("ignore", RuntimeWarning)
            codes = sparse_encode(
                wide,
                atoms,
                algorithm="omp",
                n_nonzero_coefs=min(self.num_nonzero, len(atoms), wide.shape[1]),
            )
        return np.asarray(np.linalg.norm(wide - codes @ atoms, axis=1), np.float64)
