"""The ConvLSTM against equations 1 to 5 written out as loops, in numpy and from the paper alone."""

import numpy as np
import pytest
import torch

from model.network.config import NetworkConfig
from model.network.convlstm import ConvLSTM, ConvLSTMLayer
from model.network.multitask import AnomalyNetwork

SIDE = 4


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def loop_conv(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Cross-correlation of (C, H, W) with (O, C, k, k), zeros outside, element by element."""
    out_channels, in_channels, size, _ = kernel.shape
    height, width = image.shape[1:]
    result = np.zeros((out_channels, height, width))
    for o in range(out_channels):
        for y in range(height):
            for x in range(width):
                for c in range(in_channels):
                    for dy in range(size):
                        for dx in range(size):
                            sy, sx = y + dy - size // 2, x + dx - size // 2
                            if 0 <= sy < height and 0 <= sx < width:
                                result[o, y, x] += kernel[o, c, dy, dx] * image[c, sy, sx]
    return result


def equations_1_to_5(inputs: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    """The hidden states (K, hidden, H, W) of one sequence (K, C, H, W)."""
    shape = (weights["W_ci"].shape[0], *inputs.shape[2:])
    hidden, cell, states = np.zeros(shape), np.zeros(shape), []
    for x in inputs:
        share = {
            gate: loop_conv(x, weights[f"W_x{gate}"])
            + loop_conv(hidden, weights[f"W_h{gate}"])
            + weights[f"b_{gate}"][:, None, None]
            for gate in "ifoc"
        }
        i = sigmoid(share["i"] + weights["W_ci"] * cell)
        f = sigmoid(share["f"] + weights["W_cf"] * cell)
        cell = f * cell + i * np.tanh(share["c"])
        o = sigmoid(share["o"] + weights["W_co"] * cell)
        hidden = o * np.tanh(cell)
        states.append(hidden)
    return np.stack(states)


def weights_of(layer: ConvLSTMLayer, hidden: int) -> dict[str, np.ndarray]:
    """The layer's parameters under the paper's names; its gates are stacked i, f, o, c."""
    weights = {}
    for index, gate in enumerate("ifoc"):
        rows = slice(index * hidden, (index + 1) * hidden)
        weights[f"W_x{gate}"] = layer.input_to_gates.weight[rows].detach().numpy()
        weights[f"W_h{gate}"] = layer.hidden_to_gates.weight[rows].detach().numpy()
        weights[f"b_{gate}"] = layer.input_to_gates.bias[rows].detach().numpy()
    peepholes = (
        torch.zeros(3, hidden, 1, 1) if layer.peepholes is None else layer.peepholes.detach()
    )
    for index, gate in enumerate("ifo"):
        weights[f"W_c{gate}"] = peepholes[index].numpy()
    return weights


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("peepholes", [True, False])
def test_layer_computes_equations_1_to_5(peepholes):
    torch.manual_seed(0)
    layer = ConvLSTMLayer(3, 2, peepholes=peepholes).double()
    if peepholes:
        torch.nn.init.normal_(layer.peepholes)
    inputs = torch.randn(2, 4, 3, SIDE, SIDE, dtype=torch.float64)
    states = layer(inputs).detach().numpy()
    for sequence, found in zip(inputs.numpy(), states, strict=True):
        expected = equations_1_to_5(sequence, weights_of(layer, 2))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_second_layer_is_fed_the_first_layers_hidden_states():
    torch.manual_seed(1)
    stack = ConvLSTM(2, 3, layers=2).double()
    for layer in stack.layers:
        torch.nn.init.normal_(layer.peepholes)
    inputs = torch.randn(1, 3, 2, SIDE, SIDE, dtype=torch.float64)
    below = equations_1_to_5(inputs[0].numpy(), weights_of(stack.layers[0], 3))
    expected = equations_1_to_5(below, weights_of(stack.layers[1], 3))
    np.testing.assert_allclose(stack(inputs)[0].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_dropout_lies_between_two_layers_in_training_alone():
    torch.manual_seed(4)
    stack = ConvLSTM(2, 3, layers=2, dropout=0.5)
    inputs = torch.randn(3, 4, 2, SIDE, SIDE)
    below = stack.layers[0](inputs)
    torch.testing.assert_close(stack.eval()(inputs), stack.layers[1](below))
    torch.manual_seed(5)
    found = stack.train()(inputs)
    torch.manual_seed(5)
    kept = torch.nn.functional.dropout(below, 0.5)
    torch.testing.assert_close(found, stack.layers[1](kept))


def test_bfloat16_states_are_near_those_of_float32():
    torch.manual_seed(3)
    layer = ConvLSTMLayer(4, 3, peepholes=True)
    torch.nn.init.normal_(layer.peepholes)
    inputs = torch.randn(2, 3, 4, SIDE, SIDE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = layer(inputs).float()
    exact = layer(inputs)
    assert not torch.allclose(rough, exact, atol=1e-5)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.1)


def test_every_peephole_is_trained():
    torch.manual_seed(2)
    layer = ConvLSTMLayer(2, 2, peepholes=True)
    layer(torch.randn(3, 3, 2, SIDE, SIDE))[:, -1].sum().backward()
    assert (layer.peepholes.grad.abs() > 0).all()


def network(feature_dim: int = 2048, num_categories: int = 14, **changes) -> AnomalyNetwork:
    torch.manual_seed(0)
    config = NetworkConfig(clip_slots=16, **changes)
    return AnomalyNetwork(config, feature_dim=feature_dim, num_categories=num_categories)


def test_paper_shapes():
    net = network()
    first = net.recurrent.layers[0].input_to_gates.weight
    assert first.shape == (4 * 128, 128, 3, 3)  # 2048 values as 128 maps of 4x4
    assert net.recurrent.layers[0].peepholes.shape == (3, 128, 4, 4)
    widths = [layer.weight.shape for layer in net.trunk if isinstance(layer, torch.nn.Linear)]
    assert widths == [(2048, 2048), (1024, 2048), (512, 1024)]
    scores, categories = net(torch.randn(2, 5, 2048), torch.ones(2, 5, dtype=torch.bool))
    assert scores.shape == (2, 5, 16)
    assert categories.shape == (2, 14)


@pytest.mark.parametrize(("feature_dim", "maps"), [(1024, 64), (4096, 256), (100, 7)])
def test_other_widths_fill_the_grid(feature_dim, maps):
    net = network(feature_dim, hidden=8, head_widths=(16,))
    assert net.recurrent.layers[0].input_to_gates.weight.shape[1] == maps
    scores, _ = net(torch.randn(2, 5, feature_dim), torch.ones(2, 5, dtype=torch.bool))
    assert scores.shape == (2, 5, 16)


def test_no_categories_no_category_head():
    net = network(64, 0, hidden=8, head_widths=(16,))
    assert net(torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool)).categories is None


def test_separate_heads_share_nothing_but_the_recurrent_part():
    net = network(64, 3, hidden=8, head_widths=(16,), heads="separate")
    net(torch.randn(2, 5, 64), torch.ones(2, 5, dtype=torch.bool)).categories.sum().backward()
    assert all(parameter.grad is None for parameter in net.trunk.parameters())
    assert net.recurrent.layers[0].input_to_gates.weight.grad is not None


def test_reading_out_each_step_ignores_padded_steps_in_the_category():
    net = network(64, 3, hidden=8, head_widths=(16,), readout="each").eval()
    mask = torch.tensor([[True, True, False, False, False]])
    features = torch.randn(1, 5, 64)
    altered = features.clone()
    altered[:, 2:] = 100.0
    before, after = net(features, mask), net(altered, mask)
    torch.testing.assert_close(before.categories, after.categories)
    torch.testing.assert_close(before.scores[:, :2], after.scores[:, :2])


def test_skip_is_a_linear_score_of_the_clips_own_features():
    net = network(64, 0, hidden=8, head_widths=(16,), skip=True).eval()
    for parameter in (*net.score_output.parameters(), net.score_skip.bias):
        torch.nn.init.zeros_(parameter)
    features = torch.randn(2, 5, 64)
    scores = net(features, torch.ones(2, 5, dtype=torch.bool)).scores
    torch.testing.assert_close(scores, features @ net.score_skip.weight.T)
