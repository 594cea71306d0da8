"""What tests have done on the workers of a cluster; these load this module and nothing else."""

import os
import threading
import time
from functools import partial
from pathlib import Path

from data.clusters.engine import Ready
from data.errors import ConfigError


def prepare(threads: int, *, slots: int = 1) -> Ready[int, tuple[int, int]]:
    assert threads == 1
    return Ready(square, slots)


def square(number: int, stop: threading.Event) -> tuple[int, int]:
    time.sleep(0.02)
    return number**2, os.getpid()


def prepare_meeting(threads: int, *, folder: Path) -> Ready[int, tuple[int, int]]:
    return Ready(partial(meet, folder=folder), 1)


def meet(number: int, stop: threading.Event, *, folder: Path) -> tuple[int, int]:
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < 2:
        assert not stop.wait(0.01)
    return square(number, stop)


def prepare_first_alone(threads: int, *, folder: Path) -> Ready[int, tuple[int, int]]:
    try:
        (folder / "first").mkdir()
    except FileExistsError:
        raise ConfigError(f"ffmpeg: found 4, expected 7; process {os.getpid()}") from None
    return Ready(square, 1)


def prepare_failing(threads: int) -> Ready[int, int]:
    return Ready(fail, 1)


def fail(number: int, stop: threading.Event) -> int:
    raise ConfigError(f"{number}: no room")


def prepare_unfit(threads: int, *, error: Exception) -> Ready[int, int]:
    raise error


def prepare_patient(threads: int, *, folder: Path) -> Ready[int, None]:
    return Ready(partial(wait_to_be_stopped, folder=folder), 1)


def wait_to_be_stopped(number: int, stop: threading.Event, *, folder: Path) -> None:
    """Wait in all items but the first, which is done when another has begun."""
    if number == 0:
        deadline = time.monotonic() + 60
        while not any(folder.glob("began-*")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return
    (folder / f"began-{number}").touch()
    assert stop.wait(60)
    (folder / f"stopped-{number}").touch()
    raise KeyboardInterrupt


def prepare_deadly(threads: int, *, log: Path) -> Ready[int, int]:
    return Ready(partial(die_of_three, log=log), 1)


def die_of_three(number: int, stop: threading.Event, *, log: Path) -> int:
    with log.open("a") as file:
        file.write(f"{number}\n")
    if number == 3:
        os._exit(1)
    return number
