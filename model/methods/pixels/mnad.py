"""Memory-guided normality: what is unlike the few patterns of normal frames is abnormal.

Park, Noh, Ham 2020 (Learning memory-guided normality for anomaly detection), the model that
predicts: between the halves of a U-Net every place of the feature map, a query, is joined by the
items of a memory that are like it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model.methods.base import unbounded_scores
from model.methods.pixels.frames import (
    ALARM_QUANTILE,
    PredictionMethod,
    Step,
    autocast,
    from_the_first,
    peak_ratio,
    take_step,
    windows_of,
)
from model.network.unet import UNet


class MemoryNetwork(nn.Module):
    """A U-Net and the (M, C) items of its memory, each of length 1."""

    items: Tensor

    def __init__(self, channels: int, *, before: int, width: int, num_items: int) -> None:
        super().__init__()
        self.unet = UNet(before * channels, channels, width=width, normalise=True, widened=2)
        items = functional.normalize(torch.rand(num_items, 8 * width), dim=1)
        self.register_buffer("items", items)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted frame, and the (B, N, C) queries."""
        found, passed = self.unet.encode(frames)
        found = functional.normalize(found, dim=1)
        queries = found.flatten(2).transpose(1, 2)
        # equations 1 and 2: each query takes a mean of the items, by their likeness
        read = (queries @ self.items.T).softmax(dim=-1) @ self.items
        joined = torch.cat([found, read.transpose(1, 2).view_as(found)], dim=1)
        return self.unet.decode(joined, passed), queries

    def nearest(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest and the second nearest item of each query, (..., C) each."""
        order = (queries @ self.items.T).topk(2, dim=-1).indices
        return self.items[order[..., 0]], self.items[order[..., 1]]

    @torch.no_grad()
    def remember(self, queries: Tensor) -> None:
        """Move each item towards the queries that are nearest to it (equations 3 to 5).

        Args:
            queries: (..., C); those of one update.
        """
        flat = queries.reshape(-1, queries.shape[-1])
        likeness = flat @ self.items.T
        mine = functional.one_hot(likeness.argmax(dim=1), len(self.items)).to(flat.dtype)
        # how much of an item each query is, by the largest among those that belong to it
        weight = likeness.softmax(dim=0) * mine
        weight = weight / weight.amax(dim=0, keepdim=True).clamp(min=1e-12)
        self.items.copy_(functional.normalize(self.items + weight.T @ flat, dim=1))


@dataclass(frozen=True, kw_only=True)
class MNAD(PredictionMethod[MemoryNetwork]):
    """Peak ratio of the predicted frame and distance of its queries from the memory."""

    name: ClassVar[str] = "mnad"

    steps: int = 37_000
    """Optimiser steps (60 epochs, of Ped2 37,000)."""
    num_items: int = 10
    """Items of the memory (10 published)."""
    compact_weight: float = 0.1
    """Of the distance between queries and their nearest items (0.1 published)."""
    separate_weight: float = 0.1
    """Of the loss that keeps the second nearest item away (0.1 published)."""
    margin: float = 1.0
    """By which it shall be further (1 published)."""
    ratio_share: float = 0.6
    """Of the ratio in a score; the rest is the distance's (0.6 published for Ped2)."""
    update_below: float = 0.01
    """Weighted error of a frame up to which the memory learns from it while scoring (0.01
    published); 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(2, "num_items")
        self._require_at_least(0, "compact_weight", "separate_weight", "margin", "update_below")
        self._require("ratio_share", 0 <= self.ratio_share <= 1, "0 to 1")

    def network(self) -> MemoryNetwork:
        """Return a fresh network."""
        return MemoryNetwork(
            self.channels, before=self.window - 1, width=self.width, num_items=self.num_items
        )

    def optimizers(self, network: MemoryNetwork) -> list[torch.optim.Optimizer]:
        """Return Adam."""
        return [torch.optim.Adam(network.parameters(), lr=self.learning_rate)]

    def rate(self, step: int) -> float:
        """Follow half a cosine from 1 to 0, as published."""
        return (1 + math.cos(math.pi * (step - 1) / self.steps)) / 2

    def predict(self, network: MemoryNetwork, before: Tensor) -> Tensor:
        """Return the frame that follows."""
        frame: Tensor = network(before.flatten(1, 2))[0]
        return frame

    def learn(self, network: MemoryNetwork, optimizers: Sequence[torch.optim.Optimizer]) -> Step:
        """Train on the error, compactness and separateness (their equations 8 to 10)."""
        (adam,) = optimizers

        def step(batch: Tensor) -> Tensor:
            with autocast(batch.device):
                predicted, queries = network(batch[:, :-1].flatten(1, 2))
            predicted, queries = predicted.float(), queries.float()
            first, second = network.nearest(queries)
            near = (queries - first).square()
            # a norm has no slope at 0
            closest, next_one = ((queries - item + 1e-6).norm(dim=-1) for item in (first, second))
            loss: Tensor = (
                (predicted - batch[:, -1]).square().mean()
                + self.compact_weight * near.mean()
                + self.separate_weight * (closest - next_one + self.margin).relu().mean()
            )
            take_step(adam, loss)
            network.remember(queries.detach())
            return loss

        return step

    def measure(self, network: MemoryNetwork, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (T, 2) ratio and mean squared distance of the queries from their nearest items.

        Frames go one by one, since the memory learns on the way; each video begins with the memory
        of the training.
        """
        device = next(network.parameters()).device
        trained = network.items.clone()
        values = []
        for _, batch in windows_of(frames, self.window, batch_size=1):
            shown = self.tensors(batch, device)
            with autocast(device):
                predicted, queries = network(shown[:, :-1].flatten(1, 2))
            predicted, queries = predicted.float(), queries.float()
            distance = (queries - network.nearest(queries)[0]).square().mean()
            values.append(torch.stack([peak_ratio(predicted, shown[:, -1])[0], distance]))
            if weighted_error(predicted, shown[:, -1]) < self.update_below:
                network.remember(queries)
        network.items.copy_(trained)
        return from_the_first(torch.stack(values).double().cpu().numpy(), len(frames))

    def calibrate(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (2, 2) the mean and deviation of both values, and the usual highest sum."""
        center, scale = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-12)
        alarm = np.quantile(self._sum(values, np.stack([center, scale])), ALARM_QUANTILE)
        return np.stack([center, scale, np.full(2, alarm)])

    def combine(
        self, values: NDArray[np.float64], usual: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (T,) scores.

        Published is the sum of both values after each was stretched over the video, which looks
        into its future; here each is in units of its deviation among normal frames.
        """
        return unbounded_scores((self._sum(values, usual) - usual[2, 0]) / 10)

    def _sum(self, values: NDArray[np.float64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
        ratio, distance = ((values - usual[0]) / usual[1]).T
        total: NDArray[np.float64] = (1 - self.ratio_share) * distance - self.ratio_share * ratio
        return total


def weighted_error(predicted: Tensor, frames: Tensor) -> Tensor:
    """Return the mean squared error of (B, C, H, W) frames, where large errors weigh more.

    Their equations 11 and 12: of errors in [0, 1], a weight of 1 - exp(-error).
    """
    error = ((predicted - frames) / 2).square()
    weight = 1 - (-error).exp()
    return (weight / weight.sum().clamp(min=1e-12) * error).sum()
