"""Methods that look at pixels: a network that knows normal frames rebuilds or predicts others.

They share how windows of frames are drawn, trained on and resumed, and how an error becomes a
score: by the peak signal-to-noise ratio of the frame, in decibels (Liu et al. 2018, section 3.5).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cache import FeatureCache
from data.kernels import kernels_wanted
from data.labels import VideoLabel
from data.splits.protocols import Supervision
from model.features.frames import FrameWindows, load_frames, network_frames
from model.features.load import FeatureSet
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method
from model.training.graph import StepGraph, make_capturable
from model.training.names import (
    network_parameters,
    network_weights,
    restore_training,
    training_tensors,
)
from model.training.session import FitSession, SavedState, restoring

LOG_EVERY = 20
ALARM_QUANTILE = 0.99
CALIBRATION_FRAMES = 2000
"""Training frames at most that say which ratios are usual."""
SCORE_RANGE = 60.0
"""Decibels from score 0 to score 1: no frame leaves it, so that scores are linear in decibels."""
MAX_RATIO = 80.0
"""Of a frame that is rebuilt without an error."""


class Windows(Protocol):
    """Windows of frames; see `FrameWindows`."""

    def __len__(self) -> int: ...

    def batches(
        self, *, batch_size: int, steps: int, seed: int, first_step: int = 0
    ) -> Iterator[Tensor]:
        """Yield a batch for each step."""


Net = TypeVar("Net", bound=nn.Module)
Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class FrameMethod(Method, Generic[Net]):
    """A network trained on windows of the frames of normal videos."""

    supervision: ClassVar[Supervision] = "unsupervised"
    reads_frames: ClassVar[bool] = True
    window: ClassVar[int]
    """Frames that it is shown at a time."""
    size_step: ClassVar[int] = 8
    """Frames have a multiple of so many pixels a side: the network halves them again and again."""
    strides: ClassVar[Sequence[int]] = (1,)
    """Frames from one of a window to the next, in training."""
    steps_are_alike: ClassVar[bool] = True
    """Whether a step does the same each time and never looks at a value: a GPU can repeat it."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "default": {},
        "small": {"size": 64, "width": 16, "steps": 2000},
    }

    size: int = 256
    """Height and width of the frames, pixels; others are scaled."""
    gray: bool = False
    """Look at the luma alone."""
    width: int = 64
    """Channels of the first layer; the others have multiples of it."""
    steps: int = 20_000
    """Optimiser steps."""
    batch_size: int = 4
    """Windows a step."""
    learning_rate: float = 2e-4
    """Of Adam."""
    snapshots: int = 0
    """Times, evenly spread, that the training is kept as it is then; `feat eval` compares them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "width", "steps", "batch_size")
        self._require_at_least(0, "snapshots")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        fits = self.size >= 32 and self.size % self.size_step == 0
        self._require("size", fits, f"32 or more, in steps of {self.size_step}")

    @abstractmethod
    def network(self) -> Net:
        """Return a fresh network with all that is learnt."""

    def network_on(self, device: torch.device) -> Net:
        """Return a fresh network on a device, laid out as convolutions are fastest there."""
        network = self.network().to(device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    @abstractmethod
    def optimizers(self, network: Net) -> list[torch.optim.Optimizer]:
        """Return the optimisers of its weights."""

    @abstractmethod
    def learn(self, network: Net, optimizers: Sequence[torch.optim.Optimizer]) -> Step:
        """Return what takes a step with a (B, window, C, H, W) batch and gives its loss."""

    def rate(self, step: int) -> float:
        """Return the share of the learning rates that step 1, 2, ... is taken with."""
        return 1.0

    def windows(self, data: FeatureSet) -> Windows:
        """Return what batches are drawn from."""
        return FrameWindows(data.frames, length=self.window, strides=self.strides)

    @abstractmethod
    def measure(self, network: Net, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (T, K) values of a video's frames, such as the peak ratio, dB.

        Args:
            network: trained, on its device, in evaluation mode.
            frames: (T, H, W, C) as they are stored.
        """

    def calibrate(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what `combine` compares with, from (N, K) values of normal frames."""
        return np.quantile(values[:, 0], [1 - ALARM_QUANTILE])

    def combine(
        self, values: NDArray[np.float64], usual: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return (T,) scores of the (T, K) values of a video, linear in the ratios."""
        scores: NDArray[np.float64] = 0.5 + (usual[0] - values[:, 0]) / SCORE_RANGE
        return scores

    def load(
        self,
        cache: FeatureCache,
        labels: Sequence[VideoLabel],
        *,
        streams: Sequence[str],
        configs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> FeatureSet:
        """Return the videos' frames."""
        return load_frames(cache, labels, streams=streams, configs=configs)

    @property
    def channels(self) -> int:
        """Of a frame as the network gets it."""
        return 1 if self.gray else 3

    def cpu_seconds(self, material: Material) -> float:
        """Say that a GPU is always worth it."""
        return math.inf

    def tensors(self, batch: Tensor, device: torch.device) -> Tensor:
        """Return (B, L, C, size, size) float32 in [-1, 1] of (B, L, H, W, C) uint8."""
        return network_frames(batch, size=self.size, gray=self.gray, device=device)

    def fit(self, material: Material, session: FitSession) -> Fitted:
        """Take the steps; log the mean loss every 20, and offer what a killed fit goes on from."""
        device = session.device
        windows = self.windows(material.train)
        # the seeds set below are not the caller's business
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(session.seed)
            network = self.network_on(device)
            stepper = Stepper(self, network, device)
            optimizers = stepper.optimizers
            first = session.saved.step if session.saved else 0
            if session.saved:
                with restoring():
                    restore_training(session.saved.tensors, network, optimizers)
            network.train()
            recent: list[Tensor] = []
            batches = windows.batches(
                batch_size=self.batch_size, steps=self.steps, seed=session.seed, first_step=first
            )
            for step, batch in enumerate(batches, start=first + 1):
                recent.append(stepper.step(self.tensors(batch, device), rate=self.rate(step)))
                if step % LOG_EVERY == 0:
                    session.log({"step": step, "loss": float(torch.stack(recent).mean())})
                    recent = []
                    session.offer_state(partial(_state, step, network, optimizers))
                session.keep_snapshot(step, partial(self._learnt, network, material))
            del stepper  # the memory of its graph
            parameters = self._learnt(network, material)
        return Fitted(
            parameters=parameters, result={"num_windows": len(windows), "steps": self.steps}
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return a score for each frame; 0.5 where 1 % of the normal frames are beyond."""
        network = self.network_on(device)
        network.load_state_dict(network_weights(fitted.parameters))
        network.eval()
        usual = np.asarray(fitted.parameters["usual"], np.float64)
        with torch.inference_mode():
            scores = [self.combine(self.measure(network, video), usual) for video in data.frames]
        return ClipScores(slots=np.concatenate(scores))

    def _learnt(self, network: Net, material: Material) -> dict[str, NDArray[Any]]:
        """Return the weights and which values are usual, on held-out videos if there are any."""
        network.eval()
        parts = [part for part in (material.val, material.train) if part is not None]
        with torch.inference_mode():
            found = (self._normal_values(network, part) for part in parts)
            values = next(values for values in found if len(values))
        network.train()
        return {
            **network_parameters(network),
            "usual": self.calibrate(values),
        }

    def _normal_values(self, network: Net, data: FeatureSet) -> NDArray[np.float64]:
        """Return (N, K) the values of normal frames, of each video a few from the first on."""
        each = max(CALIBRATION_FRAMES // len(data.frames), self.window)
        found = []
        for label, frames in zip(data.labels, data.frames, strict=True):
            is_abnormal = label.frame_labels(len(frames)).astype(bool)
            first = 0
            if is_abnormal[:each].all():  # then the frames before the first normal one suffice
                first = max(int(is_abnormal.argmin()) - self.window + 1, 0)
            part = slice(first, first + each)
            found.append(self.measure(network, frames[part])[~is_abnormal[part]])
        return np.concatenate(found)


@dataclass(frozen=True, kw_only=True)
class PredictionMethod(FrameMethod[Net]):
    """A network that predicts a frame from the four before it."""

    window: ClassVar[int] = 5

    @abstractmethod
    def predict(self, network: Net, before: Tensor) -> Tensor:
        """Return the (B, C, H, W) frame that follows (B, 4, C, H, W) frames."""

    def measure(self, network: Net, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (T, 1) the ratio of each frame to what was predicted.

        The first four frames, of which there is no prediction, get what the fifth has.
        """
        device = next(network.parameters()).device
        ratios = []
        for _, batch in windows_of(frames, self.window, batch_size=4 * self.batch_size):
            shown = self.tensors(batch, device)
            with autocast(device):
                predicted = self.predict(network, shown[:, :-1])
            ratios.append(peak_ratio(predicted.float(), shown[:, -1]).double().cpu())
        return from_the_first(torch.cat(ratios).numpy()[:, None], len(frames))


def windows_of(
    frames: NDArray[np.uint8], length: int, *, batch_size: int, step: int = 1
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Yield the rows (B, length) of windows and these frames (B, length, H, W, C).

    Windows are `step` frames apart, and the last one ends with the video.

    A video that is shorter begins with its first frame several times.
    """
    last = len(frames)
    ends = np.append(np.arange(min(length, last), last, step), last)
    for group in np.split(ends, range(batch_size, len(ends), batch_size)):
        rows = np.maximum(group[:, None] - length + np.arange(length), 0)
        yield rows, torch.from_numpy(frames[rows])


def from_the_first(values: NDArray[np.float64], num_frames: int) -> NDArray[np.float64]:
    """Return (num_frames, K) of fewer, (n, K): the frames before the first value have that."""
    return np.concatenate([np.repeat(values[:1], num_frames - len(values), axis=0), values])


def peak_ratio(rebuilt: Tensor, frames: Tensor) -> Tensor:
    """Return (B,) peak signal-to-noise ratios, dB, of (B, C, H, W) in [-1, 1]; 80 at most."""
    error = ((rebuilt - frames) / 2).square().flatten(1).mean(dim=1)
    return (-10 * error.clamp(min=10 ** (-MAX_RATIO / 10)).log10()).clamp(max=MAX_RATIO)


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Let a device that has instructions for bfloat16 compute in it where that suffices."""
    return torch.autocast(device.type, torch.bfloat16, enabled=multiplies_bfloat16(device))


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a product of bfloat16 numbers is one instruction there, not several of float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # older versions of PyTorch do not tell
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))
    return device.type == "cpu" and native


def take_step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Move the optimiser's weights down the slope of a loss.

    Slopes of others, such as those of a discriminator that the loss goes through, are not made.
    """
    optimizer.zero_grad(set_to_none=True)
    own = [weight for group in optimizer.param_groups for weight in group["params"]]
    torch.autograd.backward(loss, inputs=own)
    optimizer.step()


class Stepper:
    """Takes a method's steps at the rate that is due, on a GPU as one CUDA graph if it can be."""

    def __init__(self, method: FrameMethod[Net], network: Net, device: torch.device) -> None:
        self.optimizers = method.optimizers(network)
        self._graph = None
        if device.type == "cuda" and method.steps_are_alike and kernels_wanted():
            self._graph = StepGraph(device)
            make_capturable(self.optimizers, device)
        self._learn = method.learn(network, self.optimizers)
        self._groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        self._rates = [float(group["lr"]) for group in self._groups]
        self._given: Tensor | None = None

    def step(self, batch: Tensor, *, rate: float) -> Tensor:
        """Take a step with this share of the learning rates and return its loss."""
        for group, whole in zip(self._groups, self._rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * whole)
            else:
                group["lr"] = rate * whole
        if self._graph is None:
            return self._learn(batch).detach()
        if self._given is None:
            self._given = torch.empty_like(batch)
        given = self._given.copy_(batch)  # a graph reads the same memory each time
        return self._graph.take(lambda: self._learn(given)).detach()


def _state(
    step: int, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> SavedState:
    return SavedState(step=step, tensors=training_tensors(network, optimizers))
