"""Checkpoints: one file with what a method learnt and all that made it, whatever the method."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.errors import FeatError, ModelError
from model.features.load import StreamFeatures
from model.measures.budget import AlarmRule
from model.methods.base import Fitted, Method, Parameters
from model.methods.registry import choose_method
from model.runs.folder import CHECKPOINT_NAME, not_finished
from model.runs.tensor_file import read_arrays, write_arrays

FORMAT = 2
KIND = "feat checkpoint"
_OLD_METHOD_NAME = "method.safetensors"
"""What builds before this format called the checkpoints of all methods but the ConvLSTM."""


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Everything about a trained method but what it learnt."""

    method: Method
    """With its settings."""
    seed: int
    streams: tuple[StreamFeatures, ...]
    clip_len: int
    categories: tuple[str, ...]
    """Those it tells apart; none for most methods."""
    train_videos: Mapping[str, str]
    """Name -> sha256 of the content, of the videos it was fitted to."""
    val_videos: Mapping[str, str]
    """The same of those that selected it."""
    labels_sha256: str
    cache: str
    """Path of the cache it was trained from, as it was then."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """How training went: steps, the step kept, validation measures."""
    label_sources: Mapping[str, int] = field(default_factory=dict)
    """Of the videos it has seen, as `data.sources.count_sources` tells them; none if unknown."""
    alarms: AlarmRule = field(default_factory=AlarmRule)
    """What the threshold is fitted for when the training is finished."""

    @property
    def seen_videos(self) -> dict[str, str]:
        """Name -> sha256 of the videos it was trained on or selected by."""
        return {**self.train_videos, **self.val_videos}

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "format": FORMAT,
            "method": self.method.name,
            "supervision": self.method.supervision,
            "settings": self.method.to_dict(),
            "seed": self.seed,
            "streams": [
                {"name": s.name, "dim": s.dim, "digest": s.digest, "config": dict(s.config)}
                for s in self.streams
            ],
            "clip_len": self.clip_len,
            "categories": list(self.categories),
            "train_videos": dict(self.train_videos),
            "val_videos": dict(self.val_videos),
            "labels_sha256": self.labels_sha256,
            "cache": self.cache,
            "result": dict(self.result),
            "label_sources": dict(self.label_sources),
            "alarms": asdict(self.alarms),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunInfo":
        """Read what `to_dict` gave.

        Raises:
            KeyError, TypeError, ValueError, FeatError: it is something else.
        """
        if values["format"] != FORMAT:
            raise ModelError(f"format {values['format']}, this build reads {FORMAT}")
        return cls(
            method=type(choose_method(values["method"])).from_dict(values["settings"]),
            seed=int(values["seed"]),
            streams=tuple(
                StreamFeatures(name=str(s["name"]), dim=int(s["dim"]), config=dict(s["config"]))
                for s in values["streams"]
            ),
            clip_len=int(values["clip_len"]),
            categories=tuple(str(name) for name in values["categories"]),
            train_videos=dict(values["train_videos"]),
            val_videos=dict(values["val_videos"]),
            labels_sha256=str(values["labels_sha256"]),
            cache=str(values["cache"]),
            result=dict(values["result"]),
            label_sources=dict(values.get("label_sources", {})),
            alarms=AlarmRule(**values.get("alarms", {})),
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained method."""

    info: RunInfo
    parameters: Parameters

    @property
    def fitted(self) -> Fitted:
        """What the method scores with."""
        return Fitted(
            parameters=self.parameters, categories=self.info.categories, result=self.info.result
        )


def save_checkpoint(run: Path, checkpoint: Checkpoint, *, name: str = "") -> None:
    """Write the checkpoint of a folder, or one called `name`; it appears only when it is whole."""
    path = run / (f"{name}.safetensors" if name else CHECKPOINT_NAME)
    write_arrays(path, KIND, checkpoint.info.to_dict(), checkpoint.parameters)


def load_checkpoint(
    run: Path, *, name: str = "", advice: str = "run `feat train` again"
) -> Checkpoint:
    """Read the checkpoint of a run folder, or one called `name`.

    Args:
        run: the folder.
        name: of the file, without suffix; that of a run folder's by default.
        advice: what the user is to do where it cannot be read.

    Raises:
        ModelError: there is none, or the file is damaged, of an older build, or something else.
    """
    path = run / (f"{name}.safetensors" if name else CHECKPOINT_NAME)
    if not path.is_file():
        if (run / _OLD_METHOD_NAME).is_file():
            path = run / _OLD_METHOD_NAME
        else:
            raise ModelError(not_finished(run))
    try:
        described, parameters = read_arrays(path, KIND)
        return Checkpoint(info=RunInfo.from_dict(described), parameters=parameters)
    except (KeyError, TypeError, ValueError, FeatError) as error:
        what = " ".join(str(error).split())
        raise ModelError(
            f"{path}: not a checkpoint this build can read: {what:.300}; {advice}"
        ) from error
