"""The I3D features on a CPU, fast: `FoldedI3D` with compiled kernels and oneDNN.

What makes it fast, in order of weight (times of one 16-frame clip on one core):

- max pools: PyTorch's 3-D pool also finds the position of each maximum, and took 44 % of the
  time; here every map is read once (extract/i3d/pool.py);
- memory: glibc gives every freed map back to the kernel and faults its pages in again, 15 %;
  `data.process.set_up_process` ends that;
- convolutions: ReLU fused, oneDNN for every one of them (PyTorch takes a slow path for small maps
  of a single clip), but in float32 the large 3x3x3 ones and the first with an eighth of the
  multiplications (extract/i3d/winograd.py, extract/i3d/stem.py).
"""

import threading
from collections.abc import Mapping

import torch
from torch import Tensor

from extract.i3d.folded import FoldedConv, FoldedI3D
from extract.i3d.layers import Stream, Triple
from extract.i3d.pool import max_pool
from extract.i3d.stem import StemConv, suits_stem
from extract.i3d.winograd import WinogradConv, suits_winograd


class CompiledConv(FoldedConv):
    """Convolution, batch norm and ReLU as one operator."""

    def __init__(
        self, weight: Tensor, bias: Tensor, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(weight, bias, device, dtype)
        self.one_dnn = has_fused_conv()
        self.preparing = threading.Lock()  # threads share the network; one makes what all use
        self.packed: Tensor | None = None
        self.winograd: WinogradConv | None = None

    def convolve(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """Return the convolution with bias and ReLU, by the fastest way for these maps."""
        if not self.one_dnn:
            return super().convolve(x, stride, padding)
        if suits_winograd(self.weight, x):
            with self.preparing:
                if self.winograd is None:
                    self.winograd = WinogradConv(self.weight, self.bias, padding=1)
            return self.winograd(x)
        pads, strides, ones = [padding] * 3, [stride] * 3, [1] * 3
        with self.preparing:
            if self.packed is None:
                # oneDNN's own layout for maps of this size; others are reordered as they come
                self.packed = torch.ops.mkldnn._reorder_convolution_weight(
                    self.weight, pads, strides, ones, 1, list(x.shape)
                )
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, pads, strides, ones, 1, "relu", [], ""
        )
        return result


class CompiledI3D(FoldedI3D):
    """One stream's network on a CPU."""

    conv_type = CompiledConv
    convs: Mapping[str, CompiledConv]

    def __init__(
        self, state: Mapping[str, Tensor], stream: Stream, *, device: torch.device, precision: str
    ) -> None:
        super().__init__(state, stream, device=device, precision=precision)
        self.stem: StemConv | None = None

    def _stem(self, clips: Tensor) -> Tensor:
        conv = self.convs["conv1a"]
        if not (conv.one_dnn and suits_stem(conv.weight)):
            return super()._stem(clips)
        with conv.preparing:
            if self.stem is None:
                self.stem = StemConv(conv.weight, conv.bias)
        return self.stem(clips.to(self.dtype).to(conv.weight.dtype)).to(self.dtype)

    def _pool(self, x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
        return max_pool(x, kernel, stride)


def has_fused_conv() -> bool:
    """Whether this PyTorch has the operators with which its compiler calls oneDNN."""
    return (
        torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )
