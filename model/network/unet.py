"""The U-Net that predicts a frame: of Liu et al. 2018 without, of Park et al. 2020 with a memory.

Ronneberger et al. 2015 with three levels, each two 3x3 convolutions; what is found on the way down
is put beside what comes up.
"""

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """(B, in, H, W) -> (B, out, H, W) in [-1, 1]; H and W are multiples of 8."""

    def __init__(
        self, in_channels: int, out_channels: int, *, width: int, normalise: bool, widened: int = 1
    ) -> None:
        """Draw the weights.

        Args:
            in_channels: of the frames it looks at, all together.
            out_channels: of the frame it returns.
            width: channels of the first level; each level below has twice as many.
            normalise: put a batch normalisation behind each convolution.
            widened: times as many channels come to `decode` as `encode` gives.
        """
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        self.down = nn.ModuleList(
            _convolutions(before, after, normalise=normalise)
            for before, after in zip([in_channels, *widths], widths[:-1], strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        # the last level's output is a position in a space: no rectifier cuts it
        bottom = _convolutions(widths[2], widths[3], normalise=normalise)
        self.bottom = bottom[: -2 if normalise else -1]
        self.top = _convolutions(widened * widths[3], widths[3], normalise=normalise)
        self.up = nn.ModuleList(
            _upwards(2 * after, after, normalise=normalise) for after in reversed(widths[:-1])
        )
        self.join = nn.ModuleList(
            _convolutions(2 * after, after, normalise=normalise) for after in reversed(widths[:-1])
        )
        self.last = nn.Conv2d(width, out_channels, 3, padding=1)

    def encode(self, frames: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return (B, 8 width, H/8, W/8), and what each level found, the first one first."""
        passed = []
        for level in self.down:
            frames = level(frames)
            passed.append(frames)
            frames = self.pool(frames)
        return self.bottom(frames), passed

    def decode(self, found: Tensor, passed: list[Tensor]) -> Tensor:
        """Return the frame."""
        found = self.top(found)
        for up, join, level in zip(self.up, self.join, reversed(passed), strict=True):
            found = join(torch.cat([up(found), level], dim=1))
        frame: Tensor = self.last(found).tanh()
        return frame

    def forward(self, frames: Tensor) -> Tensor:
        """Return the frame that follows."""
        return self.decode(*self.encode(frames))


class PatchDiscriminator(nn.Module):
    """(B, C, H, W) -> (B, 1, h, w): whether each patch is of a real frame (Isola et al. 2017)."""

    def __init__(self, channels: int, *, width: int) -> None:
        """Draw the weights, of frames of `channels` and a first layer of 2 `width`."""
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for after in (2 * width, 4 * width, 8 * width, 8 * width):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.1)]
            before = after
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, 1, 3, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        """Return 1 where a patch seems real, 0 where it does not, unbounded."""
        verdict: Tensor = self.layers(frames)
        return verdict


def _convolutions(before: int, after: int, *, normalise: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=1))
        layers += [nn.BatchNorm2d(after)] * normalise
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _upwards(before: int, after: int, *, normalise: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1)
    ]
    layers += [nn.BatchNorm2d(after)] * normalise
    return nn.Sequential(*layers, nn.ReLU())
