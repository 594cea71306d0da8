"""The `feat` command itself: how errors reach the user."""

import logging
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from click.types import FloatParamType

from feat import FeatGroup, StderrHandler, _add_debug_option, cli

ROOT = Path(__file__).parents[1]


def commands(
    command: click.Command, path: tuple[str, ...] = ("feat",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command and group with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        with click.Context(command) as ctx:
            for name in command.list_commands(ctx):
                child = command.get_command(ctx, name)
                assert child
                yield from commands(child, (*path, name))


COMMANDS = dict(commands(cli))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_ends_with_two_examples_that_can_be_typed(path: tuple[str, ...]) -> None:
    found = CliRunner().invoke(cli, [*path[1:], "--help"])
    assert found.exit_code == 0
    if path == ("feat",):  # its own are in front, with what each is for
        lines = [line for line in found.stdout.splitlines() if line.startswith("  feat ")]
        shown = [line.strip().partition("    ")[0] for line in lines]
    else:
        shown = [line.strip() for line in found.stdout.partition("Examples:\n")[2].splitlines()]
    assert len(shown) >= 2
    for line in shown:
        assert tuple(line.split()[: len(path)]) == path
        _parse(line)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_and_option_says_what_it_is(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert [option.name for option in options if not option.help] == []
    if isinstance(command, click.Group):
        found = CliRunner().invoke(cli, [*path[1:], "--help"]).stdout
        listed = found.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
        assert len(listed) == len(command.list_commands(click.Context(command)))
        assert [line for line in listed if line.endswith("...")] == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_no_option_takes_a_number_that_is_not_finite(value: str) -> None:
    types = {
        (*path, param.name): getattr(param.type, "each", param.type)
        for path, command in COMMANDS.items()
        for param in command.params
    }
    numbers = {name: kind for name, kind in types.items() if isinstance(kind, FloatParamType)}
    assert len(numbers) > 10
    for name, kind in numbers.items():
        with pytest.raises(click.BadParameter):
            pytest.fail(f"{name} takes {kind.convert(value, None, None)}")


def _parse(line: str) -> None:
    """Check a command line but for whether the files in it exist."""
    words = shlex.split(line)
    depth = max(n for n in range(len(words) + 1) if tuple(words[:n]) in COMMANDS)
    command = COMMANDS[tuple(words[:depth])]
    with click.Context(command) as ctx:
        given, rest, _ = command.make_parser(ctx).parse_args(words[depth:])
        assert not rest
        for param in command.params:
            value = given.get(param.name)
            is_given = isinstance(value, str | list | tuple)  # click has a mark for what is not
            assert is_given or not param.required, param.name
            if is_given and not isinstance(param.type, click.Path):
                param.type_cast_value(ctx, value)


def verify(folder: Path, *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> Result:
    return CliRunner().invoke(cli, [*before, "cache", "verify", str(folder), *after])


@pytest.mark.parametrize("place", ["before", "after"])
def test_debug_shows_where_an_error_was_raised(tmp_path: Path, place: str) -> None:
    result = verify(tmp_path, **{place: ("--debug",)})
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any('marker.py", line' in line for line in lines)
    assert lines[-1].startswith(f"error: {tmp_path}")
    assert "NoneType" not in result.stderr


def test_an_error_is_one_line_without_debug(tmp_path: Path) -> None:
    result = verify(tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("x"), "internal error, please report it: ZeroDivisionError: x (run"),
        (OSError(28, "No space"), "the operating system refused: [Errno 28] No space"),
    ],
)
def test_debug_shows_the_traceback_of_every_kind_of_error(error: Exception, message: str) -> None:
    @click.group(cls=FeatGroup)
    def group() -> None: ...

    @group.command()
    def fail() -> None:
        raise error

    _add_debug_option(group)
    result = CliRunner().invoke(group, ["fail", "--debug"])
    assert result.exit_code == 1
    assert "in fail" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"error: {message}")


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_leaves_results_warnings_and_errors(tmp_path: Path, quiet: bool) -> None:
    words = ["sample", str(tmp_path / "clips"), "--num-videos", "6", "--size", "48x48"]
    made = CliRunner().invoke(cli, ["-q", *words] if quiet else words)
    assert made.exit_code == 0
    assert "6 videos" in made.stdout
    assert ("sample_01.mp4" in made.stderr) != quiet
    error = CliRunner().invoke(cli, ["-q", *words] if quiet else words)
    assert error.stderr.startswith("error: ")


def test_a_warning_is_given_once_in_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    handler, other = StderrHandler(), StderrHandler()
    for level, to in (("warning", handler), ("info", handler), ("warning", other)):
        number = logging.getLevelName(level.upper())
        told = {"msg": f"{level} of %s", "args": ("labels",), "levelno": number}
        record = logging.makeLogRecord(told)
        to.emit(record)
        to.emit(record)
    assert capsys.readouterr().err.splitlines() == [
        "warning of labels",
        "info of labels",
        "info of labels",
        "warning of labels",
    ]


def test_ctrl_c_while_feat_is_loaded_shows_no_traceback() -> None:
    code = (
        "import builtins, os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "load = builtins.__import__\n"
        "def stopped(name, *how):\n"
        "    if name == 'model.commands.train':\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *how)\n"
        "builtins.__import__ = stopped\n"
        "import feat"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
