"""The command `feat config`."""

import os
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import click
from click.shell_completion import CompletionItem

from data.configuration import FILE_NAME, OWN_VARIABLES, Configuration, option_name, walk_commands
from data.help_text import examples

Row = tuple[str, str, str]
"""An option, its value, and where that comes from."""


class CommandWords(click.ParamType[str]):
    """A word of a command's name, as typed; shells complete it."""

    name = "command"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Return what may follow the words before."""
        found: click.Command | None = ctx.find_root().command
        for word in ctx.params.get("command") or ():
            found = found.get_command(ctx, word) if isinstance(found, click.Group) else None
        names = found.list_commands(ctx) if isinstance(found, click.Group) else []
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@examples("feat config", "feat config extract", "feat config cache push")
@click.command("config", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, type=CommandWords())
@click.pass_context
def config_command(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Show each option's value and where it comes from.

    Without COMMAND: what is set for any command, and the variables that are no option's. The
    command line counts before FEAT_* variables, these before feat.toml in the current folder or
    the file that `feat --config-file FILE` names, and that before the defaults.
    Options after COMMAND count as on its own command line.
    """
    root = ctx.find_root()
    group = root.command
    assert isinstance(group, click.Group)
    configuration: Configuration = ctx.meta["feat.configuration"]
    lines = [f"file: {configuration.path or f'none ({FILE_NAME} in the current folder)'}", ""]
    if command:
        words, target, rest = _find(root, group, command)
        lines += _aligned(_rows(root, words, target, rest, configuration))
    else:
        lines += _aligned(_set_anywhere(root, group, configuration)) or ["  nothing is set"]
        lines += ["", "variables", *_aligned(list(_variables(root, group)))]
    click.echo("\n".join(lines))


def _find(
    root: click.Context, group: click.Group, typed: Sequence[str]
) -> tuple[tuple[str, ...], click.Command, list[str]]:
    """Return the words of a command, the command, and what was typed after it."""
    found: click.Command = group
    rest = list(typed)
    words: tuple[str, ...] = ()
    while isinstance(found, click.Group):
        if not rest:
            root.fail(
                f"{' '.join(words)} is several commands: {', '.join(found.list_commands(root))}"
            )
        name, child, rest = found.resolve_command(root, rest)
        assert child is not None
        words, found = (*words, name or ""), child
    return words, found, rest


def _rows(
    root: click.Context,
    words: tuple[str, ...],
    command: click.Command,
    rest: list[str],
    configuration: Configuration,
) -> list[Row]:
    values = configuration.default_map(root, command, *words)
    ctx = command.make_context(
        words[-1], rest, parent=root, resilient_parsing=True, default_map=values
    )
    rows = []
    for option in command.params:
        if not isinstance(option, click.Option) or not option.name or not option.envvar:
            continue
        where = configuration.source_of(words, ctx, option)
        # a wrong value, too, is to be seen
        value = os.environ[where] if where in option.envvar else ctx.params.get(option.name)
        rows.append((f"--{option_name(option)}", _text(value), where))
    return rows


def _set_anywhere(
    root: click.Context, group: click.Group, configuration: Configuration
) -> list[tuple[str, ...]]:
    """Return what is no default, with the commands for which it is set."""
    found: dict[Row, list[str]] = {}
    for words, command in walk_commands(root, group):
        for row in _rows(root, words, command, [], configuration):
            if row[2] != "default":
                found.setdefault(row, []).append(" ".join(words))
    return [
        (*row, ", ".join(names) if len(names) < 4 else f"{len(names)} commands")
        for row, names in found.items()
    ]


def _text(value: Any) -> str:
    if value is None or value == () or value == "":
        return "-"
    if type(value) in (list, tuple):  # others know how they are written
        return ",".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _variables(root: click.Context, group: click.Group) -> Iterator[Row]:
    for name, meaning in OWN_VARIABLES.items():
        yield name, os.environ.get(name) or "-", meaning
    known = {*OWN_VARIABLES}
    for _, command in walk_commands(root, group):
        known.update(*(option.envvar or () for option in command.params))
    known.update(*(option.envvar or () for option in group.params))
    for name in sorted(os.environ):
        if name.startswith("FEAT_") and name not in known:
            near = get_close_matches(name, known, n=1)
            yield name, os.environ[name], f"unknown; did you mean {near[0]}?" if near else "unknown"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            ["", *(cell.ljust(width) for cell, width in zip(row, widths, strict=True))]
        ).rstrip()
        for row in rows
    ]
