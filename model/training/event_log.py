"""TensorBoard's log of a training: losses and validation measures by step, settings, PR curve.

It is a picture of `metrics.jsonl`, from which a training that goes on after a kill writes it anew:
no step is in it twice and none is missing, however far the killed one got.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from model.config import ModelConfig, TrainConfig
from model.measures.metrics import frames_of
from model.network.multitask import AnomalyNetwork
from model.training.fit import Validation

EVENTS_NAME = "tensorboard"
SELECTED = ("val/auc", "val/ap", "val/accuracy", "val/loss")
"""What TensorBoard's table of settings shows beside them."""


class EventLog:
    """Writes the folder `tensorboard` of a run; used as a context manager."""

    def __init__(
        self, run: Path, metrics: Path, *, model: ModelConfig, train: TrainConfig, streams: str
    ) -> None:
        """Begin the log, with the rows that `metrics` holds of a training that goes on.

        Args:
            run: the run folder.
            metrics: its `metrics.jsonl`, which may not be there yet.
            model: shape of the network.
            train: how it is trained.
            streams: names of the streams, for the table of settings.
        """
        # importing it takes a third of a second, which only a training should pay
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = run / EVENTS_NAME
        if folder.exists():
            shutil.rmtree(folder)
        # A TensorBoard that watched the killed training is told to forget its steps.
        self._writer = SummaryWriter(str(folder), purge_step=0)
        settings = {**_plain("model", model), **_plain("train", train), "streams": streams}
        untyped: Any = hparams, self._writer
        for summary in untyped[0](settings, dict.fromkeys(SELECTED))[:2]:
            untyped[1]._get_file_writer().add_summary(summary)
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        for line in lines:
            self.add(json.loads(line))

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row of `metrics.jsonl`."""
        for name, value in row.items():
            if name != "step" and value is not None:
                part, measure = ("val", name[4:]) if name.startswith("val_") else ("train", name)
                self._writer.add_scalar(f"{part}/{measure}", value, row["step"])
        self._writer.flush()

    def add_selected(self, network: AnomalyNetwork, validation: Validation, step: int) -> None:
        """Add the precision-recall curve and the scores of the network that was selected.

        Args:
            network: as it was at `step`.
            validation: the part it was selected on.
            step: the best one.
        """
        labels, values = frames_of(validation.results(network))
        if labels.any():
            self._writer.add_pr_curve("val/frames", labels, values, step)
        for kind, name in ((1, "abnormal"), (0, "normal")):
            if np.any(labels == kind):
                self._writer.add_histogram(f"val/score_{name}", values[labels == kind], step)


def _plain(part: str, config: ModelConfig | TrainConfig) -> dict[str, Any]:
    """Return the fields as the types TensorBoard's table takes: numbers, text and truth values."""
    return {
        f"{part}/{name}": " ".join(map(str, value)) if isinstance(value, list) else value
        for name, value in config.to_dict().items()
    }
