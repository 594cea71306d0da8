"""Winograd convolutions: the direct convolution's result, whatever the shape."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.i3d.compiled import CompiledConv, has_fused_conv
from extract.i3d.folded import fold_norm
from extract.i3d.winograd import WinogradConv, suits_winograd
from extract.kernels.simd import LANES

pytestmark = pytest.mark.skipif(not has_fused_conv(), reason="this PyTorch has no oneDNN")


def random_conv(out: int, inputs: int, taps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, inputs, taps, taps, taps, generator=rng) / (taps**3 * inputs) ** 0.5
    return weight, torch.randn(out, generator=rng)


@given(
    clips=st.integers(1, 3),
    sizes=st.tuples(st.integers(4, 13), st.integers(4, 21), st.integers(4, 21)),
    inputs=st.integers(LANES, 40),
    out=st.integers(LANES, 50),
    taps=st.sampled_from([3, 4]),
    padding=st.integers(0, 2),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_equals_the_direct_convolution(
    clips: int,
    sizes: tuple[int, int, int],
    inputs: int,
    out: int,
    taps: int,
    padding: int,
    seed: int,
) -> None:
    weight, bias = random_conv(out, inputs, taps, seed)
    shape = (clips, *sizes, inputs)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))
    x = x.permute(0, 4, 1, 2, 3)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), padding=padding).relu()
    found = WinogradConv(weight, bias, padding=padding)(x)
    assert found.shape == expected.shape
    assert found.permute(0, 2, 3, 4, 1).is_contiguous()
    error = (found.double() - expected).norm()
    assert error <= 2e-5 * (expected.norm() + bias.double().norm())


def test_it_sees_nothing_but_the_clip() -> None:
    """What lies beside the map in memory must not reach the result."""
    weight, bias = random_conv(32, 32, 3, 0)
    memory = torch.full((3, 6, 9, 9, 32), torch.nan)
    memory[1] = torch.randn(6, 9, 9, 32)
    x = memory[1:2].permute(0, 4, 1, 2, 3)
    expected = F.conv3d(x, weight, bias, padding=1).relu()
    found = WinogradConv(weight, bias, padding=1)(x)
    assert (found - expected).norm() <= 2e-5 * expected.norm()


@pytest.mark.parametrize(
    ("channels", "shape", "dtype", "suits"),
    [
        (64, (1, 64, 8, 56, 56), torch.float32, True),
        (64, (1, 64, 6, 56, 56), torch.float32, True),
        (64, (1, 64, 8, 56, 56), torch.bfloat16, False),
        (LANES - 1, (1, LANES - 1, 8, 56, 56), torch.float32, False),  # no whole vector
        (64, (1, 64, 2, 7, 7), torch.float32, False),  # too small to gain
    ],
)
def test_only_large_float32_convolutions_take_it(
    channels: int, shape: tuple[int, ...], dtype: torch.dtype, suits: bool
) -> None:
    weight = torch.zeros(192, channels, 3, 3, 3, dtype=dtype)
    assert suits_winograd(weight, torch.zeros(shape, dtype=dtype)) is suits


def test_the_network_s_convolutions_take_it() -> None:
    weight, _ = random_conv(32, 64, 3, 0)
    names = ("weight", "bias", "running_mean", "running_var")
    values = (torch.ones(32), torch.zeros(32), torch.zeros(32), torch.ones(32) - 1e-3)
    state = {f"unit.norm.{name}": value for name, value in zip(names, values, strict=True)}
    state["unit.conv.weight"] = weight
    conv = CompiledConv(*fold_norm(state, "unit"), torch.device("cpu"), torch.float32)
    x = torch.randn(1, 4, 16, 16, 64).permute(0, 4, 1, 2, 3)
    found = conv(x)
    assert conv.winograd is not None
    assert conv.packed is None
    expected = F.conv3d(x, weight, padding=1).relu()
    assert (found - expected).norm() <= 1e-5 * expected.norm()
