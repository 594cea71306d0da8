"""The command `feat predict`."""

import json
import logging
from pathlib import Path

import click

from cache.commands.options import FOLDER, json_option
from data.help_text import examples
from data.number_option import Number
from extract.commands import takes_limits
from extract.decode.limits import Limits
from model.commands.options import RunFolder

logger = logging.getLogger(f"feat.{__name__}")


@examples(
    "feat predict new.mp4",
    "feat predict clips/ --csv intervals.csv --vtt subtitles",
    "feat predict new.mp4 --run runs/mine --threshold 0.7 --plot pictures",
    "feat predict new.mp4 --cut alarms --pad 2 --render shown",
)
@click.command("predict")
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--run", type=RunFolder(), help="The run folder.  [default: the newest in --runs]")
@click.option(
    "--runs", type=FOLDER, default=Path("runs"), show_default=True, help="Folder of run folders."
)
@click.option(
    "--cache", "cache_dir", type=FOLDER,
    help="A cache in which features are looked for; nothing is written to it.  "
    "[default: features, if it is there]",
)  # fmt: skip
@click.option(
    "--keep", "keep_dir", type=FOLDER, default=Path("predict-features"), show_default=True,
    help="The cache that keeps features which --cache lacks, for the next time.",
)  # fmt: skip
@click.option(
    "--threshold", type=Number(0, 1),
    help="Frames with this score or more are abnormal.  [default: the one fitted for the run, "
    "else 0.5]",
)  # fmt: skip
@click.option(
    "--csv", "csv_path", type=click.Path(dir_okay=False, path_type=Path),
    help="Write a table of the abnormal intervals of all videos: a row an interval.",
)  # fmt: skip
@click.option(
    "--scores", "scores_path", type=click.Path(path_type=Path),
    help="Frame scores: a file ending in .csv for one video, else a folder of one file a video.",
)  # fmt: skip
@click.option(
    "--vtt", "vtt_dir", type=FOLDER,
    help="Folder for WebVTT subtitles of each video: players show them over its intervals.",
)  # fmt: skip
@click.option(
    "--plot", "plot_dir", type=FOLDER,
    help="Folder for a picture of each video: its score over time and the frames at its peaks.",
)  # fmt: skip
@click.option(
    "--cut", "cut_dir", type=FOLDER,
    help="Folder for the abnormal intervals as videos of their own, with their sound.",
)  # fmt: skip
@click.option(
    "--pad", "pad_seconds", type=Number(min=0), default=0.0, show_default=True,
    metavar="SECONDS", help="Cut so much more before and after each interval.",
)  # fmt: skip
@click.option(
    "--render", "render_dir", type=FOLDER,
    help="Folder for copies of the videos with the score over time below, and their sound.",
)  # fmt: skip
@click.option(
    "--rgb-weights", type=click.Path(path_type=Path, dir_okay=False),
    help="The checkpoint file that the run's features were made with, if it is not in the "
    "weights folder.",
)  # fmt: skip
@click.option(
    "--flow-weights", type=click.Path(path_type=Path, dir_okay=False), help="The same for flow."
)
@click.option(
    "--folder-fps", type=Number(min=0, min_open=True), default=25.0, show_default=True,
    help="Frame rate of folders of images.",
)  # fmt: skip
@takes_limits
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads in all; default: cores.")
@json_option
def predict_command(
    videos: tuple[Path, ...],
    run: Path | None,
    runs: Path,
    cache_dir: Path | None,
    keep_dir: Path,
    threshold: float | None,
    csv_path: Path | None,
    scores_path: Path | None,
    vtt_dir: Path | None,
    plot_dir: Path | None,
    cut_dir: Path | None,
    pad_seconds: float,
    render_dir: Path | None,
    rgb_weights: Path | None,
    flow_weights: Path | None,
    folder_fps: float,
    limits: Limits,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find what is abnormal in any videos with a trained run.

    Abnormal intervals, the highest score and a category are printed of each. VIDEOS are video
    files, folders of frames or folders of videos. Their features are made as
    the run's were, which the run folder records, and kept apart from those one trains on and
    shares; what either cache holds already is not done again.
    Of a run of several seeds (`feat train --seeds`) the scores are the mean of theirs.
    `feat threshold` fits the threshold to a budget of false alarms.
    Frames count from 0 and the end of an interval is not in it. Exit code 1 if a video failed or
    could be decoded in part only.
    """
    from model.runs.folder import newest_run

    if run is None:
        run = newest_run(runs)
        logger.info("run: %s, the newest in %s", run, runs)

    from extract.encode import Reading
    from predict.outputs import (
        Outputs,
        check_outputs_of,
        report_json,
        report_lines,
        write_intervals,
        write_outputs,
    )
    from predict.scoring import ExtractOptions, run_prediction
    from predict.sought import find_sought

    options = ExtractOptions(
        cache_dir=cache_dir,
        keep_dir=keep_dir,
        device=device,
        threads=threads,
        folder_fps=folder_fps,
        limits=limits,
        rgb_weights=rgb_weights,
        flow_weights=flow_weights,
    )
    sought = find_sought(videos)
    if scores_path and scores_path.suffix == ".csv" and len(sought) > 1:
        raise click.UsageError(
            f"--scores {scores_path}: {len(sought)} videos need a folder, not a file"
        )
    outputs = Outputs(
        csv=csv_path,
        scores=scores_path,
        vtt=vtt_dir,
        plot=plot_dir,
        cut=cut_dir,
        pad_seconds=pad_seconds,
        render=render_dir,
    )
    check_outputs_of(sought, outputs)
    config = run_prediction(sought, run, options, threshold=threshold)
    write_outputs(sought, outputs, Reading(fps=config.decode.fps, folder=folder_fps, limits=limits))
    if as_json:
        click.echo(json.dumps(report_json(sought, run, keep_dir, csv_path)))
    else:
        click.echo("\n".join(report_lines(sought)))
    if csv_path:  # what fails here has the results printed already
        write_intervals(csv_path, sought)
        if not as_json:
            click.echo(f"all intervals: {csv_path}")
    if any(each.error or (each.prediction and each.prediction.partial) for each in sought):
        click.get_current_context().exit(1)
