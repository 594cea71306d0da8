"""What a killed training goes on from: `resume.safetensors` in its run folder."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from data.errors import ModelError
from data.files import TEMP_PREFIX
from model.runs.tensor_file import read_arrays, write_arrays
from model.training.session import SavedState

STATE_NAME = "resume.safetensors"
KIND = "feat state"


class StateFile:
    """Keeps the newest state of a training, at most so often."""

    def __init__(self, run: Path, *, save_seconds: float) -> None:
        """Name the file.

        Args:
            run: the run folder.
            save_seconds: at least so long between two savings.
        """
        self.path = run / STATE_NAME
        self._save_seconds = save_seconds
        self._saved = time.monotonic()

    def offer(self, make_state: Callable[[], SavedState]) -> None:
        """Save the state if the last one is old enough."""
        if time.monotonic() - self._saved < self._save_seconds:
            return
        state = make_state()
        write_arrays(
            self.path,
            KIND,
            {"step": state.step, "described": dict(state.described)},
            {name: tensor.numpy() for name, tensor in state.tensors.items()},
        )
        self._saved = time.monotonic()

    def read(self) -> SavedState | None:
        """Return the state that was saved last, None if there is none.

        Raises:
            ModelError: the file is damaged.
        """
        if not self.path.is_file():
            return None
        try:
            described, arrays = read_arrays(self.path, KIND)
            return SavedState(
                step=int(described["step"]),
                described=dict(described["described"]),
                tensors={name: torch.from_numpy(array) for name, array in arrays.items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise unreadable_state(self.path, error) from error

    def remove(self) -> None:
        """Remove the file of a training that is finished, and one that a kill left half written."""
        self.path.unlink(missing_ok=True)
        self.path.with_name(TEMP_PREFIX + STATE_NAME).unlink(missing_ok=True)


def unreadable_state(path: Path, error: Exception) -> ModelError:
    """Return the error for a state that a training cannot go on from."""
    what = " ".join(str(error).split())
    return ModelError(
        f"{path}: cannot go on from it: {what:.300}; remove this file and use --resume again to "
        "begin the training anew"
    )
