"""Training from a feature cache: labels -> features -> windows -> network -> run folder."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cache import FeatureCache
from data.errors import ModelError
from data.labels import VideoLabel, read_labels, write_labels
from model.config import ModelConfig, TrainConfig
from model.features.load import FeatureSet
from model.network.multitask import AnomalyNetwork
from model.runs.checkpoint import CHECKPOINT_NAME, Checkpoint, RunInfo, save_checkpoint
from model.runs.folder import (
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    LABELS_NAME,
    METRICS_NAME,
    claim_run_dir,
    environment,
    new_run_dir,
    write_json,
)
from model.training.event_log import EventLog
from model.training.fit import FitResult, FitState, Validation, fit_network
from model.training.material import Material, gather_material
from model.training.resume import STATE_NAME, load_state, read_settings, save_state
from model.training.step import Trainer, make_window_data

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
    """`auc`, `score_loss` or `category_loss` on the validation part; `none` without one."""
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
    resume: bool = False,
    save_seconds: float = 10.0,
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
        resume: go on with the killed training in `out`; the result is that of no kill.
        save_seconds: at least so long between two savings of what a resumed training needs.
        on_look: called with every row of `metrics.jsonl`.

    Raises:
        FeatError: labels and cache do not fit each other, or there is nothing to learn from.
    """
    started = time.monotonic()
    target = torch.device(resolve_device(device))
    gather = partial(
        gather_material,
        cache,
        labels,
        model=model,
        streams=streams,
        skip_missing=skip_missing,
        allow_misaligned=allow_misaligned,
    )
    material = gather(train=train)
    names = [stream.name for stream in material.data.streams]
    settings = _settings(material, train)
    if resume:
        run = _claim_killed(out, settings)
    else:
        stem = f"{'-'.join(names)}-s{train.seed}"
        run = claim_run_dir(out) if out else new_run_dir(runs, name=stem)
        used_here = {"device": str(target), "threads": torch.get_num_threads()}
        write_json(run / ENVIRONMENT_NAME, {**environment(), **used_here})
        write_labels(run / LABELS_NAME, labels)
    used = [target] if target.type == "cuda" else []
    with torch.random.fork_rng(used):  # the seeds set below are not the caller's business
        trainer, validation = prepare_fit(material, train, target)
        state = FitState(kept=trainer.averaged)
        if resume:
            load_state(run / STATE_NAME, trainer, state)
            _cut_log(run / METRICS_NAME, trainer.step)
        else:
            save_state(run / STATE_NAME, trainer, state, settings)
        saved = time.monotonic()

        def note(row: dict[str, Any]) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()
            events.add(row)
            on_look(row)

        def keep(state: FitState) -> None:
            nonlocal saved
            if time.monotonic() - saved >= save_seconds:
                save_state(run / STATE_NAME, trainer, state, settings)
                saved = time.monotonic()

        with (
            EventLog(
                run,
                run / METRICS_NAME,
                model=material.model,
                train=train,
                streams=" + ".join(names),
            ) as events,
            (run / METRICS_NAME).open("a", encoding="utf-8") as log,
        ):
            fitted = fit_network(trainer, validation, on_look=note, state=state, on_state=keep)
            if validation:
                events.add_selected(fitted.network, validation, fitted.best_step)
        num_val = 0  # videos held out to select and trained on in the end
        if train.refit and validation and not any(label.split == "val" for label in labels):
            num_val = len(validation.data.labels)
            material = gather(train=replace(train, val_fraction=0.0))
            fitted = _refit(material, train, target, fitted)
            logger.info(
                "trained anew on all %d training videos for %d steps",
                len(material.data.labels),
                fitted.best_step,
            )
    info = _describe(run, cache, material, train, fitted, refit_from=num_val)
    write_json(run / CONFIG_NAME, info.to_dict())
    # Last: a run folder with a checkpoint is a finished run.
    save_checkpoint(
        run / CHECKPOINT_NAME,
        Checkpoint(network=fitted.network, standardizer=material.standardizer, info=info),
    )
    (run / STATE_NAME).unlink()
    return TrainReport(
        run=run,
        cache=cache.path,
        streams=tuple(names),
        categories=material.categories,
        num_train_videos=len(info.train_videos),
        num_val_videos=len(info.val_videos) or num_val,
        num_train_windows=trainer.num_windows,
        steps=fitted.steps,
        best_step=fitted.best_step,
        selected_by=fitted.criterion,
        val=fitted.best,
        seconds=round(time.monotonic() - started, 2),
    )


def resume_training(cache: FeatureCache, run: Path, **options: Any) -> TrainReport:
    """Go on with a killed training, with the settings and labels its run folder holds.

    Args:
        cache: the one it was started with.
        run: the run folder.
        options: as of `run_training`: device, skip_missing, allow_misaligned, on_look.

    Raises:
        FeatError: nothing to go on from, or the features are no longer those it started with.
    """
    settings = read_settings(run / STATE_NAME)
    return run_training(
        cache,
        read_labels(run / LABELS_NAME),
        model=ModelConfig.from_dict(settings["model"]),
        train=TrainConfig.from_dict(settings["train"]),
        streams=list(settings["streams"]),
        runs=run.parent,
        out=run,
        resume=True,
        **options,
    )


def _settings(material: Material, train: TrainConfig) -> dict[str, Any]:
    """Return all that a training's numbers follow from, as JSON types."""
    return {
        "model": material.model.to_dict(),
        "train": train.to_dict(),
        "streams": {stream.name: stream.digest for stream in material.data.streams},
        "train_videos": _contents(material.data),
        "val_videos": _contents(material.val) if material.val else {},
        "categories": list(material.categories),
    }


def _claim_killed(out: Path | None, settings: dict[str, Any]) -> Path:
    if out is None:
        raise ValueError("the run to go on with must be named")
    before = read_settings(out / STATE_NAME)
    changed = [name for name in settings if before.get(name) != settings[name]]
    if changed:
        raise ModelError(
            f"{out}: the training was started with other {', '.join(changed)}; go on with the "
            "same labels and features, or run `feat train` anew"
        )
    return out


def _cut_log(path: Path, step: int) -> None:
    """Drop the rows after a step, and a last one that was not written whole."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    path.write_text("".join(n for n in whole if json.loads(n)["step"] <= step), encoding="utf-8")


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
    inputs = material.standardizer.inputs(material.data.features, device)
    torch.manual_seed(train.seed)
    network = AnomalyNetwork(
        material.model, feature_dim=inputs.dim, num_categories=len(material.categories)
    ).to(device)
    windows = make_window_data(material.data, inputs, material.categories, material.model)
    trainer = Trainer(network, windows, train)
    if material.val is None:
        return trainer, None
    val_inputs = material.standardizer.inputs(material.val.features, device)
    validation = Validation(
        data=material.val,
        inputs=val_inputs,
        windows=make_window_data(material.val, val_inputs, material.categories, material.model),
        categories=material.categories,
    )
    return trainer, validation


def _refit(
    material: Material, train: TrainConfig, device: torch.device, selected: FitResult
) -> FitResult:
    """Return a network trained on all of `material` for as many steps as were best before.

    The measures stay those of the network that was selected: the new one has seen the videos
    that they were taken on.
    """
    trainer, _ = prepare_fit(material, replace(train, max_steps=selected.best_step), device)
    again = fit_network(trainer, None, on_look=lambda row: None)
    return replace(selected, network=again.network)


def _describe(
    run: Path,
    cache: FeatureCache,
    material: Material,
    train: TrainConfig,
    fitted: FitResult,
    *,
    refit_from: int,
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
            "refit_from": refit_from,
            **fitted.best,
        },
    )


def _contents(data: FeatureSet) -> dict[str, str]:
    return {label.video: sha for label, sha in zip(data.labels, data.sha256, strict=True)}
