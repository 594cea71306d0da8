"""Several crops of each clip, cut from frames that were decoded once.

The geometry is that of RTFM's features (torchvision's `TenCrop` of 224 on a short side of 256): the
centre and the four corners, then the same of the mirrored frame. The order is that of the features
of Wu et al. 2020: centre, top left, top right, bottom left, bottom right, mirrored ones from 5.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


def cut_crops(clips: Tensor, count: int, size: int) -> Iterator[Tensor]:
    """Yield the crops of some clips, each (B, T, size, size, C).

    Flow is cut from that of the whole frame. Mirrored, its x points the other way.

    Args:
        clips: (B, T, H, W, C) frames, uint8, or flow, float32; H and W at least `size`.
        count: 1, 5 or 10; 1 yields the clips as they are.
        size: height and width of a crop, pixels.
    """
    if count == 1:
        yield clips
        return
    height, width = clips.shape[2:4]
    bottom, right = height - size, width - size
    centre = round(bottom / 2), round(right / 2)  # halves to even, as torchvision
    corners = [centre, (0, 0), (0, right), (bottom, 0), (bottom, right)]
    for number in range(count):
        top, left = corners[number % 5]
        is_mirrored = number >= 5
        if is_mirrored:
            left = right - left
        crop = clips[:, :, top : top + size, left : left + size]
        yield mirrored(crop) if is_mirrored else crop.contiguous()


def mirrored(clips: Tensor) -> Tensor:
    """Return clips (B, T, H, W, C) as a mirror shows them: frames, or flow, x then y."""
    turned = clips.flip(3)
    return (
        turned * torch.tensor([-1.0, 1.0], device=clips.device) if clips.shape[4] == 2 else turned
    )
