"""Learning from clicks, one frame in each event: the glance supervision of Zhang et al. 2024.

After the paper's formulas (GlanceVAD): around each click stands a Gaussian; later, instances next
to a click whose scores are nearly the click's are mined as abnormal, too. Any method whose training
scores the instances of bags can add the loss to its own.
"""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from model.features.choose import named
from model.features.load import FeatureSet

if TYPE_CHECKING:
    from model.methods.weak.mil import BagMethod

logger = logging.getLogger(f"feat.{__name__}")

MINED_SHARE = 0.9
"""Of a click's score that a neighbour needs to be mined."""


class ClickLoss:
    """The loss of the clicks of some training videos; 0 where there are none."""

    def __init__(self, method: "BagMethod[Any]", data: FeatureSet) -> None:
        """Read the clicks that the labels hold, if the method is to learn from them.

        Args:
            method: whose settings count.
            data: the training videos.
        """
        # of a video whose frames nobody counted the clips have places, no frames to find a click in
        counted = zip(data.labels, data.num_frames > 0, strict=True)
        clicks = [label.clicks if is_counted else () for label, is_counted in counted]
        lost = [
            label.video
            for label, own in zip(data.labels, clicks, strict=True)
            if len(label.clicks) > len(own)
        ]
        if lost and method.clicks:
            logger.warning(
                "clicks in %d videos that were imported without a frame count are left out: %s; "
                "import them again with --frames",
                len(lost),
                named(lost),
            )
        count = sum(map(bool, clicks))
        if count:
            used = "are learnt from" if method.clicks else "are not used (clicks=off)"
            logger.info("clicks in %d abnormal videos %s", count, used)
        self._is_used = count > 0 and method.clicks
        self._method = method
        self._normal = np.array([not label.is_abnormal for label in data.labels])
        self._frames = np.zeros((len(clicks), max(1, *map(len, clicks))), np.float32)
        self._known = np.zeros(self._frames.shape, np.bool_)
        for video, frames in enumerate(clicks):
            self._frames[video, : len(frames)] = frames
            self._known[video, : len(frames)] = True
        self._width = method.click_width * data.num_frames.astype(np.float32)
        self._middle = (data.start_frame + data.end_frame - 1).astype(np.float32) / 2
        self._step = 0

    def middle_frames(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the frame in the middle of each clip, of the shape of its `rows`."""
        return np.asarray(self._middle[rows], np.float32)

    def __call__(
        self,
        scores: Tensor,
        videos: NDArray[np.int64],
        frames: NDArray[np.float32],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the next step, a scalar.

        Args:
            scores: (V, T) in [0, 1] of the instances.
            videos: (V,) which training video each bag is of.
            frames: (V, T) the frame that each instance stands for.
            mask: (V, T) False for padding.
        """
        self._step += 1
        if not self._is_used:
            return scores.new_zeros(())

        def on_device(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(array).to(scores.device)

        known = on_device(self._known[videos])
        width = on_device(self._width[videos])[:, None, None].clamp(min=1.0)
        distance = (
            on_device(frames)[:, None, :] - on_device(self._frames[videos])[:, :, None]
        ).abs()
        if mask is not None:
            distance = distance.masked_fill(~mask[:, None, :], torch.inf)
        soft = torch.exp(-(distance / width).square() / 2)
        if self._step > self._method.click_warmup:
            soft = soft.masked_fill(_mined(scores.detach(), distance), 1.0)
        targets = soft.masked_fill(~known[:, :, None], 0.0).amax(dim=1).to(scores.dtype)
        # what is between the clicks of an abnormal video without any is unknown
        counted = known.any(dim=1) | on_device(self._normal[videos])
        present = counted[:, None].expand_as(scores)
        if mask is not None:
            present = present & mask
        losses = functional.binary_cross_entropy(scores, targets, reduction="none")
        weight = self._method.click_weight
        return weight * (losses * present).sum() / present.sum().clamp(min=1)


def _mined(scores: Tensor, distance: Tensor) -> Tensor:
    """Return (V, C, T) which instances are reached from a click through scores nearly as high.

    Args:
        scores: (V, T).
        distance: (V, C, T) frames between each click and each instance.
    """
    nearest = distance.argmin(dim=2, keepdim=True)
    repeated = scores[:, None, :].expand_as(distance)
    high = repeated >= MINED_SHARE * repeated.gather(2, nearest)
    # two instances are in one run if no low one is between them
    run = (~high).cumsum(dim=2)
    return high & (run == run.gather(2, nearest))
