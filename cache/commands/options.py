"""Options that the commands of `feat cache` have in common."""

import dataclasses
import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from data.configuration import given_here

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(dir_okay=False, path_type=Path)

cache_option = click.option(
    "--cache", "cache_dir", default="features", show_default=True, type=click.Path(path_type=Path),
    help="The feature cache.",
)  # fmt: skip
labels_option = click.option(
    "--labels", "labels_file", type=FILE, help="Labels file.  [default: labels.csv in the cache]"
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)

#: `cache.configs.choose_configs` takes what it gives.
config_option = click.option(
    "--config", "configs", metavar="DIGEST", multiple=True,
    help="Where a stream has several configurations, the one whose digest begins so; "
    "feat cache info lists them. Repeatable, one a stream.",
)  # fmt: skip


class Fraction(NamedTuple):
    """N of M."""

    n: int
    m: int

    def __str__(self) -> str:
        return f"{self.n}/{self.m}"


class NOfM(click.ParamType[Fraction]):
    """N of M, as 2/3."""

    name = "N/M"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        """Return the two numbers."""
        found = re.fullmatch(r"([0-9]{1,2})/([0-9]{1,2})", str(value))
        if found and 1 <= int(found[1]) <= int(found[2]):
            return Fraction(int(found[1]), int(found[2]))
        self.fail(f"{value!r} is no N/M with 1 <= N <= M <= 99, such as 2/3", param, ctx)


def takes_cache(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take its cache as an argument or, as `feat extract` does, by --cache."""

    @click.argument("place", metavar="[CACHE]", required=False, type=click.Path(path_type=Path))
    @click.option(
        "--cache", "cache_dir", type=click.Path(path_type=Path),
        help="The same as CACHE.  [default: features]",
    )  # fmt: skip
    @functools.wraps(command)
    def with_cache(place: Path | None, cache_dir: Path | None, **rest: Any) -> None:
        if place and given_here("cache_dir"):
            raise click.UsageError("name the cache once: as CACHE or with --cache")
        command(cache_dir=place or cache_dir or Path("features"), **rest)

    return with_cache


def echo_json(value: Any) -> None:
    """Print one JSON object; dataclasses give their fields."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=dataclasses.asdict))
