"""Nearest neighbours: a clip is abnormal if no normal training clip is like it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from model.methods.base import Parameters
from model.methods.one_class.novelty import NoveltyMethod


@dataclass(frozen=True, kw_only=True)
class NearestNeighbourMethod(NoveltyMethod):
    """Mean distance to the nearest normal training clips."""

    name: ClassVar[str] = "knn"

    num_neighbours: int = 5
    """Nearest training clips whose distances are averaged."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_neighbours")

    def fit_model(
        self, inputs: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> dict[str, NDArray[Any]]:
        """Keep the clips."""
        return {"clips": inputs}

    def distance(
        self, model: Parameters, inputs: NDArray[np.float32], videos: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the mean distance to the nearest ones."""
        clips = model["clips"]
        search = NearestNeighbors(n_neighbors=min(self.num_neighbours, len(clips))).fit(clips)
        return np.asarray(search.kneighbors(inputs)[0].mean(axis=1), np.float64)
