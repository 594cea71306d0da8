"""Checkpoints kept on the way of a training: `snapshots/<step>.safetensors` in its run folder.

A published number is nearly always the best of many looks at the test videos. What that is worth
is told by scoring these: the last, the one that validation videos choose, the best.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from data.errors import ModelError
from data.files import explain_os_error
from model.methods.base import Method, Parameters
from model.runs.checkpoint import Checkpoint, RunInfo, load_checkpoint, save_checkpoint

FOLDER_NAME = "snapshots"


class SnapshotWriter:
    """Writes a checkpoint at equally many steps of a training, the last among them."""

    def __init__(self, run: Path, planned: RunInfo) -> None:
        """Choose the steps as the method's setting `snapshots` says; none for a method without."""
        self._folder = run / FOLDER_NAME
        self._planned = planned
        self._steps = snapshot_steps(planned.method)

    def __call__(self, step: int, parameters: Callable[[], Parameters]) -> None:
        """Write what the method has learnt after a step, if it is one of them.

        Raises:
            ModelError: it cannot be written.
        """
        if step not in self._steps:
            return
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ModelError(explain_os_error("be created", self._folder, error)) from error
        info = replace(self._planned, result={"step": step})
        save_checkpoint(
            self._folder, Checkpoint(info=info, parameters=parameters()), name=f"{step:07}"
        )


def snapshot_steps(method: Method) -> frozenset[int]:
    """Return the steps after which a method's setting `snapshots` asks for a checkpoint."""
    count = min(int(getattr(method, "snapshots", 0)), method.num_steps)
    return frozenset(round(method.num_steps * (i + 1) / count) for i in range(count))


def load_snapshots(run: Path) -> list[Checkpoint]:
    """Return the checkpoints kept on the way of a training, by step; none if it kept none.

    Raises:
        ModelError: one cannot be read.
    """
    names = sorted(path.stem for path in (run / FOLDER_NAME).glob("*.safetensors"))
    return [load_checkpoint(run / FOLDER_NAME, name=name) for name in names]
