"""The types of options that are numbers or times."""

import math
from typing import Any

import click

from data.times import parse_moment

#: Libraries take seeds below 2**32; several runs take the seeds that follow the first.
SEED = click.IntRange(0, 2**31 - 1)


class Number(click.FloatRange):
    """A finite number in a range; click alone lets nan into every range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class Time(Number):
    """Seconds from the start of a video, as a number or as labels have them: `2.5s`, `0:01:02`."""

    name = "time, expected seconds like 12.5 or 12.5s, or a clock's time like 0:01:02"

    def __init__(self) -> None:
        super().__init__(min=0)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds."""
        try:
            moment = parse_moment(f"@{value}")
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)
        return moment.start if moment else super().convert(value, param, ctx)
