"""Auto-encoder of features: a clip is abnormal if a network that knows normal ones garbles it.

The idea of Hasan et al. 2016 (ConvAE), on cached features instead of pixels.
"""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from model.methods.base import Parameters
from model.methods.one_class.novelty import NoveltyMethod


@dataclass(frozen=True, kw_only=True)
class AutoEncoder(NoveltyMethod):
    """Error of a perceptron with a bottleneck that was trained to return its input."""

    name: ClassVar[str] = "autoencoder"

    num_components: int = 128
    widths: tuple[int, ...] = (128, 32, 128)
    """Of the hidden layers."""
    rounds: int = 30
    """Times that the training clips are gone through, at most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "rounds")
        self._require("widths", bool(self.widths) and min(self.widths) >= 1, "widths >= 1")

    def fit_model(
        self, inputs: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> dict[str, NDArray[Any]]:
        """Train with Adam on inputs brought to a common scale."""
        scale = np.array([max(float(inputs.std()), 1e-12)])
        network = MLPRegressor(
            hidden_layer_sizes=self.widths,
            batch_size=min(64, len(inputs)),
            max_iter=self.rounds,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(inputs / scale, inputs / scale)
        weights = {f"w.{layer}": array for layer, array in enumerate(network.coefs_)}
        biases = {f"b.{layer}": array for layer, array in enumerate(network.intercepts_)}
        return {"scale": scale, **weights, **biases}

    def distance(
        self, model: Parameters, inputs: NDArray[np.float32], videos: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the length of the difference of output and input."""
        values = target = inputs / model["scale"]
        last = len(self.widths)
        for layer in range(last + 1):
            values = values @ model[f"w.{layer}"] + model[f"b.{layer}"]
            values = np.maximum(values, 0.0) if layer < last else values
        return np.asarray(np.linalg.norm(values - target, axis=1), np.float64)
