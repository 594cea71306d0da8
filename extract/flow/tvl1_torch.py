"""TV-L1 optical flow on a torch device, many frame pairs at once: meant for GPUs.

It also stands in on a CPU without compiled kernels, a pair at a time and some 30 times as slow.

The algorithm, parameters and stopping rule of extract/flow/tvl1.py (OpenCV's DualTVL1OpticalFlow).
All pairs of a batch iterate together; a pair that meets the stopping rule is frozen by a mask, on
the device. The host looks whether any pair is left only every few iterations, because each look
waits for the device; apart from that nothing here reads a tensor's value. On a CUDA device one
iteration is compiled into a few kernels where Triton is there, and a run of them is captured as a
graph.
"""

import importlib.util
import threading
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from extract.flow.median_network import MEDIAN_OF_SORTED_COLUMNS, MEDIAN_WIRE, SORT5
from extract.flow.tvl1 import TVL1Config, pyramid_shapes

BATCH_SIZE = 64  # pairs on a GPU; 224x224 takes about 20 MB a pair
CPU_BATCH_SIZE = 1  # what does not fit into the caches takes twice as long
CHECK_EVERY = 10  # iterations between looks; divides OpenCV's 30 inner iterations


def tvl1_flow_torch(
    gray: Tensor,
    *,
    config: TVL1Config | None = None,
    batch_size: int | None = None,
    check_every: int = CHECK_EVERY,
) -> Tensor:
    """Return the optical flow from every frame to the next one.

    Args:
        gray: `(T, H, W)` uint8; H and W at least 3.
        config: Parameters; OpenCV's defaults if None.
        batch_size: Pairs solved together; if None, what is fast on the device of `gray`.
        check_every: Iterations between two looks whether any pair is still moving; 0 never looks
            and runs every iteration the parameters allow.

    Returns:
        `(T-1, H, W, 2)` float32 on the device of `gray`, pixels: x to the right, y down.

    Raises:
        ValueError: `gray` is not uint8 (T, H, W) with T >= 1, H and W >= 3; a number is too small.
    """
    if gray.dtype != torch.uint8 or gray.ndim != 3 or len(gray) < 1 or min(gray.shape[1:]) < 3:
        found = f"{gray.dtype} {tuple(gray.shape)}"
        raise ValueError(f"gray must be uint8 (T, H, W), H and W >= 3, got {found}")
    if batch_size is None:
        batch_size = CPU_BATCH_SIZE if gray.device.type == "cpu" else BATCH_SIZE
    if batch_size < 1 or check_every < 0:
        raise ValueError(f"batch_size {batch_size} < 1 or check_every {check_every} < 0")
    config = config or TVL1Config()
    num_pairs, height, width = len(gray) - 1, gray.shape[1], gray.shape[2]
    if num_pairs == 0:
        return gray.new_empty((0, height, width, 2), dtype=torch.float32)
    size = min(batch_size, num_pairs)
    flows = []
    # not inference mode: the solver's tensors are written again by calls outside of it
    with torch.inference_mode(False), torch.no_grad():
        solver = _solvers.make(size, height, width, config, gray.device, check_every)
        for start in range(0, num_pairs, size):
            frames = gray[start : start + size + 1]
            missing = size + 1 - len(frames)  # repeated frames: they do not move and stop at once
            frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1)])
            flows.append(solver.flow(frames.float())[: size - missing])
    return torch.cat(flows)


def tvl1_flow_clips(gray: Tensor, *, config: TVL1Config | None = None) -> Tensor:
    """Return the optical flow of clips: from every frame of a clip to its next one.

    Args:
        gray: `(B, T + 1, H, W)` uint8; each clip and the frame that follows it.
        config: Parameters; OpenCV's defaults if None.

    Returns:
        `(B, T, H, W, 2)` float32 on the device of `gray`, pixels: x to the right, y down.
    """
    return torch.stack([tvl1_flow_torch(clip, config=config) for clip in gray])


class _Level:
    """The tensors of one pyramid level. They are written in place: a CUDA graph needs them so.

    u: `(B, 2, H, W)` flow, pixels. p: `(B, 2, 2, H, W)` dual variables (component, direction).
    gradient: `(B, 2, H, W)` of the warped frame. rho: `(B, 1, H, W)` residual at zero flow.
    neg_inv: `(B, 1, H, W)` -1 / |gradient|^2. active: `(B,)` bool, pairs that still iterate.
    """

    def __init__(
        self, batch: int, height: int, width: int, config: TVL1Config, device: torch.device
    ) -> None:
        self.u = torch.zeros((batch, 2, height, width), device=device)
        self.p = torch.zeros((batch, 2, 2, height, width), device=device)
        self.gradient = torch.zeros((batch, 2, height, width), device=device)
        self.rho = torch.zeros((batch, 1, height, width), device=device)
        self.neg_inv = torch.zeros((batch, 1, height, width), device=device)
        self.active = torch.ones(batch, dtype=torch.bool, device=device)
        self.config = config
        self.threshold = config.epsilon**2 * height * width
        self.step = _compiled_iteration(device)
        self._graphs: dict[int, Callable[[], None]] = {}

    def iterate(self, count: int) -> None:
        """Do `count` inner iterations with the pairs that are active."""
        config = self.config
        taut, limit = config.tau / config.theta, config.lambda_ * config.theta
        for _ in range(count):
            u, p, active = self.step(
                *(self.u, self.p, self.gradient, self.rho, self.neg_inv, self.active),
                *(config.theta, taut, limit, self.threshold),
            )
            self.u.copy_(u)
            self.p.copy_(p)
            self.active.copy_(active)

    def run(self, count: int) -> None:
        """`iterate`, replayed from a graph on a CUDA device."""
        if self.u.device.type != "cuda":
            self.iterate(count)
            return
        if count not in self._graphs:
            self._graphs[count] = _captured(lambda: self.iterate(count), self)
        self._graphs[count]()

    def smooth(self) -> None:
        """Replace the flow of the active pairs by its 5x5 median."""
        self.u.copy_(torch.where(self.active[:, None, None, None], median5(self.u), self.u))

    def state(self) -> tuple[Tensor, ...]:
        """The tensors that `iterate` writes."""
        return self.u, self.p, self.active


class _BatchSolver:
    """Flow of batches of one size: holds the levels, so that their graphs are captured once."""

    def __init__(
        self,
        batch: int,
        height: int,
        width: int,
        config: TVL1Config,
        device: torch.device,
        check_every: int,
    ) -> None:
        self.shapes = [(int(h), int(w)) for h, w in pyramid_shapes(height, width, config)]
        self.levels = [_Level(batch, h, w, config, device) for h, w in self.shapes]
        self.config = config
        self.check_every = check_every

    def flow(self, frames: Tensor) -> Tensor:
        """`(B + 1, H, W)` float32 frames to `(B, H, W, 2)` flow."""
        step = 1 / self.config.scale_step
        pyramid = [frames]
        for shape in self.shapes[1:]:
            pyramid.append(resize_linear(pyramid[-1], shape, (step, step)))
        u = self.levels[-1].u.new_zeros(self.levels[-1].u.shape)
        for level, images in zip(reversed(self.levels), reversed(pyramid), strict=True):
            if u.shape != level.u.shape:
                steps = (u.shape[2] / level.u.shape[2], u.shape[3] / level.u.shape[3])
                u = resize_linear(u, (level.u.shape[2], level.u.shape[3]), steps) * step
            level.u.copy_(u)
            level.p.zero_()
            self._solve_level(level, images)
            u = level.u
        return u.permute(0, 2, 3, 1).contiguous()

    def _solve_level(self, level: _Level, images: Tensor) -> None:
        config = self.config
        second = torch.stack([images[1:], *centred_gradient(images[1:])], 1)  # (B, 3, H, W)
        for _ in range(config.num_warps):
            warped = warp_cubic(second, level.u)
            level.gradient.copy_(warped[:, 1:])
            rho = warped[:, :1] - (warped[:, 1:] * level.u).sum(1, keepdim=True)
            level.rho.copy_(rho - images[:-1, None])
            square = warped[:, 1:].square().sum(1, keepdim=True)
            level.neg_inv.copy_(-1 / square.clamp(min=1e-12))
            level.active.fill_(True)
            self._iterate_until_still(level)

    def _iterate_until_still(self, level: _Level) -> None:
        config = self.config
        most = self.check_every or config.inner_iterations
        for _ in range(config.outer_iterations):
            if config.median_size == 5:
                level.smooth()
            left = config.inner_iterations
            while left > 0:
                count = min(most, left)
                level.run(count)
                left -= count
                if self.check_every and not _any_left(level.active):
                    return


def _any_left(active: Tensor) -> bool:
    """Whether any pair is active. The one place where the host waits for the device."""
    return bool(active.any())


class _Solvers(threading.local):
    """The solvers of one thread: two must not write the same tensors."""

    def __init__(self) -> None:
        self.make = lru_cache(maxsize=4)(_BatchSolver)


_solvers = _Solvers()


def iteration(
    u: Tensor,
    p: Tensor,
    gradient: Tensor,
    rho: Tensor,
    neg_inv: Tensor,
    active: Tensor,
    theta: float,
    taut: float,
    limit: float,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """One inner iteration (tensors: see _Level); return the new u, p and active.

    A pair whose change is at most `threshold` keeps this iteration's result and is then frozen.
    """
    residual = rho + (gradient * u).sum(1, keepdim=True)
    move = (residual * neg_inv).clamp(-limit, limit)  # OpenCV's three cases in one
    px, py = p[:, :, 0], p[:, :, 1]
    divergence = px - F.pad(px[..., :-1], (1, 0)) + (py - F.pad(py[..., :-1, :], (0, 0, 1, 0)))
    new_u = u + move * gradient + theta * divergence
    change = (new_u - u).square().sum((1, 2, 3))
    forward_x = F.pad(new_u[..., 1:] - new_u[..., :-1], (0, 1))
    forward_y = F.pad(new_u[..., 1:, :] - new_u[..., :-1, :], (0, 0, 0, 1))
    length = 1 + taut * (forward_x.square() + forward_y.square()).sqrt()
    forward = torch.stack([forward_x, forward_y], 2)
    new_p = (p + taut * forward) / length[:, :, None]
    keep = active[:, None, None, None]
    u = torch.where(keep, new_u, u)
    p = torch.where(keep[..., None], new_p, p)
    return u, p, active & (change > threshold)


@lru_cache(maxsize=4)
def _compiled_iteration(device: torch.device) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    if device.type == "cuda" and importlib.util.find_spec("triton") is not None:
        return torch.compile(iteration, dynamic=False)
    return iteration


def _captured(function: Callable[[], None], level: _Level) -> Callable[[], None]:
    """Capture what `function` does to the level as a CUDA graph; return its replay."""
    saved = [tensor.clone() for tensor in level.state()]
    side = torch.cuda.Stream(level.u.device)  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream(level.u.device))
    with torch.cuda.stream(side):
        function()  # compiles and allocates outside the capture
    torch.cuda.current_stream(level.u.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    for tensor, value in zip(level.state(), saved, strict=True):
        tensor.copy_(value)
    return graph.replay


def resize_linear(images: Tensor, shape: tuple[int, int], steps: tuple[float, float]) -> Tensor:
    """Resize the last two axes as cv2.INTER_LINEAR; `steps`: source pixels a target pixel."""
    for axis, size, step in ((-2, shape[0], steps[0]), (-1, shape[1], steps[1])):
        last = images.shape[axis] - 1
        places = torch.arange(size, dtype=torch.float64, device=images.device)
        places = ((places + 0.5) * step - 0.5).clamp(0, last)
        first = places.floor().clamp(max=max(last - 1, 0))
        weight = (places - first).float()
        weight = weight[:, None] if axis == -2 else weight
        first = first.long()
        low = images.index_select(axis, first)
        high = images.index_select(axis, (first + 1).clamp(max=last))
        images = low + (high - low) * weight
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
