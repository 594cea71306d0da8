"""The fixed camera of the sample videos: a pedestrian street in perspective, noise and flicker."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, int, int]

# Everything is drawn this many times larger and averaged down: smooth edges, sub-pixel motion.
SUPERSAMPLE = 3
_NOISE_LEVELS = 1.6
_FLICKER = 0.012


@dataclass(frozen=True)
class Scene:
    """A camera and what stands still before it.

    Attributes:
        width: pixels.
        height: pixels.
        background: (height, width, 3) float32 in [0, 255].
    """

    width: int
    height: int
    background: NDArray[np.float32]

    def person_height(self, foot_y: float) -> float:
        """Return how many pixels a person is high whose feet are at row `foot_y`."""
        horizon = 0.2 * self.height
        return 0.46 * self.height * (foot_y - horizon) / (self.height - horizon)

    def pavement_y(self, depth: float) -> float:
        """Return the row of the pavement at `depth`: 0 is its far edge, 1 its near edge."""
        return (0.5 + 0.42 * depth) * self.height


def draw_scene(width: int, height: int, rng: np.random.Generator) -> Scene:
    """Draw a street: house fronts, a hedge, slabs in perspective, a kerb, a tree, a lamp."""
    big = Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE), (118, 116, 110))
    draw = ImageDraw.Draw(big)
    _draw_houses(draw, big.width, big.height, rng)
    _draw_ground(draw, big.width, big.height)
    _draw_furniture(draw, big.width, big.height, rng)
    flat = np.asarray(big.reduce(SUPERSAMPLE), dtype=np.float32)
    return Scene(width, height, np.clip(flat * _texture(width, height, rng), 0, 255))


def _draw_houses(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator) -> None:
    left = 0.0
    while left < w:
        right = left + w * float(rng.uniform(0.22, 0.4))
        wall = _jitter((150, 118, 98), 28, rng)
        draw.rectangle((left, 0, right, 0.4 * h), fill=wall)
        step = 0.075 * w
        for row in (0.03, 0.19):
            for x in np.arange(left + 0.3 * step, right - 0.6 * step, step):
                pane = _jitter((62, 70, 82), 14, rng)
                box = (x, row * h, x + 0.55 * step, (row + 0.11) * h)
                draw.rectangle(box, fill=pane, outline=_shade(wall, 1.25), width=w // 300 + 1)
        left = right
    draw.rectangle((0, 0.36 * h, w, 0.45 * h), fill=(64, 82, 52))


def _draw_ground(draw: ImageDraw.ImageDraw, w: int, h: int) -> None:
    draw.rectangle((0, 0.44 * h, w, h), fill=(146, 143, 136))
    joint, thin = (122, 119, 112), w // 400 + 1
    for depth in np.linspace(0, 1, 8) ** 1.7:
        y = (0.46 + 0.48 * depth) * h
        draw.line((0, y, w, y), fill=joint, width=thin)
    for offset in np.arange(-2.0, 3.0, 0.16):
        x = (0.5 + 0.35 * offset) * w
        draw.line((x, 0.44 * h, (0.5 + 1.1 * offset) * w, 0.95 * h), fill=joint, width=thin)
    draw.rectangle((0, 0.945 * h, w, 0.965 * h), fill=(176, 173, 166))
    draw.rectangle((0, 0.965 * h, w, h), fill=(88, 88, 90))


def _draw_furniture(draw: ImageDraw.ImageDraw, w: int, h: int, rng: np.random.Generator) -> None:
    trunk = w * float(rng.uniform(0.1, 0.3))
    draw.rectangle((trunk, 0.1 * h, trunk + 0.022 * w, 0.47 * h), fill=(74, 58, 44))
    for _ in range(60):
        x, y = rng.normal(trunk, 0.055 * w), rng.normal(0.06 * h, 0.06 * h)
        r = 0.03 * w * rng.uniform(0.5, 1.1)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_jitter((58, 88, 46), 22, rng))
    lamp = w * float(rng.uniform(0.65, 0.9))
    draw.rectangle((lamp, 0.06 * h, lamp + 0.009 * w, 0.49 * h), fill=(52, 54, 58))
    draw.ellipse((lamp - 0.012 * w, 0.03 * h, lamp + 0.021 * w, 0.075 * h), fill=(226, 222, 200))


def _texture(width: int, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a factor around 1 with detail at several scales, (height, width, 1) float32."""
    total = np.ones((height, width), dtype=np.float32)
    for cell, amount in ((48, 0.05), (12, 0.04), (3, 0.035), (1, 0.03)):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += amount * np.asarray(smooth, dtype=np.float32)
    return total[..., None]


@dataclass(frozen=True)
class Light:
    """How bright each frame of one video is: time of day, lamps that flicker, sensor noise."""

    seed: int
    gain: float
    tint: NDArray[np.float32]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Light":
        """Return the light of one video."""
        tint = 1 + rng.uniform(-0.03, 0.03, 3).astype(np.float32)
        return cls(int(rng.integers(2**62)), float(rng.uniform(0.88, 1.08)), tint)

    def expose(self, frame: NDArray[np.uint8], index: int) -> NDArray[np.uint8]:
        """Return frame `index` as the camera would record it.

        The noise depends on the index alone, so that two renderings of a video that differ in one
        mover differ nowhere else.
        """
        rng = np.random.default_rng((self.seed, index))
        flicker = 1 + _FLICKER * (np.sin(0.9 * index) + 0.5 * rng.standard_normal())
        noise = rng.standard_normal((*frame.shape[:2], 1), dtype=np.float32)
        # 0.5 makes the conversion to whole numbers round
        noise = _NOISE_LEVELS * noise + np.float32(0.5)
        exposed = frame * (self.gain * np.float32(flicker) * self.tint)
        exposed += noise
        np.clip(exposed, 0, 255, out=exposed)
        return exposed.astype(np.uint8)


def _jitter(color: Color, amount: int, rng: np.random.Generator) -> Color:
    """Return a lighter or darker colour of nearly the same hue."""
    shift = rng.integers(-amount, amount + 1)
    r, g, b = (int(c + shift + rng.integers(-amount, amount + 1) // 4) for c in color)
    return r, g, b


def _shade(color: Color, factor: float) -> Color:
    r, g, b = (min(255, int(c * factor)) for c in color)
    return r, g, b
