"""The ConvLSTM multi-task model of Wan et al. 2021 as a method: the network and its training."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from data.splits.protocols import Supervision
from model.device import training_seconds
from model.features.load import SEGMENT_SLOTS, FeatureSet
from model.features.standardize import NetworkInputs, Standardizer
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method, Parameters
from model.network.config import NetworkConfig
from model.network.multitask import AnomalyNetwork
from model.network.scoring import predict_windows, score_clips
from model.training.config import TrainConfig
from model.training.fit import FitResult, Validation, fit_network
from model.training.names import network_parameters, network_weights
from model.training.session import FitSession
from model.training.step import Trainer, make_window_data

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # The limit on features is for those that hardly vary in a small training set: in another video
    # they are easily a hundred deviations off.
    "default": {
        "hidden": 32,
        "head_widths": [256],
        "heads": "separate",
        "readout": "each",
        "dropout": 0.5,
        "input_dropout": 0.5,
        "skip": True,
        "motion": True,
        "feature_clip": 5.0,
        "smoothing": 1.0,
        "score_loss": "cross_entropy",
        "learning_rate": 1e-3,
        "steps": 200,
        "refit": True,
    },
    # To the letter: no standardisation, no dropout, and a linear score output, since equation 7's
    # second branch (|x| > 1) can only be reached by one.
    "paper": {"standardize": False, "score_activation": "linear"},
    # As in the authors' published code (wanboyang/anomaly_detection_LAD2000, model.py, train.py
    # and their defaults): no peepholes, one shared layer and a bias-free branch for each output, a
    # sigmoid on the scores, raw features, a smaller learning rate. They trained 12,000 steps and
    # looked at the test set every 200; here the validation part says when to stop.
    "released": {
        "peepholes": False,
        "head_widths": [1024, 512],
        "heads": "branched",
        "standardize": False,
        "learning_rate": 1e-4,
        "steps": 12_000,
        "eval_every": 200,
    },
}


@dataclass(frozen=True, kw_only=True)
class ConvLSTMMethod(NetworkConfig, TrainConfig, Method):
    """Scores windows of clips by a ConvLSTM that also names the category."""

    name: ClassVar[str] = "convlstm"
    supervision: ClassVar[Supervision] = "fully"
    learns_categories: ClassVar[bool] = True
    learns_frames: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS

    @property
    def wants_motion(self) -> bool:
        """As the setting `motion` says."""
        return self.motion

    @property
    def held_out_share(self) -> float:
        """As the setting `val_fraction` says."""
        return self.val_fraction

    def suited_to(self, *, clip_len: int, has_motion: bool) -> Self:
        """Return the method with m resolved, and without motion where the cache holds none."""
        return replace(
            self,
            clip_slots=self.clip_slots or clip_len or SEGMENT_SLOTS,
            motion=self.motion and has_motion,
        )

    def cpu_seconds(self, material: Material) -> float:
        """Return that of all steps, once more for a network trained on all videos."""
        with torch.device("meta"):
            network = self._network(material)
        steps = 2 * self.steps if self.refit and material.whole else self.steps
        return training_seconds(network, rows=self.batch_size * self.num_clips, steps=steps)

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Train, select on the validation part and, with `refit`, train anew on all videos."""
        used = [session.device] if session.device.type == "cuda" else []
        with torch.random.fork_rng(used):  # the seeds set below are not the caller's business
            trainer, validation = prepare_fit(self, material, session)
            num_windows = trainer.num_windows
            standard = standardizer_parameters(self._standardizer(material))
            selected = fit_network(trainer, validation, session=_adding(standard, session))
            if validation:
                session.show_selected(validation.results(selected.network), selected.best_step)
            del trainer, validation  # what they hold of a GPU
            whole = material.whole() if self.refit and material.whole else None
            before = None
            if whole:
                parameters = {**network_parameters(selected.network), **standard}
                before = Fitted(parameters=parameters, categories=material.categories)
                selected = self._refit(whole, session, selected)
        last = whole or material
        return Fitted(
            parameters={
                **network_parameters(selected.network),
                **standardizer_parameters(self._standardizer(last)),
            },
            categories=last.categories,
            on_whole=whole is not None,
            before_whole=before,
            result={
                "num_windows": num_windows,
                "steps": selected.steps,
                "best_step": selected.best_step,
                "selected_by": selected.criterion,
                **selected.best,
            },
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return m scores of each clip, averaged over windows, and each window's category."""
        network, inputs = self._load(fitted, data, device)
        return score_clips(network, inputs, data, fitted.categories)

    def score_windows(
        self,
        fitted: Fitted,
        data: FeatureSet,
        rows: NDArray[np.int64],
        mask: NDArray[np.bool_],
        device: torch.device,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return scores (W, K, m) and class probabilities (W, C) of windows of clips.

        Args:
            fitted: what `fit` gave.
            data: whose clips they are.
            rows: (W, K) which of them form each window.
            mask: (W, K) False where a window was padded.
            device: where to compute.
        """
        network, inputs = self._load(fitted, data, device)
        return predict_windows(network, inputs, rows, mask)

    def _load(
        self, fitted: Fitted, data: FeatureSet, device: torch.device
    ) -> tuple[AnomalyNetwork, NetworkInputs]:
        standardizer = Standardizer(
            mean=fitted.parameters["standardizer.mean"],
            std=fitted.parameters["standardizer.std"],
            limit=self.feature_clip if self.standardize else 0.0,
        )
        network = load_network(self, fitted, data.features.shape[1])
        return network.to(device), standardizer.inputs(data.features, device)

    def _refit(self, whole: Material, session: FitSession, selected: FitResult) -> FitResult:
        """Return a network trained on all videos for as many steps as were best before.

        The measures stay those of the network that was selected: the new one has seen the videos
        that they were taken on.
        """
        shorter = replace(self, steps=max(selected.best_step, 1))
        quiet = FitSession(seed=session.seed, device=session.device)
        trainer, _ = prepare_fit(shorter, replace(whole, val=None), quiet)
        return replace(selected, network=fit_network(trainer, None, session=quiet).network)

    def _network(self, material: Material) -> AnomalyNetwork:
        """Return a fresh network for the features and categories of the training videos."""
        return AnomalyNetwork(
            self,
            feature_dim=material.train.features.shape[1],
            num_categories=len(material.categories),
        )

    def _standardizer(self, material: Material) -> Standardizer:
        features = material.train.features
        if not self.standardize:
            return Standardizer.identity(features.shape[1])
        return Standardizer.fit(features, limit=self.feature_clip)


def prepare_fit(
    method: ConvLSTMMethod, material: Material, session: FitSession
) -> tuple[Trainer, Validation | None]:
    """Return a trainer with a fresh network, and the validation part.

    PyTorch's random state is left as the network's first weights took it.
    """
    train, categories = material.train, material.categories
    standardizer = method._standardizer(material)
    inputs = standardizer.inputs(train.features, session.device)
    torch.manual_seed(session.seed)
    network = method._network(material).to(session.device)
    windows = make_window_data(train, inputs, categories, method)
    trainer = Trainer(network, windows, method, seed=session.seed)
    if material.val is None:
        return trainer, None
    val_inputs = standardizer.inputs(material.val.features, session.device)
    return trainer, Validation(
        data=material.val,
        inputs=val_inputs,
        windows=make_window_data(material.val, val_inputs, categories, method),
        categories=categories,
    )


def _adding(parameters: Parameters, session: FitSession) -> FitSession:
    """Return the session, with these parameters beside the weights in whatever it keeps."""

    def keep(step: int, weights: Callable[[], Parameters]) -> None:
        session.keep_snapshot(step, lambda: {**weights(), **parameters})

    return replace(session, keep_snapshot=keep)


def standardizer_parameters(standardizer: Standardizer) -> dict[str, NDArray[Any]]:
    """Return mean and deviation under the names of a checkpoint."""
    return {"standardizer.mean": standardizer.mean, "standardizer.std": standardizer.std}


def load_network(method: ConvLSTMMethod, fitted: Fitted, feature_dim: int) -> AnomalyNetwork:
    """Return the network with the weights of a fit, on the CPU.

    Raises:
        RuntimeError: the parameters are not those of such a network.
    """
    # On the meta device no memory is asked for until the shapes are known to fit.
    with torch.device("meta"):
        network = AnomalyNetwork(
            method, feature_dim=feature_dim, num_categories=len(fitted.categories)
        )
    network.load_state_dict(network_weights(fitted.parameters), strict=True, assign=True)
    return network
