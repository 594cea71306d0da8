"""The commands that work on labels of any dataset: `feat data split`, `consensus`, `convert`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from data.help_text import examples
from data.number_option import SEED, Number
from data.splits.options import fold_option, folds_option, require_fold

if TYPE_CHECKING:
    from data.annotation.convert import Format
    from data.labels import Split, VideoLabel
    from data.splits.protocols import Protocol

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
ANY = click.Path(path_type=Path)
OUT_FILE = click.Path(dir_okay=False, path_type=Path)
FORMATS = ["labels", "ucf", "masks", "npy", "activitynet"]


@examples(
    "feat data split --labels labels.csv --out new.csv --scheme halves --val 0.2",
    "feat data split --labels labels.csv --out fold3.csv --scheme folds --folds 5 --fold 3",
)
@click.command()
@click.option("--labels", "labels_file", type=FILE, required=True, help="The labels to divide.")
@click.option("--out", type=OUT_FILE, required=True, help="The labels file to write.")
@click.option(
    "--scheme",
    type=click.Choice(["keep", "halves", "folds", "lad"]),
    default="keep",
    show_default=True,
    help="keep: the parts as they are. halves: random halves of the normal and of the abnormal"
    " videos. folds: k-fold, stratified. lad: a fixed number of abnormal and normal test videos"
    " of each category.",
)
@folds_option
@fold_option
@click.option(
    "--per-category",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="lad: test videos of each kind in each category.",
)
@click.option(
    "--protocol",
    type=click.Choice(["fully", "weakly", "video", "unsupervised"]),
    default="fully",
    show_default=True,
    help="fully: frame labels reach training. weakly: video labels only ('?'). video: video labels"
    " taken for frame labels, every frame of an abnormal training video is abnormal. unsupervised:"
    " normal training videos only.",
)
@click.option(
    "--val",
    type=Number(0, 1, min_open=True, max_open=True),
    help="Share of the training videos to set aside for validation.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Random seed.")
@click.option(
    "--videos",
    type=FOLDER,
    help="The videos, to find copies under two names.  [default: the labels file's folder]",
)
@click.option(
    "--ignore-scenes",
    is_flag=True,
    help="Let videos of one scene be in two parts (official splits do).",
)
def split_command(
    labels_file: Path,
    out: Path,
    scheme: str,
    folds: int,
    fold: int,
    per_category: int,
    protocol: "Protocol",
    val: float | None,
    seed: int,
    videos: Path | None,
    ignore_scenes: bool,
) -> None:
    """Divide videos into train, val and test.

    It is checked that the parts share nothing. Videos of one scene (column scene) and copies of one
    video stay together.
    """
    from data.labels import LABELS_FILE, read_labels, write_labels
    from data.output_file import check_outputs
    from data.splits import divide as splits
    from data.splits import leaks, protocols

    check_outputs({out: LABELS_FILE}, inputs=[labels_file])
    if scheme == "folds":
        require_fold(fold, folds)
    labels = read_labels(labels_file)
    content = leaks.content_marks(labels, videos or labels_file.parent)
    if len(content) < len(labels):
        click.echo(
            f"warning: {len(labels) - len(content)} videos not found under"
            f" {videos or labels_file.parent}: copies among them would not be noticed (--videos)",
            err=True,
        )
    groups = leaks.linked_videos(labels, content=content, scenes=not ignore_scenes)
    schemes: dict[str, Callable[[], list[VideoLabel]]] = {
        "keep": lambda: labels,
        "halves": lambda: splits.random_halves(labels, seed=seed, groups=groups),
        "folds": lambda: splits.k_fold(labels, folds=folds, fold=fold, seed=seed, groups=groups),
        "lad": lambda: protocols.lad_recipe(
            labels, seed=seed, per_category=per_category, groups=groups
        ),
    }
    divided = schemes[scheme]()
    if val is not None:
        divided = splits.validation_part(divided, share=val, seed=seed, groups=groups)
    leaks.check_leaks(divided, content=content, scenes=not ignore_scenes)
    divided = protocols.apply_protocol(divided, protocol)
    write_labels(out, divided)
    click.echo(f"{splits.split_summary(divided)}\n{out}: {len(divided)} videos")


@examples(
    "feat data consensus ann.csv bob.csv eve.csv --out labels.csv",
    "feat data consensus ann.csv bob.csv --out labels.csv --json",
)
@click.command()
@click.argument("annotators", nargs=-1, required=True, type=FILE)
@click.option("--out", type=OUT_FILE, required=True, help="The labels file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the agreement as one JSON object.")
def consensus_command(annotators: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Unite the labels files of several annotators.

    As LAD was labelled: the frames' labels are averaged and binarised at 0.5; agreement is printed
    for each video. Clicks and '?' have no vote on frames; clicks are compared with what the others
    agree on.
    """
    from data.annotation.consensus import agreement_records, agreement_table, consensus
    from data.labels import LABELS_FILE, read_labels, write_labels
    from data.output_file import check_outputs

    check_outputs({out: LABELS_FILE}, inputs=annotators)
    labels, agreements = consensus([read_labels(path) for path in annotators])
    source = f"consensus of {', '.join(path.name for path in annotators)}"
    labels = [replace(label, source=source) for label in labels]
    write_labels(out, labels)
    if as_json:
        click.echo(json.dumps({"labels": str(out), "videos": agreement_records(agreements)}))
    else:
        click.echo(f"{agreement_table(agreements)}\n{out}: {len(labels)} videos")


@examples(
    "feat data convert labels.csv masks/ --to masks",
    "feat data convert anet.json labels.csv --from activitynet --fps 25",
)
@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=ANY)
@click.option(
    "--from", "source_format", type=click.Choice([*FORMATS, "boxes"]), default="labels",
    show_default=True,
    help="Format of SOURCE. masks: a folder of one .npy a video. npy: one array for all videos. "
    "boxes: a pickle of the boxes in each video.",
)  # fmt: skip
@click.option(
    "--to", "target_format", type=click.Choice(FORMATS), default="labels", show_default=True,
    help="Format of TARGET.",
)  # fmt: skip
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test"]),
    default="test",
    show_default=True,
    help="Of the videos, where the format does not tell.",
)
@click.option(
    "--fps",
    type=Number(min=0, min_open=True),
    help="Frames a second, for activitynet and labels in seconds.",
)
@click.option(
    "--like", type=FILE, help="A labels file of the same videos: names, splits, lengths, order."
)
def convert_command(
    source: Path,
    target: Path,
    source_format: "Format",
    target_format: "Format",
    split: "Split",
    fps: float | None,
    like: Path | None,
) -> None:
    """Convert labels.csv into other formats and back.

    The formats are UCF-Crime's text, masks of frames, one array of all videos, and ActivityNet's
    JSON.
    """
    from data.annotation.convert import read_format, write_format
    from data.labels import read_labels

    known = read_labels(like) if like else None
    labels = read_format(source, source_format, split=split, fps=fps, like=known)
    inputs = [source, *source.rglob("*.npy"), *([like] if like else [])]
    write_format(target, labels, target_format, fps=fps, inputs=inputs)
    click.echo(f"{target}: {len(labels)} videos")
