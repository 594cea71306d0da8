"""What happens in a sample video: who walks where, and the sudden run, the fall, the fast vehicle.

A track says where one mover is at every frame. Speeds are those of the real thing: a person 1.7 m
high walks at 1.4 m/s, runs at 4.8 m/s; a car goes at 25 km/h.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from data.sample.movers import Look, Mover, Person, Vehicle
from data.sample.scene import Color, Scene

Category = Literal["run", "fall", "vehicle"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
Intervals = tuple[tuple[int, int], ...]
Array = NDArray[np.float64]

FRAME_RATE = 25
_PERSON_METRES = 1.7
_WALK, _RUN, _DRIVE = 1.35, 4.8, 7.0


@dataclass(frozen=True, kw_only=True)
class PersonTrack:
    """A person throughout a video; arrays are (num_frames,) float64, as in `Person`."""

    look: Look
    facing: int
    foot_y: float
    size: float
    x: Array
    phase: Array
    effort: Array
    tilt: Array

    def at(self, frame: int) -> Mover:
        """Return the person at a frame."""
        return Person(
            look=self.look,
            facing=self.facing,
            foot_y=self.foot_y,
            size=self.size,
            x=float(self.x[frame]),
            phase=float(self.phase[frame]),
            effort=float(self.effort[frame]),
            tilt=float(self.tilt[frame]),
        )


@dataclass(frozen=True, kw_only=True)
class VehicleTrack:
    """A vehicle that is there from frame `start` to `end`, excluded, and at no other time."""

    start: int
    end: int
    x_start: float
    speed: float
    facing: int
    foot_y: float
    size: float
    is_van: bool
    color: Color

    def at(self, frame: int) -> Mover | None:
        """Return the vehicle at a frame, None when it has not come yet or has gone."""
        if not self.start <= frame < self.end:
            return None
        return Vehicle(
            x=self.x_start + self.facing * self.speed * (frame - self.start),
            foot_y=self.foot_y,
            size=self.size,
            facing=self.facing,
            is_van=self.is_van,
            color=self.color,
        )


Track = PersonTrack | VehicleTrack


def plan_crowd(scene: Scene, num_frames: int, rng: np.random.Generator) -> list[Track]:
    """Return three to five people who walk by or stand about."""
    return [_plan_passer_by(scene, num_frames, rng) for _ in range(int(rng.integers(3, 6)))]


def plan_events(
    scene: Scene, category: Category, num_frames: int, rng: np.random.Generator
) -> tuple[list[Track], Intervals]:
    """Return the tracks of one or two events and the frames they take, 0-based and half-open.

    A video always begins normally; the second event has a pause of at least 12 frames before it.
    """
    planner = _PLANNERS[category]
    first = int(num_frames * rng.uniform(0.15, 0.4))
    tracks, end = planner(scene, num_frames, first, rng)
    intervals = [(first, end)]
    second = int(num_frames * rng.uniform(0.6, 0.72))
    if second >= end + 12:
        more, end = planner(scene, num_frames, second, rng)
        tracks += more
        intervals.append((second, end))
    return tracks, tuple(intervals)


def _plan_passer_by(scene: Scene, num_frames: int, rng: np.random.Generator) -> Track:
    foot_y = scene.pavement_y(float(rng.uniform(0, 1)))
    size = scene.person_height(foot_y) * float(rng.uniform(0.9, 1.06))
    stands = rng.random() < 0.2
    speed = 0.0 if stands else _pixels(_WALK * float(rng.uniform(0.8, 1.2)), size)
    facing = 1 if rng.random() < 0.5 else -1
    # who leaves on one side comes back on the other
    margin = 0.7 * size
    span = scene.width + 2 * margin
    path = rng.uniform(0, span) + facing * speed * np.arange(num_frames)
    x = np.mod(path, span) - margin
    if stands:
        x = np.clip(x, 0.1 * scene.width, 0.9 * scene.width)
        x = x + 0.012 * size * np.sin(0.05 * np.arange(num_frames) + rng.uniform(0, 6))
    effort = np.full(num_frames, 0.0 if stands else 1.0)
    return _person(rng, facing, foot_y, size, x, np.full(num_frames, speed), effort)


def _plan_run(
    scene: Scene, num_frames: int, start: int, rng: np.random.Generator
) -> tuple[list[Track], int]:
    """Two people who walk in the same direction run off; it ends when both have left."""
    facing = 1 if rng.random() < 0.5 else -1
    tracks: list[Track] = []
    end = start + 1
    for delay, place in (
        (0, rng.uniform(0.22, 0.4)),
        (int(rng.integers(2, 7)), rng.uniform(0, 0.2)),
    ):
        foot_y = scene.pavement_y(float(rng.uniform(0.25, 0.8)))
        size = scene.person_height(foot_y)
        t = np.arange(num_frames) - start - delay
        # full speed is reached after 6 frames, a quarter of a second
        haste = np.clip((t + 1) / 6, 0, 1)
        speed = _pixels(_WALK, size) + haste * _pixels(_RUN * rng.uniform(0.9, 1.15) - _WALK, size)
        gone = np.concatenate([[0.0], np.cumsum(speed)[:-1]])
        gone -= gone[min(start, num_frames - 1)]
        x = place * scene.width + gone
        visible = (x < scene.width + 0.5 * size) & (np.arange(num_frames) >= start)
        end = max(end, int(np.flatnonzero(visible)[-1]) + 1)
        x = x if facing > 0 else scene.width - x
        tracks.append(_person(rng, facing, foot_y, size, x, speed, 1 + haste))
    return tracks, end


def _plan_fall(
    scene: Scene, num_frames: int, start: int, rng: np.random.Generator
) -> tuple[list[Track], int]:
    """A walker falls, lies, gets up; it ends when the person stands again."""
    facing = 1 if rng.random() < 0.5 else -1
    foot_y = scene.pavement_y(float(rng.uniform(0.3, 0.95)))
    size = scene.person_height(foot_y)
    down, up = 11, 22
    lie = max(4, min(int(rng.integers(30, 60)), int(0.45 * num_frames) - down - up))
    t = np.arange(num_frames) - start
    falling = np.clip((t + 1) / down, 0, 1) ** 2
    rising = np.clip((t - down - lie) / up, 0, 1)
    tilt = np.pi / 2 * (falling - rising * rising * (3 - 2 * rising))
    end = min(num_frames, start + down + lie + up)
    upright = (t < 0) | (t >= down + lie + up)
    speed = np.where(upright, 1.0, np.where(t < down, 1 - t / down, 0.0)) * _pixels(_WALK, size)
    gone = np.concatenate([[0.0], np.cumsum(speed)[:-1]])
    x = rng.uniform(0.3, 0.55) * scene.width + gone - gone[start]
    x = x if facing > 0 else scene.width - x
    effort = np.where(upright, 1.0, 0.35)
    track = _person(rng, facing, foot_y, size, x, np.maximum(speed, 0.012 * size), effort, tilt)
    return [track], end


def _plan_vehicle(
    scene: Scene, num_frames: int, start: int, rng: np.random.Generator
) -> tuple[list[Track], int]:
    """A car or van drives along the pavement; it lasts while any of it is in sight."""
    facing = 1 if rng.random() < 0.5 else -1
    foot_y = scene.pavement_y(float(rng.uniform(0.3, 0.85)))
    size = scene.person_height(foot_y)
    is_van, color = Vehicle.random_look(rng)
    speed = _pixels(_DRIVE * float(rng.uniform(0.85, 1.3)), size)
    half = Vehicle(x=0, foot_y=foot_y, size=size, facing=1, is_van=is_van, color=color).half_length
    # two pixels of the bumper show in the first frame, at least one in the last
    num_visible = int((scene.width + 2 * half - 3) / speed) + 1
    end = min(num_frames, start + num_visible)
    track = VehicleTrack(
        start=start,
        end=end,
        x_start=2 - half if facing > 0 else scene.width - 2 + half,
        speed=speed,
        facing=facing,
        foot_y=foot_y,
        size=size,
        is_van=is_van,
        color=color,
    )
    return [track], end


_Planner = Callable[[Scene, int, int, np.random.Generator], tuple[list[Track], int]]
_PLANNERS: dict[Category, _Planner] = {
    "run": _plan_run,
    "fall": _plan_fall,
    "vehicle": _plan_vehicle,
}


def _person(
    rng: np.random.Generator,
    facing: int,
    foot_y: float,
    size: float,
    x: Array,
    speed: Array,
    effort: Array,
    tilt: Array | None = None,
) -> PersonTrack:
    """Return a track whose steps fit its speed: a pair of steps is 0.85 heights, running 1.45."""
    step = size * (0.85 + 0.6 * np.clip(effort - 1, 0, 1))
    phase = rng.uniform(0, 2 * np.pi) + np.cumsum(2 * np.pi * speed / step)
    return PersonTrack(
        look=Look.draw(rng),
        facing=facing,
        foot_y=foot_y,
        size=size,
        x=x,
        phase=phase,
        effort=effort,
        tilt=np.zeros_like(x) if tilt is None else tilt,
    )


def _pixels(metres_per_second: float, size: float) -> float:
    """Return pixels per frame where a person is `size` pixels high."""
    return metres_per_second / _PERSON_METRES * size / FRAME_RATE
