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


path_argument = click.Path(path_type=Path)
mixed_option = click.option(
    "--allow-mixed", is_flag=True, help="Admit a second configuration to the same cache."
)
latest_option = click.option(
    "--latest-names", is_flag=True,
    help="Where a name stands for different contents, let the later one decide.",
)  # fmt: skip


@cache_group.command()
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=path_argument)
@click.argument("target", metavar="DST", type=path_argument)
@mixed_option
@latest_option
@json_option
@click.pass_context
def merge_command(
    ctx: click.Context,
    sources: tuple[Path, ...],
    target: Path,
    allow_mixed: bool,
    latest_names: bool,
    as_json: bool,
) -> None:
    """Add what the caches SRC hold to DST, which is made if need be; refuse contradictions."""
    from cache.merge import merge_caches
    from cache.store import FeatureCache

    report = merge_caches(
        [FeatureCache(source) for source in sources],
        FeatureCache.create(target),
        allow_mixed=allow_mixed,
        latest_names=latest_names,
    )
    if as_json:
        echo_json(report.to_json())
    else:
        click.echo(
            f"{target}: {report.records} records added ({report.shards} shards copied), "
            f"{report.duplicates} were there, {report.names} names, {report.labels} labels"
        )
    _exit_if_damaged(ctx, report.damaged)


@cache_group.command()
@click.argument("a", metavar="A", type=path_argument)
@click.argument("b", metavar="B", type=path_argument)
@json_option
def diff_command(a: Path, b: Path, as_json: bool) -> None:
    """Compare the caches A and B: what each lacks, the cosine of what both have."""
    from cache.compare import diff_caches
    from cache.store import FeatureCache

    diffs = diff_caches(FeatureCache(a), FeatureCache(b))
    if as_json:
        echo_json({"a": str(a), "b": str(b), "streams": [diff.to_json() for diff in diffs]})
        return
    for diff in diffs:
        click.echo(
            f"{diff.stream}: {len(diff.only_a)} only in A, {len(diff.only_b)} only in B, "
            f"{diff.both} in both, {diff.identical} of them identical"
        )
        if diff.mean_cosine is not None and diff.min_cosine is not None:
            click.echo(
                f"  cosine: mean {diff.mean_cosine:.6f}, lowest {diff.min_cosine:.6f} "
                f"({diff.min_cosine_video})"
            )
        if diff.config_difference:
            click.echo(f"  made otherwise: {diff.config_difference}")
        for mark, videos in (("A", diff.only_a), ("B", diff.only_b)):
            for video in videos:
                click.echo(f"  only in {mark}: {video}")
        for video in diff.other_shape:
            click.echo(f"  other shape: {video}")


@cache_group.command()
@takes_cache
@click.option(
    "--target-mb", type=click.IntRange(1, 4096), default=64, show_default=True,
    help="Size of the new shards, in MiB.",
)  # fmt: skip
@json_option
def compact_command(cache_dir: Path, target_mb: int, as_json: bool) -> None:
    """Pack the small shards of CACHE into larger ones and drop second copies."""
    from cache.compact import compact_cache
    from cache.store import FeatureCache
    from cache.summary import human_size

    report = compact_cache(FeatureCache(cache_dir), target_bytes=target_mb << 20)
    if as_json:
        echo_json(report.to_json())
        return
    click.echo(
        f"{report.shards_before} shards ({human_size(report.bytes_before)}) -> "
        f"{report.shards_after} ({human_size(report.bytes_after)}), "
        f"{report.duplicates} second copies dropped"
    )
    if report.damaged:
        click.echo(f"{report.damaged} damaged shards left alone: feat cache verify --repair")


@cache_group.command()
@takes_cache
@click.option(
    "--days", type=click.FloatRange(0), default=7.0, show_default=True,
    help="Remove leftovers older than this.",
)  # fmt: skip
@click.option(
    "--unnamed", is_flag=True,
    help="Also remove the features of contents that no name stands for any more.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@json_option
def gc_command(cache_dir: Path, days: float, unnamed: bool, dry_run: bool, as_json: bool) -> None:
    """Remove unfinished files, checkpoints and claims of dead workers from CACHE."""
    from cache.gc import collect_garbage
    from cache.store import FeatureCache
    from cache.summary import human_size

    report = collect_garbage(FeatureCache(cache_dir), days=days, unnamed=unnamed, dry_run=dry_run)
    if as_json:
        echo_json(report.to_json())
        return
    for place in report.removed:
        click.echo(place)
    verb = "would be removed" if dry_run else "removed"
    click.echo(
        f"{len(report.removed)} leftovers ({human_size(report.nbytes)}) and "
        f"{report.unnamed_records} unnamed records {verb}"
    )


@cache_group.command()
@cache_option
@click.option("--out", required=True, type=path_argument, help="Folder, or the Parquet file.")
@click.option(
    "--format", "layout", type=click.Choice(["npy", "lad", "rtfm", "parquet"]), default="npy",
    show_default=True,
    help="npy: <video>.npy (S, D). lad: <video>/feature.npy, as the LAD2000 authors' code reads. "
    "rtfm: <video>_i3d.npy (S, 1, D) and features.list. parquet: one file, a row a clip.",
)  # fmt: skip
@click.option("--streams", default="", help="By comma.  [default: all, rgb before flow]")
@json_option
def export_command(cache_dir: Path, out: Path, layout: str, streams: str, as_json: bool) -> None:
    """Write features as other people's code reads them, streams side by side."""
    from cache.exporting import export_npy, export_parquet
    from cache.store import FeatureCache

    cache = FeatureCache(cache_dir)
    chosen = [stream for stream in streams.split(",") if stream]
    if layout == "parquet":
        report = export_parquet(cache, out, streams=chosen)
    else:
        names: dict[str, Any] = {"npy": "plain"}
        report = export_npy(cache, out, streams=chosen, layout=names.get(layout, layout))
    if as_json:
        echo_json(report.to_json())
        return
    click.echo(f"{out}: {report.videos} videos, {report.clips} clips of {report.dim} values")
    if report.left_out:
        click.echo(f"{len(report.left_out)} videos lack a stream and were left out")


@cache_group.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=path_argument)
@cache_option
@click.option("--stream", required=True, help="Name of the stream to make, such as c3d.")
@click.option("--origin", required=True, help="Who made the features, with what; free text.")
@click.option(
    "--layout", type=click.Choice(["clips", "segments"]), default="clips", show_default=True,
    help="A row is a clip of --clip-len frames, or one of equal parts of the video.",
)  # fmt: skip
@click.option("--clip-len", type=click.IntRange(1), default=16, show_default=True)
@click.option(
    "--frames", "frames_file", type=path_argument,
    help="JSON lines or CSV with video and num_frames.",
)  # fmt: skip
@click.option(
    "--labels", "labels_file", type=path_argument,
    help="labels.csv: its names are used (matched by stem), and it is copied to the cache.",
)  # fmt: skip
@click.option("--fps", type=click.FloatRange(0), default=0.0, help="Frame rate, if it is known.")
@json_option
def import_command(
    paths: tuple[Path, ...],
    cache_dir: Path,
    stream: str,
    origin: str,
    layout: Any,
    clip_len: int,
    frames_file: Path | None,
    labels_file: Path | None,
    fps: float,
    as_json: bool,
) -> None:
    """Take in features somebody else made: .npy, .npz, .csv, or folders of them."""
    from cache.importing import ImportConfig, import_features, read_frame_counts
    from cache.merge import add_labels
    from cache.store import FeatureCache
    from data.labels import read_labels

    try:
        config = ImportConfig(stream=stream, origin=origin, layout=layout, clip_len=clip_len)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    labels = read_labels(labels_file) if labels_file else []
    cache = FeatureCache.create(cache_dir)
    report = import_features(
        paths,
        cache,
        config,
        frames=read_frame_counts(frames_file) if frames_file else {},
        names=[label.video for label in labels],
        frame_rate=fps,
    )
    num_labels = add_labels(labels_file, cache) if labels_file else 0
    if as_json:
        echo_json({**report.to_json(), "labels": num_labels})
        return
    click.echo(
        f"{cache_dir}: {report.videos} videos, {report.rows} rows of {stream} added, "
        f"{report.skipped} were there, {num_labels} labels"
    )
    for what, videos in (
        ("without a frame count", report.without_frames),
        ("with another number of rows", report.odd_rows),
        ("with a frame count but no features", report.without_features),
    ):
        if videos:
            click.echo(f"{len(videos)} videos {what}: {', '.join(videos[:10])}"
                       + (", ..." if len(videos) > 10 else ""))  # fmt: skip


remote_options = [
    click.option(
        "--option", "options", metavar="KEY=VALUE", multiple=True,
        help="For the fsspec file system, such as port=2222 or endpoint_url=http://...",
    ),
    click.option(
        "--new-host-keys", is_flag=True, help="SFTP: accept servers that are not in known_hosts."
    ),
]  # fmt: skip


def takes_remote(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection."""
    for option in reversed(remote_options):
        command = option(command)
    return command


@cache_group.command()
@click.argument("url")
@cache_option
@takes_remote
@click.option("--reread", is_flag=True, help="Read back what was sent and compare it.")
@json_option
@click.pass_context
def push_command(
    ctx: click.Context,
    url: str,
    cache_dir: Path,
    options: tuple[str, ...],
    new_host_keys: bool,
    reread: bool,
    as_json: bool,
) -> None:
    """Send to URL what it lacks: a path, sftp://user@host/path, s3://bucket/path, ..."""
    from cache.remote import Remote
    from cache.store import FeatureCache
    from cache.transfer import push_cache

    cache = FeatureCache(cache_dir)
    remote = Remote(url, parse_options(options), new_host_keys=new_host_keys)
    _tell_transfer(ctx, push_cache(cache, remote, reread=reread), "sent", as_json)


@cache_group.command()
@click.argument("url")
@cache_option
@takes_remote
@mixed_option
@latest_option
@json_option
@click.pass_context
def pull_command(
    ctx: click.Context,
    url: str,
    cache_dir: Path,
    options: tuple[str, ...],
    new_host_keys: bool,
    allow_mixed: bool,
    latest_names: bool,
    as_json: bool,
) -> None:
    """Fetch from URL what the cache lacks; it is made if need be. https:// works too."""
    from cache.remote import Remote
    from cache.store import FeatureCache
    from cache.transfer import pull_cache

    remote = Remote(url, parse_options(options), new_host_keys=new_host_keys)
    report = pull_cache(
        FeatureCache.create(cache_dir), remote, allow_mixed=allow_mixed, latest_names=latest_names
    )
    _tell_transfer(ctx, report, "fetched", as_json)


def parse_options(options: tuple[str, ...]) -> dict[str, Any]:
    """Return `KEY=VALUE` texts as a dict; values that are JSON are read as JSON."""
    values: dict[str, Any] = {}
    for text in options:
        name, mark, value = text.partition("=")
        if not mark or not name:
            raise click.UsageError(f"--option {text}: expected KEY=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def _tell_transfer(ctx: click.Context, report: Any, verb: str, as_json: bool) -> None:
    from cache.summary import human_size

    if as_json:
        echo_json(report.to_json())
    else:
        click.echo(
            f"{report.shards} shards ({human_size(report.nbytes)}) {verb}, {report.already} were "
            f"there, {report.names} files of names, {report.labels} labels"
        )
    _exit_if_damaged(ctx, report.damaged)


def _exit_if_damaged(ctx: click.Context, damaged: list[str]) -> None:
    for name in damaged:
        click.echo(f"refused, damaged: {name}", err=True)
    if damaged:
        ctx.exit(1)
