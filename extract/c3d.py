"""C3D up to its first fully connected layer, fc6: Tran et al. 2015, sections 3 and 4.

The network and its input are those of the authors' Caffe code (facebookarchive/C3D, version 1.0):
frames of 128x171 in the order blue, green, red, less the mean of Sports-1M, and their centre of
112x112, whose left edge is rounded down (`video_data_layer.cpp`). All weights in use are
conversions of that network. What is taken off is the mean of each channel, not the mean volume
itself, which comes as a file of its own.

Caffe rounds the size of a pooled map up: the last pooling makes 4x4 cells of 7x7 by windows that
reach past the lower and right edge (`pool3d_layer.cpp`), as TensorFlow's "SAME" does. The ports to
Keras and PyTorch pad all four sides instead, which moves every window by a cell, and so gives other
features by the same weights.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.i3d.folded import CHANNELS_LAST, DTYPES, FoldedConv
from extract.i3d.layers import Triple
from extract.i3d.same import max_pool_same
from extract.kernels.choice import use_kernels

HEIGHT, WIDTH, CROP = 128, 171, 112
MEAN_BGR = (90.25, 97.66, 101.41)
# In each group a ReLU follows each convolution, and a pooling the last one.
_GROUPS = (("conv1",), ("conv2",), ("conv3a", "conv3b"), ("conv4a", "conv4b"), ("conv5a", "conv5b"))


class C3D:
    """Calling it maps clips (B, 16, H, W, 3), uint8 RGB, to fc6 after its ReLU, (B, D) float32."""

    def __init__(
        self, state: Mapping[str, Tensor], *, device: torch.device, precision: str
    ) -> None:
        """Lay the network out for a device.

        Args:
            state: `conv1.weight` to `fc6.bias`, float32; see `extract.weights.c3d`.
            device: where it computes.
            precision: `float32`, `bfloat16` or `float16`, of the convolutions; fc6 is float32.
        """
        self.dtype = DTYPES[precision]
        self.pool: Callable[[Tensor, Triple, Triple], Tensor] = max_pool_same
        conv_type = FoldedConv
        if device.type == "cpu" and use_kernels():
            from extract.i3d.compiled import CompiledConv as conv_type
            from extract.i3d.pool import max_pool

            self.pool = max_pool
        self.convs = {
            name: conv_type(state[f"{name}.weight"], state[f"{name}.bias"], device, self.dtype)
            for group in _GROUPS
            for name in group
        }
        self.weight, self.bias = (state[f"fc6.{part}"].to(device) for part in ("weight", "bias"))

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return the features (B, D) float32 of clips of 16 frames."""
        x = c3d_input(clips).to(self.dtype).contiguous(memory_format=CHANNELS_LAST)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # as of `FoldedI3D`
            for number, group in enumerate(_GROUPS):
                for name in group:
                    x = self.convs[name](x)
                size = (1, 2, 2) if number == 0 else (2, 2, 2)
                x = self.pool(x, size, size)
        # (B, C, 1, 4, 4), by channel, height and width
        return F.linear(x.float().flatten(1), self.weight, self.bias).relu_()


def c3d_input(clips: Tensor) -> Tensor:
    """Return (B, 3, T, 112, 112) float32, blue first, of frames (B, T, H, W, 3) uint8 RGB.

    Whole frames of any size are scaled to 128x171. Those of the cache's decoder are squashed to a
    square; this gives them back the proportions that the network was trained with.
    """
    num, length = clips.shape[:2]
    frames = clips.flip(-1).flatten(0, 1).permute(0, 3, 1, 2).float()  # (B * T, 3, H, W)
    frames = F.interpolate(
        frames, size=(HEIGHT, WIDTH), mode="bilinear", antialias=True, align_corners=False
    )
    top, left = (HEIGHT - CROP) // 2, (WIDTH - CROP) // 2
    frames = frames[:, :, top : top + CROP, left : left + CROP]
    frames = frames - frames.new_tensor(MEAN_BGR)[:, None, None]
    return frames.view(num, length, *frames.shape[1:]).transpose(1, 2)
