"""RGB to luma on a torch device."""

import torch
from torch import Tensor


def rgb_to_gray_torch(frames: Tensor) -> Tensor:
    """Return the luma of RGB frames, bit for bit that of `extract.flow.tvl1.rgb_to_gray`.

    Args:
        frames: `(..., 3)` uint8 RGB.

    Returns:
        `(...)` uint8 on the device of `frames`.
    """
    # OpenCV's 15-bit fixed point; in place, for the integers take four times the frames' memory
    luma = frames[..., 0].int().mul_(9798).add_(16384)
    luma.add_(frames[..., 1].int(), alpha=19235).add_(frames[..., 2].int(), alpha=3735)
    return luma.bitwise_right_shift_(15).to(torch.uint8)
