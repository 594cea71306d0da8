"""Future frame prediction: a frame that a network of normal videos does not foresee is abnormal.

Liu, Luo, Lian, Gao 2018 (Future frame prediction for anomaly detection, a new baseline): a U-Net
that is trained on intensity, gradients, motion and a discriminator of patches. Their loss of motion
compares the flow of the predicted frame with that of the real one, both found by a fixed FlowNet,
whose weights are in no registry. Ours compares the same two flows, found by a few steps of TV-L1
that a gradient passes through: U-Net (TV-L1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.features.frames import LUMA
from model.methods.pixels.frames import PredictionMethod, Step, autocast, take_step
from model.network.flow import tvl1_flow
from model.network.unet import PatchDiscriminator, UNet


class FuturePair(nn.Module):
    """What predicts, and what tells predictions from frames."""

    def __init__(self, channels: int, *, before: int, width: int) -> None:
        super().__init__()
        self.generator = UNet(before * channels, channels, width=width, normalise=False)
        self.discriminator = PatchDiscriminator(channels, width=width)


@dataclass(frozen=True, kw_only=True)
class FutureFrame(PredictionMethod[FuturePair]):
    """Peak ratio of the frame that a U-Net predicts from the four before it."""

    name: ClassVar[str] = "unet"

    steps: int = 26_000
    """Optimiser steps (26,000 for Ped2)."""
    learning_rate: float = 1e-4
    """Of Adam (1e-4, of colour videos 2e-4)."""
    critic_rate: float = 1e-5
    """Of the discriminator's Adam (1e-5, of colour videos 2e-5)."""
    gradient_weight: float = 1.0
    """Of the difference of the gradients (1 published)."""
    flow_weight: float = 2.0
    """Of the difference of the flows (2 published, there of a FlowNet's); 0: none."""
    adversarial_weight: float = 0.05
    """Of what the discriminator finds (0.05 published)."""
    fast_steps: int = 7_000
    """Steps after which both learning rates are a tenth (7,000 published)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(
            0, "gradient_weight", "flow_weight", "adversarial_weight", "fast_steps"
        )
        self._require("critic_rate", self.critic_rate > 0, "above 0")

    def network(self) -> FuturePair:
        """Return a fresh pair."""
        return FuturePair(self.channels, before=self.window - 1, width=self.width)

    def optimizers(self, network: FuturePair) -> list[torch.optim.Optimizer]:
        """Return Adam for each of the two."""
        return [
            torch.optim.Adam(network.generator.parameters(), lr=self.learning_rate),
            torch.optim.Adam(network.discriminator.parameters(), lr=self.critic_rate),
        ]

    def rate(self, step: int) -> float:
        """Have a tenth after the first steps."""
        return 0.1 if step > self.fast_steps else 1.0

    def predict(self, network: FuturePair, before: Tensor) -> Tensor:
        """Return the frame that follows."""
        frame: Tensor = network.generator(before.flatten(1, 2))
        return frame

    def learn(self, network: FuturePair, optimizers: Sequence[torch.optim.Optimizer]) -> Step:
        """Train the generator, then the discriminator (their equations 6 and 7)."""
        of_generator, of_discriminator = optimizers

        def step(batch: Tensor) -> Tensor:
            real = batch[:, -1]
            with autocast(batch.device):
                predicted = self.predict(network, batch[:, :-1]).float()
                verdict = network.discriminator(predicted).float()
            loss: Tensor = (
                (predicted - real).square().mean()
                + self.gradient_weight * gradient_difference(predicted, real)
                + self.adversarial_weight * (verdict - 1).square().mean() / 2
            )
            if self.flow_weight:
                loss = loss + self.flow_weight * flow_difference(predicted, real, batch[:, -2])
            take_step(of_generator, loss)
            with autocast(batch.device):
                of_real = network.discriminator(real).float()
                of_predicted = network.discriminator(predicted.detach()).float()
            critic = (of_real - 1).square().mean() / 2 + of_predicted.square().mean() / 2
            take_step(of_discriminator, critic)
            return loss

        return step


def gradient_difference(predicted: Tensor, real: Tensor) -> Tensor:
    """Return by how much the absolute gradients of (B, C, H, W) frames differ (their equation 3).

    The mean over all places of both directions' sums.
    """
    differences = [
        (predicted.diff(dim=axis).abs() - real.diff(dim=axis).abs()).abs().mean() for axis in (2, 3)
    ]
    return differences[0] + differences[1]


def flow_difference(predicted: Tensor, real: Tensor, before: Tensor) -> Tensor:
    """Return by how much two frames differ in their motion since the frame before, pixels.

    Their equation 5, |f(predicted, before) - f(real, before)|, with TV-L1 as f: the mean over all
    places and both directions.

    Args:
        predicted: (B, C, H, W) in [-1, 1].
        real: what it should be.
        before: the frame before it.
    """
    shown = [_luma(frames) for frames in (predicted, real, before)]
    with torch.no_grad():
        expected = tvl1_flow(shown[1], shown[2])
    return (tvl1_flow(shown[0], shown[2]) - expected).abs().mean()


def _luma(frames: Tensor) -> Tensor:
    """Return (B, 1, H, W) of 0 to 255, from (B, C, H, W) in [-1, 1]."""
    if frames.shape[1] == len(LUMA):
        # no tensor of the weights: a step that is a CUDA graph copies nothing from the host
        parts = zip(LUMA, frames.unbind(dim=1), strict=True)
        frames = torch.stack([weight * part for weight, part in parts]).sum(dim=0)[:, None]
    return 127.5 * (frames + 1)
