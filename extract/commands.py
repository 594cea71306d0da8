"""`feat extract` and `feat data template`, which counts frames as extraction does."""

import json
from pathlib import Path
from typing import Literal

import click

from extract.backbones import BACKBONES
from extract.decode.limits import Limits

POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command("extract")
@click.option(
    "--videos", "videos_dir", required=True, type=click.Path(path_type=Path, exists=True),
    help="Folder of videos or of folders of frames; a labels.csv in it is added to the cache's.",
)  # fmt: skip
@click.option(
    "--cache", "cache_dir", default="features", show_default=True, type=click.Path(path_type=Path),
    help="The feature cache.",
)  # fmt: skip
@click.option(
    "--streams", default="rgb,flow", show_default=True,
    help=f"Which of {', '.join(BACKBONES)}, by comma.",
)  # fmt: skip
@click.option(
    "--resize", type=click.Choice(["squash", "crop"]), default="squash", show_default=True,
    help="The whole frame squashed to 224x224, or its centre as Kinetics models were trained.",
)  # fmt: skip
@click.option("--fps", type=float, help="Resample to so many frames a second; else every frame.")
@click.option(
    "--folder-fps", type=POSITIVE, default=25.0, show_default=True,
    help="Frame rate of folders of images, for the times of clips.",
)  # fmt: skip
@click.option("--clip-len", type=int, default=16, show_default=True, help="Frames a clip.")
@click.option("--clip-stride", type=int, help="Frames between clips; default: the clip length.")
@click.option(
    "--rgb-weights", default="auto", show_default=True, help="auto, or a checkpoint file."
)
@click.option(
    "--flow-weights", default="auto", show_default=True,
    help="auto (published, else cross-modality), crossmodal, or a checkpoint file.",
)  # fmt: skip
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16", "float16", "auto"]),
    default="float32", show_default=True,
    help="Of the network. auto: bfloat16 where the hardware multiplies it natively. "
    "Part of the key: a team that shares a cache chooses one.",
)  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--workers", type=click.IntRange(min=1),
    help="Videos at a time; default: one a GPU, else one for every four cores.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads in all; default: cores.")
@click.option(
    "--stall-seconds", type=POSITIVE, envvar="FEAT_STALL_SECONDS", default=60.0, show_default=True,
    help="Give a video up when no frame of it has come for so long.",
)  # fmt: skip
@click.option(
    "--max-pixels", type=click.IntRange(min=1), default=Limits.max_pixels, show_default=True,
    help="Refuse a video or an image with larger frames; takes memory. This and the bounds below "
    "change no feature and are in no key.",
)  # fmt: skip
@click.option(
    "--max-frames", type=click.IntRange(min=1), default=Limits.max_frames, show_default=True,
    help="Refuse a video with more frames.",
)  # fmt: skip
@click.option(
    "--max-seconds", type=POSITIVE, default=Limits.max_seconds, show_default=True,
    help="Refuse a video whose last frame is further from the first, by their times.",
)  # fmt: skip
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def extract_command(
    videos_dir: Path,
    cache_dir: Path,
    streams: str,
    resize: str,
    fps: float | None,
    folder_fps: float,
    clip_len: int,
    clip_stride: int | None,
    rgb_weights: str,
    flow_weights: str,
    precision: str,
    device: str,
    workers: int | None,
    threads: int | None,
    stall_seconds: float,
    max_pixels: int,
    max_frames: int,
    max_seconds: float,
    allow_mixed: bool,
    prefix: str,
    labels_of: Literal["cache", "videos"] | None,
    as_json: bool,
) -> None:
    """Stage 1: decode videos, compute TV-L1 flow and I3D features, fill the cache.

    What the cache holds already is not done again. Exit code 1 if a video failed or could be
    decoded in part only; the others are finished all the same.

    FEAT_KERNELS=0 in the environment computes in plain PyTorch, without the compiled kernels and
    without numba: on a CPU tens of times as slow, the same features but for rounding.
    """
    from extract.config import ExtractConfig
    from extract.decode.config import DecodeConfig
    from extract.devices import Resources, list_devices
    from extract.i3d.precision import precision_for
    from extract.runner import run_extraction

    if fps and folder_fps != 25.0:
        # which frames of a folder are taken would then hang on --folder-fps, which is in no key
        raise click.UsageError("--fps and --folder-fps exclude each other")
    # the default needs no look at the hardware, which would load torch
    first_device = "cpu" if precision == "float32" else list_devices(device)[0]
    config = ExtractConfig(
        streams=tuple(name.strip() for name in streams.split(",")),
        decode=DecodeConfig(resize=resize, fps=fps),  # type: ignore[arg-type]
        clip_len=clip_len,
        clip_stride=clip_stride or clip_len,
        precision=precision_for(first_device, precision),
    )
    report = run_extraction(
        videos_dir,
        cache_dir,
        config,
        weights={"rgb": rgb_weights, "flow": flow_weights},
        resources=Resources(device=device, workers=workers, threads=threads),
        folder_fps=folder_fps,
        limits=Limits(
            max_pixels=max_pixels,
            max_frames=max_frames,
            max_seconds=max_seconds,
            stall_seconds=stall_seconds,
        ),
        allow_mixed=allow_mixed,
        prefix=prefix,
        labels_of=labels_of or "",
    )
    click.echo(json.dumps(report.to_json()) if as_json else report.to_text())
    if report.failed or report.partial:
        click.get_current_context().exit(1)


@click.command("template")
@click.option(
    "--videos", "videos_dir", required=True, type=click.Path(path_type=Path, exists=True),
    help="Folder of videos or of folders of frames.",
)  # fmt: skip
@click.option(
    "--labels", "labels_file", type=click.Path(path_type=Path, dir_okay=False),
    help="The labels file to write or add to.  [default: labels.csv in the videos' folder]",
)  # fmt: skip
def template_command(videos_dir: Path, labels_file: Path | None) -> None:
    """Write a labels.csv with every video, its frames and seconds, to be filled in.

    Rows that are there stay as they are; only missing videos are added. Frames are counted by
    decoding. Exit code 1 if a video could not be read, or in part only.
    """
    from data.visible import one_line
    from extract.template import fill_template

    path = labels_file or videos_dir / "labels.csv"
    report = fill_template(videos_dir, path)
    for video, why in report.problems.items():
        click.echo(one_line(f"{video}: {why}"), err=True)
    todo = "; fill in split and anomaly, then run `feat extract`" if report.added else ""
    click.echo(f"{path}: {len(report.added)} videos added, {len(report.kept)} there before{todo}")
    if report.problems:
        click.get_current_context().exit(1)
