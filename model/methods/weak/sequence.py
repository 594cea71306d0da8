"""Weak methods that see a video's clips in order: RTFM, UR-DMU, BN-WVAD, PEL4VAD.

In training every video becomes equally many instances, each of one of as many equal parts of its
clips. To score, a network gets all clips of a video as they are.
"""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Generic, Literal, Protocol, TypeVar, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.device import training_seconds
from model.features.load import FeatureSet, WhichCrops
from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material
from model.methods.weak.clicks import ClickLoss
from model.methods.weak.mil import BagMethod, draw_bags, middle_rows, segment_means, segment_rows
from model.training.session import FitSession

MAX_CLIPS = 4096
"""Clips scored at once: attention takes memory by their square. Longer videos are scored in equal
parts of no more, none of which sees the others."""


Crops = Literal["mean", "all"]


class Output(Protocol):
    """What a network gives for V videos of T instances; a method's loss reads more of it."""

    @property
    def scores(self) -> Tensor:
        """(V, T) in [0, 1]."""


Out = TypeVar("Out", bound=Output)


@dataclass(frozen=True, kw_only=True)
class SequenceMethod(BagMethod[nn.Module], Generic[Out]):
    """A network from the (V, T, D) instances of videos to an `Output`, trained on bags."""

    averages: ClassVar[bool] = False
    """Whether an instance is the mean of its part of the clips, not one of them drawn each time."""

    num_segments: int = 200
    """Instances of a video in training; no more than the longest training video has clips."""
    weight_decay: float = 5e-4
    """L2 penalty."""
    crops: Crops = "mean"
    """Of several crops of a clip: `mean` of their features, or `all`, one drawn for each video at
    each step and the mean of the scores."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_segments")
        # weights of losses, margins and penalties, whatever a method has of them
        kinds = get_type_hints(type(self))
        numbers = [one.name for one in fields(self) if kinds[one.name] in (int, float)]
        self._require_at_least(0, *numbers)

    @property
    def which_crops(self) -> WhichCrops:
        """Whether each crop is learnt from."""
        return "all" if self.crops == "all" else "none"

    @abstractmethod
    def loss(self, output: Out, num_abnormal: int) -> Tensor:
        """Return the loss of a batch, its abnormal videos first."""

    def optimizer(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return Adam, as all four publications use it."""
        return torch.optim.Adam(
            network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay
        )

    def losses(self, network: nn.Module, data: FeatureSet, session: FitSession) -> Iterator[Tensor]:
        """Yield the loss of each step."""
        instances = _Instances(data, self._length(data), averages=self.averages, seed=session.seed)
        draws = draw_bags(data.labels, each=self.bags, steps=self.steps, seed=session.seed)
        clicks = ClickLoss(self, data)
        for abnormal, normal in draws:
            videos = np.concatenate([abnormal, normal])
            inputs, rows = instances.draw(videos)
            output = network(inputs.to(session.device))
            own = self.loss(output, len(abnormal))
            yield own + clicks(output.scores, videos, clicks.middle_frames(rows))

    def cpu_seconds(self, material: Material) -> float:
        """Return that of all steps."""
        data = material.train
        with torch.device("meta"):
            network = self.network(data.features.shape[1])
        rows = 2 * self.bags * self._length(data)
        return training_seconds(network, rows=rows, steps=self.steps)

    @torch.inference_mode()
    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        """Return the network's score of each clip, with the whole video before it."""
        network = self.load_network(fitted, data.features.shape[1], device)
        parts = []
        for video in range(len(data.labels)):
            clips = torch.from_numpy(data.each_crop[data.rows(video)])
            for part in scored_parts(clips):
                each = [network(crop[None].to(device)).scores[0] for crop in part.unbind(1)]
                parts.append(torch.stack(each).double().mean(dim=0).cpu())
        return ClipScores(slots=torch.cat(parts).numpy())

    def _length(self, data: FeatureSet) -> int:
        return min(self.num_segments, int(np.diff(data.first_clip).max()))


class _Instances:
    """Draws (V, T, D) instances of videos."""

    def __init__(self, data: FeatureSet, length: int, *, averages: bool, seed: int) -> None:
        self._crops = data.each_crop
        self._means = self._segment_means(data, length) if averages else None
        self._bounds = segment_rows(data.first_clip, length)
        self._rng = np.random.default_rng((seed, 5))

    def draw(self, videos: NDArray[np.int64]) -> tuple[Tensor, NDArray[np.int64]]:
        """Return the instances of some videos, and (V, T) the row of the clip each stands for."""
        first, end = (edges[videos] for edges in self._bounds)
        count = self._crops.shape[1]
        # of a single crop nothing is drawn
        crops = self._rng.integers(count, size=len(videos)) if count > 1 else 0 * videos
        if self._means is not None:
            return torch.from_numpy(self._means[crops, videos]), middle_rows(first, end)
        rows = self._rng.integers(first, end)
        return torch.from_numpy(self._crops[rows, crops[:, None]]), rows

    def _segment_means(self, data: FeatureSet, length: int) -> NDArray[np.float32]:
        """Return (C, V, T, D)."""
        each = np.moveaxis(self._crops, 1, 0)
        return np.stack([segment_means(replace(data, features=crop), length) for crop in each])


def scored_parts(clips: Tensor) -> tuple[Tensor, ...]:
    """Return the parts of a video's clips that a network is given at once to score."""
    return clips.tensor_split(-(-len(clips) // MAX_CLIPS))


def labels_of(scores: Tensor, num_abnormal: int) -> Tensor:
    """Return (V,) 1.0 for the abnormal videos, which come first, else 0.0."""
    is_abnormal = torch.arange(len(scores), device=scores.device) < num_abnormal
    return is_abnormal.to(scores.dtype)


def top_mean(values: Tensor, count: int) -> Tensor:
    """Return (V,) the mean of the `count` highest of (V, T) values."""
    return values.topk(count, dim=1).values.mean(dim=1)


class AlongTime(nn.Module):
    """A convolution over the instances, (V, T, D) to (V, T, E), with zeros beyond both ends."""

    def __init__(self, dim: int, width: int, *, kernel: int, dilation: int = 1) -> None:
        """Take the sizes; `kernel` is odd."""
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv1d(dim, width, kernel, padding=padding, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolved instances."""
        out: Tensor = self.conv(x.transpose(1, 2))
        return out.transpose(1, 2)


class NormOverAll(nn.Module):
    """Batch normalisation of (V, T, D), every instance a sample."""

    def __init__(self, dim: int) -> None:
        """Take the size."""
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised instances."""
        out: Tensor = self.norm(x.flatten(0, 1))
        return out.view_as(x)
