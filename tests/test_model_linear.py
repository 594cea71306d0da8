"""The fully connected layer against PyTorch's own in float64."""

import pytest
import torch

from model.linear import Linear


def calls(tensor: torch.Tensor, name: str) -> bool:
    """Whether a function of this name has made the tensor, one or two steps before."""
    steps = [tensor.grad_fn]
    for _ in range(2):
        steps += [before for step in steps if step for before, _ in step.next_functions]
    return any(name in type(step).__name__ for step in steps)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(16,), (60,), (3, 7), (130,)])
@pytest.mark.parametrize(("before", "after"), [(16, 16), (70, 45), (128, 100)])
def test_values_and_gradients_are_those_of_torch(before, after, shape, bias):
    torch.manual_seed(0)
    layer = Linear(before, after, bias=bias)
    inputs = torch.randn(*shape, before, requires_grad=True)
    assert layer._suits_kernels(inputs)
    pull = torch.randn(*shape, after)
    wanted = [inputs, *layer.parameters()]
    found = layer(inputs)
    assert calls(found, "_ProductBackward")
    gradients = torch.autograd.grad(found, wanted, pull)
    exact = torch.nn.Linear(before, after, bias=bias).double()
    exact.load_state_dict(layer.state_dict())
    precise = inputs.detach().double().requires_grad_()
    expected = exact(precise)
    theirs = torch.autograd.grad(expected, [precise, *exact.parameters()], pull.double())
    for a, b in zip((found, *gradients), (expected, *theirs), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=0, atol=2e-6 * float(b.detach().abs().max()))


def test_gradient_of_a_sum_shares_its_memory():
    layer = Linear(32, 32)
    inputs = torch.randn(20, 32)
    layer(inputs).sum().backward()
    expected = inputs.sum(0).expand(32, 32)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "inputs", [torch.randn(3, 32), torch.randn(40, 32, dtype=torch.float64)], ids=["few", "float64"]
)
def test_others_are_left_to_torch(inputs):
    layer = Linear(32, 24).to(inputs.dtype)
    assert not layer._suits_kernels(inputs)
    torch.testing.assert_close(layer(inputs), inputs @ layer.weight.T + layer.bias)


def test_autocast_is_left_to_torch():
    layer = Linear(32, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(40, 32)).dtype == torch.bfloat16
