"""The I3D features, fast: the same function as `I3D.extract_features`, for inference only.

What makes it fast on a CPU, in order of weight (times of one 16-frame clip on one core):

- max pools: PyTorch's 3-D pool also finds the position of each maximum, and took 44 % of the
  time; here every map is read once (extract/i3d/pool.py);
- memory: glibc gives every freed map back to the kernel and faults its pages in again, 15 %;
- convolutions: batch norm folded in, ReLU fused, channels last, oneDNN for every one of them
  (PyTorch takes a slow path for small maps of a single clip), but in float32 the large 3x3x3 ones
  and the first with an eighth of the multiplications (winograd.py and stem.py here).

On a GPU the plain operators stay, in half precision where asked, on channels-last maps. Nothing
here waits for the device.
"""

import threading
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from data.memory import keep_freed_memory
from extract.i3d.layers import BATCH_NORM_EPS, MIXED, Stream, Triple, conv_units
from extract.i3d.network import pool_features
from extract.i3d.pool import max_pool
from extract.i3d.same import max_pool_same, same_padding
from extract.i3d.stem import StemConv, suits_stem
from extract.i3d.winograd import WinogradConv, suits_winograd

CHANNELS_LAST = torch.channels_last_3d
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_network(
    state: Mapping[str, Tensor], stream: Stream, *, device: torch.device | str, precision: str
) -> Callable[[Tensor], Tensor]:
    """Return `extract_features` of the network with the weights `state`, made fast on `device`.

    The result takes clips (B, C, T, H, W) float32 in [-1, 1] on `device` and returns features
    (B, 1024) float32. On a CPU the process keeps the memory it has used from then on.

    Args:
        state: weights in our names.
        stream: which network.
        device: where it runs.
        precision: `float32`, `bfloat16` or `float16`; see `extract.i3d.precision.precision_for`.
    """
    device = torch.device(device)
    if device.type == "cpu":
        keep_freed_memory()
    return PreparedI3D(state, stream, device=device, precision=precision)


class PreparedI3D:
    """One stream's network, folded and laid out for `device`.

    Calling it maps clips (B, C, T, H, W) float32 in [-1, 1], of any memory layout, to features
    (B, 1024) float32 on the same device.
    """

    def __init__(
        self, state: Mapping[str, Tensor], stream: Stream, *, device: torch.device, precision: str
    ) -> None:
        self.device, self.dtype = device, DTYPES[precision]
        self.on_cpu = device.type == "cpu"
        self.convs = {
            unit.name: FusedConv(state, unit.name, device, self.dtype)
            for unit in conv_units(stream)
        }
        self.stem: StemConv | None = None

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return the features (B, 1024) float32 of `clips`."""
        # In float32 a GPU would round the factors to TF32 unasked: 1e-3, and the key would not say
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return pool_features(self.maps(clips).float())

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
        conv = self.convs["conv1a"]
        if not (conv.one_dnn and suits_stem(conv.weight)):
            return conv(pad_input(clips, self.dtype), stride=2, padding=0)
        with conv.preparing:
            if self.stem is None:
                self.stem = StemConv(conv.weight, conv.bias)
        return self.stem(clips.to(self.dtype).to(conv.weight.dtype)).to(self.dtype)

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
        return (max_pool if self.on_cpu else max_pool_same)(x, kernel, stride)


class FusedConv:
    """Convolution, batch norm and ReLU as one operator.

    Where oneDNN has no bfloat16 for this CPU, PyTorch's own loop takes 300 times as long as
    float32. There the convolution of bfloat16 maps and weights runs in float32, in which their
    products are exact and which oneDNN's bfloat16 also adds up in; the result is rounded.
    """

    def __init__(
        self, state: Mapping[str, Tensor], name: str, device: torch.device, dtype: torch.dtype
    ) -> None:
        norm = {part: state[f"{name}.norm.{part}"].double() for part in
                ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
        scale = norm["weight"] / torch.sqrt(norm["running_var"] + BATCH_NORM_EPS)
        weight = state[f"{name}.conv.weight"].double() * scale.view(-1, 1, 1, 1, 1)
        bias = norm["bias"] - norm["running_mean"] * scale
        self.dtype = dtype
        emulated = device.type == "cpu" and dtype == torch.bfloat16 and not has_bfloat16_conv()
        multiplied = torch.float32 if emulated else dtype
        rounded = weight.to(device, dtype).contiguous(memory_format=CHANNELS_LAST)
        self.weight = rounded.to(multiplied)
        self.bias = bias.to(device, dtype).to(multiplied)
        self.one_dnn = device.type == "cpu" and has_fused_conv()
        self.preparing = threading.Lock()  # threads share the network; one makes what all use
        self.packed: Tensor | None = None
        self.winograd: WinogradConv | None = None

    def __call__(self, x: Tensor, *, stride: int = 1, padding: int | None = None) -> Tensor:
        """Return (B, out, ceil(T / stride), ...), nonnegative.

        Args:
            x: (B, in, T, H, W), channels last.
            stride: of all three axes.
            padding: cells on each side of all three axes; by default, what keeps the size.
        """
        padding = self.weight.shape[-1] // 2 if padding is None else padding
        return self._convolve(x.to(self.weight.dtype), stride, padding).to(self.dtype)

    def _convolve(self, x: Tensor, stride: int, padding: int) -> Tensor:
        if not self.one_dnn:
            return F.conv3d(x, self.weight, self.bias, stride, padding).relu_()
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


def has_fused_conv() -> bool:
    """Whether this PyTorch has the operators with which its compiler calls oneDNN."""
    return (
        torch._C._has_mkldnn
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )


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
