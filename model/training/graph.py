"""A step on a GPU as one CUDA graph.

A training step of a small network is some hundreds of kernels of a few microseconds, each of which
takes Python longer to launch than the GPU to compute. A graph launches all of them at once.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from data.errors import ModelError

WARM_UP = 3
"""Steps taken one kernel at a time before the recording: libraries load their code and the
optimiser makes its state, neither of which a graph can hold."""


class StepGraph:
    """Takes a step again and again, from the fourth time on as a graph.

    The step must work on the same tensors each time, of the same shapes, and must not wait for the
    GPU. What it draws follows `torch.manual_seed` as it does without a graph.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph = torch.cuda.CUDAGraph()
        self._taken = 0
        self._result = torch.empty(0)

    def take(self, step: Callable[[], Tensor]) -> Tensor:
        """Take the step and return its result.

        Args:
            step: the same each time; it returns a tensor of its own.

        Raises:
            ModelError: it cannot be recorded.
        """
        self._taken += 1
        if self._taken <= WARM_UP:
            return self._warm_up(step)
        if self._taken == WARM_UP + 1:
            self._record(step)
        self._graph.replay()
        return self._result.clone()  # the next replay writes into it

    def _warm_up(self, step: Callable[[], Tensor]) -> Tensor:
        outside = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(outside)
        with torch.cuda.stream(self._stream):
            result = step()
        outside.wait_stream(self._stream)
        return result

    def _record(self, step: Callable[[], Tensor]) -> None:
        try:
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._result = step()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            what = " ".join(str(error).split())
            raise ModelError(
                f"the training step cannot be recorded as a CUDA graph: {what:.200}; set "
                "FEAT_KERNELS=0 to train without one, or use --device cpu"
            ) from error


def make_capturable(optimizers: Sequence[torch.optim.Optimizer], device: torch.device) -> None:
    """Have fresh Adams keep their step counts and learning rates where a graph reads them."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.update(capturable=True, lr=torch.tensor(group["lr"], device=device))
