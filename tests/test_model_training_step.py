"""A training step: what it computes, and that a graph on a GPU computes the same."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.bench_train import make_data
from model.features.load import FeatureSet
from model.features.standardize import Standardizer
from model.features.windows import BalancedBatches
from model.methods.convlstm import ConvLSTMMethod
from model.network.multitask import AnomalyNetwork
from model.training.fit import fit_network
from model.training.graph import WARM_UP
from model.training.session import FitSession, SavedState
from model.training.step import Trainer, make_window_data, window_losses

DIM = 64
CATEGORIES = tuple("0123456789abc")
METHOD = ConvLSTMMethod(
    clip_slots=16,
    hidden=4,
    head_widths=(16,),
    readout="each",
    heads="separate",
    dropout=0.3,
    input_dropout=0.2,
    skip=True,
    learning_rate=1e-2,
    batch_size=8,
    steps=12,
    eval_every=3,
)
STEPS = WARM_UP + 5
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data() -> FeatureSet:
    return make_data(videos=6, clips=32, dim=DIM)


def make_trainer(
    data: FeatureSet, method: ConvLSTMMethod = METHOD, device: str = "cpu", *, on_host: bool = False
) -> Trainer:
    torch.manual_seed(0)
    network = AnomalyNetwork(method, feature_dim=DIM, num_categories=len(CATEGORIES)).to(device)
    inputs = Standardizer.fit(data.features).inputs(data.features, device)
    if on_host:
        inputs = replace(inputs, features=torch.from_numpy(data.features))
    return Trainer(network, make_window_data(data, inputs, CATEGORIES, method), method, seed=3)


def losses(trainer: Trainer, steps: int = STEPS) -> list[list[float]]:
    """The losses of some steps; read at the end, as training reads them."""
    return torch.stack([torch.stack(trainer.train_step()) for _ in range(steps)]).tolist()


def weights(trainer: Trainer) -> list[np.ndarray]:
    return [value.detach().cpu().numpy() for value in trainer.network.parameters()]


def same(one: list[np.ndarray], two: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_steps_are_those_of_a_loop_written_out(data):
    trainer, other = make_trainer(data), make_trainer(data)
    network, windows = other.network.train(), other._data
    adam = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=5e-4, fused=True)
    batches = BalancedBatches(windows.is_abnormal, batch_size=8, seed=3)
    expected = []
    for step in range(STEPS):
        torch.manual_seed(3 * 1_000_003 + step)
        terms = window_losses(network, windows, torch.from_numpy(batches.batch(step)), METHOD)
        adam.zero_grad()
        torch.autograd.backward(terms.total)
        adam.step()
        expected.append([term.item() for term in terms])
    assert losses(trainer) == expected
    assert same(weights(trainer), weights(other))


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"readout": "last", "heads": "branched", "head_widths": (16, 8), "peepholes": False},
        {"category_weight": 0.0, "layers": 1},
        {"precision": "bfloat16"},
    ],
)
def test_a_graph_takes_the_same_steps_bit_for_bit(data, changes):
    method = METHOD.changed(changes)
    graph, plain = (make_trainer(data, method, "cuda") for _ in range(2))
    assert graph._graph is not None
    plain._graph = None
    assert losses(graph) == losses(plain)
    assert same(weights(graph), weights(plain))


@pytest.mark.gpu
@needs_gpu
def test_without_kernels_a_gpu_takes_the_same_steps_but_for_rounding(data, monkeypatch):
    expected = losses(make_trainer(data, device="cuda"))
    monkeypatch.setenv("FEAT_KERNELS", "0")
    trainer = make_trainer(data, device="cuda")
    assert trainer._graph is None
    np.testing.assert_allclose(losses(trainer), expected, rtol=1e-4)


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_has_the_losses_of_the_cpu(data):
    method = METHOD.changed({"dropout": 0.0, "input_dropout": 0.0})
    found, expected = (losses(make_trainer(data, method, d), 30) for d in ("cuda", "cpu"))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.gpu
@needs_gpu
def test_features_that_stay_on_the_host_give_the_same_steps(data):
    there, host = make_trainer(data, device="cuda"), make_trainer(data, device="cuda", on_host=True)
    assert host._graph is None
    assert losses(there) == losses(host)


class KilledError(Exception):
    pass


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("die_at", [3, 9])
def test_a_fit_on_a_gpu_goes_on_as_if_never_killed(data, die_at):
    whole = fit_network(make_trainer(data, device="cuda"), None, session=FitSession(seed=3))
    states: list[SavedState] = []

    def keep(make_state):
        states.append(make_state())
        if states[-1].step == die_at:
            raise KilledError

    with pytest.raises(KilledError):
        fit_network(
            make_trainer(data, device="cuda"), None, session=FitSession(seed=3, offer_state=keep)
        )
    session = FitSession(seed=3, saved=states[-1])
    resumed = fit_network(make_trainer(data, device="cuda"), None, session=session)
    for ours, theirs in zip(resumed.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
