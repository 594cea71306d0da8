"""TV-L1 optical flow on the CPU: OpenCV's DualTVL1OpticalFlow in numba, one frame pair a thread."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from data.progress import announced
from extract.kernels.choice import use_kernels

# The kernels are imported where they are used: numba takes half a second, which a program that
# only reads a configuration should not pay.

MIN_SIDE = 16  # pixels; OpenCV builds no pyramid level smaller than this
_BLOCK = 32  # pairs whose pyramids are held at once, 2.2 MB each at 224x224

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]
_ForEach = Callable[[Callable[[int], None], Iterable[int]], None]


@dataclass(frozen=True, kw_only=True)
class TVL1Config:
    """Parameters of TV-L1; the defaults are those of OpenCV's DualTVL1OpticalFlow.

    Raises:
        ValueError: A parameter is outside its range.
    """

    tau: float = 0.25  # time step of the dual update
    lambda_: float = 0.15  # weight of the data term: smaller is smoother
    theta: float = 0.3  # coupling between the data term and the smoothness term
    num_scales: int = 5
    scale_step: float = 0.8  # a level's size over that of the level above
    num_warps: int = 5
    epsilon: float = 0.01  # pixels: an inner loop stops when the flow's RMS change is at most this
    inner_iterations: int = 30
    outer_iterations: int = 10
    median_size: Literal[1, 5] = 5  # side of the median filter before each inner loop; 1 = none

    def __post_init__(self) -> None:
        for name in ("tau", "lambda_", "theta"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("num_scales", "num_warps", "inner_iterations", "outer_iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.scale_step < 1:
            raise ValueError(f"scale_step must lie between 0 and 1, got {self.scale_step}")
        if self.epsilon < 0:
            raise ValueError(f"epsilon must not be negative, got {self.epsilon}")
        if self.median_size not in (1, 5):
            raise ValueError(f"median_size must be 1 or 5, got {self.median_size}")


def rgb_to_gray(frames: UInt8) -> UInt8:
    """Return the luma of RGB frames, bit for bit that of `cv2.cvtColor(..., COLOR_RGB2GRAY)`.

    Args:
        frames: `(..., 3)` uint8 RGB.

    Returns:
        `(...)` uint8.

    Raises:
        ValueError: `frames` is not uint8 or its last axis is not 3 long.
    """
    if frames.dtype != np.uint8 or frames.ndim < 1 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 (..., 3), got {frames.dtype} {frames.shape}")
    if not use_kernels():
        import torch

        from extract.flow.gray_torch import rgb_to_gray_torch

        return rgb_to_gray_torch(torch.from_numpy(np.ascontiguousarray(frames))).numpy()
    from extract.flow import pair as kernels

    flat = np.ascontiguousarray(frames).reshape(-1, 3)
    gray = np.empty(flat.shape[0], np.uint8)
    kernels.to_gray(flat, gray)
    return gray.reshape(frames.shape[:-1])


def pyramid_shapes(height: int, width: int, config: TVL1Config) -> npt.NDArray[np.int64]:
    """Return the `(num_levels, 2)` heights and widths, finest first, none under 16 pixels."""
    shapes = [(height, width)]
    while len(shapes) < config.num_scales:
        # round() rounds halves to even, as cv2.resize does when a factor is given
        small = (round(shapes[-1][0] * config.scale_step), round(shapes[-1][1] * config.scale_step))
        if min(small) < MIN_SIDE:
            break
        shapes.append(small)
    return np.array(shapes, np.int64)


def tvl1_flow(gray: UInt8, *, config: TVL1Config | None = None, num_threads: int = 1) -> Float32:
    """Return the optical flow from every frame to the next one.

    The result does not depend on `num_threads`: each pair is solved by one thread.

    Args:
        gray: `(T, H, W)` uint8; H and W at least 3.
        config: Parameters; OpenCV's defaults if None.
        num_threads: Threads to solve pairs with.

    Returns:
        `(T-1, H, W, 2)` float32, pixels: x to the right, y down.

    Raises:
        ValueError: `gray` is not uint8 (T, H, W) with T >= 1, H and W >= 3; `num_threads` < 1.
    """
    if gray.dtype != np.uint8 or gray.ndim != 3 or gray.shape[0] < 1 or min(gray.shape[1:]) < 3:
        raise ValueError(
            f"gray must be uint8 (T, H, W), H and W >= 3, got {gray.dtype} {gray.shape}"
        )
    if num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, got {num_threads}")
    config = config or TVL1Config()
    solver = _Solver(gray, config)
    num_pairs = gray.shape[0] - 1
    with _mapper(min(num_threads, max(num_pairs, 1))) as run:
        for start in range(0, num_pairs, _BLOCK):
            stop = min(start + _BLOCK, num_pairs)
            run(solver.prepare, range(start, stop + 1))
            run(solver.solve, range(start, stop))
    solver.buffers.give_frames(solver.frames)
    return solver.flow


def compile_kernels() -> None:
    """Compile the kernels, or load them from numba's cache, by solving one tiny pair.

    Without kernels nothing is compiled; see `extract.kernels.choice.use_kernels`.
    """
    if use_kernels():
        frame = np.zeros((2, MIN_SIDE, MIN_SIDE, 3), np.uint8)
        with announced("compiling the kernels of the optical flow, for the first time here"):
            tvl1_flow(rgb_to_gray(frame))


class _Buffers:
    """Memory for one frame size, used again from call to call: fresh pages cost time.

    Each list holds what is free; a list's pop and append are safe between threads.
    """

    def __init__(self, shapes: npt.NDArray[np.int64]) -> None:
        from extract.flow import pair as kernels

        height, width = (int(side) for side in shapes[0])
        self.shapes = shapes
        self._frame_size = kernels.frame_size(shapes)
        self._state_size = kernels.state_size(height, width)
        self._scratch_size = kernels.scratch_size(width)
        self._frames: list[Float32] = []
        self._workspaces: list[tuple[Float32, Float32]] = []

    def take_frames(self, count: int) -> list[Float32]:
        """Return `count` frame buffers; their borders are zeros."""
        from extract.kernels.simd import aligned_zeros

        frames = []
        for _ in range(count):
            try:
                frames.append(self._frames.pop())
            except IndexError:
                frames.append(aligned_zeros(self._frame_size))
        return frames

    def give_frames(self, frames: list[Float32]) -> None:
        """Take frame buffers back."""
        if len(self._frames) <= _BLOCK:
            self._frames.extend(frames)

    @contextmanager
    def workspace(self) -> Iterator[tuple[Float32, Float32]]:
        """Lend one thread's state and scratch buffers."""
        from extract.kernels.simd import aligned_zeros

        try:
            lent = self._workspaces.pop()
        except IndexError:
            lent = (aligned_zeros(self._state_size), aligned_zeros(self._scratch_size))
        try:
            yield lent
        finally:
            self._workspaces.append(lent)


@lru_cache(maxsize=2)
def _buffers(height: int, width: int, num_scales: int, scale_step: float) -> _Buffers:
    config = TVL1Config(num_scales=num_scales, scale_step=scale_step)
    return _Buffers(pyramid_shapes(height, width, config))


class _Solver:
    """One call's frames and result; `prepare` and `solve` may run in several threads at once."""

    def __init__(self, gray: UInt8, config: TVL1Config) -> None:
        num_frames, height, width = gray.shape
        self.gray = np.ascontiguousarray(gray)
        self.flow: Float32 = np.empty((num_frames - 1, height, width, 2), np.float32)
        self.numbers = (config.tau, config.lambda_, config.theta, config.epsilon, config.scale_step)
        self.counts = (
            config.num_warps,
            config.inner_iterations,
            config.outer_iterations,
            config.median_size,
        )
        self.buffers = _buffers(height, width, config.num_scales, config.scale_step)
        self.frames = self.buffers.take_frames(min(num_frames, _BLOCK + 1))
        #: (T-1, levels, warps), the inner iterations of each pair
        self.iterations = np.zeros(
            (num_frames - 1, len(self.buffers.shapes), config.num_warps), np.int64
        )

    def prepare(self, index: int) -> None:
        """Build the pyramid of frame `index`."""
        from extract.flow import pair as kernels

        frame = self.frames[index % len(self.frames)]
        kernels.fill_frame(self.gray[index], frame, self.buffers.shapes, self.numbers[4])

    def solve(self, index: int) -> None:
        """Solve the pair of frames `index` and `index + 1`."""
        from extract.flow import pair as kernels

        first, second = (self.frames[i % len(self.frames)] for i in (index, index + 1))
        with self.buffers.workspace() as (state, scratch):
            kernels.solve_pair(
                *(first, second, self.buffers.shapes, state, scratch),
                *(self.numbers, self.counts, self.flow[index], self.iterations[index]),
            )


@contextmanager
def _mapper(num_threads: int) -> Iterator[_ForEach]:
    """Yield a function that calls a function for each index, in this thread or in several."""

    def run_here(function: Callable[[int], None], indices: Iterable[int]) -> None:
        for index in indices:
            function(index)

    if num_threads == 1:
        yield run_here
        return
    with ThreadPoolExecutor(num_threads, thread_name_prefix="tvl1") as pool:

        def run_in_pool(function: Callable[[int], None], indices: Iterable[int]) -> None:
            for _ in pool.map(function, indices):  # consumed, so that errors are raised here
                pass

        yield run_in_pool
