"""Values for options that a user sets once: in `feat.toml`, or as `FEAT_*` variables.

click does the work: a variable is an option's `envvar`, the file becomes the `default_map`. The
command line comes first, then variables, the file, and the option's own default. In both places
an option has the name that it has on the command line.

The file is the one that is named, else `feat.toml` in the current folder: none beside videos or in
a cache, which others may have made. For the same reason one that another user owns must be named.
Flags stand on the command line only: there is no way to take one back there, and most of them
waive a check.
"""

import logging
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from data.errors import ConfigError

logger = logging.getLogger(f"feat.{__name__}")

FILE_NAME = "feat.toml"
EVERY = "all"
"""The table whose values count for every command that has the option."""

OWN_VARIABLES = {
    "FEAT_FFMPEG": "the ffmpeg to use, instead of the one on the PATH",
    "FEAT_KERNELS": "0: compute in plain PyTorch, without compiled kernels",
    "FEAT_SHARED_DATA": "the folder of research data, for tests and benchmarks",
    "FEAT_STALL_SECONDS": "give up what does next to nothing for so long: ffmpeg, servers",
    "FEAT_USER": "who extracted features, in their records, instead of user@machine",
    "FEAT_WEIGHTS": "the folder of network weights",
}
"""Variables that are more than an option's value, and what they say."""

_MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What a file says; without one, nothing.

    Attributes:
        path: the file as it was found; None without one.
        tables: its content, checked against the commands.
    """

    path: Path | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)

    def table_of(self, words: Sequence[str], option: click.Option) -> str:
        """Return the table that gives an option of `feat WORDS` its value; empty if none does."""
        name = option_name(option)
        tables = (name_of for name_of in (".".join(words), EVERY) if name in self._table(name_of))
        return next(tables, "") if settable(option) else ""

    def source_of(self, words: Sequence[str], ctx: click.Context, option: click.Option) -> str:
        """Return where the value comes from that an option has in the context of `feat WORDS`."""
        source = ctx.get_parameter_source(option.name or "")
        if source is ParameterSource.ENVIRONMENT:
            return next(name for name in option.envvar or () if os.environ.get(name))
        if source is ParameterSource.DEFAULT_MAP:
            return f"{self.path} [{self.table_of(words, option)}]"
        return "command line" if source is ParameterSource.COMMANDLINE else "default"

    def default_map(self, ctx: click.Context, command: click.Command, *words: str) -> Any:
        """Return click's `default_map` for a command, or for all that is below a group."""
        if isinstance(command, click.Group):
            return {
                name: self.default_map(ctx, child, *words, name)
                for name, child in _children(ctx, command)
            }
        values = {}
        for key, option in _options(command).items():
            table = self.table_of(words, option)
            if table:
                values[option.name] = _as_typed(self._table(table)[key], option)
        return values

    def _table(self, name: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.tables
        for word in name.split("."):
            found = found.get(word, {})
        return found


def option_name(option: click.Parameter) -> str:
    """Return an option's name without its dashes, such as `clip-len`."""
    return max(option.opts, key=len).lstrip("-")


def settable(option: click.Option) -> bool:
    """Tell whether the file may set it: flags stand on the command line only."""
    return not option.is_flag


def name_variables(command: click.Command, *words: str) -> None:
    """Let every option below be set by variables: FEAT_EXTRACT_CACHE, and FEAT_CACHE for all."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_eager:
            names = [("FEAT", *words, option_name(option)), ("FEAT", option_name(option))]
            shouted = ["_".join(name).replace("-", "_").upper() for name in names]
            option.envvar = list(dict.fromkeys(shouted))
    for name, child in getattr(command, "commands", {}).items():
        name_variables(child, *words, name)


def given_here(name: str) -> bool:
    """Tell whether a parameter of the running command stands on its command line."""
    source = click.get_current_context().get_parameter_source(name)
    return source is ParameterSource.COMMANDLINE


def walk_commands(
    ctx: click.Context, group: click.Group, *words: str
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group, with the words that call it."""
    for name, child in _children(ctx, group):
        if isinstance(child, click.Group):
            yield from walk_commands(ctx, child, *words, name)
        else:
            yield (*words, name), child


def load_configuration(ctx: click.Context, group: click.Group, named: Path | None) -> Configuration:
    """Read and check the file that counts here, and log what it sets for the invoked command.

    Args:
        ctx: the context of `group`, in which a command was invoked.
        group: the whole command line, `feat`.
        named: the file that the user named; None for the one in the current folder, if any.

    Raises:
        ConfigError: it cannot be read, or holds what is no value of an option.
    """
    path = named or Path(FILE_NAME)
    if not named and not _may_be_read(path):
        return Configuration()
    found = Configuration(path=path, tables=_read(path))
    _check(found, ctx, group)
    invoked = ctx.invoked_subcommand or ""
    command = group.get_command(ctx, invoked)
    if command:
        values = found.default_map(ctx, command, invoked)
        ctx.default_map = {invoked: values}
        tables = [f"[{name}]" for name in (EVERY, invoked) if found.tables.get(name)]
        if tables and _any_value(values):
            logger.info("%s sets options: %s; `feat config` shows them", path, ", ".join(tables))
    return found


def _any_value(values: Mapping[str, Any]) -> bool:
    return any(_any_value(v) if isinstance(v, Mapping) else True for v in values.values())


def _may_be_read(path: Path) -> bool:
    try:
        found = path.stat()
    except OSError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return False
    if hasattr(os, "getuid") and found.st_uid not in (0, os.getuid()):
        logger.warning(
            "%s belongs to another user and is not read; `feat --config-file %s ...` reads it",
            path, path,
        )  # fmt: skip
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}; name a file of options, as "
            "docs/CONFIGURATION.md shows it"
        ) from error
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: larger than 1 MiB, expected a short file of options")
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}; docs/CONFIGURATION.md shows one") from error


def _check(found: Configuration, ctx: click.Context, group: click.Group) -> None:
    for name, values in found.tables.items():
        if not isinstance(values, dict):
            raise ConfigError(
                f"{found.path}: {name} stands in no table; expected it below [{EVERY}], for every "
                "command that has the option, or below a command's name, such as [extract]"
            )
        if name == EVERY:
            commands = [command for _, command in walk_commands(ctx, group)]
            _check_values(f"{found.path}: [{EVERY}]", values, commands, ctx)
        else:
            _check_table(f"{found.path}:", values, group, (name,), ctx)


def _check_table(
    where: str,
    values: Mapping[str, Any],
    group: click.Group,
    words: tuple[str, ...],
    ctx: click.Context,
) -> None:
    *above, name = words
    table = f"[{'.'.join(words)}]"
    command = group.get_command(ctx, name)
    if command is None:
        known = [*group.list_commands(ctx), *([] if above else [EVERY])]
        near = [".".join([*above, word]) for word in get_close_matches(name, known)]
        advice = f"did you mean [{near[0]}]?" if near else f"one of {', '.join(sorted(known))}"
        raise ConfigError(f"{where} {table}: no such command; {advice}")
    if not isinstance(command, click.Group):
        return _check_values(f"{where} {table}", values, [command], ctx)
    for key, below in values.items():
        if not isinstance(below, dict):
            example = command.list_commands(ctx)[0]
            raise ConfigError(
                f"{where} {table} {key}: expected it below one of the group's commands, such as "
                f"[{'.'.join(words)}.{example}]"
            )
        _check_table(where, below, command, (*words, key), ctx)


def _check_values(
    where: str, values: Mapping[str, Any], commands: Sequence[click.Command], ctx: click.Context
) -> None:
    for key, value in values.items():
        options = [found[key] for found in map(_options, commands) if key in found]
        if not options:
            known = {name for c in commands for name, o in _options(c).items() if settable(o)}
            near = get_close_matches(key, known)
            advice = f"did you mean {', '.join(near)}?" if near else "expected one of "
            raise ConfigError(
                f"{where} {key}: no such option; {advice}{'' if near else ', '.join(sorted(known))}"
            )
        for option in options:
            _check_value(f"{where} {key}", value, option, ctx)


def _check_value(where: str, value: Any, option: click.Option, ctx: click.Context) -> None:
    if not settable(option):
        raise ConfigError(f"{where}: a flag, which stands on the command line only; remove it")
    items = value if isinstance(value, list) else [value]
    if not items or any(type(item) not in (str, int, float) for item in items):
        raise ConfigError(f"{where}: found {value!r:.60}, expected a text or a number")
    if isinstance(option.type, click.Path):
        # whether it is there matters to the command that is run only
        if not isinstance(value, str):
            raise ConfigError(f"{where}: found {value!r:.60}, expected a path")
        return
    try:
        option.type_cast_value(ctx, _as_typed(value, option))
    except click.BadParameter as error:
        raise ConfigError(f"{where}: {error.message}") from error


def _as_typed(value: Any, option: click.Option) -> str | list[str]:
    """Return a value as a shell would hand it over, so that click reads it as it reads that."""
    items = value if isinstance(value, list) else [value]
    texts = [os.path.expanduser(i) if isinstance(i, str) else str(i) for i in items]
    return texts if option.multiple else ",".join(texts)


def _options(command: click.Command) -> dict[str, click.Option]:
    found = [p for p in command.params if isinstance(p, click.Option) and p.name != "debug"]
    return {option_name(option): option for option in found}


def _children(ctx: click.Context, group: click.Group) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(ctx):
        child = group.get_command(ctx, name)
        if child:
            yield name, child
