"""Arrays by name: those of a network, optimisers and others side by side in one file."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

T = TypeVar("T")


def named(owner: str, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return tensors on the CPU, under the name of their owner."""
    return {
        f"{owner}.{name}": torch.as_tensor(tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }


def part_of(owner: str, arrays: Mapping[str, T]) -> dict[str, T]:
    """Return the arrays of one owner, under the names that they have there."""
    start = f"{owner}."
    return {n.removeprefix(start): each for n, each in arrays.items() if n.startswith(start)}


def network_parameters(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Return a copy of the weights under the names of a checkpoint."""
    weights = named("network", network.state_dict())
    return {name: value.numpy().copy() for name, value in weights.items()}


def network_weights(parameters: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """Return the weights that `network_parameters` gave, as a network loads them."""
    own = part_of("network", parameters)
    return {name: torch.from_numpy(np.array(value)) for name, value in own.items()}


def training_tensors(
    network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> dict[str, Tensor]:
    """Return the weights, and what each optimiser remembers of each, by their numbers."""
    tensors = named("network", network.state_dict())
    for place, optimizer in enumerate(optimizers):
        for row, values in optimizer.state_dict()["state"].items():
            tensors |= named(f"{place}.{row}", values)
    return tensors


def restore_training(
    tensors: Mapping[str, Tensor], network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Put what `training_tensors` gave into a fresh network and its optimisers."""
    network.load_state_dict(part_of("network", tensors))
    for place, optimizer in enumerate(optimizers):
        rows: dict[int, dict[str, Tensor]] = {}
        for name, value in part_of(str(place), tensors).items():
            row, _, rest = name.partition(".")
            rows.setdefault(int(row), {})[rest] = value
        if not rows:
            raise KeyError(f"nothing of optimiser {place}")
        optimizer.load_state_dict({**optimizer.state_dict(), "state": rows})
        # a file forgets how values lie in memory, and a step is slow where it is not as the weight
        for weight, values in optimizer.state.items():
            for name, value in values.items():
                if value.shape == weight.shape:
                    values[name] = torch.empty_like(weight).copy_(value)
