"""Evaluation of a run on one split of a cache: scores, measures and a report."""

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any
from zipfile import BadZipFile

from cache import FeatureCache
from data.errors import ModelError
from data.files import write_json, write_whole
from data.labels import SPLITS, Split, VideoLabel, write_labels
from data.output_file import check_folder
from data.sources import UNKNOWN, count_sources, sources_text
from data.splits.protocols import Supervision
from model.evaluation.compat import TITLES, CompatTable
from model.evaluation.published import check_published, compare_with_published
from model.evaluation.report import REPORT_NAME, write_report
from model.evaluation.results import changed_contents, read_results, write_scores
from model.evaluation.ruled import RuledMeasures, measure_ruled
from model.evaluation.snapshots import ThreeNumbers, three_numbers
from model.evaluation.why import WHY_NAME, explain_videos, far_videos, read_why
from model.features.aligned import check_labels, videos_without_frames
from model.features.choose import available_streams, drop_missing, named
from model.features.load import FeatureSet
from model.measures.metrics import VideoResult
from model.measures.normalising import Normalise, ScoreRule
from model.measures.scores import video_results
from model.measures.table import AllMetrics, measure_all
from model.methods.gather import DataOptions
from model.runs.checkpoint import RunInfo
from model.runs.folder import (
    EVAL_NAME,
    LABELS_NAME,
    MEASURES_NAME,
    labels_digest,
)
from model.runs.threshold import StoredThreshold
from model.runs.trained import TrainedRun, load_run

logger = logging.getLogger(f"feat.{__name__}")


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
    label_sources: Mapping[str, Mapping[str, int]]
    """Of the videos that the run has seen, and of those evaluated: kind and source -> videos."""
    metrics: AllMetrics
    report: Path
    threshold: StoredThreshold | None
    """The one that was fitted for the run, if it fits the smoothing evaluated with."""
    compat: CompatTable | None = None
    """A published evaluation beside this one, where it was asked for."""
    snapshots: ThreeNumbers | None = None
    """Of a run of one seed that kept some."""
    ruled: RuledMeasures | None = None
    """The measures of scores that were changed by a rule, where one was asked for."""

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
            "label_sources": self.label_sources,
            "report": str(self.report),
            "threshold": self.threshold.to_dict() if self.threshold else None,
            **({"compat": self.compat.to_dict()} if self.compat else {}),
            **({"snapshots": self.snapshots.to_dict()} if self.snapshots else {}),
            **({"ruled": self.ruled.to_dict()} if self.ruled else {}),
        }

    def values(self) -> dict[str, float | None]:
        """Return every measure, also those of snapshots and of changed scores."""
        return {
            **self.metrics.values,
            **(self.snapshots.aucs() if self.snapshots else {}),
            **(self.ruled.values() if self.ruled else {}),
        }


def run_evaluation(
    run: Path,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    split: Split = "test",
    device: str = "auto",
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    pictures: bool = True,
    compat: str | None = None,
    smoothing: float | None = None,
    normalise: Normalise = "none",
    drop_first: int | None = None,
    out: Path | None = None,
) -> EvalReport:
    """Score every frame of every video of a split and write the evaluation's folder.

    Args:
        run: a finished run folder of any method, or one of several seeds: then the mean of their
            models' scores and category probabilities is evaluated.
        cache: the features; no video is opened.
        labels: of all videos.
        split: which of them to evaluate.
        device: `auto` takes a GPU if there is one.
        options: what is let pass, and configurations to take instead of those trained on. The
            streams are those of the run.
        pictures: write `report.html`; without, measures and scores only.
        compat: evaluate as published code does, too, for comparison; one of `TITLES`.
        smoothing: of the frame scores, in clips; default: as the run was configured.
        normalise: of the scores, to measure them so, too, beside the measures of the scores as
            they are.
        drop_first: frames at the beginning of each video that are not scored there; default: none,
            of the evaluation of one-class papers those they leave out.
        out: the folder to write; default: `<run>/eval-<split>` (`eval` for test).

    Raises:
        FeatError: the folder cannot be written, the features are not those the run was trained on,
            videos are missing, a test video was trained on or has no frame left, a run without
            windows is to be evaluated as released, or there is nothing to measure for want of
            frame counts.
    """
    trained = load_run(run, device=device)
    folder = out or evaluation_folder(run, split)
    check_folder(folder, advice="--out FOLDER keeps the evaluation elsewhere")
    if not options.configs:
        trained.check_cache(cache)
    rule = ScoreRule(normalise=normalise, drop_first=drop_first or 0)
    named_videos = [row for row in labels if row.split == split and row.category]
    of_frames = bool(compat) or rule != ScoreRule() or not (trained.categories and named_videos)
    wanted = choose_videos(cache, labels, split, trained.options(options), of_frames=of_frames)
    if compat:
        check_published(compat, trained)
    data = trained.load_features(cache, wanted, options.configs)
    check_unseen(data, trained)
    results = video_results(trained.score(data, smoothing=smoothing), data)
    threshold = trained.threshold_at(smoothing)
    fitted = threshold.value if threshold else None
    metrics = measure_all(results, trained.categories, threshold=fitted)
    ruled = measure_ruled(results, trained.categories, rule, threshold=fitted)
    table = (
        compare_with_published(
            compat, trained, data, results, smoothing=smoothing, drop_first=drop_first
        )
        if compat
        else None
    )
    snapshots = three_numbers(trained, cache, data, configs=options.configs, smoothing=smoothing)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MEASURES_NAME).unlink(missing_ok=True)
    if changed := changed_contents(folder, results):
        logger.warning(
            "%d %s videos have another content than in the evaluation before, under the same "
            "names: %s; figures of the two cannot be compared: if that was not meant, extract the "
            "former files again",
            len(changed),
            split,
            named(changed),
        )
    write_scores(folder, results)  # first: by it a folder of an evaluation is told
    write_labels(folder / LABELS_NAME, labels)
    digest = labels_digest(folder)
    counts = metrics.counts
    protocol = describe_protocol(
        trained,
        split,
        len(results),
        uncounted=counts["num_uncounted_videos"],
        weak=counts["num_weak_videos"],
    )
    sources = {"seen": dict(trained.info.label_sources), split: count_sources(data.labels)}
    for part, counts in sources.items():
        protocol += f"; {part} videos: {sources_text(counts) if counts else UNKNOWN}"
    protocol += f"; {_split_words(labels, digest)}"
    if trained.info.labels_sha256 not in ("", digest):
        protocol += f", which are not those of the training ({trained.info.labels_sha256[:12]})"
    used = trained.smoothing if smoothing is None else smoothing
    if used:
        protocol += f"; scores smoothed over {used:g} clips"
    if threshold and threshold.rule.of > 1:
        protocol += f"; scores that {threshold.rule.needs} of {threshold.rule.of} clips reach"
    report = EvalReport(
        run=run,
        cache=cache.path,
        split=split,
        protocol=protocol,
        supervision=trained.info.method.supervision,
        labels_sha256=digest,
        label_sources=sources,
        metrics=metrics,
        threshold=threshold,
        report=folder / REPORT_NAME,
        compat=table,
        snapshots=snapshots,
        ruled=ruled,
    )
    for name in (WHY_NAME, *(f"{name}.md" for name in TITLES)):
        (folder / name).unlink(missing_ok=True)
    if table:
        write_whole(folder / f"{table.name}.md", table.to_markdown())
    if pictures:
        why = explain_videos(results, data, cache, trained.reference)
        far = [r.video for r, is_far in zip(results, far_videos(why), strict=True) if is_far]
        if far:
            logger.warning(
                "%d of %d videos are far from the training videos: their scores may mean little: "
                "%s",
                len(far),
                len(results),
                named(far),
            )
        write_json(folder / WHY_NAME, why)
        _write_page(folder, results, report.to_dict(), trained)
    # Last: an evaluation with measures is a whole one.
    write_json(folder / MEASURES_NAME, report.to_dict())
    return report


def write_page_again(run: Path, *, split: Split = "test", videos: Path | None = None) -> Path:
    """Write the page of an evaluation from what that left in its folder; return the page's path.

    Args:
        run: the folder of a run or of several seeds, evaluated before.
        split: which evaluation.
        videos: folder of the video files, for the page to play.

    Raises:
        FeatError: there is no such run or evaluation, or its files cannot be read.
    """
    trained = load_run(run, device="cpu")
    with reading_evaluation(run, split) as (found, results):
        folder = evaluation_folder(run, split)
        return _write_page(folder, results, found, trained, videos)


@contextmanager
def reading_evaluation(
    run: Path, split: Split
) -> Iterator[tuple[dict[str, Any], list[VideoResult]]]:
    """Give what `metrics.json` holds and the results to a block, whose failures are damaged files.

    Raises:
        ModelError: there is no such evaluation, its files cannot be read, or they hold something
            else than the block takes from them.
    """
    folder = evaluation_folder(run, split)
    again = f"run `feat eval --run {quote(str(run))} --split {split}`"
    if not (folder / MEASURES_NAME).is_file():
        raise ModelError(f"{run}: its {split} videos are not evaluated yet; {again}")
    try:
        found = json.loads((folder / MEASURES_NAME).read_text(encoding="utf-8"))
        yield found, read_results(folder)
    except (OSError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise ModelError(
            f"{folder}: its results cannot be read: {type(error).__name__}: {error}; {again}"
        ) from error


def evaluation_folder(run: Path, split: Split) -> Path:
    """Return where the evaluation of a run on a split is kept."""
    return run / (EVAL_NAME if split == "test" else f"{EVAL_NAME}-{split}")


def _write_page(
    folder: Path,
    results: Sequence[VideoResult],
    found: Mapping[str, Any],
    trained: TrainedRun,
    videos: Path | None = None,
) -> Path:
    title = f"{trained.path.name}: {found['split']} videos"
    settings = _settings_of(trained)
    return write_report(
        folder,
        results,
        found,
        title=title,
        settings=settings,
        videos=videos,
        why=read_why(folder),
    )


def check_unseen(data: FeatureSet, trained: TrainedRun) -> None:
    """Refuse test videos that a run has seen.

    Raises:
        ModelError: a model was trained on one of them or selected by it.
    """
    known = {name for one in trained.checkpoints for name in one.info.seen_videos}
    trained_on = [
        label.video
        for label, sha256 in zip(data.labels, data.sha256, strict=True)
        if label.split == "test" and (label.video in known or trained.has_seen(sha256))
    ]
    if trained_on:
        raise ModelError(
            f"{len(trained_on)} test videos were used to train this run: {named(trained_on)}; "
            "evaluate with the labels it was trained with, or train again"
        )


def describe_protocol(
    trained: TrainedRun, split: Split, num_videos: int, *, uncounted: int = 0, weak: int = 0
) -> str:
    """Return in words what kind of number this evaluation gives.

    Args:
        trained: the run.
        split: the part evaluated.
        num_videos: evaluated.
        uncounted: those of them whose frames nobody has counted.
        weak: those whose abnormal frames are not known.
    """
    info = trained.info
    warning = "" if split == "test" else f" (NOT a test result: the {split} part was seen)"
    where = f"frame-level on the {num_videos} {split} videos"
    lacking = [f"{uncounted} without frame counts"] if uncounted else []
    lacking += [f"{weak} whose abnormal frames are not known"] if weak else []
    if lacking:
        measured = num_videos - uncounted - weak
        kind = f"frame-level on {measured} of" if measured else "by the categories of"
        where = f"{kind} the {num_videos} {split} videos, {' and '.join(lacking)}"
    words = f"{info.method.name}, {_trained_words(info)}, {where}{warning}"
    count = len(trained.checkpoints)
    return f"mean of {count} seeds' models, each {words}" if count > 1 else words


def _trained_words(info: RunInfo) -> str:
    if "imported_from" in info.result:
        return (
            f"{info.method.supervision} supervised elsewhere (checkpoint "
            f"{info.result['imported_from']}, {info.result['imported_sha256'][:12]}; whether it "
            "has seen these videos is not known)"
        )
    count = len(info.train_videos)
    if info.method.supervision == "unsupervised":
        return f"unsupervised (features, no labels, of {count} normal training videos)"
    what = "frame labels" if info.method.supervision == "fully" else "video labels, no frames,"
    refit = int(info.result.get("refit_from", 0))
    selected = ""
    if refit:
        selected = f", {refit} of them held out to select, then trained on too"
    elif info.val_videos:
        selected = f", selected on {len(info.val_videos)} others"
    kind = info.method.supervision
    return f"{kind} supervised ({what} of {count} training videos{selected})"


def choose_videos(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    split: Split,
    options: DataOptions,
    *,
    of_frames: bool = True,
) -> list[VideoLabel]:
    """Return the videos of a split, whose labels fit; warn of those whose frames nobody counted.

    Args:
        cache: their features.
        labels: of these and other videos.
        split: which to take.
        options: which features, and what is let pass.
        of_frames: only frames are measured, so that some video must have counted ones.

    Raises:
        FeatError: there are none, one has no features or other frames, or nothing can be measured.
    """
    wanted = sorted((row for row in labels if row.split == split), key=lambda row: row.video)
    if not wanted:
        raise ModelError(f"the labels name no video with split '{split}'; add some")
    available = available_streams(
        cache, [label.video for label in wanted], options.configs, named=options.streams
    )
    wanted = drop_missing(wanted, available, cache, skip_missing=options.skip_missing)
    wanted = check_labels(
        cache,
        wanted,
        allow_misaligned=options.allow_misaligned,
        streams=options.streams,
        configs=options.configs,
    )
    uncounted = videos_without_frames(
        cache, wanted, streams=options.streams, configs=options.configs
    )
    found = f"{len(uncounted)} {split} videos were imported without a frame count"
    if of_frames and len(uncounted) == len(wanted):
        raise ModelError(
            f"{found}, so that no frame can be scored: {named(uncounted)}; import them again with "
            "--frames"
        )
    if uncounted:
        logger.warning(
            "%s and are in no measure of frames (%d are): %s",
            found,
            len(wanted) - len(uncounted),
            named(uncounted),
        )
    return wanted


def _settings_of(trained: TrainedRun) -> dict[str, Any]:
    several = len(trained.checkpoints) > 1
    seeds = {"seeds": [one.info.seed for one in trained.checkpoints]} if several else {}
    info = trained.info
    seen = {"train_videos": len(info.train_videos), "val_videos": len(info.val_videos)}
    return {**seeds, **info.to_dict(), **seen}


def _split_words(labels: Sequence[VideoLabel], digest: str) -> str:
    """Return which split it is, as far as labels tell: how many videos are for what."""
    counts = Counter(label.split for label in labels)
    parts = ", ".join(f"{counts[split]} {split}" for split in SPLITS if counts[split])
    return f"split of labels.csv {digest[:12]} ({parts})"
