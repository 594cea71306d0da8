"""`feat cache ...`: looking at a cache, checking it, moving it about."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

cache_option = click.option(
    "--cache", "cache_dir", default="features", show_default=True, type=click.Path(path_type=Path),
    help="The feature cache.",
)  # fmt: skip
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on stdout."
)


def takes_cache(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take its cache as an argument or, as `feat extract` does, by --cache."""

    @click.argument("place", metavar="[CACHE]", required=False, type=click.Path(path_type=Path))
    @click.option(
        "--cache", "cache_dir", type=click.Path(path_type=Path),
        help="The same as CACHE.  [default: features]",
    )  # fmt: skip
    @functools.wraps(command)
    def with_cache(place: Path | None, cache_dir: Path | None, **rest: Any) -> None:
        if place and cache_dir:
            raise click.UsageError("name the cache once: as CACHE or with --cache")
        command(cache_dir=cache_dir or place or Path("features"), **rest)

    return with_cache


@click.group("cache")
def cache_group() -> None:
    """Look at, check, merge and share feature caches."""


def echo_json(value: Any) -> None:
    """Print one JSON object."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


@cache_group.command()
@takes_cache
@json_option
def ls_command(cache_dir: Path, as_json: bool) -> None:
    """List the videos in CACHE."""
    from cache.store import FeatureCache
    from cache.summary import format_table, human_size, iter_videos

    videos = list(iter_videos(FeatureCache(cache_dir)))
    if as_json:
        echo_json({"cache": str(cache_dir), "videos": [video.to_json() for video in videos]})
        return
    rows = [
        [
            video.video,
            str(video.num_frames),
            str(video.num_clips),
            ",".join(video.streams),
            ",".join(video.configs),
            human_size(video.nbytes),
        ]
        for video in videos
    ]
    header = ["video", "frames", "clips", "streams", "configurations", "size"]
    for line in format_table(header, rows, right={1, 2, 5}):
        click.echo(line)


@cache_group.command()
@cache_option
@click.argument("video", required=False)
@json_option
def info_command(cache_dir: Path, video: str | None, as_json: bool) -> None:
    """Tell all about one VIDEO (name or sha256), or about the whole cache."""
    from cache.store import FeatureCache
    from cache.summary import describe_cache, describe_video, format_tree

    cache = FeatureCache(cache_dir)
    about = describe_video(cache, video) if video else describe_cache(cache)
    if as_json:
        echo_json(about)
        return
    for line in format_tree(about):
        click.echo(line)


@cache_group.command()
@takes_cache
@click.option(
    "--repair", is_flag=True,
    help="Move bad shards to quarantine/ (nothing is deleted) and keep their sound records.",
)  # fmt: skip
@json_option
@click.pass_context
def verify_command(ctx: click.Context, cache_dir: Path, repair: bool, as_json: bool) -> None:
    """Read everything in CACHE again, say what is wrong, exit 1 if anything is."""
    from cache.store import FeatureCache
    from cache.summary import human_size
    from cache.verify import verify_cache

    report = verify_cache(FeatureCache(cache_dir), repair=repair)
    if as_json:
        echo_json(report.to_json())
    else:
        for problem in report.problems:
            click.echo(str(problem))
        for place in report.quarantined:
            click.echo(f"set aside: {place}")
        if report.salvaged:
            click.echo(f"kept {report.salvaged} sound records of the shards set aside")
        click.echo(
            f"{report.shards} shards, {report.records} records, {human_size(report.nbytes)} read: "
            + (f"{len(report.problems)} problems" if report.problems else "all is well")
        )
    if report.problems:
        ctx.exit(1)
