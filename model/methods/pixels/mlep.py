"""Margin learning embedded prediction: a few abnormal frames teach what normal ones are not.

Liu, Luo, Li, Zhao, Gao 2019 (Margin learning embedded prediction for video anomaly detection with
a few anomalies): a ConvLSTM over the frames before predicts the next one, and what it remembers of
normal frames is kept away from what it remembers of abnormal ones. Written from the paper's
description; sizes of layers are our own.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from data.splits.protocols import Supervision
from model.features.frames import FrameWindows
from model.features.load import FeatureSet
from model.methods.pixels.frames import PredictionMethod, Step, Windows, autocast, take_step
from model.methods.pixels.unet import gradient_difference


class MarginNetwork(nn.Module):
    """(B, L, C, H, W) frames -> the next one, and a (B, 8 width) embedding of what came before."""

    def __init__(self, channels: int, *, width: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.hidden = 8 * width
        down: list[nn.Module] = []
        before = channels
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            down += [nn.Conv2d(before, after, 3, stride=stride, padding=1), nn.ReLU()]
            before = after
        self.down = nn.Sequential(*down)
        self.gates = nn.Conv2d(2 * self.hidden, 4 * self.hidden, 3, padding=1)
        up: list[nn.Module] = []
        for after in (4 * width, 2 * width, width):
            up += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)]
            up += [nn.ReLU()]
            before = after
        self.up = nn.Sequential(*up, nn.Conv2d(width, channels, 3, padding=1), nn.Tanh())

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return the predicted frame and the embedding, of length 1."""
        maps = self.down(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        state = memory = torch.zeros_like(maps[:, 0])
        for step in range(maps.shape[1]):
            gates = self.gates(torch.cat([maps[:, step], state], dim=1))
            into, forget, out, new = gates.chunk(4, dim=1)
            memory = forget.sigmoid() * memory + into.sigmoid() * new.tanh()
            state = out.sigmoid() * memory.tanh()
        return self.up(state), functional.normalize(state.mean(dim=(2, 3)), dim=1)


class PairedWindows:
    """Batches whose first half is of normal windows, the second of abnormal ones."""

    def __init__(self, normal: FrameWindows, abnormal: FrameWindows) -> None:
        self._parts = normal, abnormal

    def __len__(self) -> int:
        return len(self._parts[0])

    def batches(
        self, *, batch_size: int, steps: int, seed: int, first_step: int = 0
    ) -> Iterator[Tensor]:
        """Yield (2 batch_size, L, H, W, C); abnormal windows come again where they are few."""
        drawn = (
            part.batches(batch_size=batch_size, steps=steps, seed=seed, first_step=first_step)
            for part in self._parts
        )
        for normal, abnormal in zip(*drawn, strict=True):
            again = torch.arange(batch_size) % len(abnormal)
            yield torch.cat([normal[torch.arange(batch_size) % len(normal)], abnormal[again]])


@dataclass(frozen=True, kw_only=True)
class MarginPrediction(PredictionMethod[MarginNetwork]):
    """Peak ratio of the frame that a ConvLSTM predicts, taught by abnormal frames, too."""

    name: ClassVar[str] = "mlep"
    supervision: ClassVar[Supervision] = "fully"
    learns_frames: ClassVar[bool] = True

    size: int = 224
    """Height and width of the frames, pixels; others are scaled (224 published)."""
    steps: int = 80_000
    """Optimiser steps (80,000 published)."""
    batch_size: int = 2
    """Normal windows a step, and as many abnormal ones (2 published)."""
    gradient_weight: float = 1.0
    """Of the difference of the gradients."""
    margin_weight: float = 1.0
    """Of the loss that keeps abnormal windows away from normal ones."""
    margin: float = 1.0
    """By which they shall be further than normal ones are from each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(0, "gradient_weight", "margin_weight", "margin")
        self._require_at_least(2, "batch_size")

    def network(self) -> MarginNetwork:
        """Return a fresh network."""
        return MarginNetwork(self.channels, width=self.width)

    def optimizers(self, network: MarginNetwork) -> list[torch.optim.Optimizer]:
        """Return Adam."""
        return [torch.optim.Adam(network.parameters(), lr=self.learning_rate)]

    def windows(self, data: FeatureSet) -> Windows:
        """Return pairs of windows whose frames are all normal, and all abnormal."""
        abnormal = [
            np.asarray(label.frame_labels(len(frames)), bool)
            for label, frames in zip(data.labels, data.frames, strict=True)
        ]
        return PairedWindows(
            FrameWindows(
                data.frames, length=self.window, kept=[~each for each in abnormal], kind="normal"
            ),
            FrameWindows(data.frames, length=self.window, kept=abnormal, kind="abnormal"),
        )

    def predict(self, network: MarginNetwork, before: Tensor) -> Tensor:
        """Return the frame that follows."""
        frame: Tensor = network(before)[0]
        return frame

    def learn(self, network: MarginNetwork, optimizers: Sequence[torch.optim.Optimizer]) -> Step:
        """Train on the normal halves' prediction and the margin to the abnormal ones."""
        (adam,) = optimizers

        def step(batch: Tensor) -> Tensor:
            half = len(batch) // 2
            with autocast(batch.device):
                predicted, embedded = network(batch[:, :-1])
            predicted, embedded = predicted[:half].float(), embedded.float()
            real = batch[:half, -1]
            normal, abnormal = embedded[:half], embedded[half:]
            apart = functional.triplet_margin_loss(
                normal, normal.roll(1, dims=0), abnormal, margin=self.margin
            )
            loss: Tensor = (
                (predicted - real).square().mean()
                + self.gradient_weight * gradient_difference(predicted, real)
                + self.margin_weight * apart
            )
            take_step(adam, loss)
            return loss

        return step
