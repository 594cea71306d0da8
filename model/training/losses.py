"""The multi-task loss: Wan et al. 2021, equations 6 to 8, masked."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.training.config import ScoreLoss

NO_CATEGORY = -1


class LossTerms(NamedTuple):
    """The loss of a batch and its two parts, each a scalar tensor."""

    total: Tensor
    category: Tensor
    score: Tensor


def smooth_l1(difference: Tensor) -> Tensor:
    """Return equation 7's smooth(x), element by element: 0.5 x^2 for |x| <= 1, else |x| - 0.5."""
    return F.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none", beta=1.0)


def score_loss(scores: Tensor, targets: Tensor, mask: Tensor, *, kind: ScoreLoss) -> Tensor:
    """Return the mean loss of the frame scores that are real.

    The mean, not equation 7's sum: with the sum over 80 frames, lambda2 = 10 would leave the
    category loss less than a hundredth of the whole, and the paper's Table 5 shows it matters.

    Args:
        scores: (B, K, m); probabilities or linear scores for `smooth_l1`, logits for
            `cross_entropy`.
        targets: (B, K, m), in [0, 1]: the share of abnormal frames in the slot.
        mask: (B, K, m) bool, False for padded slots; what they hold has no influence.
        kind: equation 7, or binary cross entropy.
    """
    targets = targets.where(mask, 0.0)
    scores = scores.where(mask, 0.0)
    if kind == "smooth_l1":
        losses = smooth_l1(scores - targets)
    else:
        losses = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def category_loss(logits: Tensor | None, categories: Tensor) -> Tensor:
    """Return equation 6's cross entropy, averaged over the windows that have a category.

    Its L2 term is the optimiser's weight decay.

    Args:
        logits: (B, C), or None for a model without categories.
        categories: (B,) int64; `NO_CATEGORY` where the video has none.
    """
    if logits is None:
        return torch.zeros((), device=categories.device)
    # not reduction="mean", which divides by 0 where no window has one
    total = F.cross_entropy(logits, categories, ignore_index=NO_CATEGORY, reduction="sum")
    return total / (categories != NO_CATEGORY).sum().clamp(min=1)


def combine(
    category: Tensor, score: Tensor, *, category_weight: float, score_weight: float
) -> LossTerms:
    """Return equation 8, lambda1 * L1 + lambda2 * L2, with its parts."""
    return LossTerms(category_weight * category + score_weight * score, category, score)
