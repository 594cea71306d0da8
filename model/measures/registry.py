"""Measures that are one function each. To add one: a module with the function, and a line here.

The measures of `bootstrap.MEASURES` are not here: they are counted for a thousand draws at once.
"""

from collections.abc import Callable, Sequence
from pkgutil import resolve_name

from model.measures.metrics import VideoResult

MeasureFunction = Callable[[Sequence[VideoResult], Sequence[str]], float | None]
"""Takes a result of each video and the categories that the model knows; returns the measure, or
None where it is undefined. The first line of its docstring is shown in the report."""

ADDED_MEASURES: dict[str, str] = {}
"""Name -> module and function, imported by an evaluation."""


def added_measures() -> dict[str, MeasureFunction]:
    """Return the functions by the measures' names."""
    return {name: resolve_name(place) for name, place in ADDED_MEASURES.items()}
