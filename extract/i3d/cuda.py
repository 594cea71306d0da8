"""The I3D features on an NVIDIA GPU, fast: `FoldedI3D` with kernels in Triton.

What makes it fast:

- bias, ReLU and the place in the block's map are part of the convolution that makes a branch, where
  PyTorch goes through memory for each;
- max pools read a map once, and pad nothing;
- the first convolution has 84 channels instead of 3, enough for tensor cores;
- float32 is computed by tensor cores too, in pairs of float16 (extract/i3d/triton_kernels.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.i3d import triton_kernels as kernels
from extract.i3d.folded import FoldedI3D, fold_norm
from extract.i3d.layers import MIXED, Stream, Triple, Widths
from extract.i3d.same import same_padding

# Maps have multiples of it in channels, some of them zeros: what is multiplied at a time
DEPTH = 32
# Cells and channels that one program makes: as large as leaves room for others beside it
BLOCK = {"BLOCK_M": 128, "BLOCK_N": 64}
# Triton's default, but newer releases warn where it is not said
FUSED = {"enable_fp_fusion": True}
LOW_SCALE = kernels.LOW_SCALE.value


class Format(NamedTuple):
    """How the numbers of a map are kept; see `extract.i3d.triton_kernels`."""

    parts: int
    dtype: torch.dtype


FORMATS = {
    "float32": Format(2, torch.float16),
    "float16": Format(1, torch.float16),
    "bfloat16": Format(1, torch.bfloat16),
}


def split(values: Tensor, form: Format) -> Tensor:
    """Return float64 `values` (...) as the parts of a map, (parts, ...)."""
    high = values.to(form.dtype)
    if form.parts == 1:
        return high[None]
    return torch.stack([high, ((values - high.double()) * LOW_SCALE).to(form.dtype)])


def join(x: Tensor) -> Tensor:
    """Return the float32 values (...) of a map (parts, ...)."""
    return x[0].float() if len(x) == 1 else x[0].float() + x[1].float() / LOW_SCALE


def full_widths(widths: Widths) -> Widths:
    """Return the widths of a block, filled up so that no map of it needs filling up."""

    def full(width: int) -> int:
        return -(-width // DEPTH) * DEPTH

    w0, w1, w1b, w2, w2b, w3 = widths
    others = w0 + w1b + w2b
    return w0, full(w1), w1b, full(w2), w2b, full(others + w3) - others


class TritonConv:
    """Convolution without stride, bias and ReLU of maps (parts, B, T, H, W, C)."""

    def __init__(self, weight: Tensor, bias: Tensor, form: Format, *, padding: int) -> None:
        """Lay the filters out as a matrix, a row for each factor of a sum.

        Args:
            weight: (out, T, H, W, in) float64; `in` is a multiple of DEPTH, `out` of 8.
            bias: (out,) float64.
            form: of the maps.
            padding: cells on each side of all three axes.
        """
        self.num_outputs, *self.kernel, self.depth = weight.shape
        self.form, self.padding = form, padding
        # The largest factor of a filter is made 1 to 2: float16 has no room for much smaller ones
        rows = weight.flatten(1)
        largest = rows.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        scale = torch.exp2(largest.log2().floor())
        matrix = F.pad((rows / scale[:, None]).T, (0, -self.num_outputs % BLOCK["BLOCK_N"]))
        self.weight = split(matrix.contiguous(), form)
        self.scale, self.bias = scale.float(), bias.float()
        # The fastest of those tried on an H200
        self.options: dict[str, Any] = {"BLOCK_K": DEPTH, "num_warps": 4, "num_stages": 3}
        if self.depth % (2 * DEPTH) == 0:
            self.options["BLOCK_K"] = 2 * DEPTH
            if form.parts == 2:
                self.options |= {"num_warps": 8, "num_stages": 2}

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return (parts, B, T, H, W, out), nonnegative.

        Args:
            x: the map, or some of its channels.
            out: where the result goes, with a cell for each place of the filters; by default a
                new map of the size of `x`.
        """
        if out is None:
            out = x.new_empty((*x.shape[:5], self.num_outputs))
        _, batch, times, height, width, _ = out.shape
        num_rows = batch * times * height * width
        grid = blocks_of(num_rows, BLOCK["BLOCK_M"]) * blocks_of(self.num_outputs, BLOCK["BLOCK_N"])
        kernels.convolve[(grid,)](
            x[0], x[-1], self.weight[0], self.weight[-1], self.scale, self.bias, out[0], out[-1],
            num_rows, times, height, width, *x.shape[3:5],
            *(n // 8 for n in (x.stride(4), self.depth, self.weight.stride(1), self.num_outputs)),
            out.stride(4) // 8, *self.kernel, PAD=self.padding, PARTS=self.form.parts,
            X_PARTS=len(x), **self.options, **BLOCK, **FUSED,
        )  # fmt: skip
        return out


class TritonStem:
    """The first convolution (7x7x7, stride 2) as one over cells of 7 frames by 2x2 pixels.

    An output sees 4x4 of these cells, their last row and column of pixels through factors of zero.
    Cells of a row follow each other, so that four of them are the channels of one tap.
    """

    def __init__(self, weight: Tensor, bias: Tensor, form: Format) -> None:
        """Sort the filters' factors into cells.

        Args:
            weight: (out, C, 7, 7, 7) float64.
            bias: (out,) float64.
            form: of the maps.
        """
        self.form = form
        num_outputs, self.channels = weight.shape[:2]
        taps = F.pad(weight, (0, 1, 0, 1)).view(num_outputs, self.channels, 7, 4, 2, 4, 2)
        cells = taps.permute(0, 3, 5, 2, 4, 6, 1).flatten(3)  # (out, 4, 4, 28 * C)
        self.cell = cells.shape[3] + -cells.shape[3] % 8
        # Pixels come as 255 times their value in [-1, 1]: integers, which no type rounds
        filters = F.pad(cells / 255, (0, self.cell - cells.shape[3])).flatten(2)[:, None, :, None]
        self.convolve = TritonConv(filters, bias, form, padding=0)

    def __call__(self, clips: Tensor) -> Tensor:
        """Return (parts, B, T / 2, H / 2, W / 2, out) of `clips` (B, C, T, H, W)."""
        cells = self.cells(clips)
        _, batch, times, height, width, _ = cells.shape
        size = (batch, times, height - 3, width - 3)
        shape = (self.form.parts, *size, self.convolve.num_outputs)
        return self.convolve(cells, cells.new_empty(shape))

    def cells(self, clips: Tensor) -> Tensor:
        """Return (parts, B, T / 2, H / 2 + 3, W / 2 + 3, cell) of `clips` (B, C, T, H, W)."""
        batch, _, *sizes = clips.shape
        times, height, width = (-(-size // 2) for size in sizes)
        shape = (batch, times, height + 3, width + 3)
        frames = clips.dtype == torch.uint8
        parts = 1 if frames else self.form.parts
        cells = torch.empty((parts, *shape, self.cell), dtype=self.form.dtype, device=clips.device)
        num_rows, block = cells[0].numel() // self.cell, 64
        kernels.gather_cells[(blocks_of(num_rows, block),)](
            clips, cells[0], cells[-1], num_rows, *shape[1:], *sizes,
            *(same_padding(size, 7, 2)[0] for size in sizes), *clips.stride(),
            2.0 if frames else 255.0, -255.0 if frames else 0.0, CHANNELS=self.channels, TAPS=7,
            CELL=self.cell, PARTS=parts, BLOCK_M=block, BLOCK_N=128 if self.cell > 64 else 64,
            **FUSED,
        )  # fmt: skip
        return cells


class TritonI3D(FoldedI3D):
    """One stream's network on a GPU."""

    def __init__(
        self, state: Mapping[str, Tensor], stream: Stream, *, device: torch.device, precision: str
    ) -> None:
        form = FORMATS[precision]

        def conv(*names: str, widths: Sequence[int] = (0,)) -> TritonConv:
            """Return convolutions of one map as one, each filled up with zeros to its width."""
            weights, biases = [], []
            for name, width in zip(names, widths, strict=True):
                weight, bias = (tensor.to(device) for tensor in fold_norm(state, name))
                more = max(width - len(bias), 0)
                weight = F.pad(weight.permute(0, 2, 3, 4, 1), (0, -weight.shape[1] % DEPTH))
                weights.append(F.pad(weight, (0,) * 9 + (more,)))
                biases.append(F.pad(bias, (0, more)))
            padding = weights[0].shape[1] // 2
            return TritonConv(torch.cat(weights), torch.cat(biases), form, padding=padding)

        weight, bias = (tensor.to(device) for tensor in fold_norm(state, "conv1a"))
        self.stem = TritonStem(weight, bias, form)
        convs = {name: conv(name) for name in ("conv2b", "conv2c")}
        for block, widths in MIXED.items():
            w0, w1, w1b, w2, w2b, w3 = full_widths(widths)
            for branch, width in enumerate((w0, w1b, w2b, w3)):
                name = f"{block}.branch{branch}"
                convs[name] = conv(name, widths=(width,))
            convs[f"{block}.reduce"] = conv(
                f"{block}.branch1_reduce", f"{block}.branch2_reduce", widths=(w1, w2)
            )
        self.convs = convs

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> Tensor:
        """Return the features (B, 1024) float32 of `clips`."""
        with torch.cuda.device(clips.get_device()):  # where Triton launches
            return self.pool(join(self.maps(clips)).permute(0, 4, 1, 2, 3))

    def _stem(self, clips: Tensor) -> Tensor:
        return self.stem(clips)

    def _mixed(self, x: Tensor, name: str) -> Tensor:
        w0, w1, w1b, w2, w2b, w3 = full_widths(MIXED[name])
        out = x.new_empty((*x.shape[:5], w0 + w1b + w2b + w3))
        branch0, branch1, branch2, branch3 = torch.split(out, [w0, w1b, w2b, w3], dim=5)
        reduced1, reduced2 = torch.split(self.convs[f"{name}.reduce"](x), [w1, w2], dim=5)
        self.convs[f"{name}.branch0"](x, branch0)
        self.convs[f"{name}.branch1"](reduced1, branch1)
        self.convs[f"{name}.branch2"](reduced2, branch2)
        self.convs[f"{name}.branch3"](self._pool(x, (3, 3, 3), (1, 1, 1)), branch3)
        return out

    def _pool(self, x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
        return max_pool(x, kernel, stride)


def max_pool(x: Tensor, kernel: Triple, stride: Triple) -> Tensor:
    """Return the max pool of a nonnegative map (parts, B, T, H, W, C) with "SAME" padding."""
    axes = list(zip(x.shape[2:5], kernel, stride, strict=True))
    sizes = [blocks_of(size, step) for size, _, step in axes]
    channels = x.shape[5]
    out = x.new_empty((*x.shape[:2], *sizes, channels))
    num_rows, block_m, block_n = out[0].numel() // channels, 32, 64
    kernels.max_pool[blocks_of(num_rows, block_m), blocks_of(channels, block_n)](
        x[0], x[-1], out[0], out[-1], num_rows, *sizes, *x.shape[2:5], channels // 8,
        *(same_padding(*axis)[0] for axis in axes), *stride, *kernel,
        PARTS=len(x), BLOCK_M=block_m, BLOCK_N=block_n, **FUSED,
    )  # fmt: skip
    return out


def blocks_of(size: int, block: int) -> int:
    """Return how many blocks cover `size`."""
    return -(-size // block)
