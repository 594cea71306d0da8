"""2-D convolutions of the images that minimal filtering makes of a clip, by oneDNN."""

import torch
from torch import Tensor


class ImageConvs:
    """One convolution for each of several stacks of images, on a CPU in float32."""

    def __init__(
        self, weights: list[Tensor], biases: list[Tensor], *, stride: int, padding: int
    ) -> None:
        """Take the filters; they are packed at the first call, for the images' size.

        Args:
            weights: (out, in, h, w) of each stack.
            biases: (out,) of each stack.
            stride: along rows and columns.
            padding: pixels of zeros on each side.
        """
        self._weights = [w.float().contiguous(memory_format=torch.channels_last) for w in weights]
        self._biases = biases
        self._how = [padding, padding], [stride, stride], [1, 1], 1
        self._packed: list[Tensor] = []

    def __call__(self, stacks: Tensor) -> list[Tensor]:
        """Return (N, H', W', out) for each stack of `stacks` (P, N, H, W, in) float32."""
        images = stacks.permute(0, 1, 4, 2, 3)
        if not self._packed:
            shape = list(images[0].shape)
            pack = torch.ops.mkldnn._reorder_convolution_weight
            self._packed = [pack(weight, *self._how, shape) for weight in self._weights]
        convolve = torch.ops.mkldnn._convolution_pointwise
        return [
            convolve(image, weight, bias, *self._how, "none", [], "").permute(0, 2, 3, 1)
            for image, weight, bias in zip(images, self._packed, self._biases, strict=True)
        ]
