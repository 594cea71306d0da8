"""What a fit is given beside its data: seed, device, a log, and what a killed fit left behind."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from model.measures.metrics import VideoResult

Row = dict[str, Any]
"""A line of `metrics.jsonl`: `step` and whatever was measured there."""


@dataclass(frozen=True, kw_only=True)
class SavedState:
    """What a fit goes on from after a kill."""

    step: int
    """Optimiser steps taken."""
    described: Mapping[str, Any] = field(default_factory=dict)
    """JSON types."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class SavedStateError(Exception):
    """A saved state is of another network, or of none."""


@contextmanager
def restoring() -> Iterator[None]:
    """Raise `SavedStateError` where a block fails to take a saved state, but for want of memory."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise SavedStateError(f"{type(error).__name__}: {error}") from error


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class FitSession:
    """One fit. What a method does not use it leaves alone: nothing here is needed to learn.

    Attributes:
        seed: of whatever the method draws.
        device: where networks compute.
        log: takes each row of `metrics.jsonl`.
        saved: the state to go on from; None where the fit begins.
        offer_state: is offered the state between two steps and takes it now and then. A method
            that never offers one begins again after a kill, with the same result.
        keep_snapshot: is offered what was learnt after each step, for `Method`s that have the
            setting `snapshots`; keeps it where that says so.
        show_selected: takes the validation videos' results of the model that was selected, and
            its step, for the TensorBoard log.
    """

    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    log: Callable[[Row], None] = _nothing
    saved: SavedState | None = None
    offer_state: Callable[[Callable[[], SavedState]], None] = _nothing
    keep_snapshot: Callable[[int, Callable[[], Mapping[str, NDArray[Any]]]], None] = _nothing
    show_selected: Callable[[Sequence[VideoResult], int], None] = _nothing
