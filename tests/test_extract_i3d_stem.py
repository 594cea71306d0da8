"""The first convolution by Winograd's filtering: the transforms, and PyTorch's own convolution."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from extract.i3d.compiled import CompiledI3D
from extract.i3d.network import I3D
from extract.i3d.prepared import prepare_network
from extract.i3d.same import pad_same
from extract.i3d.stem import StemConv, suits_stem


@settings(max_examples=15)
@given(
    batch=st.integers(1, 2),
    channels=st.sampled_from([2, 3, 4, 9]),  # two pixels of 9 are more than any vector holds
    num_frames=st.integers(1, 20),
    sides=st.tuples(st.integers(6, 40), st.integers(6, 40)),
    last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_it_is_the_padded_strided_convolution(
    batch: int, channels: int, num_frames: int, sides: tuple[int, int], last: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    clips = torch.randn(batch, channels, num_frames, *sides)
    if last:
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
    weight, bias = torch.randn(16, channels, 7, 7, 7), torch.randn(16)
    padded = pad_same(clips.double(), (7, 7, 7), (2, 2, 2), 0.0)
    expected = F.conv3d(padded, weight.double(), bias.double(), stride=2).relu()
    with torch.inference_mode():
        found = StemConv(weight, bias)(clips)
    assert found.shape == expected.shape
    assert found.permute(0, 2, 3, 4, 1).is_contiguous()
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert (found >= 0).all()


@pytest.mark.parametrize("num_frames", [16, 12, 9])
def test_the_network_takes_it_for_any_length(num_frames: int) -> None:
    torch.manual_seed(0)
    plain = I3D("rgb").eval()
    network = prepare_network(plain.state_dict(), "rgb", device="cpu", precision="float32")
    assert isinstance(network, CompiledI3D)
    clips = torch.rand(1, 3, num_frames, 64, 64) * 2 - 1
    with torch.inference_mode():
        expected = plain.extract_features(clips)
    assert (network(clips) - expected).norm() <= 1e-4 * expected.norm()
    assert network.stem is not None


def test_half_precision_keeps_the_plain_convolution() -> None:
    weight = torch.zeros(64, 3, 7, 7, 7)
    assert suits_stem(weight)
    assert not suits_stem(weight.bfloat16())
