"""The training loop's inside: data on the device, and one optimiser step."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.kernels import kernels_wanted
from data.labels import VideoLabel
from model.features.load import FeatureSet
from model.features.standardize import NetworkInputs
from model.features.windows import BalancedBatches, Windows, make_windows, slot_bounds, slot_targets
from model.network.config import NetworkConfig
from model.network.multitask import AnomalyNetwork
from model.training.config import TrainConfig
from model.training.graph import StepGraph
from model.training.losses import NO_CATEGORY, LossTerms, category_loss, combine, score_loss


@dataclass(frozen=True, kw_only=True)
class WindowData:
    """Windows of a feature set with their targets, on the network's device."""

    inputs: NetworkInputs
    """Of N clips."""
    rows: Tensor
    """(W, K) int64 into `inputs`."""
    mask: Tensor
    """(W, K) bool."""
    targets: Tensor
    """(N, m) float32, of each clip."""
    target_mask: Tensor
    """(N, m) bool."""
    categories: Tensor
    """(W,) int64."""
    is_abnormal: NDArray[np.bool_]
    """(W,) whether a window holds an abnormal frame, or is of a video that does somewhere."""

    def gather(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return features, mask, targets, target mask and categories of some windows."""
        rows, mask = self.rows[chosen], self.mask[chosen]
        target_mask = self.target_mask[rows] & mask.unsqueeze(-1)
        return (
            self.inputs.pick(rows),
            mask,
            self.targets[rows],
            target_mask,
            self.categories[chosen],
        )


def make_window_data(
    data: FeatureSet,
    inputs: NetworkInputs,
    categories: tuple[str, ...],
    config: NetworkConfig,
) -> WindowData:
    """Return the windows of `data` with the targets of exactly the frames they hold.

    Args:
        data: the videos; the windows of a weak one have a category, but no frame with a target.
        inputs: its features, on the device wanted.
        categories: those of the model; a video with none of them gets `NO_CATEGORY`.
        config: K and m.

    Raises:
        LabelsError: a label goes beyond a video's last frame.
    """
    windows = make_windows(data.first_clip, config.num_clips)
    bounds = slot_bounds(
        data.start_frame, data.end_frame, clip_len=data.clip_len, slots=config.clip_slots
    )
    parts = [
        _targets_of(label, int(frames), bounds[data.rows(index)])
        for index, (label, frames) in enumerate(zip(data.labels, data.num_frames, strict=True))
    ]
    targets = np.concatenate([part[0] for part in parts])
    place = {name: index for index, name in enumerate(categories)}
    of_video = np.array([place.get(label.category, NO_CATEGORY) for label in data.labels])
    is_weak = np.array([label.is_weak for label in data.labels])
    device = inputs.device
    return WindowData(
        inputs=inputs,
        rows=torch.from_numpy(windows.rows).to(device),
        mask=torch.from_numpy(windows.mask).to(device),
        targets=torch.from_numpy(targets).to(device),
        target_mask=torch.from_numpy(np.concatenate([part[1] for part in parts])).to(device),
        categories=torch.from_numpy(of_video[windows.video]).to(device),
        is_abnormal=_has_abnormal(windows, targets) | is_weak[windows.video],
    )


def _targets_of(
    label: VideoLabel, num_frames: int, bounds: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    if label.is_weak:
        shape = (len(bounds), bounds.shape[1] - 1)
        return np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
    return slot_targets(label.frame_labels(num_frames), bounds)


class Trainer:
    """A network and its optimiser.

    On a GPU that holds the features a step is one CUDA graph (see `StepGraph`).
    """

    def __init__(
        self, network: AnomalyNetwork, data: WindowData, config: TrainConfig, *, seed: int
    ) -> None:
        self.network = network
        self.config = config
        self.step = 0
        self._data = data
        self._seed = seed
        self._batches = BalancedBatches(data.is_abnormal, batch_size=config.batch_size, seed=seed)
        device = data.inputs.device
        on_gpu = device.type == "cuda"
        self._chosen = torch.zeros(config.batch_size, dtype=torch.int64, device=device)
        self._graph = (
            StepGraph(device) if on_gpu and data.inputs.are_there and kernels_wanted() else None
        )
        self.optimizer = torch.optim.Adam(
            network.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,  # one pass over the weights instead of eight
            capturable=on_gpu,
        )

    @property
    def num_windows(self) -> int:
        """Windows to draw from."""
        return len(self._data.rows)

    def train_step(self) -> LossTerms:
        """Take one optimiser step and return its losses."""
        chosen = torch.from_numpy(self._batches.batch(self.step))
        if self._chosen.is_cuda:
            chosen = chosen.pin_memory()  # else the copy waits for the step before
        self._chosen.copy_(chosen, non_blocking=True)
        # Dropout depends on the seed and the step alone, like the batch.
        torch.manual_seed(self._seed * 1_000_003 + self.step)
        losses = self._graph.take(self._take_step) if self._graph else self._take_step()
        self.step += 1
        return LossTerms(*losses.unbind())

    def _take_step(self) -> Tensor:
        """Train on the windows in `self._chosen` and return the three losses."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(
            self._chosen.device.type,
            dtype=torch.bfloat16,
            enabled=self.config.precision == "bfloat16",
        ):
            losses = window_losses(self.network, self._data, self._chosen, self.config)
        torch.autograd.backward(losses.total)
        self.optimizer.step()
        return torch.stack(losses).detach()


def window_losses(
    network: AnomalyNetwork, data: WindowData, chosen: Tensor, config: TrainConfig
) -> LossTerms:
    """Return equation 8 and its parts for some windows."""
    features, mask, targets, target_mask, categories = data.gather(chosen)
    predicted = network(features, mask)
    scores = predicted.scores.float()
    if config.score_loss == "smooth_l1" and network.config.score_activation == "sigmoid":
        scores = scores.sigmoid()
    logits = None if predicted.categories is None else predicted.categories.float()
    return combine(
        category_loss(logits, categories),
        score_loss(scores, targets, target_mask, kind=config.score_loss),
        category_weight=config.category_weight,
        score_weight=config.score_weight,
    )


def _has_abnormal(windows: Windows, targets: NDArray[np.float32]) -> NDArray[np.bool_]:
    per_clip: NDArray[np.bool_] = np.any(targets > 0, axis=1)
    return np.asarray((per_clip[windows.rows] & windows.mask).any(axis=1))
