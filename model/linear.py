"""Fully connected layers whose products, on a CPU, are those of `extract.kernels.products`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from extract.kernels.compiling import flat, use_threads_of_torch
from extract.kernels.simd import LANES
from model.linear_kernels import share_columns, share_rows


class Linear(nn.Linear):
    """PyTorch's layer, faster on CPUs that Intel did not make; the same parameters and values."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `inputs` (..., in_features) times the weights, and the bias."""
        if not self._suits_kernels(inputs):
            return super().forward(inputs)
        rows = inputs.reshape(-1, self.in_features)
        product: Tensor = _Product.apply(rows, self.weight)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            product = product + self.bias
        return product.view(*inputs.shape[:-1], self.out_features)

    def _suits_kernels(self, inputs: Tensor) -> bool:
        return (
            inputs.device.type == "cpu"
            and inputs.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and min(inputs.numel() // self.in_features, *self.weight.shape) >= LANES
        )


class _Product(torch.autograd.Function):
    """(N, in), (out, in) -> (N, out)."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        use_threads_of_torch()
        ctx.save_for_backward(inputs, weight)
        rows, (features, depth) = len(inputs), weight.shape
        product = torch.empty(features, rows, dtype=torch.float32)
        # Transposed, because a product reads vectors of what it multiplies by along its rows.
        by = flat(inputs.T)
        share_rows(flat(weight), depth, 1, by, flat(product), features, depth, rows)
        return product.T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        use_threads_of_torch()
        inputs, weight = ctx.saved_tensors
        rows, (features, depth) = len(inputs), weight.shape
        of_grad, d_inputs = flat(grad), None
        if ctx.needs_input_grad[0]:
            d_inputs = torch.empty(rows, depth, dtype=torch.float32)
            share_columns(of_grad, flat(weight), flat(d_inputs), rows, features, depth)
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = torch.empty(features, depth, dtype=torch.float32)
            by, out = flat(inputs), flat(d_weight)
            share_rows(of_grad, 1, features, by, out, features, rows, depth)
        return d_inputs, d_weight
