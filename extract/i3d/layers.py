"""The layers of I3D as a table: names, widths, shapes.

No torch here, so that weights can be converted and looked up without loading it. Widths are those
of DeepMind's kinetics-i3d (Apache-2.0), the network of Carreira & Zisserman 2017.
"""

from dataclasses import dataclass
from typing import Literal

Stream = Literal["rgb", "flow"]
Triple = tuple[int, int, int]
# Widths of branch 0, branch 1 (1x1x1, 3x3x3), branch 2 (1x1x1, 3x3x3) and branch 3.
Widths = tuple[int, int, int, int, int, int]

IN_CHANNELS: dict[Stream, int] = {"rgb": 3, "flow": 2}
FEATURE_DIM = 1024
NUM_CLASSES = 400
BATCH_NORM_EPS = 1e-3

MIXED: dict[str, Widths] = {
    "mixed3b": (64, 96, 128, 16, 32, 32),
    "mixed3c": (128, 128, 192, 32, 96, 64),
    "mixed4b": (192, 96, 208, 16, 48, 64),
    "mixed4c": (160, 112, 224, 24, 64, 64),
    "mixed4d": (128, 128, 256, 24, 64, 64),
    "mixed4e": (112, 144, 288, 32, 64, 64),
    "mixed4f": (256, 160, 320, 32, 128, 128),
    "mixed5b": (256, 160, 320, 32, 128, 128),
    "mixed5c": (384, 192, 384, 48, 128, 128),
}
BRANCHES = ("branch0", "branch1_reduce", "branch1", "branch2_reduce", "branch2", "branch3")


@dataclass(frozen=True)
class Unit:
    """One convolution with its batch norm; `name` is its path in `I3D`."""

    name: str
    in_channels: int
    out_channels: int
    kernel: Triple


def conv_units(stream: Stream) -> list[Unit]:
    """Return every convolution of the network for `stream`, in the order of the data."""
    units = [
        Unit("conv1a", IN_CHANNELS[stream], 64, (7, 7, 7)),
        Unit("conv2b", 64, 64, (1, 1, 1)),
        Unit("conv2c", 64, 192, (3, 3, 3)),
    ]
    channels = 192
    for block, (w0, w1, w1b, w2, w2b, w3) in MIXED.items():
        shapes = ((channels, w0), (channels, w1), (w1, w1b), (channels, w2), (w2, w2b))
        for branch, (inputs, outputs) in zip(BRANCHES, (*shapes, (channels, w3)), strict=True):
            size = 3 if branch in ("branch1", "branch2") else 1
            units.append(Unit(f"{block}.{branch}", inputs, outputs, (size, size, size)))
        channels = w0 + w1b + w2b + w3
    return units


def expected_shapes(stream: Stream, num_classes: int = NUM_CLASSES) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array of a state dict in our names, for `stream`."""
    shapes: dict[str, tuple[int, ...]] = {}
    for unit in conv_units(stream):
        shapes[f"{unit.name}.conv.weight"] = (unit.out_channels, unit.in_channels, *unit.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{unit.name}.norm.{part}"] = (unit.out_channels,)
    shapes["logits_layer.weight"] = (num_classes, FEATURE_DIM)
    shapes["logits_layer.bias"] = (num_classes,)
    return shapes
