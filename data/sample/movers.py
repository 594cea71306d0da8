"""What moves in the sample videos: people who walk, run and fall, and vehicles."""

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from data.sample.scene import SUPERSAMPLE, Color

Point = tuple[float, float]
Box = tuple[int, int, int, int]

_SKINS: tuple[Color, ...] = ((224, 180, 150), (188, 136, 104), (120, 82, 60), (240, 200, 172))
_CLOTHES: tuple[Color, ...] = (
    *((170, 44, 40), (40, 74, 140), (34, 100, 66), (208, 176, 70), (92, 52, 112), (222, 222, 216)),
    *((40, 40, 46), (196, 108, 52), (84, 148, 170), (150, 130, 110)),
)
_TROUSERS: tuple[Color, ...] = ((38, 42, 58), (70, 62, 54), (30, 30, 32), (88, 96, 112))
_CARS: tuple[Color, ...] = ((196, 30, 34), (236, 236, 232), (30, 58, 120), (60, 62, 66))


class Mover(Protocol):
    """Something drawn on a frame."""

    @property
    def foot_y(self) -> float:
        """Row of the ground under it: what is nearer is drawn later."""

    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom in pixels of all it draws, shadow included."""

    def draw(self, canvas: "Canvas") -> None:
        """Draw it."""


@dataclass(frozen=True)
class Canvas:
    """A cut-out of a frame, enlarged; takes coordinates of the frame."""

    image: Image.Image
    left: float
    top: float

    def _at(self, x: float, y: float) -> Point:
        return (x - self.left) * SUPERSAMPLE, (y - self.top) * SUPERSAMPLE

    def limb(self, points: list[Point], width: float, color: Color) -> None:
        """Draw a line with round joints and ends."""
        draw = ImageDraw.Draw(self.image)
        scaled = [self._at(*point) for point in points]
        thick = max(1.0, width * SUPERSAMPLE)
        draw.line(scaled, fill=color, width=round(thick))
        for x, y in scaled:
            r = thick / 2
            draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def disc(self, centre: Point, radius: float, color: Color) -> None:
        """Draw a filled circle."""
        x, y = self._at(*centre)
        r = radius * SUPERSAMPLE
        ImageDraw.Draw(self.image).ellipse((x - r, y - r, x + r, y + r), fill=color)

    def polygon(self, points: list[Point], color: Color) -> None:
        """Draw a filled polygon."""
        ImageDraw.Draw(self.image).polygon([self._at(*point) for point in points], fill=color)

    def shadow(self, centre: Point, half_width: float, half_height: float) -> None:
        """Darken an ellipse of the ground."""
        x, y = self._at(*centre)
        w, h = half_width * SUPERSAMPLE, half_height * SUPERSAMPLE
        left, top = math.floor(x - w), math.floor(y - h)
        mask = Image.new("L", (math.ceil(2 * w) + 2, math.ceil(2 * h) + 2))
        ImageDraw.Draw(mask).ellipse((x - w - left, y - h - top, x + w - left, y + h - top), 110)
        self.image.paste((30, 30, 34), (left, top), mask)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a person looks like; fixed for a whole video."""

    skin: Color
    shirt: Color
    trousers: Color
    hair: Color
    width: float
    has_bag: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Look":
        """Return a random person."""
        return cls(
            skin=_SKINS[rng.integers(len(_SKINS))],
            shirt=_CLOTHES[rng.integers(len(_CLOTHES))],
            trousers=_TROUSERS[rng.integers(len(_TROUSERS))],
            hair=((36, 28, 24), (84, 56, 34), (150, 150, 148))[rng.integers(3)],
            width=float(rng.uniform(0.85, 1.2)),
            has_bag=bool(rng.random() < 0.3),
        )


@dataclass(frozen=True, kw_only=True)
class Person:
    """A person at one moment.

    Attributes:
        x: column of the feet, pixels.
        foot_y: row of the feet, pixels.
        size: height of the person, pixels.
        facing: 1 to the right, -1 to the left.
        phase: of the step, radians; 2 pi is two steps.
        effort: 0 stands, 1 walks, 2 runs; in between in proportion.
        tilt: radians the body has fallen forwards: 0 upright, pi / 2 on the ground.
        look: clothes and build.
    """

    x: float
    foot_y: float
    size: float
    facing: int
    phase: float
    effort: float
    tilt: float
    look: Look

    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom in pixels."""
        reach = 1.15 * self.size if self.tilt > 0 else 0.62 * self.size
        return (
            self.x - reach,
            self.foot_y - 1.1 * self.size,
            self.x + reach,
            self.foot_y + 0.2 * self.size,
        )

    def draw(self, canvas: Canvas) -> None:
        """Draw far limbs, body, head, near limbs."""
        look, thick = self.look, 0.085 * self.size * self.look.width
        lying = math.sin(self.tilt)
        near, far = self._leg(self.phase), self._leg(self.phase + math.pi)
        # the body sinks as the legs spread: the lower foot stays on the ground
        sink = self.foot_y - max(near[-1][1], far[-1][1]) if self.tilt == 0 else 0.0
        canvas = replace(canvas, top=canvas.top - sink)
        centre = self.x + self.facing * 0.45 * self.size * lying
        canvas.shadow(
            (centre, self.foot_y - sink), (0.2 + 0.3 * lying) * self.size, 0.05 * self.size
        )
        canvas.limb(far, thick, _darker(look.trousers))
        canvas.limb(self._arm(self.phase), 0.7 * thick, _darker(look.shirt))
        canvas.limb([self._point(0, 0.52), self._point(0, 0.78)], 2.1 * thick, look.shirt)
        canvas.limb([self._point(0, 0.8), self._point(0.01, 0.88)], 0.8 * thick, look.skin)
        canvas.disc(self._point(0.005, 0.935), 0.068 * self.size, look.hair)
        canvas.disc(self._point(0.022, 0.922), 0.056 * self.size, look.skin)
        canvas.limb(near, thick, look.trousers)
        canvas.limb(self._arm(self.phase + math.pi), 0.7 * thick, look.shirt)
        if look.has_bag:
            canvas.limb(
                [self._point(-0.13, 0.6), self._point(-0.13, 0.7)], 1.3 * thick, (60, 44, 34)
            )

    def _point(self, forward: float, up: float) -> Point:
        """Return the place of a point of the body; both in body heights, from between the feet."""
        lean = self.tilt + 0.22 * max(0.0, self.effort - 1)
        a = forward * math.cos(lean) + up * math.sin(lean)
        b = up * math.cos(lean) - forward * math.sin(lean)
        # a body on the ground is as thick as it is: it does not sink into it
        b += 0.07 * math.sin(self.tilt)
        return self.x + self.facing * a * self.size, self.foot_y - b * self.size

    def _leg(self, phase: float) -> list[Point]:
        swing = (0.42 * min(self.effort, 1) + 0.4 * max(0.0, self.effort - 1)) * math.sin(phase)
        knee = max(0.0, math.cos(phase)) * (
            0.55 * min(self.effort, 1) + 0.9 * max(0, self.effort - 1)
        )
        return self._chain((0.0, 0.5), [(0.26, swing + 0.3 * knee), (0.25, swing - knee)])

    def _arm(self, phase: float) -> list[Point]:
        swing = (
            0.9 * (0.4 * min(self.effort, 1) + 0.5 * max(0.0, self.effort - 1)) * math.sin(phase)
        )
        if self.tilt > 0:
            # thrown forward to break the fall, then moving a little on the ground
            swing += 1.3 * math.sin(self.tilt) + 0.2 * math.sin(2 * phase)
        elbow = 0.25 + 1.0 * max(0.0, self.effort - 1)
        return self._chain((0.0, 0.78), [(0.17, swing), (0.16, swing + elbow)])

    def _chain(self, start: Point, bones: list[tuple[float, float]]) -> list[Point]:
        """Return the joints of a limb that hangs from `start`; bones are (length, angle)."""
        forward, up = start
        joints = [self._point(forward, up)]
        for length, angle in bones:
            forward += length * math.sin(angle)
            up -= length * math.cos(angle)
            joints.append(self._point(forward, up))
        return joints


@dataclass(frozen=True, kw_only=True)
class Vehicle:
    """A car or a van at one moment.

    Attributes:
        x: column of its middle, pixels.
        foot_y: row of its wheels' lowest point, pixels.
        size: height of a person beside it, pixels.
        facing: 1 to the right, -1 to the left.
        is_van: taller and with a straight back.
        color: of the body.
    """

    x: float
    foot_y: float
    size: float
    facing: int
    is_van: bool
    color: Color

    @property
    def half_length(self) -> float:
        """Pixels from the middle to the bumper, 2.1 m."""
        return 1.24 * self.size

    @classmethod
    def random_look(cls, rng: np.random.Generator) -> tuple[bool, Color]:
        """Return kind and colour."""
        return bool(rng.random() < 0.4), _CARS[rng.integers(len(_CARS))]

    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right, bottom in pixels."""
        half, top = 1.05 * self.half_length, 1.2 * self.size
        bottom = self.foot_y + 0.12 * self.size
        return self.x - half, self.foot_y - top, self.x + half, bottom

    def draw(self, canvas: Canvas) -> None:
        """Draw body, cabin, windows, wheels and lights."""
        canvas.shadow((self.x, self.foot_y), self.half_length, 0.09 * self.size)
        roof = 1.12 if self.is_van else 0.84
        back = -0.97 if self.is_van else -0.72
        body = [(-1, 0.16), (-1, 0.5), (back, 0.56), (0.86, 0.52), (1, 0.4), (1, 0.16)]
        cabin = [(back, 0.5), (back + 0.16, roof), (0.3, roof), (0.62, 0.52)]
        canvas.polygon(self._points(cabin), self.color)
        canvas.polygon(self._points(body), self.color)
        for left, right in ((back + 0.19, -0.2), (-0.14, 0.28)):
            lean = 0.2 if right > 0 else 0.0
            glass = [(left, 0.56), (left, roof - 0.06), (right, roof - 0.06), (right + lean, 0.56)]
            canvas.polygon(self._points(glass), (48, 56, 66))
        for axle in (-0.62, 0.62):
            (centre,) = self._points([(axle, 0.17)])
            canvas.disc(centre, 0.17 * self.size, (24, 24, 26))
            canvas.disc(centre, 0.09 * self.size, (150, 150, 154))
        (light,) = self._points([(0.95, 0.4)])
        canvas.disc(light, 0.05 * self.size, (250, 244, 200))

    def _points(self, shape: list[Point]) -> list[Point]:
        """Return places in the frame of points in half lengths along and person heights up."""
        return [
            (self.x + self.facing * along * self.half_length, self.foot_y - up * self.size)
            for along, up in shape
        ]


def visible_box(mover: Mover, width: int, height: int) -> Box | None:
    """Return the whole pixels that a mover may touch, or None if it is outside the frame."""
    left, top, right, bottom = mover.box()
    x0, y0 = max(0, math.floor(left)), max(0, math.floor(top))
    x1, y1 = min(width, math.ceil(right)), min(height, math.ceil(bottom))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def draw_movers(background: Image.Image, movers: list[Mover]) -> Image.Image:
    """Return the background with the movers on it, the nearer before the farther."""
    frame = background.copy()
    for mover in sorted(movers, key=lambda mover: mover.foot_y):
        box = visible_box(mover, frame.width, frame.height)
        if box is None:
            continue
        # enlarging by whole pixels and averaging back leaves untouched pixels exactly as they were
        size = ((box[2] - box[0]) * SUPERSAMPLE, (box[3] - box[1]) * SUPERSAMPLE)
        cutout = frame.crop(box).resize(size, Image.Resampling.NEAREST)
        mover.draw(Canvas(cutout, box[0], box[1]))
        frame.paste(cutout.reduce(SUPERSAMPLE), box[:2])
    return frame


def _darker(color: Color) -> Color:
    r, g, b = (int(0.72 * c) for c in color)
    return r, g, b
