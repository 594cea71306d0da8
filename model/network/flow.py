"""Optical flow that a gradient passes through: what a loss compares the motion of frames by.

TV-L1 (Zach, Pock, Bischof 2007, A duality based approach for realtime TV-L1 optical flow) with a
fixed number of its steps, each written so that it has a slope. It is no measurement: stage 1 solves
the same problem to its end, with OpenCV's steps.
"""

import torch
from torch import Tensor
from torch.nn import functional

SCALES = 3
"""Levels, each half as high and wide as the one above."""
WARPS = 2
"""Times that a level looks up where the flow so far leads."""
ITERATIONS = 5
"""Steps after each of them."""
LAMBDA, THETA, TAU = 0.15, 0.3, 0.25
"""Of TV-L1, as OpenCV's: weight of the data (for values of 0 to 255), coupling and dual step."""
FLAT = 1.0
"""Squared slope, grey levels a pixel, below which a place tells little of motion: without it the
gradient of the loss would have no bound there."""


def tvl1_flow(source: Tensor, target: Tensor) -> Tensor:
    """Return the (B, 2, H, W) flow, pixels to the right and down, from `source` to `target`.

    What is at a place p of the source is at p + flow in the target. Gradients reach the source
    alone.

    Args:
        source: (B, 1, H, W) luma, 0 to 255; H and W at least 16.
        target: the same.
    """
    levels = [(source, target.detach())]
    for _ in range(SCALES - 1):
        source, target = (functional.avg_pool2d(each, 2) for each in levels[-1])
        levels.append((source, target))
    flow = source.new_zeros(len(source), 2, *levels[-1][0].shape[2:])
    for source, target in reversed(levels):
        if flow.shape[2:] != source.shape[2:]:
            flow = 2 * functional.interpolate(flow, source.shape[2:], mode="bilinear")
        for _ in range(WARPS):
            flow = _refine(source, target, flow)
    return flow


def _refine(source: Tensor, target: Tensor, flow: Tensor) -> Tensor:
    """Return the flow after `ITERATIONS` steps around the one given (their equations 14 to 18)."""
    start = flow.detach()  # where the target is looked up; its slope there is what moves the flow
    warped = _warp(torch.cat([target, _slope(target)], dim=1), start)
    slope, bound = warped[:, 1:], LAMBDA * THETA
    steepness = slope.square().sum(dim=1, keepdim=True) + FLAT
    across, along = torch.zeros_like(flow), torch.zeros_like(flow)  # the dual, of each direction
    for _ in range(ITERATIONS):
        # the three cases of the thresholding step are one clamp
        residual = warped[:, :1] + (slope * (flow - start)).sum(dim=1, keepdim=True) - source
        moved = flow - (residual / steepness).clamp(-bound, bound) * slope
        flow = moved + THETA * _divergence(across, along)
        right, down = _forward(flow)
        scale = 1 + TAU / THETA * (right.square() + down.square() + 1e-12).sqrt()
        across = (across + TAU / THETA * right) / scale
        along = (along + TAU / THETA * down) / scale
    return flow


def _warp(frames: Tensor, flow: Tensor) -> Tensor:
    """Return frames (B, C, H, W) looked up at p + flow; the border's value outside."""
    height, width = frames.shape[2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    x = (2 * (columns + flow[:, 0]) + 1) / width - 1
    y = (2 * (rows + flow[:, 1]) + 1) / height - 1
    grid = torch.stack([x, y], dim=-1)
    return functional.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def _slope(frames: Tensor) -> Tensor:
    """Return (B, 2, H, W) central differences of (B, 1, H, W) to the right and down."""
    wide = functional.pad(frames, (1, 1, 1, 1), mode="replicate")
    return torch.cat(
        [
            (wide[:, :, 1:-1, 2:] - wide[:, :, 1:-1, :-2]) / 2,
            (wide[:, :, 2:, 1:-1] - wide[:, :, :-2, 1:-1]) / 2,
        ],
        dim=1,
    )


def _forward(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences of both parts of a flow to the right and down, 0 at the border."""
    return (
        functional.pad(flow.diff(dim=3), (0, 1, 0, 0)),
        functional.pad(flow.diff(dim=2), (0, 0, 0, 1)),
    )


def _divergence(across: Tensor, along: Tensor) -> Tensor:
    """Return the negative transpose of `_forward`."""
    # what the last column and row of the dual hold, `_forward` does not see
    x, y = across[..., :-1], along[..., :-1, :]
    return (
        functional.pad(x, (0, 1))
        - functional.pad(x, (1, 0))
        + functional.pad(y, (0, 0, 0, 1))
        - functional.pad(y, (0, 0, 1, 0))
    )
