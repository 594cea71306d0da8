"""Training from a feature cache: labels -> features -> windows -> network -> run folder."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cache import FeatureCache
from data.errors import ModelError
from data.labels import VideoLabel, write_labels
from model.checkpoint import CHECKPOINT_NAME, Checkpoint, RunInfo, save_checkpoint
from model.config import ModelConfig, TrainConfig
from model.features import FeatureSet
from model.fitting import FitResult, Validation, fit_network
from model.material import Material, gather_material
from model.network import AnomalyNetwork
from model.runs import (
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    LABELS_NAME,
    METRICS_NAME,
    claim_run_dir,
    environment,
    new_run_dir,
    write_json,
)
from model.trainer import Trainer, make_window_data

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What a training did."""

    run: Path
    cache: Path
    streams: tuple[str, ...]
    categories: tuple[str, ...]
    num_train_videos: int
    num_val_videos: int
    num_train_windows: int
    steps: int
    best_step: int
    selected_by: str
    """`auc` or `score_loss` on the validation part; `none` without one."""
    val: dict[str, float | None]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {**asdict(self), "run": str(self.run), "cache": str(self.cache)}


def run_training(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    model: ModelConfig,
    train: TrainConfig,
    runs: Path,
    out: Path | None = None,
    streams: Sequence[str] = (),
    device: str = "auto",
    skip_missing: bool = False,
    allow_misaligned: bool = False,
    on_look: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainReport:
    """Train a model on the `train` videos and leave it in a run folder.

    Args:
        cache: the features; no video is opened.
        labels: of all videos; `test` ones are only checked for leaks.
        model: shape of the network.
        train: how it is trained.
        runs: folder for the run folder, unless `out` names that.
        out: the run folder; it must be empty or absent.
        streams: which to use; default: those that all videos have.
        device: `auto` takes a GPU if there is one.
        skip_missing: leave labelled videos out that the cache lacks, instead of refusing.
        allow_misaligned: cut labels that go beyond their video, instead of refusing.
        on_look: called with every row of `metrics.jsonl`.

    Raises:
        FeatError: labels and cache do not fit each other, or there is nothing to learn from.
    """
    started = time.monotonic()
    target = torch.device(resolve_device(device))
    material = gather_material(
        cache,
        labels,
        model=model,
        train=train,
        streams=streams,
        skip_missing=skip_missing,
        allow_misaligned=allow_misaligned,
    )
    names = [stream.name for stream in material.data.streams]
    run = claim_run_dir(out) if out else new_run_dir(runs, name=f"{'-'.join(names)}-s{train.seed}")
    write_json(run / ENVIRONMENT_NAME, {**environment(), "device": str(target)})
    write_labels(run / LABELS_NAME, labels)
    used = [target] if target.type == "cuda" else []
    with (
        torch.random.fork_rng(used),  # the seeds set below are not the caller's business
        (run / METRICS_NAME).open("w", encoding="utf-8") as log,
    ):

        def note(row: dict[str, Any]) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()
            on_look(row)

        trainer, validation = prepare_fit(material, train, target)
        fitted = fit_network(trainer, validation, on_look=note)
    info = _describe(run, cache, material, train, fitted)
    write_json(run / CONFIG_NAME, info.to_dict())
    # Last: a run folder with a checkpoint is a finished run.
    save_checkpoint(
        run / CHECKPOINT_NAME,
        Checkpoint(network=fitted.network, standardizer=material.standardizer, info=info),
    )
    return TrainReport(
        run=run,
        cache=cache.path,
        streams=tuple(names),
        categories=material.categories,
        num_train_videos=len(info.train_videos),
        num_val_videos=len(info.val_videos),
        num_train_windows=trainer.num_windows,
        steps=fitted.steps,
        best_step=fitted.best_step,
        selected_by=fitted.criterion,
        val=fitted.best,
        seconds=round(time.monotonic() - started, 2),
    )


def resolve_device(device: str) -> str:
    """Return the device that `auto` stands for, or the one named.

    Raises:
        ModelError: it is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ModelError(f"device {device!r} is unknown, expected auto, cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"device {device}: this machine has no CUDA device; use --device cpu")
    return device


def prepare_fit(
    material: Material, train: TrainConfig, device: torch.device
) -> tuple[Trainer, Validation | None]:
    """Return a trainer with a fresh network, and the validation part."""
    inputs = _inputs(material, material.data, device)
    torch.manual_seed(train.seed)
    network = AnomalyNetwork(
        material.model, feature_dim=inputs.shape[1], num_categories=len(material.categories)
    ).to(device)
    windows = make_window_data(material.data, inputs, material.categories, material.model)
    trainer = Trainer(network, windows, train)
    if material.val is None:
        return trainer, None
    val_inputs = _inputs(material, material.val, device)
    validation = Validation(
        data=material.val,
        inputs=val_inputs,
        windows=make_window_data(material.val, val_inputs, material.categories, material.model),
        categories=material.categories,
    )
    return trainer, validation


def _inputs(material: Material, data: FeatureSet, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(material.standardizer.apply(data.features)).to(device)


def _describe(
    run: Path, cache: FeatureCache, material: Material, train: TrainConfig, fitted: FitResult
) -> RunInfo:
    return RunInfo(
        model=material.model,
        train=train,
        streams=material.data.streams,
        clip_len=material.data.clip_len,
        categories=material.categories,
        train_videos=_contents(material.data),
        val_videos=_contents(material.val) if material.val else {},
        labels_sha256=hashlib.sha256((run / LABELS_NAME).read_bytes()).hexdigest(),
        cache=str(cache.path.resolve()),
        result={
            "steps": fitted.steps,
            "best_step": fitted.best_step,
            "selected_by": fitted.criterion,
            **fitted.best,
        },
    )


def _contents(data: FeatureSet) -> dict[str, str]:
    return {label.video: sha for label, sha in zip(data.labels, data.sha256, strict=True)}
