"""Several trainings that differ in the seed alone, in one folder: `<folder>/seed-<n>`.

The folder remembers labels and settings, so that the same command goes on with it: finished runs
are kept, a killed one goes on from where it was.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cache import FeatureCache
from data.errors import ConfigError, ModelError
from data.labels import VideoLabel, read_labels, write_labels
from model.config import ModelConfig, Preset, TrainConfig
from model.experiments.folder import Spread, convlstm_settings, spread_of, working_in
from model.runs.checkpoint import CHECKPOINT_NAME
from model.runs.finished import finished_seeds, load_alike, read_terms
from model.runs.folder import LABELS_NAME, SEEDS_NAME, new_run_dir, write_json
from model.training.resume import STATE_NAME
from model.training.train import resume_training, run_training

if TYPE_CHECKING:
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

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "run": str(self.run),
            "seeds": list(self.rows),
            "spread": {name: s.to_dict() if s else None for name, s in self.spreads.items()},
            **({"ensemble": self.ensemble.to_dict()} if self.ensemble else {}),
        }

    def to_text(self) -> str:
        """Return a table: a line a measure, its mean, standard deviation and values."""
        shown = [name for name, spread in self.spreads.items() if spread]
        width = max([7, *(len(name) for name in shown)])
        together = "ensemble  " if self.ensemble else ""
        lines = [f"{'measure':{width}}  mean    std     {together}seeds {self._seeds()}"]
        for name in shown:
            spread = self.spreads[name]
            assert spread is not None
            std = "      " if spread.std is None else f"{spread.std:.4f}"
            values = [row[name] for row in self.rows]
            each = " ".join(str(v) if isinstance(v, int) else f"{v:.3f}" for v in values)
            if self.ensemble:
                each = f"{self._of_ensemble(name):8}  {each}"
            lines.append(f"{name:{width}}  {spread.mean:.4f}  {std}  {each}")
        if self.ensemble:
            lines.append(f"ensemble: the mean of all seeds' scores, {self.ensemble.report}")
        return "\n".join(lines)

    def _of_ensemble(self, name: str) -> str:
        assert self.ensemble is not None
        value = self.ensemble.metrics.values.get(name)
        return "" if value is None else f"{value:.4f}"

    def _seeds(self) -> str:
        return " ".join(str(row["seed"]) for row in self.rows)


def train_seeds(
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    seeds: int,
    preset: Preset,
    runs: Path,
    out: Path | None = None,
    streams: Sequence[str] = (),
    on_look: Callable[[dict[str, Any]], None] = lambda row: None,
    **how: Any,
) -> SeedsReport:
    """Train what the folder does not hold yet of `seeds` runs and report the validation measures.

    Args:
        cache: the features.
        labels: of all videos.
        seeds: how many; the first is that of the preset's training, each next one greater by 1.
        preset: model and training.
        runs: folder for a new folder of runs, unless `out` names that.
        out: the folder; what was finished in it is kept.
        streams: as of `run_training`.
        on_look: as of `run_training`.
        how: as of `run_training`: device, skip_missing, allow_misaligned.

    Raises:
        ConfigError: `out` holds runs of other labels or settings.
        FeatError: as of `run_training`.
    """
    first = preset.train.seed
    folder = out or new_run_dir(runs, name=f"seeds-{first}-to-{first + seeds - 1}")
    terms = {**convlstm_settings(preset), "streams": list(streams), "first": first}
    _open_seeds(folder, labels, {**terms, "count": seeds})
    with working_in(folder):
        for seed in range(first, first + seeds):
            run = folder / f"seed-{seed}"
            if (run / CHECKPOINT_NAME).is_file():
                continue
            logger.info("seed %d of %d to %d", seed, first, first + seeds - 1)
            if (run / STATE_NAME).is_file():
                resume_training(cache, run, on_look=on_look, **how)
                continue
            if run.exists():  # killed before its first step
                shutil.rmtree(run)
            run_training(
                cache,
                labels,
                model=preset.model,
                train=replace(preset.train, seed=seed),
                runs=folder,
                out=run,
                streams=streams,
                on_look=on_look,
                **how,
            )
    return _validation_report(folder, range(first, first + seeds))


def resume_seeds(cache: FeatureCache, folder: Path, **how: Any) -> SeedsReport:
    """Go on with a folder of several seeds, with the settings and labels it holds.

    Raises:
        FeatError: it is no such folder, or as of `train_seeds`.
    """
    held = read_terms(folder)
    preset = Preset(
        model=ModelConfig.from_dict(held["model"]),
        train=TrainConfig.from_dict({**held["train"], "seed": held["first"]}),
    )
    return train_seeds(
        cache,
        read_labels(folder / LABELS_NAME),
        seeds=held["count"],
        preset=preset,
        runs=folder.parent,
        out=folder,
        streams=held["streams"],
        **how,
    )


def evaluate_seeds(folder: Path, evaluate: "Callable[[Path], EvalReport]") -> SeedsReport:
    """Evaluate each run of a folder of several seeds, and the mean of what all of them say.

    Args:
        folder: of `train_seeds`.
        evaluate: evaluates a run folder, and a folder of several.

    Raises:
        ModelError: a run is not finished.
        FeatError: as of `evaluate`.
    """
    rows = []
    for seed, run in finished_seeds(folder).items():
        values = evaluate(run).metrics.values
        rows.append({"seed": seed, "run": str(run), **values})
    return replace(_report(folder, rows), ensemble=evaluate(folder))


def _validation_report(folder: Path, seeds: Sequence[int]) -> SeedsReport:
    runs = [folder / f"seed-{seed}" for seed in seeds]
    rows = [
        {"seed": seed, "run": str(run), **checkpoint.info.result}
        for seed, run, checkpoint in zip(seeds, runs, load_alike(runs), strict=True)
    ]
    return _report(folder, rows)


def _report(folder: Path, rows: Sequence[dict[str, Any]]) -> SeedsReport:
    names = [name for name in rows[0] if name not in ("seed", "run", "selected_by", "refit_from")]
    spreads = {name: spread_of([row.get(name) for row in rows]) for name in names}
    return SeedsReport(run=folder, rows=tuple(rows), spreads=spreads)


def _open_seeds(folder: Path, labels: Sequence[VideoLabel], wanted: dict[str, Any]) -> None:
    """Make the folder, or check that its runs are of the same labels and settings."""
    path = folder / SEEDS_NAME
    if not path.is_file():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ModelError(f"{folder}: not empty; name a new folder with --out")
        folder.mkdir(parents=True, exist_ok=True)
        write_labels(folder / LABELS_NAME, labels)
        write_json(path, wanted)
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
