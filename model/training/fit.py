"""Fitting one network: steps, looks at the validation part, and which weights are kept."""

import copy
from dataclasses import dataclass, field
from functools import partial

import torch

from model.features.load import FeatureSet
from model.features.standardize import NetworkInputs
from model.measures.metrics import VideoResult, compute_metrics
from model.measures.scores import spread_scores, video_results
from model.network.multitask import AnomalyNetwork
from model.network.scoring import score_clips
from model.training.config import TrainConfig
from model.training.losses import LossTerms
from model.training.names import (
    named,
    network_parameters,
    part_of,
    restore_training,
    training_tensors,
)
from model.training.session import FitSession, SavedState, restoring
from model.training.step import Trainer, WindowData, window_losses

MIN_VIDEOS_FOR_AUC = 5
LOSS_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The part of the training videos that selects the model."""

    data: FeatureSet
    inputs: NetworkInputs
    windows: WindowData
    categories: tuple[str, ...]

    @property
    def criterion(self) -> str:
        """What selects: `auc` where there are enough videos of both kinds, else `score_loss`.

        With one or two abnormal videos the AUC jumps by tenths between looks; the loss of the
        scores does not. The category's loss has no say: a category that so few videos do not
        teach would drown the scores.
        """
        abnormal = sum(label.is_abnormal for label in self.data.labels)
        enough = min(abnormal, len(self.data.labels) - abnormal) >= MIN_VIDEOS_FOR_AUC
        return "auc" if enough else "score_loss"

    def results(self, network: AnomalyNetwork) -> list[VideoResult]:
        """Return a network's scores of the videos.

        They are not smoothed: that would hide from the selection which network is better.
        """
        scores = score_clips(network, self.inputs, self.data, self.categories)
        return video_results(spread_scores(scores, self.data, smoothing=0.0), self.data)

    def look(self, network: AnomalyNetwork, config: TrainConfig) -> dict[str, float | None]:
        """Return the measures of a network."""
        values = compute_metrics(self.results(network), self.categories).values
        losses = self._losses(network, config)
        return {
            "val_loss": losses[0],
            "val_category_loss": losses[1],
            "val_score_loss": losses[2],
            "val_auc": values["auc"],
            "val_ap": values["ap"],
            "val_accuracy": values["accuracy_video"],
        }

    @torch.inference_mode()
    def _losses(self, network: AnomalyNetwork, config: TrainConfig) -> list[float]:
        """Return the mean over all windows of the whole loss, the category's and the scores'."""
        network.eval()
        count = len(self.windows.rows)
        total = torch.zeros(3, device=self.inputs.device)
        for chosen in torch.split(torch.arange(count, device=self.inputs.device), LOSS_BATCH):
            losses = window_losses(network, self.windows, chosen, config)
            total += torch.stack(losses) * len(chosen)
        return [float(loss) for loss in total / count]


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The network kept and how it was found."""

    network: AnomalyNetwork
    steps: int
    best_step: int
    criterion: str
    best: dict[str, float | None]
    """Validation measures of the network kept; empty without a validation part."""


@dataclass
class FitState:
    """What selection remembers between two looks."""

    kept: AnomalyNetwork
    best: dict[str, float | None] = field(default_factory=dict)
    best_step: int = 0
    best_value: float = float("-inf")
    stale: int = 0
    """Looks since the best one."""

    def keep(self, network: AnomalyNetwork) -> None:
        """Keep a copy of the network as it is now."""
        self.kept = copy.deepcopy(network)


def fit_network(
    trainer: Trainer, validation: Validation | None, *, session: FitSession
) -> FitResult:
    """Train and return the best network by the validation part, or the last without one.

    Batches and dropout depend on the seed and the step alone, so that a training that goes on
    from a saved state ends as one that was never killed.

    Args:
        trainer: at its first step.
        validation: what to select by, or None.
        session: takes the rows of the log, the states and snapshots, and gives the state to go on
            from.

    Raises:
        SavedStateError: the saved state is of another network.
    """
    config = trainer.config
    criterion = _criterion(validation, config)
    state = FitState(kept=trainer.network)
    if session.saved:
        with restoring():
            _restore(session.saved, trainer, state)
    window: list[LossTerms] = []
    while trainer.step < config.steps and not 0 < config.patience <= state.stale:
        window.append(trainer.train_step())
        session.keep_snapshot(trainer.step, partial(network_parameters, trainer.network))
        if trainer.step % config.eval_every and trainer.step != config.steps:
            continue
        row = _mean_losses(window)
        window = []
        measures = validation.look(trainer.network, config) if validation else {}
        session.log({"step": trainer.step, **row, **measures})
        if validation is None:
            state.best_step = trainer.step
        else:
            value = _goodness(measures, criterion)
            state.stale = 0 if value > state.best_value else state.stale + 1
            if value > state.best_value:
                state.best, state.best_step, state.best_value = measures, trainer.step, value
                state.keep(trainer.network)
        session.offer_state(lambda: _saved(trainer, state))
    return FitResult(
        network=state.kept,
        steps=trainer.step,
        best_step=state.best_step,
        criterion=criterion,
        best=state.best,
    )


def _saved(trainer: Trainer, state: FitState) -> SavedState:
    """Return weights, Adam's state and the best network so far."""
    tensors = training_tensors(trainer.network, [trainer.optimizer])
    if state.kept is not trainer.network:
        tensors |= named("kept", state.kept.state_dict())
    described = {
        name: getattr(state, name) for name in ("best", "best_step", "best_value", "stale")
    }
    return SavedState(step=trainer.step, described=described, tensors=tensors)


def _restore(saved: SavedState, trainer: Trainer, state: FitState) -> None:
    """Put a saved state into a fresh trainer of the same settings."""
    restore_training(saved.tensors, trainer.network, [trainer.optimizer])
    if kept := part_of("kept", saved.tensors):
        state.keep(trainer.network)
        state.kept.load_state_dict(kept)
    trainer.step = saved.step
    described = saved.described
    state.best, state.best_step = dict(described["best"]), int(described["best_step"])
    state.best_value, state.stale = float(described["best_value"]), int(described["stale"])


def _criterion(validation: Validation | None, config: TrainConfig) -> str:
    if validation is None:
        return "none"
    # scores that nothing trains cannot select
    return validation.criterion if config.score_weight else "category_loss"


def _goodness(measures: dict[str, float | None], criterion: str) -> float:
    value = measures[f"val_{criterion}"]
    if value is None:
        return float("-inf")
    return -value if criterion.endswith("_loss") else value


def _mean_losses(window: list[LossTerms]) -> dict[str, float]:
    means = torch.stack([torch.stack(terms) for terms in window]).mean(dim=0)
    return {
        name: float(mean)
        for name, mean in zip(("loss", "category_loss", "score_loss"), means, strict=True)
    }
