"""Winograd convolutions: the direct convolution's result, whatever the shape."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.i3d_prepared import FusedConv, has_fused_conv
from extract.i3d_winograd import MIN_MULTIPLICATIONS, WinogradConv, suits_winograd

pytestmark = pytest.mark.skipif(not has_fused_conv(), reason="this PyTorch has no oneDNN")


def random_conv(out: int, inputs: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inputs, 3, 3, 3, generator=rng) / (27 * inputs) ** 0.5
    return weight, torch.randn(out, generator=rng)


@given(
    clips=st.integers(1, 3),
    tiles=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    inputs=st.sampled_from([1, 3, 16, 40]),
    out=st.sampled_from([1, 5, 16, 48]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_direct_convolution(
    clips: int, tiles: int, height: int, width: int, inputs: int, out: int, seed: int
) -> None:
    weight, bias = random_conv(out, inputs, seed)
    shape = (clips, 4 * tiles, height, width, inputs)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))
    x = x.permute(0, 4, 1, 2, 3)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), padding=1).relu()
    found = WinogradConv(weight, bias)(x)
    assert found.is_contiguous(memory_format=torch.channels_last_3d) or 1 in found.shape
    error = (found.double() - expected).norm()
    assert error <= 1e-5 * (expected.norm() + bias.double().norm())


@pytest.mark.parametrize(
    ("shape", "dtype", "suits"),
    [
        ((1, 64, 8, 56, 56), torch.float32, True),
        ((1, 64, 8, 56, 56), torch.bfloat16, False),
        ((1, 64, 6, 56, 56), torch.float32, False),  # six frames are no whole tiles
        ((1, 64, 8, 7, 7), torch.float32, False),  # too small to gain
    ],
)
def test_only_large_float32_convolutions_take_it(
    shape: tuple[int, ...], dtype: torch.dtype, suits: bool
) -> None:
    weight = torch.zeros(192, 64, 3, 3, 3, dtype=dtype)
    assert suits_winograd(weight, torch.zeros(shape, dtype=dtype)) is suits


def test_the_network_s_convolutions_take_it() -> None:
    weight, _ = random_conv(32, 64, 0)
    names = ("weight", "bias", "running_mean", "running_var")
    values = (torch.ones(32), torch.zeros(32), torch.zeros(32), torch.ones(32) - 1e-3)
    state = {f"unit.norm.{name}": value for name, value in zip(names, values, strict=True)}
    state["unit.conv.weight"] = weight
    conv = FusedConv(state, "unit", torch.device("cpu"), torch.float32)
    side = int((MIN_MULTIPLICATIONS / (32 * 64 * 9)) ** 0.5) + 1
    x = torch.randn(1, 4, side, side, 64).permute(0, 4, 1, 2, 3)
    found = conv(x)
    assert conv.winograd is not None
    assert conv.packed is None
    expected = F.conv3d(x, weight, padding=1).relu()
    assert (found - expected).norm() <= 1e-5 * expected.norm()
