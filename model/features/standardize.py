"""Standardised features: each column shifted and scaled by a training set's mean and deviation.

For the network they are never copied: its inputs are standardised when their rows are picked, a
batch at a time. The methods that are fitted to all clips at once standardise a copy.
"""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import ModelError

logger = logging.getLogger(f"feat.{__name__}")

BLOCK_ROWS = 1024
DEVICE_SHARE = 0.5
"""Of a GPU's free memory, what one feature array may take."""


@dataclass(frozen=True, kw_only=True)
class Standardizer:
    """Mean and standard deviation of each feature over a training set, (D,) float32 each."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    limit: float = 0.0
    """Of a standardised value's absolute value; 0 for none."""

    @classmethod
    def fit(cls, features: NDArray[np.float32], *, limit: float = 0.0) -> "Standardizer":
        """Measure (N, D) features; one that does not vary is only shifted.

        Raises:
            ModelError: there are none.
        """
        if not len(features):
            raise ModelError("no clip to train on; the training videos have none")
        blocks = [features[row : row + BLOCK_ROWS] for row in range(0, len(features), BLOCK_ROWS)]
        mean = sum(block.sum(axis=0, dtype=np.float64) for block in blocks) / len(features)
        squares = sum(np.square(block - mean).sum(axis=0) for block in blocks)
        std = np.sqrt(squares / len(features))
        # Below float32's resolution the deviation is rounding noise, not information.
        std[std <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0
        return cls(mean=mean.astype(np.float32), std=std.astype(np.float32), limit=limit)

    @classmethod
    def identity(cls, dim: int) -> "Standardizer":
        """Return the one that changes nothing."""
        return cls(mean=np.zeros(dim, np.float32), std=np.ones(dim, np.float32))

    def apply(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the (N, D) features standardised."""
        standardized = features - self.mean
        standardized /= self.std
        if self.limit:
            np.clip(standardized, -self.limit, self.limit, out=standardized)
        return standardized

    def inputs(
        self, features: NDArray[np.float32], device: torch.device | str = "cpu"
    ) -> "NetworkInputs":
        """Return the (N, D) features as a network on `device` takes them.

        They are moved to a CUDA device whole if half of its free memory has room, else, as to any
        other device, batch by batch.

        Args:
            features: (N, D) float32, writable, and not copied where the device is the CPU.
            device: of the network.
        """
        rows = torch.from_numpy(features)
        if _fits_on(torch.device(device), features.nbytes):
            rows = rows.to(device)
        return NetworkInputs(
            features=rows,
            mean=torch.from_numpy(self.mean).to(device),
            std=torch.from_numpy(self.std).to(device),
            limit=self.limit,
        )


@dataclass(frozen=True, kw_only=True)
class NetworkInputs:
    """Features of N clips that are standardised as their rows are picked."""

    features: Tensor
    """(N, D) float32 as cached, on the network's device or on the host."""
    mean: Tensor
    """(D,) on the network's device."""
    std: Tensor
    """(D,) on the network's device."""
    limit: float

    @property
    def dim(self) -> int:
        """D."""
        return self.features.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the picked rows are."""
        return self.mean.device

    @property
    def are_there(self) -> bool:
        """Whether they are on that device as a whole."""
        return self.features.device == self.device

    def pick(self, rows: Tensor) -> Tensor:
        """Return the standardised features (..., D) of some clips.

        Args:
            rows: (...) int64, at least one axis, on any device.
        """
        picked = self.features[rows.to(self.features.device)].to(self.device)
        picked.sub_(self.mean).div_(self.std)
        return picked.clamp_(-self.limit, self.limit) if self.limit else picked


def _fits_on(device: torch.device, num_bytes: int) -> bool:
    if device.type != "cuda":
        return device.type == "cpu"
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch keeps of freed tensors, such as another model's features, is free, too.
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    fits = num_bytes <= DEVICE_SHARE * free
    if not fits:
        logger.info("features of %.1f GB stay in the host's memory", num_bytes / 1e9)
    return fits
