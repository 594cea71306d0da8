"""What happens in a sample video: who walks where, and the sudden run, the fall, the fast vehicle.

Speeds are those of the real thing: a person 1.7 m high walks at 1.35 m/s and runs at 4.8 m/s; a
vehicle goes at 25 km/h.
"""

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np

from data.sample.drawing import (
    Array,
    Mover,
    Person,
    Scene,
    Vehicle,
    draw_car_color,
    draw_person_colors,
)

Category = Literal["run", "fall", "vehicle"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
Intervals = tuple[tuple[int, int], ...]

FRAME_RATE = 25
_HEIGHTS_PER_FRAME = 1 / (1.7 * FRAME_RATE)  # of a person who moves at 1 m/s
_WALK, _RUN, _DRIVE = 1.35, 4.8, 7.0  # m/s


def plan_crowd(scene: Scene, num_frames: int, rng: np.random.Generator) -> list[Mover]:
    """Return three to five people who walk by or stand about."""
    crowd: list[Mover] = []
    for _ in range(rng.integers(3, 6)):
        effort = np.full(num_frames, float(rng.random() > 0.2))
        depth = rng.uniform(0, 1)
        margin = 0.7 * scene.person_height(scene.pavement_y(depth))
        start = rng.uniform(-margin, scene.width + margin)
        crowd.append(_person(scene, rng, effort, depth=depth, x_start=start, margin=margin))
    return crowd


def plan_events(
    scene: Scene, category: Category, num_frames: int, rng: np.random.Generator
) -> tuple[list[Mover], Intervals]:
    """Return the movers of one or two events and the frames they take, 0-based and half-open.

    A video always begins normally; the second event has a pause of at least 12 frames before it.
    """
    planner = _PLANNERS[category]
    first = int(num_frames * rng.uniform(0.15, 0.4))
    movers, end = planner(scene, num_frames, first, rng)
    intervals = [(first, end)]
    second = int(num_frames * rng.uniform(0.6, 0.72))
    if second >= end + 12:
        more, end = planner(scene, num_frames, second, rng)
        movers += more
        intervals.append((second, end))
    return movers, tuple(intervals)


def _plan_run(
    scene: Scene, num_frames: int, start: int, rng: np.random.Generator
) -> tuple[list[Mover], int]:
    """Two people who walk in the same direction run off; it ends when both have left."""
    # full speed is reached after 6 frames, a quarter of a second
    effort = 1 + np.clip((np.arange(num_frames) - start + 1) / 6, 0, 1)
    facing = _draw_facing(rng)
    movers: list[Mover] = []
    end = start + 1
    for place in (rng.uniform(0.22, 0.4), rng.uniform(0, 0.2)):
        person = _person(
            scene, rng, effort, depth=rng.uniform(0.25, 0.8), x_start=place * scene.width,
            start=start, facing=facing,
        )  # fmt: skip
        ahead = person.x if facing > 0 else scene.width - person.x
        end = max(end, int(np.flatnonzero(ahead < scene.width + 0.5 * person.size)[-1]) + 1)
        movers.append(person)
    return movers, end


def _plan_fall(
    scene: Scene, num_frames: int, start: int, rng: np.random.Generator
) -> tuple[list[Mover], int]:
    """A walker falls, lies, gets up; it ends when the person stands again."""
    down, up = 11, 22
    lie = max(4, min(int(rng.integers(30, 60)), int(0.45 * num_frames) - down - up))
    end = start + down + lie + up
    frames = np.arange(num_frames)
    tilt = np.interp(frames, [start - 1, start + down, end - up, end], [0, np.pi / 2, np.pi / 2, 0])
    effort = np.interp(frames, [start, start + down, end - 1, end], [1, 0, 0, 1])
    person = _person(
        scene, rng, effort, depth=rng.uniform(0.3, 0.95),
        x_start=rng.uniform(0.3, 0.55) * scene.width, start=start, tilt=tilt,
    )  # fmt: skip
    return [person], min(num_frames, end)


def _plan_vehicle(
    scene: Scene, num_frames: int, start: int, rng: np.random.Generator
) -> tuple[list[Mover], int]:
    """A car or van drives along the pavement; it lasts while any of it is in sight."""
    facing, foot_y = _draw_facing(rng), scene.pavement_y(rng.uniform(0.3, 0.85))
    size = scene.person_height(foot_y)
    speed = _DRIVE * rng.uniform(0.85, 1.3) * _HEIGHTS_PER_FRAME * size
    half_length = 1.24 * size
    # two pixels of the bumper show in the first frame, at least two in the last
    ahead = 2 - half_length + speed * (np.arange(num_frames) - start)
    in_sight = (np.arange(num_frames) >= start) & (ahead < scene.width + half_length - 2)
    x = np.where(in_sight, ahead if facing > 0 else scene.width - ahead, np.nan)
    roof = 1.12 if rng.random() < 0.4 else 0.84
    vehicle = Vehicle(
        foot_y=foot_y, size=size, facing=facing, x=x, roof=roof, color=draw_car_color(rng)
    )
    return [vehicle], int(np.flatnonzero(in_sight)[-1]) + 1


_Planner = Callable[[Scene, int, int, np.random.Generator], tuple[list[Mover], int]]
_PLANNERS: dict[Category, _Planner] = {
    "run": _plan_run,
    "fall": _plan_fall,
    "vehicle": _plan_vehicle,
}


def _draw_facing(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _person(
    scene: Scene,
    rng: np.random.Generator,
    effort: Array,
    *,
    depth: float,
    x_start: float,
    start: int = 0,
    facing: int | None = None,
    tilt: Array | None = None,
    margin: float | None = None,
) -> Person:
    """Return a person whose speed and steps fit `effort`, (num_frames,).

    Args:
        scene: the street.
        rng: draws pace and clothes.
        effort: as in `Person`.
        depth: where on the pavement, in [0, 1].
        x_start: how far along the way the person is at frame `start`, pixels.
        start: that frame.
        facing: as in `Person`; drawn if None.
        tilt: as in `Person`; upright if None.
        margin: who leaves by so many pixels comes back on the other side; None: nobody does.
    """
    facing = facing or _draw_facing(rng)
    foot_y = scene.pavement_y(depth)
    size = scene.person_height(foot_y)
    pace = np.interp(effort, [0, 1, 2], [0, _WALK, _RUN]) * rng.uniform(0.9, 1.1)
    speed = pace * _HEIGHTS_PER_FRAME * size
    gone = np.cumsum(speed) - speed
    ahead = x_start + gone - gone[start]
    if margin is not None:
        ahead = np.mod(ahead + margin, scene.width + 2 * margin) - margin
    # a pair of steps is 0.85 heights, running 1.45
    step = size * (0.85 + 0.6 * np.clip(effort - 1, 0, 1))
    return Person(
        foot_y=foot_y,
        size=size,
        facing=facing,
        x=ahead if facing > 0 else scene.width - ahead,
        phase=rng.uniform(0, 2 * np.pi) + np.cumsum(2 * np.pi * speed / step),
        effort=effort,
        tilt=np.zeros_like(effort) if tilt is None else tilt,
        colors=draw_person_colors(rng),
    )
