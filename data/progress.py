"""Progress of work in many pieces: a bar on a terminal, a line now and then elsewhere."""

import logging
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(f"feat.{__name__}")

PATIENCE_SECONDS = 3.0
"""What takes less shows nothing."""
LINE_SECONDS = 30.0
"""Where there is no bar, so often a line is logged after the first."""

T = TypeVar("T")


def shows_bar() -> bool:
    """Tell whether bars are wanted: on a terminal, unless warnings only are."""
    return sys.stderr.isatty() and logger.isEnabledFor(logging.INFO)


class ProgressBar:
    """A context manager that shows a bar, where one was drawn, until its end."""

    _bar: "Progress | None" = None

    def _draw(self, what: str, middle: str, left: str) -> "Progress":
        """Return a bar: the words before it, those after it, and those before the time left."""
        from rich import console, progress

        columns = [
            progress.TextColumn(what),
            progress.BarColumn(),
            progress.TextColumn(middle),
            progress.TimeElapsedColumn(),
            progress.TextColumn(left),
            progress.TimeRemainingColumn(),
        ]
        return progress.Progress(*columns, console=console.Console(stderr=True))

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()


def followed(items: Iterable[T], what: str, *, total: int) -> Iterator[T]:
    """Yield items, and show how many of them were taken once that takes longer than a moment.

    Args:
        items: pieces of work, each done when the next one is asked for.
        what: is done with what, for people: `verify shards`.
        total: how many there are.
    """
    show = _bar(what, total) if shows_bar() else _lines(what, total)
    next(show)
    try:
        for number, item in enumerate(items):
            show.send(number)
            yield item
    finally:
        show.close()


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Log what is being done if that takes longer than a moment; for what has no pieces to count.

    Args:
        what: is done, for people: `compiling the kernels`.
    """
    timer = Timer(PATIENCE_SECONDS, logger.info, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _bar(what: str, total: int) -> Generator[None, int, None]:
    from rich.console import Console
    from rich.progress import Progress

    started = time.monotonic()
    done = yield
    while time.monotonic() - started < PATIENCE_SECONDS:
        done = yield
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        while True:
            bar.update(task, completed=done)
            done = yield


def _lines(what: str, total: int) -> Generator[None, int, None]:
    due = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = yield
        if time.monotonic() >= due:
            logger.info("%s: %d of %d", what, done, total)
            due = time.monotonic() + LINE_SECONDS
