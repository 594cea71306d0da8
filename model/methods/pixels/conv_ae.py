"""Convolutional auto-encoder: a network that knows normal videos garbles what others show.

Hasan, Choi, Neumann, Roy-Chowdhury, Davis 2016 (Learning temporal regularity in video sequences):
ten gray frames at a time, taken one, two and three apart, are rebuilt from a narrow map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model.methods.pixels.frames import (
    FrameMethod,
    Step,
    autocast,
    peak_ratio,
    take_step,
    windows_of,
)


class ConvAutoEncoderNetwork(nn.Module):
    """(B, L, H, W) -> the same, through (B, 2 width, H/16, W/16)."""

    def __init__(self, num_frames: int, *, width: int) -> None:
        """Draw the weights.

        Args:
            num_frames: L.
            width: a quarter of the first layer's channels.
        """
        super().__init__()
        first, second, third = 8 * width, 4 * width, 2 * width
        self.first = nn.Conv2d(num_frames, first, 11, stride=4)
        self.second = nn.Conv2d(first, second, 5, padding=2)
        self.third = nn.Conv2d(second, third, 3, padding=1)
        self.unthird = nn.ConvTranspose2d(third, second, 3, padding=1)
        self.unsecond = nn.ConvTranspose2d(second, first, 5, padding=2)
        self.unfirst = nn.ConvTranspose2d(first, num_frames, 11, stride=4)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the frames rebuilt."""
        wide = self.first(frames).relu()
        pooled, places = functional.max_pool2d(wide, 2, return_indices=True)
        middle = self.second(pooled).relu()
        narrow, inner = functional.max_pool2d(middle, 2, return_indices=True)
        found = self.third(narrow).relu()
        found = self.unthird(found).relu()
        # what a maximum was goes back to where it was
        found = functional.max_unpool2d(found, inner, [2, 2], output_size=middle.shape[-2:])
        found = self.unsecond(found).relu()
        found = functional.max_unpool2d(found, places, [2, 2], output_size=wide.shape[-2:])
        rebuilt: Tensor = self.unfirst(found, output_size=frames.shape[-2:]).tanh()
        return rebuilt


@dataclass(frozen=True, kw_only=True)
class ConvAutoEncoder(FrameMethod[ConvAutoEncoderNetwork]):
    """Peak ratio of frames rebuilt ten at a time."""

    name: ClassVar[str] = "conv-ae"
    window: ClassVar[int] = 10
    strides: ClassVar[Sequence[int]] = (1, 2, 3)

    size: int = 227
    """Height and width of the frames, pixels; others are scaled (227 published)."""
    gray: bool = True
    """Look at the luma alone (as published)."""
    steps: int = 30_000
    """Optimiser steps."""
    batch_size: int = 32
    """Windows a step."""

    size_step: ClassVar[int] = 1

    def network(self) -> ConvAutoEncoderNetwork:
        """Return a fresh network."""
        return ConvAutoEncoderNetwork(self.window * self.channels, width=self.width)

    def optimizers(self, network: ConvAutoEncoderNetwork) -> list[torch.optim.Optimizer]:
        """Return Adam (AdaGrad with a rate of 0.01 was published)."""
        return [torch.optim.Adam(network.parameters(), lr=self.learning_rate)]

    def learn(
        self, network: ConvAutoEncoderNetwork, optimizers: Sequence[torch.optim.Optimizer]
    ) -> Step:
        """Train on the squared error (their equation 3)."""
        (adam,) = optimizers

        def step(batch: Tensor) -> Tensor:
            frames = batch.flatten(1, 2)
            with autocast(batch.device):
                rebuilt = network(frames)
            loss: Tensor = (rebuilt.float() - frames).square().mean()
            take_step(adam, loss)
            return loss

        return step

    def measure(
        self, network: ConvAutoEncoderNetwork, frames: NDArray[np.uint8]
    ) -> NDArray[np.float64]:
        """Return (T, 1) the ratio of each frame, a mean over the windows that it is in.

        Windows begin half of their length apart.
        """
        device = next(network.parameters()).device
        total, count = np.zeros(len(frames)), np.zeros(len(frames))
        for rows, batch in windows_of(
            frames, self.window, batch_size=self.batch_size, step=self.window // 2
        ):
            shown = self.tensors(batch, device)
            with autocast(device):
                rebuilt = network(shown.flatten(1, 2))
            pairs = rebuilt.float().view_as(shown).flatten(0, 1), shown.flatten(0, 1)
            np.add.at(total, rows.ravel(), peak_ratio(*pairs).double().cpu().numpy())
            np.add.at(count, rows.ravel(), 1)
        return (total / count)[:, None]
