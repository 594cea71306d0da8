"""Progress of a training: a bar on a terminal, a line a look elsewhere."""

import logging
from typing import Any

from data.progress import ProgressBar, shows_bar

logger = logging.getLogger(f"feat.{__name__}")

SHOWN = {"loss": "loss", "val_loss": "val loss", "val_auc": "val AUC"}
"""Measure -> its words; of a method that logs none of them all it logs is shown."""


class TrainProgress(ProgressBar):
    """Shows each look at the training; used as a context manager."""

    def __init__(self, *, max_steps: int) -> None:
        self._max_steps = max_steps
        # without steps there is nothing to draw a bar of
        if max_steps and shows_bar():
            middle = "{task.completed:.0f}/{task.total:.0f} steps  {task.description}"
            self._bar = self._draw("train", middle, "at most")
            self._task = self._bar.add_task("", total=max_steps)

    def show(self, row: dict[str, Any]) -> None:
        """Show one row of `metrics.jsonl`."""
        known = [name for name, value in row.items() if name != "step" and value is not None]
        names = [name for name in SHOWN if name in known] or known
        text = ", ".join(f"{SHOWN.get(name, name)} {row[name]:.3f}" for name in names)
        if self._bar:
            self._bar.update(self._task, completed=row["step"], description=text)
        else:
            most = f" of at most {self._max_steps}" if self._max_steps else ""
            logger.info("step %d%s: %s", row["step"], most, text)
