"""The kernels of a GPU against the recurrence in plain PyTorch; on a CPU they are interpreted."""

import importlib.util
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model.network import recurrence
from model.network.winograd import GRID, NUM_POINTS

SHAPES = [(4, 3, 5), (1, 2, 3), (2, 35, 1)]
"""Steps, windows, channels: also columns that fill no block, and more than one."""


def arguments(steps: int, batch: int, hidden: int, *, peepholes: bool, device: str) -> list:
    generator = torch.Generator().manual_seed(steps)
    shapes = [(NUM_POINTS, steps, batch, 4 * hidden), (4 * hidden,)]
    shapes += [(NUM_POINTS, hidden, 4 * hidden), *([(3, GRID**2, hidden)] if peepholes else [])]
    tensors = [0.3 * torch.randn(shape, generator=generator) for shape in shapes]
    return [t.to(device).requires_grad_() for t in tensors] + [None] * (4 - len(shapes))


def with_gradients(function: Callable[..., Tensor], given: list) -> list[Tensor]:
    states = function(*given)
    weights = torch.linspace(-1, 1, states.numel(), device=states.device).view_as(states)
    wanted = [tensor for tensor in given if tensor is not None]
    # no product with the kernels is made where there is one step
    found = torch.autograd.grad((states * weights).sum(), wanted, allow_unused=True)
    pairs = zip(wanted, found, strict=True)
    return [states, *(torch.zeros_like(w) if g is None else g for w, g in pairs)]


def check(fused: Callable[..., Tensor], device: str) -> None:
    """Compare states and gradients at all shapes, with peepholes and without."""
    for shape in SHAPES:
        for peepholes in (True, False):
            given = arguments(*shape, peepholes=peepholes, device=device)
            found = with_gradients(fused, given)
            expected = with_gradients(recurrence.hidden_states, given)
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
def test_kernels_in_the_interpreter_agree_with_plain_pytorch(monkeypatch):
    pytest.importorskip("triton")
    # what runs a kernel is chosen where it is defined: a module of this test's own
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    spec = importlib.util.find_spec("model.network.fused")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    check(module.hidden_states, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_on_a_gpu_agree_with_plain_pytorch():
    from model.network import fused

    check(fused.hidden_states, "cuda")
