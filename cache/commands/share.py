"""The commands of `feat cache` that bring caches together or take them elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cache.commands.options import cache_option, config_option, echo_json, json_option
from data.help_text import examples
from data.number_option import Number

path_argument = click.Path(path_type=Path)
mixed_option = click.option(
    "--allow-mixed", is_flag=True, help="Admit a second configuration to the same cache."
)
latest_option = click.option(
    "--latest-names", is_flag=True,
    help="Where a name stands for different contents, let the later one decide.",
)  # fmt: skip


@examples("feat cache merge ann bob both", "feat cache merge --config 3f2a91bc mixed clean")
@click.command()
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=path_argument)
@click.argument("target", metavar="DST", type=path_argument)
@config_option
@mixed_option
@latest_option
@json_option
@click.pass_context
def merge_command(
    ctx: click.Context,
    sources: tuple[Path, ...],
    target: Path,
    configs: tuple[str, ...],
    allow_mixed: bool,
    latest_names: bool,
    as_json: bool,
) -> None:
    """Add what some caches hold to another.

    DST is made if need be. Contradictions are refused. With --config, of that stream only the
    features of that configuration.
    """
    from cache.configs import choose_among, list_configs
    from cache.exchange.merge import merge_caches
    from cache.store import FeatureCache

    caches = [FeatureCache(source) for source in sources]
    chosen = {}
    if configs:
        chosen = choose_among(list_configs(*caches), configs, where=", ".join(map(str, sources)))
    with FeatureCache.creating(target) as cache:
        report = merge_caches(
            caches,
            cache,
            configs=chosen,
            allow_mixed=allow_mixed,
            latest_names=latest_names,
        )
    if as_json:
        echo_json(report)
    else:
        click.echo(
            f"{target}: {report.records} records added ({report.shards} shards copied), "
            f"{report.duplicates} were there, {report.names} names, {report.labels} labels"
        )
    _exit_if_damaged(ctx, report.damaged)


@examples("feat cache diff features shared/features", "feat cache diff ann bob --json")
@click.command()
@click.argument("a", metavar="A", type=path_argument)
@click.argument("b", metavar="B", type=path_argument)
@json_option
def diff_command(a: Path, b: Path, as_json: bool) -> None:
    """Compare two caches.

    What each lacks is listed, and of what both have the cosine.
    """
    from cache.exchange.compare import diff_caches
    from cache.store import FeatureCache

    diffs = diff_caches(FeatureCache(a), FeatureCache(b))
    if as_json:
        echo_json({"a": str(a), "b": str(b), "streams": diffs})
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


@examples(
    "feat cache export --out npy", "feat cache export --out theirs --format rtfm --streams rgb"
)
@click.command()
@cache_option
@click.option("--out", required=True, type=path_argument, help="Folder, or the Parquet file.")
@click.option(
    "--format", "layout", type=click.Choice(["npy", "lad", "rtfm", "parquet"]), default="npy",
    show_default=True,
    help="npy: <video>.npy (S, D). lad: <video>/feature.npy, as the LAD2000 authors' code reads. "
    "rtfm: <video>_i3d.npy (S, 1, D) and features.list. parquet: one file, a row a clip.",
)  # fmt: skip
@click.option("--streams", default="", help="By comma.  [default: all, rgb before flow]")
@config_option
@click.option(
    "--thumbnails", is_flag=True,
    help="Write the pictures from the videos, too: a folder thumbnails in --out, or beside the "
    "Parquet file.",
)  # fmt: skip
@json_option
def export_command(
    cache_dir: Path,
    out: Path,
    layout: str,
    streams: str,
    configs: tuple[str, ...],
    thumbnails: bool,
    as_json: bool,
) -> None:
    """Write features as other people's code reads them.

    The streams of a video stand side by side in its rows.
    """
    from cache.configs import choose_configs
    from cache.exchange.exporting import export_npy, export_parquet
    from cache.store import FeatureCache

    if (layout == "parquet") != (out.suffix.lower() == ".parquet"):
        kind = "a file" if layout == "parquet" else "a folder"
        name = "NAME.parquet" if layout == "parquet" else "without .parquet"
        raise click.UsageError(f"--out {out}: --format {layout} writes {kind}: name it {name}")
    cache = FeatureCache(cache_dir)
    wanted: dict[str, Any] = {
        "streams": [stream for stream in streams.split(",") if stream],
        "configs": choose_configs(cache, configs),
        "thumbnails": thumbnails,
    }
    if layout == "parquet":
        report = export_parquet(cache, out, **wanted)
    else:
        names: dict[str, Any] = {"npy": "plain"}
        report = export_npy(cache, out, layout=names.get(layout, layout), **wanted)
    if as_json:
        echo_json(report)
        return
    click.echo(f"{out}: {report.videos} videos, {report.clips} clips of {report.dim} values")
    if report.left_out:
        click.echo(f"{len(report.left_out)} videos lack a stream and were left out")
    _tell_left_out("thumbnails", report.thumbnails_left_out)


@examples(
    'feat cache import c3d/ --stream c3d --origin "Ann\'s C3D" --labels labels.csv',
    "feat cache import ten_crop_i3d/ --cache ucf --layout segments",
)
@click.command()
@click.argument("paths", metavar="FILE...", nargs=-1, required=True, type=path_argument)
@cache_option
@click.option("--origin", default="", help="Who made the features, with what; free text.")
@click.option(
    "--stream", default="",
    help="Name of the stream to make, such as c3d.  [default: as the files' names say: rgb, flow]",
)  # fmt: skip
@click.option(
    "--layout", default="auto", show_default=True, metavar="NAME[,NAME]",
    help="How the files lie, where that is not clear from them: plain, streams, feature-files, "
    "clip-files or crop-files; crops-last (S, C, D) or crops-first (C, S, D); rows that are clips "
    "or segments, equal parts of the video.",
)  # fmt: skip
@click.option(
    "--crops",
    type=click.Choice(["mean", "keep"]),
    default="mean",
    show_default=True,
    help="Keep the mean of several crops of a frame, or all; models then take their mean.",
)
@click.option(
    "--clip-len", type=click.IntRange(1), default=16, show_default=True, help="Frames in a clip."
)
@click.option(
    "--clip-stride",
    type=click.IntRange(1),
    help="Frames from the start of a clip to that of the next.  [default: --clip-len]",
)
@click.option(
    "--frames",
    "frames_file",
    type=path_argument,
    help="JSON lines or CSV with video and num_frames.",
)
@click.option(
    "--labels",
    "labels_file",
    type=path_argument,
    help="labels.csv: its videos' names are used, and it is added to the cache's.",
)
@click.option("--fps", type=Number(min=0), default=0.0, help="Frame rate, if it is known.")
@mixed_option
@json_option
def import_command(
    paths: tuple[Path, ...],
    cache_dir: Path,
    stream: str,
    origin: str,
    layout: str,
    crops: Any,
    clip_len: int,
    clip_stride: int | None,
    frames_file: Path | None,
    labels_file: Path | None,
    fps: float,
    allow_mixed: bool,
    as_json: bool,
) -> None:
    """Take in features somebody else made.

    They are .npy, .npz, .h5, .csv or .txt files, or folders of them. What they are taken for is
    said in a line. Nothing is written unless everything fits. What
    `feat cache export` wrote comes back as it was, and needs no option.
    """
    from cache.exchange.foreign import ImportConfig
    from cache.exchange.importing import import_with_labels, read_frame_counts
    from cache.store import FeatureCache

    try:
        config = ImportConfig(
            stream=stream,
            origin=origin,
            layout=layout,
            clip_len=clip_len,
            clip_stride=clip_stride or 0,
            crops=crops,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with FeatureCache.creating(cache_dir) as cache:
        report = import_with_labels(
            paths,
            cache,
            config,
            labels_file,
            frames=read_frame_counts(frames_file) if frames_file else {},
            frame_rate=fps,
            allow_mixed=allow_mixed,
        )
    if as_json:
        echo_json(report)
        return
    for note in report.notes:
        click.echo(note)
    click.echo(
        f"{cache_dir}: {report.videos} videos, {report.rows} rows of {', '.join(report.streams)} "
        f"added, {report.skipped} were there, {report.labels} labels"
    )
    for what, videos in report.oddities.items():
        if videos:
            click.echo(f"{len(videos)} {what}: {', '.join(videos[:10])}"
                       + (", ..." if len(videos) > 10 else ""))  # fmt: skip
    if report.labelled:
        found = report.labelled - len(report.unfound_labels)
        click.echo(f"{found} of {report.labelled} labelled videos have {', '.join(report.streams)}")


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


@examples(
    "feat cache push /media/usb/features",
    "feat cache push s3://bucket/features --option profile=lab",
)
@click.command()
@click.argument("url")
@cache_option
@takes_remote
@click.option("--reread", is_flag=True, help="Read back what was sent and compare it.")
@click.option("--thumbnails", is_flag=True, help="Send the small pictures of each clip, too.")
@click.option("--frames", is_flag=True, help="Send the frames that --streams frames kept, too.")
@mixed_option
@latest_option
@json_option
@click.pass_context
def push_command(
    ctx: click.Context,
    url: str,
    cache_dir: Path,
    options: tuple[str, ...],
    new_host_keys: bool,
    reread: bool,
    thumbnails: bool,
    frames: bool,
    allow_mixed: bool,
    latest_names: bool,
    as_json: bool,
) -> None:
    """Send what another place lacks to it.

    URL is a path, sftp://user@host/path or s3://bucket/path. Pictures of what the videos show stay
    here unless they are asked for: --thumbnails, --frames.
    """
    from cache.exchange.remote import Remote
    from cache.exchange.transfer import push_cache
    from cache.store import FeatureCache
    from cache.streams import FRAMES, THUMBNAILS

    cache = FeatureCache(cache_dir)
    remote = Remote(url, parse_options(options), new_host_keys=new_host_keys)
    report = push_cache(
        cache,
        remote,
        reread=reread,
        allow_mixed=allow_mixed,
        latest_names=latest_names,
        pictures=[name for name, sent in ((THUMBNAILS, thumbnails), (FRAMES, frames)) if sent],
    )
    _tell_transfer(ctx, report, "sent", as_json)


@examples(
    "feat cache pull sftp://ann@server/data/features",
    "feat cache pull https://example.org/features --cache shared/features",
)
@click.command()
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
    """Fetch what the cache lacks from another place.

    URL is a path, sftp://user@host/path, s3://bucket/path or https://host/path. The cache is made
    if need be.
    """
    from cache.exchange.remote import Remote
    from cache.exchange.transfer import pull_cache
    from cache.store import FeatureCache

    remote = Remote(url, parse_options(options), new_host_keys=new_host_keys)
    with FeatureCache.creating(cache_dir) as cache:
        report = pull_cache(cache, remote, allow_mixed=allow_mixed, latest_names=latest_names)
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
    from cache.upkeep.summary import human_size

    if as_json:
        echo_json(report)
    else:
        click.echo(
            f"{report.shards} shards ({human_size(report.nbytes)}) {verb}, {report.already} were "
            f"there, {report.labels} labels"
        )
        _tell_left_out("thumbnails", report.thumbnails_left_out)
        _tell_left_out("frames", report.frames_left_out)
    _exit_if_damaged(ctx, report.damaged)


def _tell_left_out(what: str, count: int) -> None:
    if count:
        click.echo(
            f"{what} of {count} videos left out, they are pictures of what the videos show: "
            f"--{what} takes them along"
        )


def _exit_if_damaged(ctx: click.Context, damaged: list[str]) -> None:
    for name in damaged:
        click.echo(f"refused, damaged: {name}", err=True)
    if damaged:
        ctx.exit(1)
