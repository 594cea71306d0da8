"""TV-L1 optical flow on a GPU with Triton's kernels, many frame pairs at once.

The kernels (extract/flow/tvl1_triton.py) keep on the device what each pair is at, so the host only
launches rounds of them, on a CUDA device a graph of several at a time, and looks now and then, one
look behind, whether any pair is left.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from extract.flow import tvl1_triton as kernels
from extract.flow.places import linear_places
from extract.flow.tvl1 import TVL1Config, pyramid_shapes

MOST_PAIRS = 1024  # at once
BYTES_A_PIXEL = 148  # of the finest level, of a pair with its share of the pyramids
ROUNDS = 4  # a graph
BLOCKS = 2  # of iterations a round: most pairs have several before they need anything else
STAGES = 4  # iterations a block
COLUMNS = 32  # of a program's tile: one warp
ROWS = 56  # of a program's tile; for few pairs as few as MIN_ROWS, so that there are more programs
MIN_ROWS = 24
PIXEL_PROGRAMS = 8, 64  # at least and at most, of a pair, that work pixel by pixel
MANY_PROGRAMS = 8192  # more of them wait for each other
BLOCK = 256  # pixels

_capturing = threading.Lock()


class PairSolver:
    """Flow of up to `num_pairs` pairs of frames of one size; holds their memory.

    Attributes:
        iterations: (L, num_warps, num_pairs) int32, the inner iterations of the last call, finest
            level first.
    """

    def __init__(
        self,
        num_pairs: int,
        num_frames: int,
        height: int,
        width: int,
        config: TVL1Config,
        device: torch.device,
    ) -> None:
        self.config, self.num_pairs, self.device = config, num_pairs, device
        self.shapes = [(int(h), int(w)) for h, w in pyramid_shapes(height, width, config)]
        self.rows = min(max(ROWS * num_pairs // 512, MIN_ROWS), ROWS)
        self._tables(num_frames)
        areas = sum(h * w for h, w in self.shapes)
        self.images = torch.zeros(areas * num_frames * 3, device=device)
        self.flow = torch.zeros(areas * 2 * num_pairs * 2, device=device)
        self.dual = torch.zeros(height * width * 2 * num_pairs * 4, device=device)
        self.data = torch.zeros(height * width * num_pairs * 4, device=device)
        self.first_frame = torch.zeros(num_pairs, dtype=torch.int32, device=device)
        self.state = torch.zeros((kernels.NUM_FIELDS, num_pairs), dtype=torch.int32, device=device)
        self.changes = torch.zeros((num_pairs, STAGES), dtype=torch.float64, device=device)
        self.iterations = torch.zeros(
            (len(self.shapes), config.num_warps, num_pairs), dtype=torch.int32, device=device
        )
        self.replay = self._captured() if device.type == "cuda" else self._rounds

    def _tables(self, num_frames: int) -> None:
        """Lay the levels out, and note between which pixels of the next coarser one theirs lie."""
        rows, linear = [], []
        in_flow = in_images = in_places = 0
        for level, (height, width) in enumerate(self.shapes):
            coarser = self.shapes[min(level + 1, len(self.shapes) - 1)]
            rows.append([height, width, in_flow, in_images, in_places, in_places + height])
            in_flow += height * width * 2 * self.num_pairs * 2
            in_images += height * width * num_frames * 3
            in_places += height + width
            for size, other in zip((height, width), coarser, strict=True):
                linear.append(linear_places(other, size, other / size))
        self.levels = torch.tensor(rows, dtype=torch.int64).to(self.device)
        self.places, self.weights = self._joined(linear)
        # a level of the images between the pixels of the next finer one
        step = 1 / self.config.scale_step
        self.shrinking = []
        for finer, shape in zip(self.shapes, self.shapes[1:], strict=False):
            both = [linear_places(a, b, step) for a, b in zip(finer, shape, strict=True)]
            self.shrinking.append(self._joined(both))
        areas = torch.tensor([h * w for h, w in self.shapes], dtype=torch.float64)
        self.thresholds = (self.config.epsilon**2 * areas).to(self.device)

    def _joined(self, linear: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return places and weights of several axes, one after the other, on the device."""
        places, weights = zip(*linear, strict=True)
        return torch.cat(places).to(self.device), torch.cat(weights).to(self.device)

    def solve(self, gray: Tensor, first_frame: Tensor) -> Tensor:
        """Return the flow (P, H, W, 2) float32.

        Args:
            gray: (F, H, W) uint8, at most `num_frames`.
            first_frame: (P,) int32, at most `num_pairs`: each pair's first frame in `gray`; its
                second one is the next.
        """
        count = len(first_frame)
        self._build_pyramid(gray)
        self.first_frame[:count] = first_frame
        self.iterations.zero_()
        self.state.zero_()
        self.state[kernels.LEVEL].fill_(len(self.shapes) - 1)
        self.state[kernels.PHASE, :count].fill_(kernels.ENTER)
        looks: deque[Callable[[], bool]] = deque(maxlen=2)
        while len(looks) < 2 or looks[0]():
            self.replay()
            looks.append(_look(self.state[kernels.PHASE]))
        height, width = self.shapes[0]
        flow = self.flow[: 2 * self.num_pairs * 2 * height * width]
        sides = flow.view(2, self.num_pairs, 2, height, width)[:, :count]
        second = self.state[kernels.FLOW_SIDE, :count].view(-1, 1, 1, 1) > 0
        return torch.where(second, sides[1], sides[0]).permute(0, 2, 3, 1).contiguous()

    def _build_pyramid(self, gray: Tensor) -> None:
        height, width = self.shapes[0]
        finest = self.images[: len(gray) * 3 * height * width]
        finest.view(-1, 3, height, width)[:, 0].copy_(gray)
        for level, (height, width) in enumerate(self.shapes):
            grid = (-(-height * width // BLOCK), len(gray))
            if level:
                kernels.shrink[grid](
                    *(self.images, self.levels, *self.shrinking[level - 1], level),
                    BLOCK=BLOCK,
                    **kernels.EXACT,
                )
            kernels.gradient[grid](self.images, self.levels, level, BLOCK=BLOCK, **kernels.EXACT)

    def _rounds(self) -> None:
        for _ in range(ROUNDS):
            self._round()

    def _round(self) -> None:
        """Bring every pair at least one block of iterations further."""
        config, state, levels = self.config, self.state, self.levels
        pixels = self.shapes[0][0] * self.shapes[0][1]
        least, most = PIXEL_PROGRAMS
        each = (min(max(MANY_PROGRAMS // self.num_pairs, least), most), self.num_pairs)
        outer = kernels.MEDIAN if config.median_size == 5 else kernels.ITERATING
        kernels.enter[each](
            *(state, levels, self.places, self.weights, self.flow, self.dual),
            *(self.num_pairs, len(self.shapes), pixels, 1 / config.scale_step),
            BLOCK=BLOCK,
            **kernels.EXACT,
        )
        kernels.warp[each](
            *(state, levels, self.images, self.first_frame, self.flow, self.data),
            *(self.num_pairs, pixels, config.lambda_ * config.theta, outer),
            config.inner_iterations,
            BLOCK=BLOCK,
            **kernels.EXACT,
        )
        if config.median_size == 5:
            kernels.median[each](
                *(state, levels, self.flow, self.num_pairs), BLOCK=BLOCK, **kernels.EXACT
            )
        tiles = max(_num_tiles(height, width, self.rows) for height, width in self.shapes)
        for _ in range(BLOCKS):
            kernels.iterate[tiles, self.num_pairs](
                *(state, levels, self.flow, self.dual, self.data, self.changes),
                *(self.thresholds, self.iterations, self.num_pairs, pixels, self.rows),
                *(config.tau, config.tau / config.theta, config.num_warps),
                *(config.outer_iterations, config.inner_iterations, outer),
                NUM_STAGES=STAGES,
                COLUMNS=COLUMNS,
                num_warps=1,
                **kernels.EXACT,
            )

    def _captured(self) -> Callable[[], None]:
        """Capture several rounds as a CUDA graph; return its replay.

        Only one thread captures at a time, and what others ask of the device meanwhile does no
        harm: both would end in an error.
        """
        with _capturing:
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                self._round()  # every pair is done: compiles, changes nothing
            torch.cuda.current_stream(self.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._rounds()
        return graph.replay


def _num_tiles(height: int, width: int, rows: int) -> int:
    """Programs that `iterate` needs for a level."""
    return -(-width // (COLUMNS - 2 * STAGES)) * -(-height // rows)


def _look(phases: Tensor) -> Callable[[], bool]:
    """Ask the device whether a pair is left; the answer is waited for when it is called for."""
    left = (phases != kernels.DONE).any()
    if phases.device.type != "cuda":
        return lambda: bool(left)
    answer = torch.empty((), dtype=torch.bool, pin_memory=True)
    answer.copy_(left, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()  # type: ignore[no-untyped-call]

    def wait() -> bool:
        event.synchronize()  # type: ignore[no-untyped-call]
        return bool(answer)

    return wait


class _Solvers(threading.local):
    """The solver of one thread, for two must not write the same tensors: the last one made.

    It serves fewer pairs too, which costs a few empty launches, while another one of its own size
    would take memory that a full batch may want.
    """

    def __init__(self) -> None:
        self.made: tuple[tuple[int, int, TVL1Config, torch.device], PairSolver] | None = None

    def solver(
        self, num_pairs: int, height: int, width: int, config: TVL1Config, device: torch.device
    ) -> PairSolver:
        """Return one with room for so many pairs."""
        kind = (height, width, config, device)
        if self.made is None or self.made[0] != kind or self.made[1].num_pairs < num_pairs:
            self.made = None  # before the next one takes its memory
            room = 1 << (num_pairs - 1).bit_length()
            # a clip of n pairs has n + 1 frames: at most twice as many as pairs
            self.made = (kind, PairSolver(room, 2 * room, height, width, config, device))
        return self.made[1]


_solvers = _Solvers()


def flow_of_pairs(gray: Tensor, first_frame: list[int], config: TVL1Config) -> Tensor:
    """Return the flow (P, H, W, 2) float32 of pairs of frames.

    Args:
        gray: (F, H, W) uint8.
        first_frame: (P,), ascending: each pair's first frame; its second one is the next.
        config: Parameters.

    Raises:
        torch.OutOfMemoryError: the device has no room for that many pairs.
    """
    height, width = (int(side) for side in gray.shape[1:])
    flow = torch.empty((len(first_frame), height, width, 2), device=gray.device)
    most = _most_pairs(height, width, gray.device)
    on_device = torch.cuda.device(gray.device) if gray.is_cuda else contextlib.nullcontext()
    try:
        with on_device:  # where Triton and graphs launch
            for done in range(0, len(first_frame), most):
                chunk = first_frame[done : done + most]
                first = torch.tensor([frame - chunk[0] for frame in chunk], dtype=torch.int32)
                solver = _solvers.solver(len(chunk), height, width, config, gray.device)
                frames = gray[chunk[0] : chunk[-1] + 2]
                flow[done : done + most] = solver.solve(frames, first.to(gray.device))
    except torch.OutOfMemoryError:
        _solvers.made = None
        raise
    return flow


def _most_pairs(height: int, width: int, device: torch.device) -> int:
    """How many pairs are solved at once, a power of two: a quarter of the device's memory."""
    memory = 8 << 30
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    fitting = max(1, memory // 4 // (BYTES_A_PIXEL * height * width))
    return min(MOST_PAIRS, 1 << fitting.bit_length() - 1)
