"""Which of a test's parameters `make test` runs: all of them would take longer than one waits."""

from collections.abc import Iterable
from typing import Any

import pytest


def quick_first(values: Iterable[Any], quick: int | Iterable[Any] = 1) -> list[Any]:
    """Return pytest's parameters, all but the quick ones marked `slow`.

    Args:
        values: a test's parameters; a tuple for each where it has several.
        quick: how many of the first, or which ones, `make test` runs too.
    """
    values = list(values)
    kept = values[:quick] if isinstance(quick, int) else list(quick)
    if unknown := [value for value in kept if value not in values]:
        raise ValueError(f"{unknown} are not among {values}")
    return [
        pytest.param(
            *(value if isinstance(value, tuple) else (value,)),
            marks=() if value in kept else pytest.mark.slow,
        )
        for value in values
    ]
