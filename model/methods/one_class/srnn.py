"""Stacked RNN: sparse codes of a video's clips that change little where the clips do.

Luo, Liu, Gao 2017 (A revisit of sparse coding based anomaly detection in stacked RNN framework):
temporally coherent sparse coding, its iterations unrolled as the layers of a recurrent network.
Its features are those of patches where the cache holds feature maps (`feat extract --feature-map`):
the means of 1, 2x2 and 4x4 cells, each a sequence of its own. Else they are one vector a clip. They
are standardised and reduced.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.methods.base import Parameters
from model.methods.one_class.novelty import NoveltyMethod

TOGETHER = 64
"""Sequences whose codes are computed at once."""


@dataclass(frozen=True, kw_only=True)
class StackedRNN(NoveltyMethod):
    """Error of rebuilding a clip from its code, given the code of the clip before.

    Lengths are in units of the features' own root mean square, so that one penalty suits every
    kind of features.
    """

    name: ClassVar[str] = "srnn"

    crops: Literal["mean", "all", "pyramid"] = "pyramid"
    """Of a feature map `pyramid`: patches, as published; `all` its places. `mean`: one vector a
    clip, as where there is no map."""
    num_atoms: int = 128
    """Atoms of the dictionary."""
    layers: int = 30
    """Iterations that lead to a clip's code (3 published, which stop far from it)."""
    sparsity: float = 0.1
    """Weight of the codes' absolute values (0.1 published)."""
    coherence: float = 0.01
    """Weight of the codes' change between clips that are alike (0.01 published)."""
    alike: float = 1.0
    """Squared distance at which two clips count as alike by a factor of 1/e."""
    steps: int = 300
    """Optimiser steps (20,000 to 40,000 published, of patches)."""
    batch: int = 32
    """Sequences a step (4 published)."""
    length: int = 10
    """Clips of a sequence (10 published)."""
    learning_rate: float = 0.003
    """Of Adam."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_atoms", "layers", "steps", "batch", "length")
        for name in ("alike", "learning_rate"):
            self._require(name, getattr(self, name) > 0, "more than 0")
        for name in ("sparsity", "coherence"):
            self._require(name, getattr(self, name) >= 0, "0 or more")

    def fit_model(
        self, inputs: NDArray[np.float32], videos: NDArray[np.int64], seed: int
    ) -> dict[str, NDArray[Any]]:
        """Learn the dictionary with Adam, on sequences drawn from all videos."""
        scale = max(float(np.sqrt(np.square(inputs, dtype=np.float64).sum(1).mean())), 1e-12)
        clips = torch.from_numpy(inputs / np.float32(scale))
        rng = np.random.default_rng((seed, 7))
        atoms = torch.from_numpy(rng.normal(size=(clips.shape[1], self.num_atoms))).float()
        atoms = (atoms / atoms.norm(dim=0)).requires_grad_()
        optimizer = torch.optim.Adam([atoms], lr=self.learning_rate)
        # a sequence may begin at any clip; where its video ends, the last clip goes on
        last = np.searchsorted(videos, videos, side="right") - 1
        for _ in range(self.steps):
            starts = rng.integers(len(clips), size=self.batch)[:, None]
            rows = np.minimum(starts + np.arange(self.length), last[starts])
            optimizer.zero_grad()
            torch.autograd.backward(self.objective(clips[rows], atoms))
            optimizer.step()
            with torch.no_grad():  # no atom is longer than 1, or codes would shrink for nothing
                atoms /= atoms.norm(dim=0).clamp(min=1.0)
        return {"atoms": atoms.detach().numpy(), "scale": np.array([scale])}

    def distance(
        self, model: Parameters, inputs: NDArray[np.float32], videos: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return the length of what the codes leave."""
        atoms = torch.from_numpy(np.asarray(model["atoms"], np.float32))
        clips = torch.from_numpy(inputs / np.float32(model["scale"][0]))
        # sequences of one length go together, as those of a video's parts do
        first = np.flatnonzero(np.diff(videos, prepend=-1))
        lengths = np.diff(first, append=len(videos))
        distances = np.empty(len(videos))
        for length in np.unique(lengths):
            starts = first[lengths == length]
            for some in np.split(starts, range(TOGETHER, len(starts), TOGETHER)):
                rows = some[:, None] + np.arange(length)
                sequences = clips[torch.from_numpy(rows)]
                with torch.inference_mode():
                    left = sequences - self.codes(sequences, atoms) @ atoms.T
                distances[rows] = left.double().norm(dim=2).numpy()
        return distances

    def objective(self, clips: Tensor, atoms: Tensor) -> Tensor:
        """Return the mean over (B, T, d) clips of what the codes shall make small (their eq. 2)."""
        codes = self.codes(clips, atoms)
        change = (codes[:, 1:] - codes[:, :-1]).square().sum(-1) * self._likeness(clips)
        left = (clips - codes @ atoms.T).square().sum(-1)
        sparse = self.sparsity * codes.abs().sum(-1)
        return (left / 2 + sparse).mean() + self.coherence / 2 * change.sum() / left.numel()

    def codes(self, clips: Tensor, atoms: Tensor) -> Tensor:
        """Return (B, T, M) codes of (B, T, d) clips, by the (d, M) atoms.

        Each layer is a step of iterative shrinkage, and begins at the code of the clip before. The
        published step is 1; here it is the longest with which no layer goes uphill, since atoms
        that are not orthogonal would have codes of step 1 grow without end.
        """
        gram = atoms.T @ atoms
        step = 1 / (torch.linalg.matrix_norm(atoms.detach(), 2).square() + self.coherence)
        towards = clips @ atoms
        weight = self.coherence * self._likeness(clips)
        code = towards.new_zeros(len(clips), atoms.shape[1])
        codes = []
        for t in range(clips.shape[1]):
            before = code
            for _ in range(self.layers):
                slope = code @ gram - towards[:, t]
                if t:
                    slope = slope + weight[:, t - 1, None] * (code - before)
                moved = code - step * slope
                code = moved.sign() * (moved.abs() - step * self.sparsity).relu()
            codes.append(code)
        return torch.stack(codes, dim=1)

    def _likeness(self, clips: Tensor) -> Tensor:
        """Return (B, T - 1) how alike each clip and the next are, up to 1."""
        apart = (clips[:, 1:] - clips[:, :-1]).square().sum(-1)
        return torch.exp(-apart / self.alike)
