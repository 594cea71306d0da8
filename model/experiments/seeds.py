"""Several trainings that differ in the seed alone, in one folder: `<folder>/seed-<n>`.

The folder remembers labels and settings, so that the same command goes on with it: finished runs
are kept, a killed one goes on from where it was.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from cache import FeatureCache
from data.errors import ConfigError
from data.files import write_json
from data.labels import VideoLabel, read_labels
from data.output_file import check_folder
from model.experiments.clusters import Training, Workers
from model.experiments.folder import Spread, begin_folder, spread_of
from model.measures.budget import AlarmRule, NoThresholdError
from model.measures.metrics import uncounted_words
from model.methods.base import Method
from model.methods.gather import DataOptions
from model.methods.registry import choose_method
from model.runs.checkpoint import load_checkpoint
from model.runs.folder import (
    CHECKPOINT_NAME,
    LABELS_NAME,
    SEEDS_NAME,
    is_seeds_folder,
    new_run_dir,
    working_in,
)
from model.runs.threshold import (
    NormalVideo,
    StoredThreshold,
    fit_stored,
    mean_of_seeds,
    read_held_out,
    read_threshold,
    store_threshold,
)
from model.runs.train import finish_training
from model.runs.trained import finished_seeds, load_run, read_terms, run_folders

if TYPE_CHECKING:
    from model.evaluation.compat import CompatTable
    from model.evaluation.evaluate import EvalReport

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True, kw_only=True)
class SeedsReport:
    """Several seeds' runs, and the mean and spread of what was measured on each."""

    run: Path
    """The folder of all."""
    rows: tuple[dict[str, Any], ...]
    """One for each seed: `seed`, `run` and its measures."""
    spreads: dict[str, Spread | None]
    """Measure -> over the seeds; None where a seed has none."""
    ensemble: "EvalReport | None" = None
    """Of the mean of all seeds' scores and category probabilities, where that was evaluated."""
    compat: "CompatTable | None" = None
    """Means over the seeds of a published evaluation, where one was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "run": str(self.run),
            "seeds": list(self.rows),
            "spread": {name: asdict(s) if s else None for name, s in self.spreads.items()},
            **({"ensemble": self.ensemble.to_dict()} if self.ensemble else {}),
            **({"compat": self.compat.to_dict()} if self.compat else {}),
        }

    def to_text(self, names: Sequence[str] = ()) -> str:
        """Return a table: a line a measure, its mean, standard deviation and values.

        Args:
            names: of the measures to show, if they are there; none: all.
        """
        shown = [name for name, s in self.spreads.items() if s and (not names or name in names)]
        width = max([7, *(len(name) for name in shown)])
        together = "ensemble  " if self.ensemble else ""
        seeds = " ".join(str(row["seed"]) for row in self.rows)
        head = f"{'measure':{width}}  mean    std     {together}seeds {seeds}"
        lines = [head] if shown else []  # not every method measures while it is trained
        for name in shown:
            spread = self.spreads[name]
            assert spread is not None
            std = "      " if spread.std is None else f"{spread.std:.4f}"
            values = [row[name] for row in self.rows]
            each = " ".join(str(v) if isinstance(v, int) else f"{v:.3f}" for v in values)
            if self.ensemble:
                value = self.ensemble.values().get(name)
                each = f"{'' if value is None else f'{value:.4f}':8}  {each}"
            lines.append(f"{name:{width}}  {spread.mean:.4f}  {std}  {each}")
        if self.ensemble:
            counts = self.ensemble.metrics.counts
            videos = f"{counts['num_videos']} videos"
            videos += uncounted_words(counts["num_uncounted_videos"])
            lines.append(
                f"ensemble: the mean of all seeds' scores, {self.ensemble.report}; {videos}"
            )
        else:
            lines.append(f"run: {self.run}, seeds {seeds}")
        return "\n".join(lines)


def train_seeds(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    method: Method,
    *,
    first: int = 0,
    count: int,
    runs: Path = Path("runs"),
    out: Path | None = None,
    options: DataOptions = DataOptions(),  # noqa: B008 - frozen
    alarms: AlarmRule = AlarmRule(),  # noqa: B008 - frozen
    device: str = "auto",
    workers: Workers | None = None,
    **how: Any,
) -> SeedsReport:
    """Train what the folder does not hold yet of several runs and report what they measured.

    Args:
        cache: the features.
        labels: of all videos.
        method: with its settings.
        first: the first seed; each next one is greater by 1.
        count: how many.
        runs: folder for a new folder of runs, unless `out` names that.
        out: the folder; what was finished in it is kept.
        options: which features and labels are used.
        alarms: what the thresholds are fitted for: each seed's, and that of the mean of them all.
        device: as of `run_training`.
        workers: where runs are finished; by default here.
        how: as of `run_training`, here: on_row.

    Raises:
        ConfigError: `out` holds runs of other labels or settings.
        FeatError: as of `run_training`.
    """
    if count > 1 and not method.is_random:
        logger.warning("%s draws nothing: its seeds all give the same run", method.name)
    name = f"{method.name}-seeds-{first}-to-{first + count - 1}"
    folder = out or new_run_dir(runs, name=name)
    _open_seeds(folder, labels, _terms(method, options, alarms, first, count))
    finish = partial(
        finish_training,
        labels=tuple(labels),
        method=method,
        options=options,
        alarms=alarms,
        device=device,
    )
    trainings = {
        seed: Training(folder / f"seed-{seed}", CHECKPOINT_NAME, partial(finish, seed=seed))
        for seed in range(first, first + count)
    }
    with working_in(folder, go_on=f"`feat train --resume {quote(str(folder))}`"):
        is_new = not all((one.run / one.marker).is_file() for one in trainings.values())
        if workers:
            workers.finish(trainings.values(), cache, folder)
        for seed, training in trainings.items():
            logger.info("seed %d of %d to %d", seed, first, first + count - 1)
            training.finish(training.run, cache=cache, **how)
        # one that is there may have been fitted since, to another budget or other footage
        if is_new or read_threshold(folder) is None:
            try:
                held = [_held_out(one) for one in finished_seeds(folder).values()]
                told = store_threshold(folder, mean_of_seeds(held), alarms)
                logger.info("mean of all seeds: %s", told.to_text())
            except NoThresholdError as error:
                logger.info("mean of all seeds: no threshold was fitted: %s", error)
    rows = [
        {"seed": one.info.seed, "run": str(folder / f"seed-{one.info.seed}"), **one.info.result}
        for one in load_run(folder).checkpoints
    ]
    return _report(folder, rows)


def resume_seeds(
    cache: FeatureCache, folder: Path, *, options: DataOptions, **how: Any
) -> SeedsReport:
    """Go on with a folder of several seeds, with the method, settings and labels it holds.

    Raises:
        FeatError: it is no such folder, or as of `train_seeds`.
    """
    held = read_terms(folder)
    return train_seeds(
        cache,
        read_labels(folder / LABELS_NAME),
        seeds_method(folder),
        first=held["first"],
        count=held["count"],
        runs=folder.parent,
        out=folder,
        options=replace(options, streams=tuple(held["streams"]), configs=held["configs"]),
        alarms=AlarmRule(**held["alarms"]),
        **how,
    )


def seeds_method(folder: Path) -> Method:
    """Return the method of a folder of several seeds.

    Raises:
        FeatError: it is no such folder.
    """
    held = read_terms(folder)
    return choose_method(held["method"]).changed(held["settings"])


def evaluate_seeds(folder: Path, evaluate: "Callable[[Path], EvalReport]") -> SeedsReport:
    """Evaluate each run of a folder of several seeds, and the mean of what all of them say.

    Args:
        folder: of `train_seeds`.
        evaluate: evaluates a run folder, and a folder of several.

    Raises:
        ModelError: a run is not finished.
        FeatError: as of `evaluate`.
    """
    from model.evaluation.compat import mean_table

    rows, tables = [], []
    for seed, run in finished_seeds(folder).items():
        report = evaluate(run)
        rows.append({"seed": seed, "run": str(run), **report.values()})
        tables += [report.compat] if report.compat else []
    return replace(
        _report(folder, rows),
        ensemble=evaluate(folder),
        compat=mean_table(tables) if tables else None,
    )


def fit_thresholds(
    run: Path, rule: AlarmRule, held_out: Callable[[Path], list[NormalVideo]] | None = None
) -> StoredThreshold:
    """Fit and store the threshold of a run, or of each of several seeds and of their mean.

    Args:
        run: finished, of one seed or of several.
        rule: what the threshold is fitted for.
        held_out: gives what a run of one seed says of normal videos; default: as it has kept.

    Returns:
        That of the run, or of the mean.

    Raises:
        NoThresholdError: the scores of held-out normal videos give none; nothing is changed then.
        ModelError: there is no finished training, or it has kept no such scores.
    """
    folders = run_folders(run)
    load_checkpoint(folders[0])
    for folder in dict.fromkeys((*folders, run)):
        check_folder(folder, advice="copy the run to a folder of your own first")
    with working_in(run, go_on="the same command"):
        held = {folder: (held_out or _held_out)(folder) for folder in folders}
        if is_seeds_folder(run):
            held[run] = mean_of_seeds(list(held.values()))
        for folder, one in held.items():  # refused before anything is written
            try:
                fit_stored(one, rule)
            except NoThresholdError as error:
                other = "" if held_out else "; --labels and --cache take other normal footage"
                raise NoThresholdError(f"{folder}: {error}{other}") from error
        return {folder: store_threshold(folder, one, rule) for folder, one in held.items()}[run]


def _held_out(run: Path) -> list[NormalVideo]:
    held = read_held_out(run)
    if held is None:
        raise NoThresholdError(
            f"{run}: an earlier build has kept no scores of held-out normal videos; name normal "
            "videos with --labels, or train again"
        )
    return held


def _terms(
    method: Method, options: DataOptions, alarms: AlarmRule, first: int, count: int
) -> dict[str, Any]:
    """Return what the runs have in common, as it comes back from JSON."""
    plain: dict[str, Any] = json.loads(
        json.dumps(
            {
                "method": method.name,
                "settings": method.to_dict(),
                "streams": list(options.streams),
                "configs": {name: dict(config) for name, config in options.configs.items()},
                "alarms": asdict(alarms),
                "first": first,
                "count": count,
            }
        )
    )
    return plain


def _report(folder: Path, rows: Sequence[dict[str, Any]]) -> SeedsReport:
    no_measures = ("seed", "run", "num_windows", "refit_from")
    names = [
        name
        for name in rows[0]
        if name not in no_measures
        and all(row.get(name) is None or isinstance(row[name], int | float) for row in rows)
    ]
    spreads = {name: spread_of([row.get(name) for row in rows]) for name in names}
    return SeedsReport(run=folder, rows=tuple(rows), spreads=spreads)


def _open_seeds(folder: Path, labels: Sequence[VideoLabel], wanted: dict[str, Any]) -> None:
    """Make the folder, or check that its runs are of the same labels and settings."""
    path = folder / SEEDS_NAME
    if begin_folder(path, kind="of several seeds", labels=labels, wanted=wanted):
        return
    held = read_terms(folder)
    changed = [name for name in wanted if name != "count" and held[name] != wanted[name]]
    if read_labels(folder / LABELS_NAME) != list(labels):
        changed.append("labels")
    if changed:
        raise ConfigError(
            f"{folder}: runs with other {', '.join(changed)}; their spread would say nothing of "
            "the seed: name a new folder with --out"
        )
    write_json(path, {**wanted, "count": max(wanted["count"], held["count"])})
