"""Examples at the end of a command's help."""

from collections.abc import Callable
from typing import TypeVar

import click

_Command = TypeVar("_Command", bound=click.Command)


def examples(*lines: str) -> Callable[[_Command], _Command]:
    """Show command lines as they are at the end of a command's `--help`; stands above it."""

    def add(command: _Command) -> _Command:
        # \b: click must not wrap the paragraph
        command.epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
        return command

    return add
