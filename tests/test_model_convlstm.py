"""The ConvLSTM against equations 1 to 5 written out as loops, in numpy and from the paper alone."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from extract.kernels.simd import LANES
from model import recurrence
from model.config import ModelConfig
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
    layer = ConvLSTMLayer(3, 2, grid=SIDE, kernel=3, peepholes=peepholes).double()
    if peepholes:
        torch.nn.init.normal_(layer.peepholes)
    inputs = torch.randn(2, 4, 3, SIDE, SIDE, dtype=torch.float64)
    states = layer(inputs).detach().numpy()
    for sequence, found in zip(inputs.numpy(), states, strict=True):
        expected = equations_1_to_5(sequence, weights_of(layer, 2))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("peepholes", [True, False])
def test_kernels_compute_equations_1_to_5(peepholes):
    layer, inputs = layer_and_inputs(2, peepholes, torch.float32, channels=LANES + 1, batch=1)
    assert layer._suits_kernels(inputs)
    expected = equations_1_to_5(inputs[0].detach().numpy(), weights_of(layer, LANES))
    found = layer(inputs)[0].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)


def plain_layer(layer: ConvLSTMLayer, inputs: torch.Tensor) -> torch.Tensor:
    """Equations 1 to 5 with torch's convolutions of each step, for autograd to differentiate."""
    conv = torch.nn.functional.conv2d
    hidden = cell = inputs.new_zeros(
        len(inputs), layer.hidden_to_gates.in_channels, *inputs.shape[3:]
    )
    peepholes = [0.0] * 3 if layer.peepholes is None else layer.peepholes
    states = []
    for x in inputs.unbind(1):
        gates = conv(x, layer.input_to_gates.weight, layer.input_to_gates.bias, padding=1)
        gates = gates + conv(hidden, layer.hidden_to_gates.weight, padding=1)
        i, f, o, g = gates.chunk(4, 1)
        i, f = i + peepholes[0] * cell, f + peepholes[1] * cell
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = (o + peepholes[2] * cell).sigmoid() * cell.tanh()
        states.append(hidden)
    return torch.stack(states, 1)


def layer_and_inputs(
    steps: int,
    peepholes: bool,
    dtype: torch.dtype,
    *,
    channels: int = 20,
    hidden: int = LANES,
    batch: int = 6,
):
    torch.manual_seed(3)
    layer = ConvLSTMLayer(channels, hidden, grid=SIDE, kernel=3, peepholes=peepholes).to(dtype)
    if peepholes:
        torch.nn.init.normal_(layer.peepholes)
    inputs = torch.randn(batch, steps, channels, SIDE, SIDE, dtype=dtype, requires_grad=True)
    return layer, inputs


def assert_same_as_step_by_step(layer: ConvLSTMLayer, inputs: torch.Tensor, tolerance: float):
    """States and all gradients, up to `tolerance` of each one's largest value."""
    wanted = [inputs, *layer.parameters()]
    found, expected = layer(inputs), plain_layer(layer, inputs)
    pull = torch.randn_like(expected)
    ours, theirs = (
        torch.autograd.grad(states, wanted, pull, materialize_grads=True)
        for states in (found, expected)
    )
    for a, b in zip((found, *ours), (expected, *theirs), strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 3e-5)])
@pytest.mark.parametrize("peepholes", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_layer_and_its_gradients_are_those_of_convolutions_step_by_step(
    steps, peepholes, dtype, tolerance
):
    layer, inputs = layer_and_inputs(steps, peepholes, dtype)
    assert layer._suits_kernels(inputs) == (dtype is torch.float32)
    with torch.inference_mode():  # what an evaluation leaves behind must serve a training
        layer(inputs)
    assert_same_as_step_by_step(layer, inputs, tolerance)


@pytest.mark.parametrize(
    ("batch", "channels", "vectors"),
    [(1, LANES, 1), (3, 2 * LANES, 2), (61, 3 * LANES + 5, 3), (130, 4 * LANES, 5)],
)
def test_kernels_take_any_number_of_windows_and_channels(batch, channels, vectors):
    """Parts of vectors, of pairs of vectors and of blocks of rows."""
    hidden = vectors * LANES
    layer, inputs = layer_and_inputs(
        3, True, torch.float32, channels=channels, hidden=hidden, batch=batch
    )
    assert layer._suits_kernels(inputs)
    assert_same_as_step_by_step(layer, inputs, 3e-5)


def test_kernels_divide_few_windows_for_many_threads(monkeypatch):
    layer, inputs = layer_and_inputs(3, True, torch.float32, hidden=2 * LANES, batch=50)
    alone = layer(inputs)
    threads = recurrence.use_threads_of_torch()
    monkeypatch.setattr(recurrence, "use_threads_of_torch", lambda: 16 * threads)
    assert torch.equal(layer(inputs), alone)
    assert_same_as_step_by_step(layer, inputs, 3e-5)


def test_four_threads_compute_what_one_does():
    """In a process of its own, where numba may have more threads than there are cores."""
    program = (
        "import torch\n"
        "from model.network.convlstm import ConvLSTM\n"
        "torch.manual_seed(0)\n"
        "stack = ConvLSTM(32, 64)\n"
        "for layer in stack.layers: torch.nn.init.normal_(layer.peepholes)\n"
        "inputs = torch.randn(200, 3, 32, 4, 4)\n"
        "def results(threads):\n"
        "    torch.set_num_threads(threads)\n"
        "    states = stack(inputs)\n"
        "    return states, *torch.autograd.grad(states.square().sum(), list(stack.parameters()))\n"
        "alone = results(1)\n"
        "for _ in range(10):\n"
        "    for a, b in zip(results(4), alone, strict=True):\n"
        "        assert (a - b).abs().max() <= 1e-5 * b.abs().max()\n"
        "import numba; assert numba.get_num_threads() == 4\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_frozen_weights_get_no_gradient_and_the_others_theirs(frozen):
    layer, inputs = layer_and_inputs(2, True, torch.float32)
    weights = list(layer.parameters())
    whole = torch.autograd.grad(layer(inputs).square().sum(), weights)
    weights[frozen].requires_grad_(False)
    others = [n for n in range(len(weights)) if n != frozen]
    inputs = inputs.detach()  # nor do the inputs, as those of the first layer
    found = torch.autograd.grad(layer(inputs).square().sum(), [weights[n] for n in others])
    for n, gradient in zip(others, found, strict=True):
        torch.testing.assert_close(gradient, whole[n])


def test_weights_may_lie_in_any_order_in_memory():
    layer, inputs = layer_and_inputs(2, True, torch.float32)
    expected = layer(inputs)
    weight = layer.input_to_gates.weight
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer(inputs), expected)
    assert_same_as_step_by_step(layer, inputs, 3e-5)


@pytest.mark.parametrize("channels", [LANES, 4 * LANES])
def test_other_channels_than_the_weights_are_refused(channels):
    """The kernels would read or write past the arrays' ends."""
    layer, _ = layer_and_inputs(2, True, torch.float32, channels=2 * LANES)
    with pytest.raises(RuntimeError, match="channels"):
        layer(torch.randn(3, 2, channels, SIDE, SIDE))


def test_autocast_is_left_to_torch():
    layer, inputs = layer_and_inputs(2, True, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not layer._suits_kernels(inputs)
        rough = layer(inputs)
    exact = layer(inputs)
    assert not torch.allclose(rough.float(), exact, atol=1e-5)
    torch.testing.assert_close(rough.float(), exact, rtol=0, atol=0.1)


def test_no_window_has_no_states():
    layer, inputs = layer_and_inputs(2, True, torch.float32)
    assert layer(inputs[:0]).shape == (0, 2, LANES, SIDE, SIDE)


@pytest.mark.parametrize("peepholes", [True, False])
def test_states_are_the_same_where_no_gradient_can_follow(peepholes):
    """There each step's gates and cell state take the place of the last one's."""
    layer, inputs = layer_and_inputs(4, peepholes, torch.float32)
    expected = layer(inputs)
    with torch.no_grad():
        assert torch.equal(layer(inputs), expected)
    layer.requires_grad_(False)
    assert torch.equal(layer(inputs.detach()), expected)


def test_kernels_take_gradients_that_share_their_memory():
    """As those of a sum, one number for all."""
    layer, inputs = layer_and_inputs(2, True, torch.float32)
    summed = torch.autograd.grad(layer(inputs).sum(), inputs)[0]
    pulled = torch.autograd.grad(layer(inputs), inputs, torch.ones(6, 2, LANES, SIDE, SIDE))[0]
    assert torch.equal(summed, pulled)


def test_nan_reaches_the_states():
    """What diverged must be seen to have."""
    layer, inputs = layer_and_inputs(2, True, torch.float32)
    with torch.no_grad():
        inputs[0, 0, 0, 1, 1] = float("nan")
        states = layer(inputs)
    assert states[0].isnan().any()
    assert not states[1:].isnan().any()


@pytest.mark.parametrize("peepholes", [True, False])
def test_gradient_is_the_slope(peepholes):
    layer, inputs = layer_and_inputs(2, peepholes, torch.float64, channels=2, hidden=2)
    weights = list(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]

    def states(inputs, *weights):
        given = dict(zip(names, weights, strict=True))
        return torch.func.functional_call(layer, given, (inputs,))

    assert torch.autograd.gradcheck(
        states, (inputs[:2].detach().requires_grad_(), *weights), fast_mode=True
    )


def test_gradient_can_be_taken_twice_from_one_pass():
    layer, inputs = layer_and_inputs(3, True, torch.float32)
    total = layer(inputs).square().sum()
    wanted = [inputs, *layer.parameters()]
    first = torch.autograd.grad(total, wanted, retain_graph=True)
    second = torch.autograd.grad(total, wanted)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_seed_drops_the_same_states_whichever_way_they_are_computed(monkeypatch):
    torch.manual_seed(4)
    stack = ConvLSTM(LANES, LANES, layers=3, grid=SIDE, dropout=0.5)
    inputs = torch.randn(3, 4, LANES, SIDE, SIDE)
    results = []
    for suits in (True, False):
        monkeypatch.setattr(ConvLSTMLayer, "_suits_kernels", lambda *_, suits=suits: suits)
        torch.manual_seed(5)
        results.append(stack(inputs))
    torch.testing.assert_close(*results, rtol=0, atol=2e-5)
    assert not torch.allclose(results[0], stack.eval()(inputs), atol=1e-3)


def test_second_layer_is_fed_the_first_layers_hidden_states():
    torch.manual_seed(1)
    stack = ConvLSTM(2, 3, layers=2, grid=SIDE).double()
    for layer in stack.layers:
        torch.nn.init.normal_(layer.peepholes)
    inputs = torch.randn(1, 3, 2, SIDE, SIDE, dtype=torch.float64)
    below = equations_1_to_5(inputs[0].numpy(), weights_of(stack.layers[0], 3))
    expected = equations_1_to_5(below, weights_of(stack.layers[1], 3))
    np.testing.assert_allclose(stack(inputs)[0].detach().numpy(), expected, rtol=0, atol=1e-12)


def test_every_peephole_is_trained():
    torch.manual_seed(2)
    layer = ConvLSTMLayer(2, 2, grid=SIDE, kernel=3, peepholes=True)
    layer(torch.randn(3, 3, 2, SIDE, SIDE))[:, -1].sum().backward()
    assert (layer.peepholes.grad.abs() > 0).all()


def network(feature_dim: int = 2048, num_categories: int = 14, **changes) -> AnomalyNetwork:
    torch.manual_seed(0)
    config = ModelConfig(clip_slots=16, **changes)
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


@pytest.mark.parametrize("threads", [1, 3])
def test_a_gradient_leaves_the_number_of_threads_as_it_is(threads):
    """In a process of its own: what numba does to OpenMP it does when it is first called."""
    program = (
        "import numba, torch\n"
        "from model.network.convlstm import ConvLSTM\n"
        f"torch.set_num_threads({threads})\n"
        "states = ConvLSTM(16, 16, grid=4, kernel=3)(torch.randn(1, 2, 16, 4, 4))\n"
        "torch.autograd.backward(states.sum())\n"
        "print(torch.get_num_threads(), numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    of_torch, of_numba, cores = map(int, done.stdout.split())
    assert of_torch == threads
    assert of_numba == min(threads, cores)


def test_a_gradient_needs_no_place_to_keep_compiled_code_in():
    """As in a container whose user can write neither the package's folder nor a home."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import torch\n"
            "from model.network.convlstm import ConvLSTM\n"
            "states = ConvLSTM(16, 16, grid=4, kernel=3)(torch.randn(1, 2, 16, 4, 4))\n"
            "torch.autograd.backward(states.sum())\n",
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator"},
    )
    assert done.returncode == 0, done.stderr


def test_narrower_registers_give_the_same_states_and_gradients():
    """In a process of its own that compiles for a processor with half the registers."""
    test = "test_layer_and_its_gradients_are_those_of_convolutions_step_by_step"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{__file__}::{test}"],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "NUMBA_CPU_NAME": "haswell",
            "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma",
        },
    )
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout
