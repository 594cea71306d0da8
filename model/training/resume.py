"""What a killed training goes on from: weights, Adam's state and the best network so far.

Batches and dropout depend on the seed and the step alone, so nothing else is needed for the same
result as without the kill.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from data.errors import ModelError
from data.files import write_whole
from model.training.fit import FitState
from model.training.step import Trainer

STATE_NAME = "resume.safetensors"
FORMAT = 1


def save_state(path: Path, trainer: Trainer, state: FitState, settings: Mapping[str, Any]) -> None:
    """Write the state between two steps; `path` is replaced only when the new file is whole.

    Args:
        path: the file.
        trainer: its weights, optimiser and step.
        state: of the fit.
        settings: JSON types; a training that goes on must have the same.
    """
    tensors = _named("network", trainer.network.state_dict())
    if trainer.averaged is not trainer.network:
        tensors |= _named("averaged", trainer.averaged.state_dict())
    if state.kept is not trainer.averaged:
        tensors |= _named("kept", state.kept.state_dict())
    for number, values in trainer.optimizer.state_dict()["state"].items():
        tensors |= _named(f"adam.{number}", values)
    described = {
        "format": FORMAT,
        "settings": settings,
        "step": trainer.step,
        "best": state.best,
        "best_step": state.best_step,
        "best_value": state.best_value,
        "stale": state.stale,
    }
    write_whole(path, save(tensors, metadata={"feat": json.dumps(described)}), one_writer=True)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a training that can go on.

    Raises:
        ModelError: there is nothing to go on from, or the file is damaged.
    """
    return dict(_read(path, tensors=False)[0]["settings"])


def load_state(path: Path, trainer: Trainer, state: FitState) -> None:
    """Put a saved state into a fresh trainer of the same settings.

    Raises:
        ModelError: the file is damaged or of another network.
    """
    described, tensors = _read(path, tensors=True)
    try:
        trainer.network.load_state_dict(_part(tensors, "network"))
        if trainer.averaged is not trainer.network:
            trainer.averaged.load_state_dict(_part(tensors, "averaged"))
        if kept := _part(tensors, "kept"):
            state.keep(trainer.averaged)
            state.kept.load_state_dict(kept)
        count = len(list(trainer.network.parameters()))
        adam = {number: _part(tensors, f"adam.{number}") for number in range(count)}
        saved = trainer.optimizer.state_dict()
        saved["state"] = {number: values for number, values in adam.items() if values}
        trainer.optimizer.load_state_dict(saved)
        trainer.step = int(described["step"])
        state.best, state.best_step = dict(described["best"]), int(described["best_step"])
        state.best_value, state.stale = float(described["best_value"]), int(described["stale"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(path, error) from error


def _read(path: Path, *, tensors: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ModelError(
            f"{path}: nothing to go on from there: the training finished or never started; "
            "run `feat train` anew"
        )
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})["feat"])
            names = list(file.keys()) if tensors else []
            loaded = {name: file.get_tensor(name) for name in names}
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']}, this build reads {FORMAT}")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from error
    return described, loaded


def _unreadable(path: Path, error: Exception) -> ModelError:
    what = " ".join(str(error).split())
    return ModelError(f"{path}: cannot go on from it: {what:.300}; run `feat train` anew")


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}": torch.as_tensor(tensor).detach().cpu().contiguous()
        for name, tensor in tensors.items()
    }


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}
