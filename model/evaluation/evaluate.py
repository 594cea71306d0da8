"""Evaluation of a run on one split of a cache: scores, measures, pictures and a report."""

import csv
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache import FeatureCache
from data.errors import ModelError
from data.labels import SPLITS, Split, VideoLabel, write_labels
from data.splits.protocols import Protocol as Supervision
from model.evaluation.released import CompatTable, compare_with_released
from model.evaluation.report import write_report
from model.features.load import FeatureSet, available_streams, drop_missing, named
from model.measures.metrics import VideoResult, frame_auc
from model.measures.table import AllMetrics, measure_all
from model.network.scoring import categories_of, score_with_all, video_results
from model.runs.checkpoint import Checkpoint, RunInfo, check_features_fit
from model.runs.finished import is_seeds_folder, load_run
from model.runs.folder import LABELS_NAME, METHOD_NAME, file_names, write_json
from model.training.material import check_labels, videos_without_frames
from model.training.train import resolve_device

logger = logging.getLogger(f"feat.{__name__}")

EVAL_NAME = "eval"
RELEASED_NAME = "released.md"


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """What an evaluation found, and where it is written."""

    run: Path
    cache: Path
    split: Split
    protocol: str
    supervision: Supervision
    """What labels the run was trained with."""
    labels_sha256: str
    """Of the labels evaluated with, as they lie in the folder."""
    metrics: AllMetrics
    report: Path
    released: CompatTable | None = None
    """The authors' published evaluation beside this one, where it was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return one flat dictionary of JSON types."""
        return {
            **self.metrics.to_dict(),
            "run": str(self.run),
            "cache": str(self.cache),
            "split": self.split,
            "protocol": self.protocol,
            "supervision": self.supervision,
            "labels_sha256": self.labels_sha256,
            "report": str(self.report),
            **({"released": self.released.to_dict()} if self.released else {}),
        }


def run_evaluation(
    run: Path,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    split: Split = "test",
    device: str = "auto",
    skip_missing: bool = False,
    allow_misaligned: bool = False,
    pictures: bool = True,
    released: bool = False,
    smoothing: float | None = None,
) -> EvalReport:
    """Score every frame of every video of a split and write `<run>/eval-<split>` (`eval` for test).

    Args:
        run: a finished run folder, or one of several seeds: then the mean of their models' scores
            and category probabilities is evaluated.
        cache: the features; no video is opened.
        labels: of all videos.
        split: which of them to evaluate.
        device: `auto` takes a GPU if there is one.
        skip_missing: leave labelled videos out that the cache lacks, instead of refusing.
        allow_misaligned: cut labels that go beyond their video, instead of refusing.
        pictures: draw curves and write `report.html`; without, measures and scores only.
        released: evaluate as the authors' published code does, too, for comparison.
        smoothing: of the frame scores, see `measures.smoothing`; default: the run's own.

    Raises:
        FeatError: the features are not those the run was trained on, videos are missing, a test
            video was trained on, or a run without windows is to be evaluated as released.
    """
    answer = _answer(run, cache, device, smoothing)
    wanted = sorted((row for row in labels if row.split == split), key=lambda row: row.video)
    if not wanted:
        raise ModelError(f"the labels name no video with split '{split}'; add some")
    available = available_streams(cache, [label.video for label in wanted])
    wanted = drop_missing(wanted, available, skip_missing=skip_missing)
    wanted = check_labels(cache, wanted, allow_misaligned=allow_misaligned)
    uncounted = videos_without_frames(cache, wanted)
    if uncounted:
        raise ModelError(
            f"{len(uncounted)} {split} videos were imported without a frame count, so that no "
            f"frame can be scored: {named(uncounted)}; import them again with --frames, or remove "
            "their rows"
        )
    if released and answer.released is None:
        raise ModelError(
            f"{run}: the published evaluation is one of windows of clips, which only the ConvLSTM "
            "has; leave --compat out"
        )
    results = answer.evaluate(wanted)
    metrics = measure_all(results, answer.categories)
    folder = run / (EVAL_NAME if split == "test" else f"{EVAL_NAME}-{split}")
    folder.mkdir(exist_ok=True)
    write_labels(folder / LABELS_NAME, labels)
    digest = hashlib.sha256((folder / LABELS_NAME).read_bytes()).hexdigest()
    protocol = f"{answer.protocol(split, len(results))}; {_split_words(labels, digest)}"
    if answer.labels_sha256 not in ("", digest):
        protocol += f", which are not those of the training ({answer.labels_sha256[:12]})"
    if answer.smoothing:
        protocol += f"; scores smoothed over {answer.smoothing:g} clips"
    table = answer.released(wanted) if released and answer.released else None
    report = EvalReport(
        run=run,
        cache=cache.path,
        split=split,
        protocol=protocol,
        supervision=answer.supervision,
        labels_sha256=digest,
        metrics=metrics,
        report=folder / "report.html",
        released=table,
    )
    (folder / RELEASED_NAME).unlink(missing_ok=True)
    if table:
        (folder / RELEASED_NAME).write_text(table.to_markdown(), encoding="utf-8")
    write_scores(folder, results)
    if pictures:
        write_report(
            folder,
            results,
            metrics,
            title=f"{run.name}: {split} videos",
            protocol=protocol,
            settings=answer.settings,
            released=table,
        )
    # Last: an evaluation with measures is a whole one.
    write_json(folder / "metrics.json", report.to_dict())
    return report


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What a run says of videos, whatever kind of run it is."""

    evaluate: Callable[[Sequence[VideoLabel]], list[VideoResult]]
    protocol: Callable[[Split, int], str]
    supervision: Supervision
    labels_sha256: str
    """Of the labels it was trained with; empty if they are not known."""
    categories: tuple[str, ...]
    settings: dict[str, Any]
    smoothing: float
    released: Callable[[Sequence[VideoLabel]], CompatTable] | None = None
    """The published evaluation; None for what has no windows."""


def _answer(run: Path, cache: FeatureCache, device: str, smoothing: float | None) -> _Answer:
    if (run / METHOD_NAME).exists():
        return _method_answer(run, cache, smoothing or 0.0)
    several = is_seeds_folder(run)
    checkpoints = load_run(run, device=resolve_device(device))
    info = checkpoints[0].info
    check_features_fit(info, cache, where=str(run))

    def released(labels: Sequence[VideoLabel]) -> CompatTable:
        (one,) = checkpoints
        data = _load(checkpoints, cache, labels)
        return compare_with_released(one.network, one.inputs(data), data, info.categories)

    def protocol(split: Split, count: int) -> str:
        words = describe_protocol(info, split, count)
        return f"mean of {len(checkpoints)} seeds' models, each {words}" if several else words

    seeds = {"seeds": [one.info.train.seed for one in checkpoints]} if several else {}
    return _Answer(
        evaluate=lambda labels: evaluate_videos(checkpoints, cache, labels, smoothing=smoothing),
        protocol=protocol,
        supervision="fully",
        labels_sha256=info.labels_sha256,
        categories=categories_of(checkpoints),
        settings={**seeds, **info.to_dict()},
        smoothing=info.model.smoothing if smoothing is None else smoothing,
        released=None if several else released,
    )


def _method_answer(run: Path, cache: FeatureCache, smoothing: float) -> _Answer:
    from model.methods.runs import load_method, load_test_features, score_with_method

    info, parameters = load_method(run / METHOD_NAME)

    def evaluate(labels: Sequence[VideoLabel]) -> list[VideoResult]:
        data = load_test_features(info, cache, labels)
        check_unseen(data, {**info.train_videos, **info.val_videos}, info.clip_len)
        return score_with_method(info, parameters, cache, data, smoothing=smoothing)

    return _Answer(
        evaluate=evaluate,
        protocol=info.protocol,
        supervision=info.method.supervision,
        labels_sha256=info.labels_sha256,
        categories=(),
        settings=info.to_dict(),
        smoothing=smoothing,
    )


def evaluate_videos(
    checkpoints: Sequence[Checkpoint],
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    smoothing: float | None = None,
) -> list[VideoResult]:
    """Return the scores of the labelled videos beside the truth.

    They are smoothed as the run was configured, or by `smoothing` clips; of several seeds'
    checkpoints they are the mean.

    Raises:
        ModelError: a test video was trained on or selected the model.
    """
    data = _load(checkpoints, cache, labels)
    return video_results(score_with_all(checkpoints, data, smoothing=smoothing), data)


def _load(
    checkpoints: Sequence[Checkpoint], cache: FeatureCache, labels: Sequence[VideoLabel]
) -> FeatureSet:
    """Return the features of videos that none of the checkpoints has seen."""
    data = checkpoints[0].load_features(cache, labels)
    for one in checkpoints:
        check_unseen(data, one.info.seen_videos, one.info.clip_len)
    return data


def check_unseen(data: FeatureSet, known: Mapping[str, str], clip_len: int) -> None:
    """Refuse test videos that a run has seen, and clips of another length than its own.

    Args:
        data: what is to be evaluated.
        known: name -> sha256 of the videos that the run was trained or selected on.
        clip_len: of the clips it was trained on.

    Raises:
        ModelError: either is so.
    """
    if data.clip_len != clip_len:
        raise ModelError(
            f"the cache's clips have {data.clip_len} frames, the run was trained on clips of "
            f"{clip_len}"
        )
    contents = set(known.values())
    trained_on = [
        label.video
        for label, sha256 in zip(data.labels, data.sha256, strict=True)
        if label.split == "test" and (label.video in known or sha256 in contents)
    ]
    if trained_on:
        raise ModelError(
            f"{len(trained_on)} test videos were used to train this run: {named(trained_on)}; "
            "evaluate with the labels it was trained with, or train again"
        )


def _split_words(labels: Sequence[VideoLabel], digest: str) -> str:
    """Return which split it is, as far as labels tell: how many videos are for what."""
    counts = Counter(label.split for label in labels)
    parts = ", ".join(f"{counts[split]} {split}" for split in SPLITS if counts[split])
    return f"split of labels.csv {digest[:12]} ({parts})"


def describe_protocol(info: RunInfo, split: Split, num_videos: int) -> str:
    """Return in words what kind of number this evaluation gives."""
    warning = "" if split == "test" else f" (NOT a test result: the {split} part was seen)"
    if "imported_from" in info.result:
        return (
            f"fully supervised elsewhere (checkpoint {info.result['imported_from']}, "
            f"{info.result['imported_sha256'][:12]}; whether it has seen these videos is not "
            f"known), frame-level on {num_videos} {split} videos{warning}"
        )
    refit = int(info.result.get("refit_from", 0))
    selected = (
        f"{refit} of them held out to select, then trained on too"
        if refit
        else f"selected on {len(info.val_videos)} others"
    )
    return (
        f"fully supervised (frame labels of {len(info.train_videos)} training videos, "
        f"{selected}), frame-level on {num_videos} {split} videos{warning}"
    )


def write_scores(folder: Path, results: Sequence[VideoResult]) -> None:
    """Write `scores.npz`, `scores/<video>.csv` for each video, and `videos.csv`."""
    np.savez_compressed(
        folder / "scores.npz",
        videos=np.array([result.video for result in results]),
        num_frames=np.array([len(result.scores) for result in results]),
        scores=np.concatenate([result.scores.astype(np.float32) for result in results]),
        labels=np.concatenate(
            [
                np.full(len(r.scores), -1, np.int8)
                if r.labels is None
                else r.labels.astype(np.int8)
                for r in results
            ]
        ),
    )
    names = file_names([result.video for result in results])
    (folder / "scores").mkdir(exist_ok=True)
    with (folder / "videos.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["video", "frames", "abnormal", "auc", "peak", "category", "predicted", "scores"]
        )
        for result, name in zip(results, names, strict=True):
            auc = frame_auc([result])[0]
            writer.writerow(
                [
                    result.video,
                    len(result.scores),
                    "?" if result.labels is None else int(result.labels.sum()),
                    "" if auc is None else f"{auc:.4f}",
                    f"{result.scores.max():.4f}",
                    result.category,
                    result.predicted,
                    f"scores/{name}.csv",
                ]
            )
            _write_frames(folder / "scores" / f"{name}.csv", result)


def _write_frames(path: Path, result: VideoResult) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame", "score", "label"])
        for frame, score in enumerate(result.scores):
            label = "" if result.labels is None else int(result.labels[frame])
            writer.writerow([frame, f"{score:.6f}", label])
