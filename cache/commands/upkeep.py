"""`feat cache ...`: looking at a cache, checking it, cleaning it up."""

from pathlib import Path

import click

from cache.commands.options import NOfM, cache_option, echo_json, json_option, takes_cache
from cache.commands.share import (
    diff_command,
    export_command,
    import_command,
    merge_command,
    pull_command,
    push_command,
)
from data.help_text import examples
from data.number_option import Number


@examples("feat cache ls", "feat cache verify")
@click.group("cache")
def cache_group() -> None:
    """Look at, check, merge and share feature caches."""


@examples("feat cache ls", "feat cache ls shared/features --json")
@cache_group.command()
@takes_cache
@json_option
def ls_command(cache_dir: Path, as_json: bool) -> None:
    """List the videos in CACHE."""
    from cache.store import FeatureCache
    from cache.upkeep.summary import format_table, human_size, iter_videos

    videos = list(iter_videos(FeatureCache(cache_dir)))
    if as_json:
        echo_json({"cache": str(cache_dir), "videos": videos})
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


@examples("feat cache info", "feat cache info street/a.mp4 --cache shared/features")
@cache_group.command()
@cache_option
@click.argument("video", required=False)
@json_option
def info_command(cache_dir: Path, video: str | None, as_json: bool) -> None:
    """Tell all about one video or the whole cache.

    VIDEO is a name or a sha256.
    """
    from cache.marker import MARKER
    from cache.store import FeatureCache
    from cache.upkeep.summary import describe_cache, describe_video, format_tree

    if video and (Path(video) / MARKER).is_file():
        raise click.UsageError(f"{video} is a cache, no video; name it with --cache {video}")
    cache = FeatureCache(cache_dir)
    about = describe_video(cache, video) if video else describe_cache(cache)
    if as_json:
        echo_json(about)
        return
    for line in format_tree(about):
        click.echo(line)


@examples(
    "feat cache verify",
    "feat cache verify shared/features --repair",
    "feat cache verify shared/features --part 1/10",
)
@cache_group.command()
@takes_cache
@click.option(
    "--repair", is_flag=True,
    help="Move damaged shards to quarantine/ (nothing is deleted) and keep their sound records.",
)  # fmt: skip
@click.option(
    "--part", type=NOfM(), default="1/1", show_default=True,
    help="Of the shards of a large cache only the N-th of M parts: a part a night, or a machine.",
)  # fmt: skip
@json_option
@click.pass_context
def verify_command(
    ctx: click.Context, cache_dir: Path, repair: bool, part: tuple[int, int], as_json: bool
) -> None:
    """Read every byte again and say what is damaged.

    Exit code 1 if anything is.
    """
    from cache.store import FeatureCache
    from cache.upkeep.summary import human_size
    from cache.upkeep.verify import verify_cache

    report = verify_cache(FeatureCache(cache_dir), repair=repair, part=part)
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


@examples("feat cache compact", "feat cache compact shared/features --target-mb 256")
@cache_group.command()
@takes_cache
@click.option(
    "--target-mb", type=click.IntRange(1, 4096), default=64, show_default=True,
    help="Size of the new shards, in MiB.",
)  # fmt: skip
@json_option
def compact_command(cache_dir: Path, target_mb: int, as_json: bool) -> None:
    """Pack small shards into larger ones and drop second copies."""
    from cache.store import FeatureCache
    from cache.upkeep.compact import compact_cache
    from cache.upkeep.summary import human_size

    report = compact_cache(FeatureCache(cache_dir), target_bytes=target_mb << 20)
    if as_json:
        echo_json(report)
        return
    click.echo(
        f"{report.shards_before} shards ({human_size(report.bytes_before)}) -> "
        f"{report.shards_after} ({human_size(report.bytes_after)}), "
        f"{report.duplicates} second copies dropped"
    )
    if report.damaged:
        click.echo(f"{report.damaged} damaged shards left alone: feat cache verify --repair")


@examples("feat cache gc --dry-run", "feat cache gc shared/features --days 30 --unnamed")
@cache_group.command()
@takes_cache
@click.option(
    "--days", type=Number(0), default=7.0, show_default=True,
    help="Remove leftovers older than this.",
)  # fmt: skip
@click.option(
    "--unnamed", is_flag=True,
    help="Also remove the features of contents that no name stands for any more.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def gc_command(cache_dir: Path, days: float, unnamed: bool, dry_run: bool, as_json: bool) -> None:
    """Remove what killed or broken-off commands left behind.

    These are unfinished files, checkpoints of videos in the making, and claims.
    """
    from cache.store import FeatureCache
    from cache.upkeep.gc import collect_garbage
    from cache.upkeep.summary import human_size

    report = collect_garbage(FeatureCache(cache_dir), days=days, unnamed=unnamed, dry_run=dry_run)
    if as_json:
        echo_json(report)
        return
    for place in report.removed:
        click.echo(place)
    verb = "would be removed" if dry_run else "removed"
    click.echo(
        f"{len(report.removed)} leftovers and {report.unnamed_records} unnamed records "
        f"({human_size(report.nbytes)}) {verb}"
    )


@examples("feat cache rm street/a.mp4 street/b.mp4", "feat cache rm --stream flow --dry-run")
@cache_group.command()
@click.argument("videos", metavar="[VIDEO]...", nargs=-1)
@cache_option
@click.option(
    "--config", "configs", metavar="DIGEST", multiple=True,
    help="Only features of the configuration whose digest begins so; feat cache info lists them. "
    "Repeatable.",
)  # fmt: skip
@click.option("--stream", default="", help="Only features of this stream.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
@click.pass_context
def rm_command(
    ctx: click.Context,
    videos: tuple[str, ...],
    cache_dir: Path,
    configs: tuple[str, ...],
    stream: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove features for good.

    They are those of each VIDEO (name or sha256), or, with --config or --stream alone, of all
    videos. Nothing is asked. Names that then stand for no features go too; of a video that has
    another name as well only the name goes. labels.csv stays as it
    is: take the rows of removed videos out of it, or feat train will miss them.
    """
    from cache.store import FeatureCache
    from cache.upkeep.remove import remove_features
    from cache.upkeep.summary import format_table, human_size

    if not (videos or configs or stream):
        raise click.UsageError("name a VIDEO, a --config or a --stream to remove")
    report = remove_features(
        FeatureCache(cache_dir), videos=videos, configs=configs, stream=stream, dry_run=dry_run
    )
    if as_json:
        echo_json(report)
    else:
        rows = [
            [one.video, one.stream, one.config, human_size(one.nbytes)] for one in report.records
        ]
        for line in format_table(["video", "stream", "configuration", "size"], rows, right={3}):
            click.echo(line)
        for name, other in report.shared.items():
            click.echo(f"{name}: only the name, the features are those of {other}, too")
        click.echo(
            f"{len(report.records)} records ({human_size(report.nbytes)}) and "
            f"{len(report.names)} names {'would be removed' if dry_run else 'removed'}"
        )
    if report.damaged:
        click.echo(f"{len(report.damaged)} damaged shards left alone: feat cache verify", err=True)
        ctx.exit(1)


for command in (
    merge_command,
    diff_command,
    export_command,
    import_command,
    push_command,
    pull_command,
):
    cache_group.add_command(command)
