"""Old is gold: a discriminator that learns good rebuilding from bad tells abnormal patches.

Zaheer, Lee, Astrid, Lee 2020 (Old is gold: redefining the adversarially learned one-class
classifier training paradigm). First a denoising auto-encoder and a discriminator learn against each
other. Then the auto-encoder rests, and the discriminator learns to tell what it rebuilds from what
an early state of it rebuilt, and from mixtures of two such. Written from the paper's description.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from model.methods.base import unbounded_scores
from model.methods.pixels.frames import (
    ALARM_QUANTILE,
    FrameMethod,
    Step,
    from_the_first,
    take_step,
    windows_of,
)

CANDIDATES = 8
"""Places tried in a frame, of which the one that moves most gives the patch of a step. So a frame
is rated by the eighth of its places that moves most: patches such as were learnt from."""


class Rebuilder(nn.Module):
    """(B, C, h, w) -> the same, through (B, 4 width, h/8, w/8)."""

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        widths = (channels, width, 2 * width, 4 * width)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 5, stride=2, padding=2) for before, after in pairwise(widths)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 5, stride=2, padding=2)
            for before, after in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """Return the patches rebuilt, in [-1, 1]."""
        sizes = []
        for layer in self.down:
            sizes.append(patches.shape[-2:])
            patches = functional.leaky_relu(layer(patches), 0.2)
        for number, (layer, size) in enumerate(zip(self.up, reversed(sizes), strict=True)):
            patches = layer(patches, output_size=size)
            patches = patches.tanh() if number == len(sizes) - 1 else patches.relu()
        return patches


class Judge(nn.Module):
    """(B, C, h, w) -> (B,) the logit of being badly rebuilt."""

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for after in (width, 2 * width, 4 * width):
            layers += [nn.Conv2d(before, after, 5, stride=2, padding=2), nn.LeakyReLU(0.2)]
            before = after
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(before, 1)

    def forward(self, patches: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.last(self.layers(patches)).squeeze(-1)
        return logits


class OldAndNew(nn.Module):
    """The auto-encoder, its early state, the discriminator, and how many steps were taken."""

    taken: Tensor

    def __init__(self, channels: int, *, width: int) -> None:
        super().__init__()
        self.new = Rebuilder(channels, width=width)
        self.old = Rebuilder(channels, width=width).requires_grad_(False)
        self.judge = Judge(channels, width=width)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))


@dataclass(frozen=True, kw_only=True)
class OldIsGold(FrameMethod[OldAndNew]):
    """How badly rebuilt the worst moving patch of a frame seems."""

    name: ClassVar[str] = "ognet"
    window: ClassVar[int] = 2
    size_step: ClassVar[int] = 1
    steps_are_alike: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "small": {"size": 64, "width": 16, "steps": 2000, "patch": 16, "batch_size": 32},
    }

    size: int = 224
    """Height and width of the frames, pixels; others are scaled."""
    patch: int = 45
    """Height and width of a patch, pixels (45 published)."""
    steps: int = 20_000
    """Optimiser steps of both phases."""
    second_steps: int = 75
    """The last of them, in which the auto-encoder rests (75 published)."""
    old_share: float = 0.1
    """Share of the first phase after which its state is kept as the old one."""
    batch_size: int = 64
    """Windows a step, of each one patch."""
    learning_rate: float = 1e-3
    """Of both Adams."""
    noise: float = 0.2
    """Standard deviation of what is added to the patches that are to be rebuilt."""
    real_share: float = 0.1
    """Weight of real patches among the good ones in the second phase (0.1 published)."""
    old_weight: float = 0.001
    """Weight of what the old state rebuilt among the bad ones (0.001 published)."""
    adversarial_weight: float = 0.05
    """Weight of the discriminator in the auto-encoder's loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require("patch", 8 <= self.patch <= self.size, "8 pixels to the size")
        self._require("second_steps", 0 <= self.second_steps < self.steps, "fewer than steps")
        self._require_share("old_share")
        self._require_share("real_share")
        self._require_share("old_weight")
        self._require_at_least(0, "noise", "adversarial_weight")

    def network(self) -> OldAndNew:
        """Return fresh networks."""
        return OldAndNew(self.channels, width=self.width)

    def optimizers(self, network: OldAndNew) -> list[torch.optim.Optimizer]:
        """Return Adam for the auto-encoder and for the discriminator."""
        return [
            torch.optim.Adam(network.new.parameters(), lr=self.learning_rate),
            torch.optim.Adam(network.judge.parameters(), lr=self.learning_rate),
        ]

    def learn(self, network: OldAndNew, optimizers: Sequence[torch.optim.Optimizer]) -> Step:
        """Train both against each other, then the discriminator alone (their equations 2 to 6)."""
        of_new, of_judge = optimizers
        first = self.steps - self.second_steps
        seed = torch.initial_seed()  # of the training, for `fit` has set it
        keep_at = max(1, round(self.old_share * first))

        def step(batch: Tensor) -> Tensor:
            taken = int(network.taken)
            # what a step draws depends on both alone, so that a killed training can go on
            rng = np.random.default_rng((seed, 12, taken))
            drawn = torch.Generator().manual_seed(int(rng.integers(2**63)))
            patches = self.moving_patches(batch, drawn)
            if taken < first:
                loss = self._learn_both(network, of_new, of_judge, patches, drawn)
                if taken + 1 == keep_at:
                    network.old.load_state_dict(network.new.state_dict())
            else:
                loss = self._learn_to_judge(network, of_judge, patches)
            network.taken += 1
            return loss

        return step

    def _learn_both(
        self,
        network: OldAndNew,
        of_new: torch.optim.Optimizer,
        of_judge: torch.optim.Optimizer,
        patches: Tensor,
        drawn: torch.Generator,
    ) -> Tensor:
        noise = torch.randn(patches.shape, generator=drawn).to(patches.device)
        rebuilt = network.new(patches + self.noise * noise)
        fooled = functional.softplus(network.judge(rebuilt)).mean()  # 0 where it seems real
        loss: Tensor = (rebuilt - patches).square().mean() + self.adversarial_weight * fooled
        take_step(of_new, loss)
        real, made = network.judge(patches), network.judge(rebuilt.detach())
        take_step(of_judge, (functional.softplus(real) + functional.softplus(-made)).mean())
        return loss

    def _learn_to_judge(
        self, network: OldAndNew, of_judge: torch.optim.Optimizer, patches: Tensor
    ) -> Tensor:
        with torch.no_grad():
            new, old = network.new(patches), network.old(patches)
            mixed = network.new((old + old.roll(1, dims=0)) / 2)
        good = [functional.softplus(network.judge(part)) for part in (patches, new)]
        bad = [functional.softplus(-network.judge(part)) for part in (old, mixed)]
        losses = (
            self.real_share * good[0]
            + (1 - self.real_share) * good[1]
            + self.old_weight * bad[0]
            + (1 - self.old_weight) * bad[1]
        )
        loss: Tensor = losses.mean()
        take_step(of_judge, loss)
        return loss

    def moving_patches(self, batch: Tensor, drawn: torch.Generator) -> Tensor:
        """Return (B, C, patch, patch), of (B, 2, C, H, W) frames the place that moves most.

        Args:
            batch: a frame and the one after it, which gives the patch.
            drawn: draws the places that are tried.
        """
        room = self.size - self.patch + 1
        places = torch.randint(room, (len(batch), CANDIDATES, 2), generator=drawn).to(batch.device)
        every = torch.arange(len(batch), device=batch.device)
        moved = self.change_at(batch)[every[:, None], places[..., 0], places[..., 1]]
        best = places[every, moved.argmax(dim=1)].tolist()
        return torch.stack(
            [_cut(frame, at, self.patch) for frame, at in zip(batch[:, 1], best, strict=True)]
        )

    def change_at(self, batch: Tensor) -> Tensor:
        """Return (B, h, w) by how much a pixel changes in the patch at each place, of its range.

        Args:
            batch: (B, 2, C, H, W) a frame and the one after it.
        """
        change = (batch[:, 1] - batch[:, 0]).abs().mean(dim=1, keepdim=True) / 2
        return functional.avg_pool2d(change, self.patch, stride=1)[:, 0]

    def measure(self, network: OldAndNew, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (T, 1) the largest logit of those patches of a frame that move most.

        Patches lie half a patch apart.
        """
        device = next(network.parameters()).device
        step = max(self.patch // 2, 1)
        edges = sorted({*range(0, self.size - self.patch, step), self.size - self.patch})
        places = [(top, left) for top in edges for left in edges]
        count = -(-len(places) // CANDIDATES)
        found = []
        for _, batch in windows_of(frames, self.window, batch_size=1):
            shown = self.tensors(batch, device)[0]
            change = self.change_at(shown[None])[0, edges][:, edges]
            moving = [places[at] for at in change.flatten().topk(count).indices.tolist()]
            patches = torch.stack([_cut(shown[1], at, self.patch) for at in moving])
            found.append(float(network.judge(network.new(patches)).max()))
        return from_the_first(np.array(found)[:, None], len(frames))

    def calibrate(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (2,) the logit that one in a hundred normal frames is beyond, and their spread."""
        return np.array([np.quantile(values, ALARM_QUANTILE), max(float(values.std()), 1e-6)])

    def combine(
        self, values: NDArray[np.float64], usual: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (T,) scores."""
        return unbounded_scores((values[:, 0] - usual[0]) / usual[1])


def _cut(maps: Tensor, at: Sequence[int], size: int) -> Tensor:
    top, left = at
    return maps[..., top : top + size, left : left + size]
