"""Any trained run, loaded and ready to score: of one seed or of several, whatever the method."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from shlex import quote
from typing import Any

import torch

from cache import FeatureCache, config_difference, config_digest
from data.errors import ConfigError, ModelError
from data.labels import VideoLabel, read_labels
from model.device import resolve_device
from model.features.load import FeatureSet
from model.measures.budget import AlarmRule
from model.measures.scores import VideoScores, mean_scores, spread_scores
from model.methods.gather import DataOptions
from model.runs.checkpoint import Checkpoint, RunInfo, load_checkpoint
from model.runs.folder import CHECKPOINT_NAME, LABELS_NAME, SEEDS_NAME, is_seeds_folder
from model.runs.reference import Reference, read_reference
from model.runs.threshold import StoredThreshold, apply_rule, read_threshold

logger = logging.getLogger(f"feat.{__name__}")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One or several seeds' models of one method, trained on features of one kind."""

    path: Path
    checkpoints: tuple[Checkpoint, ...]
    device: torch.device

    @property
    def info(self) -> RunInfo:
        """Of the first; those of other seeds differ in seed, result and videos held out."""
        return self.checkpoints[0].info

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories that at least one model knows, each once."""
        return tuple(dict.fromkeys(c for one in self.checkpoints for c in one.info.categories))

    @property
    def smoothing(self) -> float:
        """As the method is configured: standard deviation in clips."""
        return self.info.method.smoothing

    @cached_property
    def threshold(self) -> StoredThreshold | None:
        """The one fitted for it; None: no threshold was fitted.

        Raises:
            ModelError: its file is damaged.
        """
        return read_threshold(self.path)

    def threshold_at(self, smoothing: float | None) -> StoredThreshold | None:
        """Return its threshold if that was fitted to scores of this smoothing; None: its own."""
        return self.threshold if smoothing in (None, self.smoothing) else None

    @cached_property
    def category_extents(self) -> Mapping[str, frozenset[bool]]:
        """Whether each category was given to abnormal videos (True), to normal ones, or to both.

        As the run's own labels say, test videos left out; none of a run that has no labels.
        """
        path = self.path / LABELS_NAME
        rows = read_labels(path) if path.is_file() else []
        known = [row for row in rows if row.category and row.split != "test"]
        return {
            name: frozenset(row.is_abnormal for row in known if row.category == name)
            for name in {row.category for row in known}
        }

    @cached_property
    def reference(self) -> Reference | None:
        """Clips of the training videos, of several seeds' those of the first; None: not kept.

        Raises:
            ModelError: the file is damaged.
        """
        return read_reference(run_folders(self.path)[0])

    def options(self, given: DataOptions) -> DataOptions:
        """Return options with the run's streams and configurations, unless others are given."""
        own = {stream.name: stream.config for stream in self.info.streams}
        return replace(given, streams=tuple(own), configs={**own, **given.configs})

    def load_features(
        self,
        cache: FeatureCache,
        labels: Sequence[VideoLabel],
        configs: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> FeatureSet:
        """Return the features of the labelled videos, made as those it was trained on.

        Args:
            cache: where they are.
            labels: one for each video.
            configs: stream -> configuration to take instead of the one trained on.

        Raises:
            FeatError: as of `load_features`; or the clips have another length than those trained
                on.
        """
        info = self.info
        options = self.options(DataOptions(configs=configs or {}))
        data = info.method.load(cache, labels, streams=options.streams, configs=options.configs)
        if data.clip_len != info.clip_len:
            raise ModelError(
                f"{cache.path}: clips of {data.clip_len} frames, {self.path} was trained on clips "
                f"of {info.clip_len}"
            )
        return data

    def score(self, data: FeatureSet, *, smoothing: float | None = None) -> VideoScores:
        """Return the scores of every frame, and the categories; of several models the mean.

        Where an alarm needs N of M clips the scores are those of `nth_highest`, so that whatever
        looks for alarms compares them with the threshold alone.

        Args:
            data: of `load_features`.
            smoothing: standard deviation in clips; default: as the method is configured.

        Raises:
            ModelError: a checkpoint's parameters do not fit its method.
        """
        answer, stored = self.score_clips_alone(data, smoothing), self.threshold_at(smoothing)
        if stored is None:
            return answer
        firsts = [data.start_frame[data.rows(video)] for video in range(len(data.labels))]
        return replace(answer, frames=apply_rule(answer.frames, firsts, stored.rule))

    def score_clips_alone(self, data: FeatureSet, smoothing: float | None = None) -> VideoScores:
        """Return the scores as of `score`, before N of M clips are asked for."""
        answers = []
        for one in self.checkpoints:
            method = one.info.method
            try:
                scores = method.score(one.fitted, data, self.device)
            except torch.OutOfMemoryError as error:
                raise ModelError(
                    f"{self.path}: the GPU's memory does not suffice to score; use --device cpu"
                ) from error
            except (KeyError, ValueError, RuntimeError) as error:
                what = " ".join(f"{type(error).__name__}: {error}".split())
                raise ModelError(
                    f"{self.path}: its parameters do not fit {method.name}: {what:.200}; run "
                    "`feat train` again"
                ) from error
            used = method.smoothing if smoothing is None else smoothing
            answers.append(spread_scores(scores, data, smoothing=used))
        return mean_scores(answers)

    def has_seen(self, sha256: str) -> bool:
        """Return whether a model was trained on a content or selected by it."""
        return any(sha256 in one.info.seen_videos.values() for one in self.checkpoints)

    def check_cache(self, cache: FeatureCache) -> None:
        """Refuse a cache whose features were made in another way than those trained on.

        Raises:
            ConfigError: a stream is absent or has another configuration; the difference is named.
        """
        for stream in self.info.streams:
            found = list(cache.configs(stream.name))
            if any(config_digest(config) == stream.digest for config in found):
                continue
            if not found:
                raise ConfigError(
                    f"{self.path} needs the stream {stream.name}, which the cache does not have; "
                    f"run `feat extract --streams {','.join(s.name for s in self.info.streams)}`"
                )
            raise ConfigError(
                f"{self.path} was trained on other {stream.name} features than the cache has: "
                f"{config_difference(stream.config, found[0])}; extract with the settings of the "
                "run, choose others with --config, or train again"
            )


def load_run(run: Path, *, device: str = "cpu") -> TrainedRun:
    """Return the model of a run folder, or all of a folder of several seeds, in their order.

    Raises:
        ConfigError: the seeds were trained on different features.
        ModelError: a training is not finished, or a checkpoint cannot be read.
    """
    folders = run_folders(run)
    checkpoints = [load_checkpoint(folder) for folder in folders]
    first, *others = [{s.name: s.digest for s in one.info.streams} for one in checkpoints]
    for folder, other in zip(folders[1:], others, strict=True):
        if other != first:
            raise ConfigError(
                f"{folder}: trained on other features ({' + '.join(other)}) than {folders[0].name} "
                f"({' + '.join(first)}): the cache has changed in between; name a new folder "
                "with --out"
            )
    return TrainedRun(
        path=run, checkpoints=tuple(checkpoints), device=torch.device(resolve_device(device))
    )


def run_folders(run: Path) -> list[Path]:
    """Return the folder of each finished run: of a folder of several seeds theirs, else `run`.

    Raises:
        ModelError: as of `finished_seeds`.
    """
    return list(finished_seeds(run).values()) if is_seeds_folder(run) else [run]


def finished_seeds(folder: Path) -> dict[int, Path]:
    """Return the run folder of each seed, in order.

    Raises:
        ModelError: the folder holds something else, or a training is not finished.
    """
    held = read_terms(folder)
    seeds = range(held["first"], held["first"] + held["count"])
    runs = {seed: folder / f"seed-{seed}" for seed in seeds}
    unfinished = [s for s, run in runs.items() if not (run / CHECKPOINT_NAME).is_file()]
    if unfinished:
        raise ModelError(
            f"{folder}: the trainings of seeds {', '.join(map(str, unfinished))} are not finished; "
            f"run `feat train --resume {quote(str(folder))}` first"
        )
    return runs


def read_terms(folder: Path) -> dict[str, Any]:
    """Return what the runs of a folder of several seeds have in common.

    Returns:
        `method`, `settings`, `streams` and `configs` as JSON has them, `first` (seed), `count`,
        and `alarms`, what the thresholds are fitted for.

    Raises:
        ModelError: it is no such folder.
    """
    path = folder / SEEDS_NAME
    names = ("method", "settings", "streams", "configs", "first", "count")
    try:
        held = dict(json.loads(path.read_text(encoding="utf-8")))
        if not all(type(held[name]) is int for name in ("first", "count")) or held["count"] < 1:
            raise ValueError("first and count are no numbers of seeds")
        alarms = asdict(AlarmRule(**held.get("alarms", {})))
        return {**{name: held[name] for name in names}, "alarms": alarms}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{path}: not a folder of several seeds: {type(error).__name__}: {error}; train anew "
            "with `feat train --seeds`"
        ) from error
