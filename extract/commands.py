"""`feat extract`, `preview`, `doctor`; `feat data template`, which counts frames as they do."""

import functools
import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Literal

import click

from cache.commands.options import json_option
from data.clusters.engine import Cluster
from data.clusters.options import takes_cluster
from data.configuration import given_here
from data.help_text import examples
from data.number_option import Number, Time
from extract.backbones import BACKBONES
from extract.decode.limits import Limits

POSITIVE = Number(min=0, min_open=True)

resize_option = click.option(
    "--resize", type=click.Choice(["squash", "crop"]), default="squash", show_default=True,
    help="The whole frame squashed to 224x224, or its centre as Kinetics models were trained.",
)  # fmt: skip
fps_option = click.option(
    "--fps", type=POSITIVE, help="Resample to so many frames a second; else every frame."
)
folder_fps_option = click.option(
    "--folder-fps", type=POSITIVE, default=25.0, show_default=True,
    help="Frame rate of folders of images, for the times of clips.",
)  # fmt: skip


_LIMITS = (
    click.option(
        "--stall-seconds", type=POSITIVE, envvar="FEAT_STALL_SECONDS", default=60.0,
        show_default=True, help="Give a video up when no frame of it has come for so long.",
    ),
    click.option(
        "--max-pixels", type=click.IntRange(min=1), default=Limits.max_pixels, show_default=True,
        help="Refuse a video or an image whose frames have more pixels: they take memory. This and "
        "the two bounds below change no feature.",
    ),
    click.option(
        "--max-frames", type=click.IntRange(min=1), default=Limits.max_frames, show_default=True,
        help="Refuse a video with more frames.",
    ),
    click.option(
        "--max-seconds", type=POSITIVE, default=Limits.max_seconds, show_default=True,
        help="Refuse a video whose last frame is further from the first, by their times.",
    ),
)  # fmt: skip


class FolderOrAddress(click.Path):
    """A path, or an address such as `s3://bucket/features` as it is."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path, or an address as text."""
        return value if "://" in str(value) else super().convert(value, param, ctx)


def _parse_streams(text: str) -> dict[str, Any]:
    """Return the fields of `ExtractConfig` that `rgb,flow,frames:256x256,gray` stands for."""
    from cache.streams import FRAMES
    from extract.decode.config import FramesConfig

    names = [name.strip() for name in re.split(r",(?!gr[ae]y\b)", text)]
    kept = [name for name in names if name.partition(":")[0] == FRAMES]
    if len(kept) > 1:
        raise click.UsageError("--streams names frames more than once")
    return {
        "streams": tuple(name for name in names if name not in kept),
        "frames": FramesConfig.parse(kept[0]) if kept else None,
    }


def takes_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take what one video may cost, and hand it on as `limits`."""

    @functools.wraps(command)
    def run(*args: Any, **values: Any) -> None:
        limits = Limits(**{field.name: values.pop(field.name) for field in fields(Limits)})
        command(*args, limits=limits, **values)

    for option in reversed(_LIMITS):
        run = option(run)
    return run


@examples(
    "feat extract clips/",
    "feat extract clips/ --streams rgb --limit 3",
    "feat extract clips/ --cache shared/features --prefix ann/ --dry-run",
)
@click.command("extract")
@click.argument(
    "place", metavar="[DIR]", required=False, type=click.Path(path_type=Path, exists=True)
)
@click.option(
    "--videos", "videos_dir", type=click.Path(path_type=Path, exists=True),
    help="The same as DIR.",
)  # fmt: skip
@click.option(
    "--cache", "cache_dir", default="features", show_default=True, type=FolderOrAddress(),
    help="The feature cache; with --cluster also an address, such as s3://bucket/features, to "
    "which the workers send features: then no picture is kept without --thumbnails.",
)  # fmt: skip
@click.option(
    "--streams", default="rgb,flow", show_default=True,
    help=f"Which of {', '.join(BACKBONES)} and frames, by comma. frames:256x256 or "
    "frames:256x256,gray keeps the frames themselves, for methods that look at pixels.",
)  # fmt: skip
@resize_option
@click.option(
    "--crops", type=click.Choice(["1", "5", "10"]), default="1", show_default=True,
    help="Crops of each clip: 5 are the centre and the corners of frames whose short side is "
    "scaled to 256, 10 these and their mirrored ones, as RTFM's. Ten take ten times the space.",
)  # fmt: skip
@click.option(
    "--feature-map", is_flag=True,
    help="Keep the 7x7 places of each clip's last map of I3D in the place of their mean, which "
    "methods take all the same: 49 times the space, for methods that look at parts of the frame.",
)  # fmt: skip
@fps_option
@folder_fps_option
@click.option("--clip-len", type=int, default=16, show_default=True, help="Frames in a clip.")
@click.option(
    "--clip-stride", type=int,
    help="Frames from the start of a clip to that of the next.  [default: --clip-len]",
)  # fmt: skip
@click.option(
    "--rgb-weights", default="auto", show_default=True, help="auto, or a checkpoint file."
)
@click.option(
    "--flow-weights", default="auto", show_default=True,
    help="auto (published, else cross-modality), crossmodal, or a checkpoint file.",
)  # fmt: skip
@click.option(
    "--c3d-weights", default="auto", show_default=True,
    help="auto (what feat weights fetch --stream c3d took), or a checkpoint file.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
    default="float32", show_default=True,
    help="Of the network. auto: the fastest, float16 on a GPU, bfloat16 on a CPU that has it. "
    "Part of the key: a team that shares a cache chooses one.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--workers", type=click.IntRange(min=1),
    help="Processes; default: one a GPU, else one for every four cores. With a CPU each takes one "
    "video at a time, with a GPU as many as it has threads.",
)  # fmt: skip
@click.option(
    "--threads", type=click.IntRange(min=1),
    help="CPU threads in all, with a GPU also videos decoded at a time; default: cores.",
)  # fmt: skip
@click.option(
    "--batch", type=click.IntRange(min=1),
    help="Clips, of one or of several videos, that are computed together at most; default: 64 with "
    "a GPU, halved where its memory does not suffice, else 1.",
)  # fmt: skip
@takes_limits
@takes_cluster(sees="the videos")
@click.option("--allow-mixed", is_flag=True, help="Admit a second configuration to the same cache.")
@click.option(
    "--prefix", default="", metavar="NAME/",
    help="Put before the names of all videos, in labels.csv too: for videos whose names are "
    "taken in a cache that others fill as well.",
)  # fmt: skip
@click.option(
    "--labels-of", type=click.Choice(["cache", "videos"]),
    help="Whose label counts where that of a video differs.  [default: refuse]",
)  # fmt: skip
@click.option(
    "--thumbnails/--no-thumbnails", default=None,
    help="Keep a small picture of each clip for the report, 4 kB: it shows who is in the video. "
    "--thumbnails adds them to videos whose features are there, too.  [default: of the videos "
    "that are extracted]",
)  # fmt: skip
@click.option(
    "--limit", metavar="N", type=click.IntRange(min=1),
    help="Extract the first N videos that are missing.",
)  # fmt: skip
@click.option(
    "--dry-run", is_flag=True,
    help="Only say what would be done with each video: new, already there, or refused.",
)  # fmt: skip
@json_option
def extract_command(
    place: Path | None,
    videos_dir: Path | None,
    cache_dir: Path | str,
    streams: str,
    resize: str,
    crops: str,
    feature_map: bool,
    fps: float | None,
    folder_fps: float,
    clip_len: int,
    clip_stride: int | None,
    rgb_weights: str,
    flow_weights: str,
    c3d_weights: str,
    precision: str,
    device: str,
    workers: int | None,
    threads: int | None,
    batch: int | None,
    limits: Limits,
    cluster: Cluster | None,
    allow_mixed: bool,
    prefix: str,
    labels_of: Literal["cache", "videos"] | None,
    thumbnails: bool | None,
    limit: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Stage 1: compute the features of videos and fill the cache.

    A video is decoded, its TV-L1 flow is computed, and the I3D networks make features of both, or
    C3D of its frames (--streams c3d). DIR holds videos or folders of frames, or is one video; a
    labels.csv in it is added to the cache's. What the cache holds already is not done again. Exit
    code 1 if a video failed or could be decoded in part only; the others are finished all the same.

    FEAT_KERNELS=0 in the environment computes in plain PyTorch, without the compiled kernels and
    without numba: on a CPU tens of times as slow, the same features but for rounding.
    """
    from cache.exchange.mirror import mirrored
    from cache.exchange.remote import Remote
    from cache.records import check_video_name
    from data.names import video_name
    from extract.config import ExtractConfig
    from extract.decode.config import DecodeConfig
    from extract.devices import Resources, list_devices
    from extract.i3d.precision import precision_for
    from extract.run.plan import plan_extraction
    from extract.run.runner import run_extraction

    folder = place or videos_dir
    if folder is None or (place and given_here("videos_dir")):
        raise click.UsageError("name the folder of videos once: feat extract DIR")
    try:
        check_video_name(video_name(f"{prefix}x"))
    except ValueError as error:
        raise click.UsageError(f"--prefix {prefix!r} with a video named x: {error}") from error
    if fps and folder_fps != 25.0:
        # which frames of a folder are taken would then hang on --folder-fps, which is in no key
        raise click.UsageError("--fps and --folder-fps exclude each other")
    if crops != "1":
        if given_here("resize"):
            raise click.UsageError("--crops are cut from whole frames: leave --resize out")
        resize = "short-side"
    if cluster and precision == "auto":
        raise click.UsageError("--precision auto is one machine's: name one for a cluster")
    if cluster and workers:
        raise click.UsageError("--workers is for this machine: a cluster has its own")
    address = cache_dir if isinstance(cache_dir, str) else ""
    if address and not cluster:
        raise click.UsageError(
            "--cache takes an address with --cluster: here extract into a folder, then "
            f"feat cache push {address}"
        )
    # the default needs no look at the hardware, which would load torch
    if not cluster and precision != "float32":  # each worker of a cluster looks at its own
        precision = precision_for(list_devices(device)[0], precision)
    config = ExtractConfig(
        **_parse_streams(streams),
        decode=DecodeConfig(resize=resize, fps=fps),  # type: ignore[arg-type]
        clip_len=clip_len,
        clip_stride=clip_stride or clip_len,
        precision=precision,
        crops=int(crops),
        feature_map=feature_map,
    )
    terms: dict[str, Any] = {
        "weights": {"rgb": rgb_weights, "flow": flow_weights, "c3d": c3d_weights},
        "allow_mixed": allow_mixed,
        "prefix": prefix,
        "labels_of": labels_of or "",
        "limit": limit,
        # who is in the videos is nobody's business at an address, as of `feat cache push`
        "thumbnails": bool(thumbnails) if address else thumbnails,
        "folder_fps": folder_fps,
    }
    remote = Remote(address) if address else None
    shown = remote.url if remote else str(cache_dir)
    with mirrored(remote, dry_run=dry_run) if remote else nullcontext(Path(cache_dir)) as cache:
        if dry_run:
            plan = plan_extraction(folder, cache, config, **terms)
            plan.cache = shown
            click.echo(json.dumps(plan.to_json()) if as_json else plan.to_text())
            click.get_current_context().exit(int(bool(plan.refused)))
        report = run_extraction(
            folder,
            cache,
            config,
            resources=Resources(device=device, workers=workers, threads=threads, batch=batch),
            cluster=cluster,
            address=address,
            limits=limits,
            **terms,
        )
    report.cache = shown
    click.echo(json.dumps(report.to_json()) if as_json else report.to_text())
    if report.failed or report.partial:
        click.get_current_context().exit(1)


@examples(
    "feat preview clips/door.mp4 --at 12.5",
    "feat preview clips/door.mp4 --at 0:01:02",
    "feat preview frames/07 --folder-fps 10 --resize crop --out crop.png",
)
@click.command("preview")
@click.argument("video", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--at", "at_seconds", type=Time(), default=0.0, show_default=True, metavar="TIME",
    help="Show the clip with the frame that a player shows then: seconds, or a time like 0:01:02.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False),
    help="The picture, a PNG file.  [default: <video>-<seconds>s.png]",
)  # fmt: skip
@resize_option
@fps_option
@folder_fps_option
@takes_limits
def preview_command(
    video: Path, at_seconds: float, out: Path | None, resize: str, fps: float | None,
    folder_fps: float, limits: Limits,
) -> None:  # fmt: skip
    """Draw what the networks get of one clip of a video.

    The picture shows its frames, its flow and the flow's magnitude; with the RGB weights at hand
    also what the network takes the clip for: it names the action if preprocessing is right. The
    flow's colour is its direction, as the wheel beside it shows.
    """
    from data.output_file import PNG, check_outputs
    from data.videos import content_paths, find_videos
    from extract.config import ExtractConfig
    from extract.decode.config import DecodeConfig
    from extract.preview import preview_clip
    from extract.weights.listing import look_for_weights
    from extract.weights.resolve import read_entry, weights_folder

    source, *others = find_videos(video)
    if others:
        raise click.UsageError(f"{video} holds {1 + len(others)} videos: name one")
    rgb = next(one.file for one in look_for_weights(weights_folder()) if one.stream == "rgb")
    path = out or Path(f"{source.path.resolve().stem}-{at_seconds:g}s.png")
    check_outputs({path: PNG}, inputs=content_paths(source))
    lines = preview_clip(
        path,
        source,
        at_seconds,
        ExtractConfig(decode=DecodeConfig(resize=resize, fps=fps)),  # type: ignore[arg-type]
        rgb=read_entry(rgb) if rgb else None,
        folder_fps=folder_fps,
        limits=limits,
    )
    click.echo("\n".join([*lines, f"written: {path}"]))


@examples("feat doctor", "feat doctor --cache shared/features --offline")
@click.command("doctor")
@click.option(
    "--cache", "cache_dir", type=click.Path(path_type=Path),
    help="The feature cache to look at.  [default: features, if it is there]",
)  # fmt: skip
@click.option("--offline", is_flag=True, help="Do not try to reach the host of the weights.")
@json_option
@click.pass_context
def doctor_command(
    ctx: click.Context, cache_dir: Path | None, offline: bool, as_json: bool
) -> None:
    """Check that all is there that feat needs.

    Versions, ffmpeg, GPU, weights, cache, disk space and network: a line each, which begins with
    ok, warn or fail and says what to do. Exit code 1 if one fails. Nothing is changed or fetched.
    """
    from extract.doctor import run_checks
    from extract.weights.fetch import RGB_URL

    checks = run_checks(cache_dir, url="" if offline else RGB_URL)
    if as_json:
        click.echo(json.dumps({"checks": [asdict(check) for check in checks]}))
    else:
        click.echo("\n".join(line for check in checks for line in check.to_lines()))
    ctx.exit(int(any(check.state == "fail" for check in checks)))


@examples(
    "feat data template --videos clips/", "feat data template --videos clips/ --labels mine.csv"
)
@click.command("template")
@click.option(
    "--videos", "videos_dir", required=True, type=click.Path(path_type=Path, exists=True),
    help="Folder of videos or of folders of frames.",
)  # fmt: skip
@click.option(
    "--labels", "labels_file", type=click.Path(path_type=Path, dir_okay=False),
    help="The labels file to write or add to.  [default: labels.csv in the videos' folder]",
)  # fmt: skip
@takes_limits
def template_command(videos_dir: Path, labels_file: Path | None, limits: Limits) -> None:
    """Write a labels.csv with every video, to be filled in.

    Rows that are there stay as they are; only missing videos are added. Their frames are
    counted by decoding. Exit code 1 if a video could not be read, or in part only.
    """
    from data.visible import one_line
    from extract.template import fill_template

    path = labels_file or videos_dir / "labels.csv"
    report = fill_template(videos_dir, path, limits)
    for video, why in report.problems.items():
        click.echo(one_line(f"{video}: {why}"), err=True)
    todo = "; fill in split and anomaly, then run `feat extract`" if report.added else ""
    click.echo(f"{path}: {len(report.added)} videos added, {len(report.kept)} there before{todo}")
    if report.problems:
        click.get_current_context().exit(1)
