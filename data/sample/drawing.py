"""The street of the sample videos under its fixed camera, and the people and vehicles in it."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Color = tuple[int, ...]
Point = tuple[float, float]
Array = NDArray[np.float64]

# Everything is drawn this many times larger and averaged down: smooth edges, sub-pixel motion.
SUPERSAMPLE = 3

_SHADOW = (92, 90, 88)
_SKINS = ((224, 180, 150), (188, 136, 104), (120, 82, 60), (240, 200, 172))
_SHIRTS = ((170, 44, 40), (40, 74, 140), (34, 100, 66), (208, 176, 70), (222, 222, 216))
_TROUSERS = ((38, 42, 58), (70, 62, 54), (30, 30, 32), (88, 96, 112))
_CARS = ((196, 30, 34), (236, 236, 232), (30, 58, 120), (60, 62, 66))


@dataclass(frozen=True)
class Scene:
    """A camera and what stands still before it.

    Attributes:
        width: pixels.
        height: pixels.
        background: the empty street, enlarged `SUPERSAMPLE` times.
    """

    width: int
    height: int
    background: Image.Image

    def person_height(self, foot_y: float) -> float:
        """Return how many pixels a person is high whose feet are at row `foot_y`."""
        return 0.575 * (foot_y - 0.2 * self.height)

    def pavement_y(self, depth: float) -> float:
        """Return the row of the pavement at `depth`: 0 is its far edge, 1 its near edge."""
        return (0.5 + 0.42 * depth) * self.height


class Mover(Protocol):
    """Something that is drawn on the street."""

    @property
    def foot_y(self) -> float:
        """Row of the ground under it: what is nearer is drawn later."""

    def draw(self, canvas: ImageDraw.ImageDraw, frame: int) -> None:
        """Draw it as it is at a frame on the enlarged picture."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A person throughout a video; arrays are (num_frames,) float64.

    Attributes:
        foot_y: row of the feet, pixels.
        size: height, pixels.
        facing: 1 to the right, -1 to the left.
        x: column of the feet, pixels.
        phase: of the step, radians; 2 pi is two steps.
        effort: 0 stands, 1 walks, 2 runs; in between in proportion.
        tilt: radians the body has fallen forwards: 0 upright, pi / 2 on the ground.
        colors: of skin, shirt and trousers.
    """

    foot_y: float
    size: float
    facing: int
    x: Array
    phase: Array
    effort: Array
    tilt: Array
    colors: tuple[Color, Color, Color]

    def draw(self, canvas: ImageDraw.ImageDraw, frame: int) -> None:
        """Draw the shadow, the far limbs, body and head, the near limbs."""
        x, effort, tilt = (float(each[frame]) for each in (self.x, self.effort, self.tilt))
        skin, shirt, trousers = self.colors
        lean = tilt + 0.2 * max(0.0, effort - 1)
        stride = 0.42 * effort * math.sin(self.phase[frame]) + 0.3 * math.sin(tilt)

        def limb(points: list[Point], width: float, color: Color) -> None:
            pixels = _place(points, x, self.foot_y, self.facing, self.size, lean)
            thick = max(1.0, width * self.size * SUPERSAMPLE)
            canvas.line(pixels, fill=color, width=round(thick))
            for end in pixels:
                canvas.circle(end, thick / 2, fill=color)

        def leg_and_arm(swing: float, shade: float) -> None:
            sin, cos = math.sin(swing), math.cos(swing)
            limb([(0, 0.5), (0.5 * sin, 0.5 - 0.46 * cos)], 0.085, _shade(trousers, shade))
            limb([(0, 0.78), (-0.33 * sin, 0.78 - 0.33 * cos)], 0.06, _shade(shirt, shade))

        middle = 0.45 * math.sin(tilt)
        corners = [(middle - 0.2 - middle / 2, 0.04), (middle + 0.2 + middle / 2, -0.05)]
        _ellipse(canvas, _place(corners, x, self.foot_y, self.facing, self.size), _SHADOW)
        leg_and_arm(-stride, 0.7)
        limb([(0, 0.54), (0, 0.77)], 0.18, shirt)
        limb([(0.01, 0.92), (0.015, 0.93)], 0.13, skin)
        leg_and_arm(stride, 1)


@dataclass(frozen=True, kw_only=True)
class Vehicle:
    """A car or a van throughout a video.

    Attributes:
        foot_y: row of its wheels' lowest point, pixels.
        size: height of a person beside it, pixels; the vehicle is 2.48 times as long.
        facing: 1 to the right, -1 to the left.
        x: (num_frames,) float64, column of its middle, pixels; NaN where it is not in sight.
        roof: height of the roof in `size`.
        color: of the body.
    """

    foot_y: float
    size: float
    facing: int
    x: Array
    roof: float
    color: Color

    def draw(self, canvas: ImageDraw.ImageDraw, frame: int) -> None:
        """Draw shadow, body, window and wheels."""
        if np.isnan(self.x[frame]):
            return

        def pixels(points: list[Point]) -> list[Point]:
            return _place(points, float(self.x[frame]), self.foot_y, self.facing, self.size)

        roof = self.roof
        body = [(-1.24, 0.16), (-1.24, 0.5), (-0.9, roof), (0.37, roof), (0.77, 0.52), (1.24, 0.42)]
        _ellipse(canvas, pixels([(-1.24, 0.09), (1.24, -0.09)]), _SHADOW)
        canvas.polygon(pixels([*body, (1.24, 0.16)]), fill=self.color)
        glass = [(-0.75, 0.56), (-0.7, roof - 0.07), (0.3, roof - 0.07), (0.55, 0.56)]
        canvas.polygon(pixels(glass), fill=(48, 56, 66))
        for wheel in pixels([(-0.77, 0.17), (0.77, 0.17)]):
            canvas.circle(wheel, 0.17 * self.size * SUPERSAMPLE, fill=(24, 24, 26))
            canvas.circle(wheel, 0.09 * self.size * SUPERSAMPLE, fill=(150, 150, 154))


def draw_person_colors(rng: np.random.Generator) -> tuple[Color, Color, Color]:
    """Return random colours of skin, shirt and trousers."""
    return _pick(_SKINS, rng), _pick(_SHIRTS, rng), _pick(_TROUSERS, rng)


def draw_car_color(rng: np.random.Generator) -> Color:
    """Return a random colour of a vehicle."""
    return _pick(_CARS, rng)


def draw_scene(width: int, height: int, rng: np.random.Generator) -> Scene:
    """Draw a street: house fronts, a hedge, slabs in perspective, a kerb."""
    big = Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE), (146, 143, 136))
    draw, w, h = ImageDraw.Draw(big), big.width, big.height
    for left in np.arange(0, w, 0.32 * w):
        wall = tuple((np.array([150, 118, 98]) + rng.integers(-28, 29, 3)).tolist())
        draw.rectangle((left, 0, left + 0.32 * w, 0.4 * h), fill=wall)
        for x in left + w * np.arange(0.03, 0.3, 0.075):
            for y in (0.03 * h, 0.19 * h):
                pane = _shade((62, 70, 82), rng.uniform(0.8, 1.2))
                draw.rectangle((x, y, x + 0.04 * w, y + 0.11 * h), fill=pane)
    draw.rectangle((0, 0.36 * h, w, 0.45 * h), fill=(64, 82, 52))
    thin = w // 400 + 1
    for y in (0.46 + 0.48 * np.linspace(0, 1, 8) ** 1.7) * h:
        draw.line((0, y, w, y), fill=(122, 119, 112), width=thin)
    for offset in np.arange(-2.0, 3.0, 0.16):
        line = ((0.5 + 0.35 * offset) * w, 0.45 * h, (0.5 + 1.1 * offset) * w, 0.95 * h)
        draw.line(line, fill=(122, 119, 112), width=thin)
    draw.rectangle((0, 0.965 * h, w, h), fill=(88, 88, 90))
    flat = np.asarray(big.reduce(SUPERSAMPLE), np.float32) * _texture(width, height, rng)
    street = Image.fromarray(np.clip(np.rint(flat), 0, 255).astype(np.uint8))
    # enlarging by whole pixels and averaging back leaves pixels without a mover as they were
    return Scene(width, height, street.resize(big.size, Image.Resampling.NEAREST))


def draw_frame(scene: Scene, movers: tuple[Mover, ...], frame: int) -> NDArray[np.uint8]:
    """Return a frame with the movers on it, the nearer before the farther, (H, W, 3) uint8."""
    picture = scene.background.copy()
    canvas = ImageDraw.Draw(picture)
    for mover in sorted(movers, key=lambda mover: mover.foot_y):
        mover.draw(canvas, frame)
    return np.asarray(picture.reduce(SUPERSAMPLE))


def _texture(width: int, height: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a factor around 1 with detail at several scales, (height, width, 1) float32."""
    total = np.ones((height, width), np.float32)
    for cell, amount in ((48, 0.05), (12, 0.04), (3, 0.035), (1, 0.03)):
        coarse = rng.standard_normal((height // cell + 2, width // cell + 2)).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += amount * np.asarray(smooth, np.float32)
    return total[..., None]


def _place(
    points: list[Point], x: float, foot_y: float, facing: int, size: float, lean: float = 0.0
) -> list[Point]:
    """Return the pixels of points (forward, up) in person heights, the body turned by `lean`."""
    sin, cos = math.sin(lean), math.cos(lean)
    # a body on the ground is as thick as it is: it does not sink into it
    raised = 0.07 * max(0.0, sin - 0.3)
    return [
        (
            (x + facing * size * (forward * cos + up * sin)) * SUPERSAMPLE,
            (foot_y - size * (up * cos - forward * sin + raised)) * SUPERSAMPLE,
        )
        for forward, up in points
    ]


def _ellipse(canvas: ImageDraw.ImageDraw, corners: list[Point], color: Color) -> None:
    (x0, y0), (x1, y1) = corners
    canvas.ellipse((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=color)


def _pick(colors: tuple[Color, ...], rng: np.random.Generator) -> Color:
    return colors[rng.integers(len(colors))]


def _shade(color: Color, factor: float) -> Color:
    return tuple(int(factor * c) for c in color)
