"""Minimal filtering against PyTorch's own convolution in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.network.convlstm import ConvLSTMLayer
from model.network.winograd import (
    GRID,
    kernels_at_points,
    maps_at_points,
    maps_from_points,
    transforms,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def filtered(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """Our convolution of (N, C, G, G) with (O, C, 3, 3)."""
    maps = images.flatten(2).permute(2, 0, 1)
    products = torch.bmm(maps_at_points(maps), kernels_at_points(kernels))
    return maps_from_points(products.to(kernels.dtype)).permute(1, 2, 0).unflatten(2, (GRID, GRID))


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=20)
def test_it_is_a_convolution_of_maps_with_zeros_around_them(number, channels, outputs, seed):
    images = random(number, channels, GRID, GRID, seed=seed).requires_grad_()
    kernels = random(outputs, channels, 3, 3, seed=seed + 1).requires_grad_()
    expected = F.conv2d(images, kernels, padding=1)
    torch.testing.assert_close(filtered(images, kernels), expected, rtol=0, atol=1e-12)
    weights = random(*expected.shape, seed=seed + 2)
    found, wanted = (
        torch.autograd.grad((maps * weights).sum(), (images, kernels))
        for maps in (filtered(images, kernels), expected)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


def test_float32_loses_little():
    """As much as a sum of 1,152 products in any order does; how much a direct convolution loses
    is the library's and the CPU's business."""
    images = random(60, 128, GRID, GRID, seed=0, dtype=torch.float32)
    kernels = random(64, 128, 3, 3, seed=1, dtype=torch.float32)
    exact = F.conv2d(images.double(), kernels.double(), padding=1)
    assert relative_error(filtered(images, kernels), exact) < 2e-6


def test_under_autocast_only_the_products_are_rough():
    images, kernels = random(8, 32, GRID, GRID, seed=0), random(16, 32, 3, 3, seed=1)
    exact = F.conv2d(images, kernels, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = filtered(images.float(), kernels.float())
    assert found.dtype == torch.float32
    # bfloat16 has 8 bits; of transforms in it, whose terms no longer cancel, several would be lost
    assert 1e-4 < relative_error(found, exact) < 0.03


def test_what_scoring_made_first_does_not_end_a_training() -> None:
    """The matrices are kept: made in inference mode they would take no part in a backward pass."""
    transforms.cache_clear()
    layer = ConvLSTMLayer(3, 2, peepholes=False)
    inputs = torch.rand(1, 2, 3, 4, 4)
    with torch.inference_mode():
        layer(inputs)
    layer(inputs).sum().backward()
    assert layer.input_to_gates.weight.grad is not None
