"""TV-L1 optical flow in plain PyTorch, and which way it is computed on a torch device.

A GPU that Triton has kernels for takes extract/flow/tvl1_gpu.py; what is here is its plain twin,
for other GPUs, and for a CPU without compiled kernels: a pair at a time, some 30 times as slow.
The algorithm, parameters, order of operations and stopping rule are those of extract/flow/tvl1.py,
but nothing is fused. All pairs of a batch iterate together; one that meets the stopping rule is
frozen by a mask on the device. The host looks whether any is left only every few iterations,
because each look waits for the device; apart from that nothing here reads a tensor's value.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from data.kernels import use_triton
from extract.flow.median_network import MEDIAN_OF_SORTED_COLUMNS, MEDIAN_WIRE, SORT5
from extract.flow.places import linear_places
from extract.flow.tvl1 import TVL1Config, pyramid_shapes

BATCH_SIZE = 64  # pairs on a GPU; 224x224 takes about 20 MB a pair
CPU_BATCH_SIZE = 1  # what does not fit into the caches takes twice as long
CHECK_EVERY = 10  # iterations between looks


def tvl1_flow_torch(gray: Tensor, *, config: TVL1Config | None = None) -> Tensor:
    """Return the optical flow from every frame to the next one.

    Args:
        gray: `(T, H, W)` uint8; H and W at least 3.
        config: Parameters; OpenCV's defaults if None.

    Returns:
        `(T-1, H, W, 2)` float32 on the device of `gray`, pixels: x to the right, y down.

    Raises:
        ValueError: `gray` is not uint8 (T, H, W) with T >= 1, H and W >= 3.
    """
    if gray.ndim != 3:
        raise ValueError(f"gray must be uint8 (T, H, W), got {gray.dtype} {tuple(gray.shape)}")
    return tvl1_flow_clips(gray[None], config=config)[0]


def tvl1_flow_clips(gray: Tensor, *, config: TVL1Config | None = None) -> Tensor:
    """Return the optical flow of clips: from every frame of a clip to its next one.

    A pair's flow does not depend on the other pairs.

    Args:
        gray: `(B, T + 1, H, W)` uint8, each clip and the frame that follows it; H and W at least 3.
        config: Parameters; OpenCV's defaults if None.

    Returns:
        `(B, T, H, W, 2)` float32 on the device of `gray`, pixels: x to the right, y down.

    Raises:
        ValueError: `gray` is not uint8 (B, T + 1, H, W) with T >= 0, H and W >= 3.
    """
    sizes = gray.shape
    if gray.dtype != torch.uint8 or gray.ndim != 4 or sizes[1] < 1 or min(sizes[2:]) < 3:
        found = f"{gray.dtype} {tuple(sizes)}"
        raise ValueError(f"gray must be uint8 (B, T + 1, H, W), H and W >= 3, got {found}")
    config = config or TVL1Config()
    frames = gray.flatten(0, 1)
    # each frame begins a pair but the last one of its clip
    first = torch.arange(len(frames)).view(sizes[:2])[:, :-1].flatten()
    # not inference mode: tensors are written again by calls outside of it
    with torch.inference_mode(False), torch.no_grad():
        if use_triton(gray.device):
            from extract.flow.tvl1_gpu import flow_of_pairs

            flow = flow_of_pairs(frames, first.tolist(), config)
        else:
            size = CPU_BATCH_SIZE if gray.device.type == "cpu" else BATCH_SIZE
            flow = torch.empty((len(first), *sizes[2:], 2), device=gray.device)
            for start in range(0, len(first), size):
                pairs = first[start : start + size].to(gray.device)
                flow[start : start + size] = _flow(frames[pairs], frames[pairs + 1], config)
    return flow.view(sizes[0], sizes[1] - 1, *sizes[2:], 2)


def _flow(frames: Tensor, next_frames: Tensor, config: TVL1Config) -> Tensor:
    """Return the flow (B, H, W, 2) between frames (B, H, W) uint8."""
    step = 1 / config.scale_step
    pyramid = [torch.stack([frames, next_frames], 1).float()]  # (B, 2, H, W) each
    for height, width in pyramid_shapes(frames.shape[1], frames.shape[2], config)[1:]:
        pyramid.append(resize_linear(pyramid[-1], (int(height), int(width)), (step, step)))
    u = torch.zeros_like(pyramid[-1])
    for images in reversed(pyramid):
        height, width = images.shape[2:]
        if u.shape != images.shape:
            steps = (u.shape[2] / height, u.shape[3] / width)
            u = resize_linear(u, (height, width), steps) * step
        p = u.new_zeros((len(u), 2, 2, height, width))
        second = torch.stack([images[:, 1], *centred_gradient(images[:, 1])], 1)  # (B, 3, H, W)
        for _ in range(config.num_warps):
            data = data_term(images[:, 0], second, u, config.lambda_ * config.theta)
            u, p = _iterate_until_still(u, p, data, config)
    return u.permute(0, 2, 3, 1)


def data_term(first: Tensor, second: Tensor, u: Tensor, scale: float) -> Tensor:
    """Return (B, 4, H, W): gradient x and y over its length, residual, limit; see sweep.py.

    Args:
        first: (B, H, W), the first frame.
        second: (B, 3, H, W), the second one's image, d/dx and d/dy.
        u: (B, 2, H, W), the flow, pixels.
        scale: lambda * theta.
    """
    image, ix, iy = warp_cubic(second, u).unbind(1)
    residual = image - ix * u[:, 0] - iy * u[:, 1] - first
    length = (ix * ix + iy * iy).clamp(min=1e-12).sqrt()
    inverse = 1 / length
    return torch.stack([ix * inverse, iy * inverse, residual * inverse, scale * length], 1)


def _iterate_until_still(
    u: Tensor, p: Tensor, data: Tensor, config: TVL1Config
) -> tuple[Tensor, Tensor]:
    """Do a warp's iterations; return the new flow and dual variables."""
    threshold = config.epsilon**2 * u.shape[2] * u.shape[3]
    active = torch.ones(len(u), dtype=torch.bool, device=u.device)
    for _ in range(config.outer_iterations):
        if config.median_size == 5:
            u = torch.where(active[:, None, None, None], median5(u), u)
        for number in range(config.inner_iterations):
            if number % CHECK_EVERY == 0 and not _any_left(active):
                return u, p
            new_u, new_p, change = iteration(u, p, data, config.tau, config.tau / config.theta)
            u = torch.where(active[:, None, None, None], new_u, u)
            p = torch.where(active[:, None, None, None, None], new_p, p)
            active = active & (change > threshold)
    return u, p


def _any_left(active: Tensor) -> bool:
    """Whether any pair is active. The one place where the host waits for the device."""
    return bool(active.any())


def iteration(
    u: Tensor, p: Tensor, data: Tensor, tau: float, taut: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One inner iteration, see sweep.py; return the new u and p, and the squared change (B,).

    Args:
        u: (B, 2, H, W), the flow, pixels.
        p: (B, 2, 2, H, W), theta times the dual variables (component, direction).
        data: (B, 4, H, W), see data_term.
        tau: Time step.
        taut: tau / theta.
    """
    gradient, residual, limit = data[:, :2], data[:, 2:3], data[:, 3:]
    px, py = p[:, :, 0], p[:, :, 1]
    divergence = (px - F.pad(px[..., :-1], (1, 0))) + (py - F.pad(py[..., :-1, :], (0, 0, 1, 0)))
    move = residual + (gradient * u).sum(1, keepdim=True)
    change = divergence - move.clamp(-limit, limit) * gradient
    u = u + change
    forward_x = F.pad(u[..., 1:] - u[..., :-1], (0, 1))
    forward_y = F.pad(u[..., 1:, :] - u[..., :-1, :], (0, 0, 0, 1))
    length = 1 + taut * (forward_x * forward_x + forward_y * forward_y).sqrt()
    p = (p + tau * torch.stack([forward_x, forward_y], 2)) / length[:, :, None]
    return u, p, change.square().sum((1, 2, 3), dtype=torch.float64)


def resize_linear(images: Tensor, shape: tuple[int, int], steps: tuple[float, float]) -> Tensor:
    """Resize the last two axes as cv2.INTER_LINEAR; `steps`: source pixels a target pixel."""
    for axis, size, step in ((-1, shape[1], steps[1]), (-2, shape[0], steps[0])):
        last = images.shape[axis] - 1
        first, weight = (t.to(images.device) for t in linear_places(last + 1, size, step))
        low = images.index_select(axis, first)
        high = images.index_select(axis, (first + 1).clamp(max=last))
        images = low + (high - low) * (weight[:, None] if axis == -2 else weight)
    return images


def centred_gradient(images: Tensor) -> tuple[Tensor, Tensor]:
    """d/dx and d/dy of `(B, H, W)`; a border pixel stands for its missing neighbour."""
    padded = F.pad(images[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    return dx, dy


def _cubic_weights(t: Tensor) -> list[Tensor]:
    """Weights of the four taps at fraction `t`, as cv2.INTER_CUBIC (a = -0.75)."""
    rest = 1 - t
    first = -0.75 * (t * (rest * rest))
    last = -0.75 * (rest * (t * t))
    second = (1.25 * t - 2.25) * (t * t) + 1
    return [first, second, 1 - first - second - last, last]


def warp_cubic(images: Tensor, flow: Tensor) -> Tensor:
    """Sample `(B, C, H, W)` images at x + flow, bicubic, zeros outside.

    Not F.grid_sample: its coordinates, normalised to [-1, 1], lose the bits that matter here.
    """
    batch, channels, height, width = images.shape
    border = 4
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype)
    lines = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None]
    # Beyond the clamp all four taps lie in the border of zeros.
    x = (columns + flow[:, 0]).clamp(-3, width + 1)
    y = (lines + flow[:, 1]).clamp(-3, height + 1)
    weights_x, weights_y = _cubic_weights(x - x.floor()), _cubic_weights(y - y.floor())
    stride = width + 2 * border
    flat = F.pad(images, (border,) * 4).flatten(2)  # (B, C, padded H * padded W)
    first = (y.floor().long() + border - 1) * stride + x.floor().long() + border - 1
    result = torch.zeros_like(images)
    for j in range(4):
        row = torch.zeros_like(images)
        for i in range(4):
            index = (first + j * stride + i).view(batch, 1, -1).expand(-1, channels, -1)
            row = row + weights_x[i][:, None] * flat.gather(2, index).view_as(images)
        result = result + weights_y[j][:, None] * row
    return result


def _exchange(wires: list[Tensor], network: tuple[tuple[int, int], ...]) -> None:
    for i, j in network:
        wires[i], wires[j] = torch.minimum(wires[i], wires[j]), torch.maximum(wires[i], wires[j])


def median5(u: Tensor) -> Tensor:
    """5x5 median of the last two axes of `(B, C, H, W)`, the border repeated."""
    height, width = u.shape[-2:]
    padded = F.pad(u, (2, 2, 2, 2), mode="replicate")
    ranks = [padded[..., j : j + height, :] for j in range(5)]
    _exchange(ranks, SORT5)
    wires = [rank[..., i : i + width] for rank in ranks for i in range(5)]
    _exchange(wires, MEDIAN_OF_SORTED_COLUMNS)
    return wires[MEDIAN_WIRE]
