"""Multiple-instance learning: bags of clips with one label each. Shared by DeepMIL and AR-Net."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.errors import ModelError
from data.labels import VideoLabel
from model.methods.base import Parameters
from model.training.session import FitSession

LOG_EVERY = 20
BATCH = 1 << 14
"""Instances scored at once."""


@dataclass(frozen=True, kw_only=True)
class Bags:
    """Videos as bags of instances, padded to a common length."""

    rows: NDArray[np.int64]
    """(V, T) rows of the array of instances; padding repeats the last."""
    mask: NDArray[np.bool_]
    """(V, T) False for padding."""


def bags_of(first: NDArray[np.int64]) -> Bags:
    """Return one bag for each video; `first` is (V + 1,) the first instance of each."""
    lengths = np.diff(first)
    places = np.arange(int(lengths.max()))
    return Bags(
        rows=first[:-1, None] + np.minimum(places, lengths[:, None] - 1),
        mask=places < lengths[:, None],
    )


def draw_bags(
    labels: Sequence[VideoLabel], *, each: int, steps: int, seed: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield for each step the abnormal and the normal videos drawn, none twice in a step.

    Args:
        labels: of the V training videos.
        each: abnormal and normal videos a step; fewer where there are fewer of a kind.
        steps: how often.
        seed: of the draw.

    Raises:
        ModelError: one of the two kinds is absent.
    """
    is_abnormal = np.array([label.is_abnormal for label in labels])
    pools = np.flatnonzero(is_abnormal), np.flatnonzero(~is_abnormal)
    if not all(map(len, pools)):
        raise ModelError(
            f"{len(pools[0])} abnormal and {len(pools[1])} normal training videos: the method "
            "needs some of both; add rows with split 'train' to the labels"
        )
    rng = np.random.default_rng((seed, 4))
    for _ in range(steps):
        abnormal, normal = (rng.permutation(pool)[:each] for pool in pools)
        yield abnormal, normal


def train_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    losses: Iterator[Tensor],
    session: FitSession,
) -> None:
    """Take a step of the optimiser for each loss, and log the mean loss every 20 steps.

    Args:
        network: in training mode.
        optimizer: of its weights.
        losses: each computed when it is asked for, with the weights as they are then.
        session: takes the log.
    """
    recent: list[Tensor] = []
    for step, loss in enumerate(losses, start=1):
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        recent.append(loss.detach())
        if step % LOG_EVERY == 0:
            session.log({"step": step, "loss": float(torch.stack(recent).mean())})
            recent = []


def fork_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which seeds may be set that are not the caller's business."""
    context: AbstractContextManager[None] = torch.random.fork_rng(
        [device] if device.type == "cuda" else []
    )
    return context


def parameters_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the weights as arrays."""
    return {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}


@torch.inference_mode()
def score_instances(
    network: nn.Module, parameters: Parameters, inputs: NDArray[np.float32], device: torch.device
) -> NDArray[np.float64]:
    """Return (N,) scores in [0, 1] of (N, D) instances by a network with these weights."""
    network.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in parameters.items()})
    network.to(device).eval()
    rows = torch.split(torch.from_numpy(inputs), BATCH)
    parts = [network(part.to(device)).double().cpu() for part in rows]
    return torch.cat(parts).numpy()


class Score(nn.Module):
    """A sequence of layers whose single output becomes a score: (..., D) -> (...) in [0, 1]."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.layers(x).squeeze(-1)
        return scores.sigmoid()
