"""I3D: Inception-v1 inflated to 3-D (Carreira & Zisserman 2017, https://arxiv.org/abs/1705.07750).

Padding is TensorFlow's "SAME" (the output has ceil(n / stride) cells; an odd cell of padding goes
behind), batch norms have eps 1e-3, and a feature is the mean of the last 7x7 map: 1024 values.
`I3D` is the network as described, plain; `prepare_network` gives the same function, made fast.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from extract.i3d.layers import (
    BATCH_NORM_EPS,
    IN_CHANNELS,
    MIXED,
    NUM_CLASSES,
    Stream,
    Triple,
    Widths,
)
from extract.i3d.same import max_pool_same, pad_same

ONE: Triple = (1, 1, 1)


def pool_features(x: Tensor) -> Tensor:
    """Return (B, 1024) from the last map (B, 1024, T/8, H/32, W/32).

    As published: an average over 2x7x7 windows without padding, then over what time is left. A
    16-frame clip leaves T/8 = 2, hence one window.
    """
    num_times, height, width = x.shape[2:]
    pooled = F.avg_pool3d(x, (min(2, num_times), min(7, height), min(7, width)), stride=1)
    return pooled.mean(dim=(2, 3, 4))


def pool_places(x: Tensor) -> Tensor:
    """Return (B, h * w, 1024) from the last map (B, 1024, T/8, h, w): a feature for each place.

    Over time as `pool_features`, which gives their mean where h and w are 7 or less.
    """
    pooled = F.avg_pool3d(x, (min(2, x.shape[2]), 1, 1), stride=1).mean(dim=2)
    return pooled.flatten(2).transpose(1, 2).contiguous()


class ConvUnit(nn.Module):
    """Convolution with "SAME" padding, batch norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: Triple = ONE, stride: Triple = ONE
    ) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, stride, bias=False)
        self.norm = nn.BatchNorm3d(out_channels, eps=BATCH_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, ceil(T / stride), ...), nonnegative."""
        x = pad_same(x, self.kernel, self.stride, 0.0)
        return F.relu(self.norm(self.conv(x)))


class Mixed(nn.Module):
    """One Inception block: four branches side by side, concatenated over channels."""

    def __init__(self, in_channels: int, widths: Widths) -> None:
        super().__init__()
        w0, w1, w1b, w2, w2b, w3 = widths
        self.branch0 = ConvUnit(in_channels, w0)
        self.branch1_reduce = ConvUnit(in_channels, w1)
        self.branch1 = ConvUnit(w1, w1b, (3, 3, 3))
        self.branch2_reduce = ConvUnit(in_channels, w2)
        self.branch2 = ConvUnit(w2, w2b, (3, 3, 3))
        self.branch3 = ConvUnit(in_channels, w3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the four branches' maps one after the other; the size of the map stays."""
        branches = (
            self.branch0(x),
            self.branch1(self.branch1_reduce(x)),
            self.branch2(self.branch2_reduce(x)),
            self.branch3(max_pool_same(x, (3, 3, 3), ONE)),
        )
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """The network as published, for one stream.

    Input is (B, C, T, H, W) float32 in [-1, 1]: C = 3 (RGB) or 2 (flow: x, then y), 224x224.
    """

    def __init__(self, stream: Stream, *, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.stream = stream
        self.conv1a = ConvUnit(IN_CHANNELS[stream], 64, (7, 7, 7), (2, 2, 2))
        self.conv2b = ConvUnit(64, 64)
        self.conv2c = ConvUnit(64, 192, (3, 3, 3))
        channels = 192
        for name, widths in MIXED.items():
            self.add_module(name, Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits_layer = nn.Linear(channels, num_classes)

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], stream: Stream) -> "I3D":
        """Return the network in evaluation mode with the weights of `state` (our names)."""
        network = cls(stream, num_classes=state["logits_layer.bias"].shape[0])
        network.load_state_dict(dict(state))
        return network.eval()

    def maps(self, x: Tensor) -> Tensor:
        """Return the last map, (B, 1024, T/8, H/32, W/32) float32, nonnegative."""
        x = self.conv1a(x)  # (B, 64, 8, 112, 112) for 16 frames of 224x224
        x = max_pool_same(x, (1, 3, 3), (1, 2, 2))
        x = self.conv2c(self.conv2b(x))  # (B, 192, 8, 56, 56)
        x = max_pool_same(x, (1, 3, 3), (1, 2, 2))
        x = self._blocks(x, "mixed3b", "mixed3c")  # (B, 480, 8, 28, 28)
        x = max_pool_same(x, (3, 3, 3), (2, 2, 2))
        x = self._blocks(x, "mixed4b", "mixed4c", "mixed4d", "mixed4e", "mixed4f")
        x = max_pool_same(x, (2, 2, 2), (2, 2, 2))  # (B, 832, 2, 7, 7)
        return self._blocks(x, "mixed5b", "mixed5c")

    def _blocks(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x

    def extract_features(self, x: Tensor) -> Tensor:
        """Return the features (B, 1024) float32, nonnegative, of `x` (B, C, T, 224, 224)."""
        return pool_features(self.maps(x))

    def logits(self, x: Tensor) -> Tensor:
        """Return the class scores (B, num_classes) before the softmax.

        The mean over time and the last layer are both linear, so their order does not matter.
        """
        scores: Tensor = self.logits_layer(self.extract_features(x))
        return scores

    def forward(self, x: Tensor) -> Tensor:
        """Return `logits(x)`."""
        return self.logits(x)
