"""The I3D features for inference, in PyTorch's operators: `I3D.extract_features` in fewer passes.

Batch norms are folded into the convolutions, maps are channels last, and the arithmetic is half
precision where asked. Nothing here waits for the device. It is what a GPU without Triton runs, and
a CPU without compiled kernels; with them see extract/i3d/cuda.py and extract/i3d/compiled.py.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.i3d.layers import BATCH_NORM_EPS, MIXED, Stream, Triple, conv_units
from extract.i3d.network import pool_features
from extract.i3d.same import max_pool_same, same_padding

CHANNELS_LAST = torch.channels_last_3d
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FoldedConv:
    """Convolution and ReLU; of I3D the batch norm between them is folded into the weights.

    Where oneDNN has no bfloat16 for this CPU, PyTorch's own loop takes 300 times as long as
    float32. There the convolution of bfloat16 maps and weights runs in float32, in which their
    products are exact and which oneDNN's bfloat16 also adds up in; the result is rounded.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        emulated = device.type == "cpu" and dtype == torch.bfloat16 and not has_bfloat16_conv()
        multiplied = torch.float32 if emulated else dtype
        rounded = weight.to(device, dtype).contiguous(memory_format=CHANNELS_LAST)
        self.weight = rounded.to(multiplied)
        self.bias = bias.to(device, dtype).to(multiplied)

    def __call__(self, x: Tensor, *, stride: int = 1, padding: int | None = None) -> Tensor:
        """Return (B, out, ceil(T / stride), ...), nonnegative.

        Args:
            x: (B, in, T, H, W), channels last.
            stride: of all three axes.
            padding: cells on each side of all three axes; by default, what keeps the size.
        """
        padding = self.weight.shape[-1] // 2 if padding is None else padding
        return self.convolve(x.to(self.weight.dtype), stride, padding).to(self.dtype)

    def convolve(self, x: Tensor, stride: int, padding: int) -> Tensor:
        """Return the convolution with bias and ReLU; see `__call__`."""
        return F.conv3d(x, self.weight, self.bias, stride, padding).relu_()


class FoldedI3D:
    """One stream's network, its batch norms folded in, laid out for `device`.

    Calling it maps clips (B, C, T, H, W), float32 in [-1, 1] or frames as uint8, of any memory
    layout, to features (B, 1024) float32 on the same device; `pool` may make others of the map.
    """

    conv_type = FoldedConv
    pool: Callable[[Tensor], Tensor] = staticmethod(pool_features)

    def __init__(
        self, state: Mapping[str, Tensor], stream: Stream, *, device: torch.device, precision: str
    ) -> None:
        self.device, self.dtype = device, DTYPES[precision]
        self.convs: Mapping[str, Callable[..., Tensor]] = {
            unit.name: self.conv_type(*fold_norm(state, unit.name), device, self.dtype)
            for unit in conv_units(stream)
        }

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return the features (B, 1024) float32 of `clips`."""
        if clips.dtype == torch.uint8:
            clips = clips.float().div_(127.5).sub_(1.0)  # [-1, 1], as it was trained
        # In float32 a GPU would round the factors to TF32 unasked: 1e-3, and the key would not say
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.pool(self.maps(clips).float())

    def maps(self, clips: Tensor) -> Tensor:
        """Return the last map; see `I3D.maps` for the shapes."""
        x = self._stem(clips)
        x = self._pool(x, (1, 3, 3), (1, 2, 2))
        x = self.convs["conv2c"](self.convs["conv2b"](x))
        x = self._pool(x, (1, 3, 3), (1, 2, 2))
        x = self._blocks(x, "mixed3")
        x = self._pool(x, (3, 3, 3), (2, 2, 2))
        x = self._blocks(x, "mixed4")
        x = self._pool(x, (2, 2, 2), (2, 2, 2))
        return self._blocks(x, "mixed5")

    def _stem(self, clips: Tensor) -> Tensor:
        """Return the first map."""
        return self.convs["conv1a"](pad_input(clips, self.dtype), stride=2, padding=0)

    def _blocks(self, x: Tensor, stage: str) -> Tensor:
        for name in MIXED:
            if name.startswith(stage):
                x = self._mixed(x, name)
        return x

    def _mixed(self, x: Tensor, name: str) -> Tensor:
        convs = self.convs
        pooled = self._pool(x, (3, 3, 3), (1, 1, 1))
        branches = (
            convs[f"{name}.branch0"](x),
            convs[f"{name}.branch1"](convs[f"{name}.branch1_reduce"](x)),
            convs[f"{name}.branch2"](convs[f"{name}.branch2_reduce"](x)),
            convs[f"{name}.branch3"](pooled),
        )
        return torch.cat(branches, dim=1)

    def _pool(self, x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
        """Return the max pool of nonnegative maps with "SAME" padding."""
        return max_pool_same(x, kernel, stride)


def fold_norm(state: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias, float64, of the convolution `name` with its batch norm."""
    norm = {part: state[f"{name}.norm.{part}"].double() for part in
            ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
    scale = norm["weight"] / torch.sqrt(norm["running_var"] + BATCH_NORM_EPS)
    weight = state[f"{name}.conv.weight"].double() * scale.view(-1, 1, 1, 1, 1)
    return weight, norm["bias"] - norm["running_mean"] * scale


def has_bfloat16_conv() -> bool:
    """Whether oneDNN convolves bfloat16 on this CPU; its operators raise a RuntimeError if not."""
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pad_input(clips: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `clips` padded for the first convolution, as `dtype`, channels last: one pass."""
    pads = [same_padding(size, 7, 2) for size in clips.shape[2:]]
    sizes = [sum(pad) + size for pad, size in zip(pads, clips.shape[2:], strict=True)]
    shape = (clips.shape[0], *sizes, clips.shape[1])
    padded = torch.zeros(shape, dtype=dtype, device=clips.device).permute(0, 4, 1, 2, 3)
    inner = padded
    for axis, (pad, size) in enumerate(zip(pads, clips.shape[2:], strict=True), start=2):
        inner = inner.narrow(axis, pad[0], size)
    inner.copy_(clips)
    return padded
