"""Run folders of the methods: train into one, and evaluate it with the ConvLSTM's own measures."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cache import FeatureCache
from data.errors import FeatError, ModelError
from data.files import write_whole
from data.labels import Split, VideoLabel, write_labels
from model.features.load import FeatureSet, StreamFeatures, load_features
from model.measures.metrics import VideoResult
from model.methods.base import (
    Method,
    Parameters,
    frame_scores,
    settings_of,
    with_settings,
)
from model.methods.gather import gather, load_clips
from model.methods.registry import choose_method
from model.runs.folder import (
    CONFIG_NAME,
    ENVIRONMENT_NAME,
    LABELS_NAME,
    METHOD_NAME,
    claim_run_dir,
    environment,
    new_run_dir,
    write_json,
)

logger = logging.getLogger(f"feat.{__name__}")

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """Everything about a fitted method but its parameters."""

    method: Method
    """With its settings."""
    seed: int
    streams: tuple[StreamFeatures, ...]
    clip_len: int
    train_videos: Mapping[str, str]
    """Name -> sha256 of the content, of the videos it was fitted to."""
    val_videos: Mapping[str, str]
    """The same of those that its settings were chosen on."""
    labels_sha256: str
    cache: str
    """Path of the cache it was fitted from, as it was then."""
    seconds: float
    """That the fit took."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "format": FORMAT,
            "method": self.method.name,
            "supervision": self.method.supervision,
            "settings": settings_of(self.method),
            "seed": self.seed,
            "streams": [
                {"name": s.name, "dim": s.dim, "digest": s.digest, "config": dict(s.config)}
                for s in self.streams
            ],
            "clip_len": self.clip_len,
            "train_videos": dict(self.train_videos),
            "val_videos": dict(self.val_videos),
            "labels_sha256": self.labels_sha256,
            "cache": self.cache,
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MethodInfo":
        """Read what `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError, FeatError: it is something else.
        """
        if values["format"] != FORMAT:
            raise ModelError(f"format {values['format']}, this build reads {FORMAT}")
        settings = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values["settings"].items()
        }
        return cls(
            method=with_settings(choose_method(values["method"]), settings),
            seed=int(values["seed"]),
            streams=tuple(
                StreamFeatures(name=str(s["name"]), dim=int(s["dim"]), config=dict(s["config"]))
                for s in values["streams"]
            ),
            clip_len=int(values["clip_len"]),
            train_videos=dict(values["train_videos"]),
            val_videos=dict(values["val_videos"]),
            labels_sha256=str(values["labels_sha256"]),
            cache=str(values["cache"]),
            seconds=float(values["seconds"]),
        )

    def protocol(self, split: Split, num_videos: int) -> str:
        """Return in words what kind of number an evaluation of this run gives."""
        what = {
            "fully": "frame labels",
            "weakly": "video labels, no frames,",
            "unsupervised": "features, no labels,",
        }[self.method.supervision]
        kind = "normal training" if self.method.supervision == "unsupervised" else "training"
        warning = "" if split == "test" else f" (NOT a test result: the {split} part was seen)"
        supervised = "" if self.method.supervision == "unsupervised" else " supervised"
        return (
            f"{self.method.name}, {self.method.supervision}{supervised} ({what} of "
            f"{len(self.train_videos)} {kind} videos), frame-level on the {num_videos} {split} "
            f"videos of labels {self.labels_sha256[:12]}{warning}"
        )


@dataclass(frozen=True, kw_only=True)
class MethodReport:
    """What the training of a method did."""

    run: Path
    info: MethodInfo

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "run": str(self.run),
            "cache": self.info.cache,
            "method": self.info.method.name,
            "supervision": self.info.method.supervision,
            "seed": self.info.seed,
            "streams": [stream.name for stream in self.info.streams],
            "num_train_videos": len(self.info.train_videos),
            "num_val_videos": len(self.info.val_videos),
            "seconds": self.info.seconds,
        }


def train_method(
    method: Method,
    cache: FeatureCache,
    labels: Sequence[VideoLabel],
    *,
    seed: int,
    runs: Path,
    out: Path | None = None,
    streams: Sequence[str] = (),
    skip_missing: bool = False,
    allow_misaligned: bool = False,
) -> MethodReport:
    """Fit a method to the `train` videos and leave it in a run folder.

    Args:
        method: with its settings.
        cache: the features; no video is opened.
        labels: of all videos; the method sees what its supervision allows.
        seed: of whatever it draws.
        runs: folder for the run folder, unless `out` names that.
        out: the run folder; it must be empty or absent.
        streams: which to use; default: those that all videos have.
        skip_missing: leave labelled videos out that the cache lacks, instead of refusing.
        allow_misaligned: cut labels that go beyond their video, instead of refusing.

    Raises:
        FeatError: labels and cache do not fit each other, or there is nothing to learn from.
    """
    started = time.monotonic()
    material = gather(
        method,
        cache,
        labels,
        streams=streams,
        skip_missing=skip_missing,
        allow_misaligned=allow_misaligned,
    )
    data = material.train.data
    parameters = method.fit(material, seed)
    run = claim_run_dir(out) if out else new_run_dir(runs, name=f"{method.name}-s{seed}")
    write_json(run / ENVIRONMENT_NAME, environment())
    write_labels(run / LABELS_NAME, labels)
    info = MethodInfo(
        method=method,
        seed=seed,
        streams=data.streams,
        clip_len=data.clip_len,
        train_videos=_contents(data),
        val_videos=_contents(material.val.data) if material.val else {},
        labels_sha256=hashlib.sha256((run / LABELS_NAME).read_bytes()).hexdigest(),
        cache=str(cache.path.resolve()),
        seconds=round(time.monotonic() - started, 2),
    )
    write_json(run / CONFIG_NAME, info.to_dict())
    # Last: a run folder with a checkpoint is a finished run.
    save_method(run / METHOD_NAME, info, parameters)
    return MethodReport(run=run, info=info)


def save_method(path: Path, info: MethodInfo, parameters: Parameters) -> None:
    """Write a fitted method; `path` appears only when it is whole."""
    arrays = {name: np.ascontiguousarray(array) for name, array in parameters.items()}
    write_whole(
        path, save(arrays, metadata={"feat-method": json.dumps(info.to_dict())}), one_writer=True
    )


def load_method(path: Path) -> tuple[MethodInfo, Parameters]:
    """Read a fitted method.

    Raises:
        ModelError: there is none, or the file is damaged or something else.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no fitted method there; run `feat train --method` first")
    try:
        with safe_open(path, framework="np") as file:
            described = (file.metadata() or {})["feat-method"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return MethodInfo.from_dict(json.loads(described)), arrays
    except (SafetensorError, KeyError, TypeError, ValueError, FeatError) as error:
        what = " ".join(str(error).split())
        raise ModelError(
            f"{path}: not a fitted method this build can read: {what:.300}; train it again"
        ) from error


def load_test_features(
    info: MethodInfo, cache: FeatureCache, labels: Sequence[VideoLabel]
) -> FeatureSet:
    """Return the features of the labelled videos, made as those the method was fitted to.

    Raises:
        CacheError: the cache has none of that configuration.
    """
    return load_features(
        cache,
        labels,
        streams=[stream.name for stream in info.streams],
        configs={stream.name: stream.config for stream in info.streams},
    )


def score_with_method(
    info: MethodInfo,
    parameters: Parameters,
    cache: FeatureCache,
    data: FeatureSet,
    *,
    smoothing: float = 0.0,
) -> list[VideoResult]:
    """Return the scores of the videos beside the truth, smoothed over so many clips.

    Raises:
        ModelError: the parameters are not those of such a method.
    """
    clips = load_clips(info.method, cache, data)
    try:
        scores = info.method.score(parameters, clips)
    except (KeyError, ValueError, RuntimeError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(
            f"{info.method.name}: its parameters do not fit it: {what:.200}; train it again"
        ) from error
    return [
        VideoResult(
            video=label.video,
            scores=frames,
            labels=None if label.is_weak else label.frame_labels(len(frames)),
            category=label.category,
            frame_rate=float(rate),
        )
        for label, frames, rate in zip(
            data.labels,
            frame_scores(scores, data, smoothing=smoothing),
            data.frame_rate,
            strict=True,
        )
    ]


def _contents(data: FeatureSet) -> dict[str, str]:
    return {label.video: sha for label, sha in zip(data.labels, data.sha256, strict=True)}
