"""The `feat` command itself: how errors reach the user."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from feat import FeatGroup, _add_debug_option, cli


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
