"""TensorBoard's log of a training: losses and validation measures by step, settings, PR curve.

It is a picture of `metrics.jsonl`, from which a training that goes on after a kill writes it anew:
no step is in it twice and none is missing, however far the killed one got. A method that logs no
step leaves none.
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from model.measures.metrics import VideoResult, frames_of

logger = logging.getLogger(f"feat.{__name__}")

EVENTS_NAME = "tensorboard"
SELECTED = ("val/auc", "val/ap", "val/accuracy", "val/loss")
"""What TensorBoard's table of settings shows beside them."""


_ROOM = 1 << 20  # bytes


class EventLog:
    """Writes the folder `tensorboard` of a run; used as a context manager.

    Without the package tensorboard, which is optional, it writes nothing.
    """

    def __init__(self, run: Path, metrics: Path, described: Mapping[str, Any]) -> None:
        """Begin the log, with the rows that `metrics` holds of a training that goes on.

        Args:
            run: the run folder.
            metrics: its `metrics.jsonl`.
            described: of the run, as `RunInfo.to_dict` gives it; method, settings, seed and
                streams go into the table of settings.
        """
        self._folder = run / EVENTS_NAME
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._described = described
        self._writer: Any = None
        self._told = False
        for line in metrics.read_text(encoding="utf-8").splitlines():
            self.add(json.loads(line))

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of `metrics.jsonl`."""
        if not self._begin():
            return
        for name, value in row.items():
            if name != "step" and value is not None:
                part, measure = ("val", name[4:]) if name.startswith("val_") else ("train", name)
                self._writer.add_scalar(f"{part}/{measure}", value, row["step"])
        self._writer.flush()

    def add_selected(self, results: Sequence[VideoResult], step: int) -> None:
        """Add the precision-recall curve and the scores of the model that was selected.

        Args:
            results: of the validation videos.
            step: the best one.
        """
        if not self._begin():
            return
        labels, values = frames_of(results)
        if labels.any():
            self._writer.add_pr_curve("val/frames", labels, values, step)
        for kind, name in ((1, "abnormal"), (0, "normal")):
            if np.any(labels == kind):
                self._writer.add_histogram(f"val/score_{name}", values[labels == kind], step)

    def _begin(self) -> bool:
        """Open the log if it is not open, and return whether there is one."""
        if not self._has_room():
            return False
        if self._writer or not _is_installed():
            return self._writer is not None
        # importing it takes a third of a second, which only a training should pay
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        # A TensorBoard that watched the killed training is told to forget its steps.
        self._writer = SummaryWriter(str(self._folder), purge_step=0)
        untyped: Any = hparams
        for summary in untyped(_table(self._described), dict.fromkeys(SELECTED))[:2]:
            self._writer._get_file_writer().add_summary(summary)
        return True

    def _has_room(self) -> bool:
        """Return whether the disk has room; if not, tell so once.

        The package writes in a thread of its own: on a full disk that dies with a traceback, and
        whoever waits for it waits for ever.
        """
        has_room = shutil.disk_usage(self._folder.parent).free >= _ROOM
        if not has_room and not self._told:
            self._told = True
            logger.warning("%s: the disk is full; steps are left out of this log", self._folder)
        return has_room


@cache
def _is_installed() -> bool:
    """Return whether there is a TensorBoard to write for; if not, tell so once."""
    found = find_spec("tensorboard") is not None
    if not found:
        logger.info("no TensorBoard log is kept: pip install tensorboard, if you want one")
    return found


def _table(described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as the types TensorBoard's table takes: numbers, text, truth values."""
    return {
        **{
            name: " ".join(map(str, value)) if isinstance(value, list) else value
            for name, value in described["settings"].items()
        },
        "method": described["method"],
        "seed": described["seed"],
        "streams": " + ".join(stream["name"] for stream in described["streams"]),
    }
