"""The type of options that are numbers."""

import math
from typing import Any

import click

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
