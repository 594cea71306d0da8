"""Checkpoints: one safetensors file with weights, standardisation and all that made them.

The description lies in the file's metadata as JSON, so that the file alone is enough; nothing in
it is pickled.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from cache import FeatureCache, config_difference, config_digest
from data.errors import ConfigError, FeatError, ModelError
from data.files import write_whole
from data.labels import VideoLabel
from model.config import ModelConfig, TrainConfig
from model.features.load import (
    MOTION_DIM,
    FeatureSet,
    StreamFeatures,
    load_features,
)
from model.features.standardize import NetworkInputs, Standardizer
from model.network.multitask import AnomalyNetwork

FORMAT = 1
CHECKPOINT_NAME = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Everything about a trained model but its weights."""

    model: ModelConfig
    train: TrainConfig
    streams: tuple[StreamFeatures, ...]
    clip_len: int
    categories: tuple[str, ...]
    train_videos: Mapping[str, str]
    """Name -> sha256 of the content, of the videos it was trained on."""
    val_videos: Mapping[str, str]
    """The same of those that selected it."""
    labels_sha256: str
    cache: str
    """Path of the cache it was trained from, as it was then."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """How training went: steps, the step kept, validation measures."""

    @property
    def seen_videos(self) -> dict[str, str]:
        """Name -> sha256 of the videos it was trained on or selected by."""
        return {**self.train_videos, **self.val_videos}

    @property
    def feature_dim(self) -> int:
        """D, all streams together, and the columns of motion where the model has them."""
        return sum(stream.dim for stream in self.streams) + self.model.motion * MOTION_DIM

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "format": FORMAT,
            "model": self.model.to_dict(),
            "train": self.train.to_dict(),
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
            model=ModelConfig.from_dict(values["model"]),
            train=TrainConfig.from_dict(values["train"]),
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
        )


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network with its standardisation and description."""

    network: AnomalyNetwork
    standardizer: Standardizer
    info: RunInfo

    def inputs(self, data: FeatureSet) -> NetworkInputs:
        """Return `data`'s features as the network takes them, on its device."""
        device = next(self.network.parameters()).device
        return self.standardizer.inputs(data.features, device)

    def load_features(self, cache: FeatureCache, labels: Sequence[VideoLabel]) -> FeatureSet:
        """Return the features of the labelled videos, made as those it was trained on.

        Raises:
            FeatError: as of `features.load_features`.
        """
        return load_features(
            cache,
            labels,
            streams=[stream.name for stream in self.info.streams],
            configs={stream.name: stream.config for stream in self.info.streams},
            motion=self.info.model.motion,
        )


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; `path` appears only when it is whole."""
    tensors = {
        f"network.{name}": tensor.detach().cpu().contiguous()
        for name, tensor in checkpoint.network.state_dict().items()
    }
    tensors["standardizer.mean"] = torch.from_numpy(checkpoint.standardizer.mean)
    tensors["standardizer.std"] = torch.from_numpy(checkpoint.standardizer.std)
    write_whole(
        path,
        save(tensors, metadata={"feat": json.dumps(checkpoint.info.to_dict())}),
        one_writer=True,
    )


def load_checkpoint(path: Path, *, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: there is none, or the file is damaged or something else.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no checkpoint there; run `feat train` first")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            described = (file.metadata() or {})["feat"]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        info = RunInfo.from_dict(json.loads(described))
        # On the meta device no memory is asked for until the file's shapes are known to fit.
        with torch.device("meta"):
            network = AnomalyNetwork(
                info.model, feature_dim=info.feature_dim, num_categories=len(info.categories)
            )
        mean, std = (tensors.pop(f"standardizer.{name}").cpu().numpy() for name in ("mean", "std"))
        if mean.shape != (info.feature_dim,) or std.shape != mean.shape:
            raise ValueError(f"standardisation of {mean.shape} for {info.feature_dim} features")
        weights = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
        network.load_state_dict(weights, strict=True, assign=True)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, FeatError) as error:
        what = " ".join(str(error).split())
        raise ModelError(
            f"{path}: not a checkpoint this build can read: {what:.300}; run `feat train` again"
        ) from error
    network.eval()
    standardizer = Standardizer(
        mean=np.asarray(mean),
        std=np.asarray(std),
        limit=info.model.feature_clip if info.model.standardize else 0.0,
    )
    return Checkpoint(network=network, standardizer=standardizer, info=info)


def check_features_fit(info: RunInfo, cache: FeatureCache, *, where: str) -> None:
    """Refuse a cache whose features were made in another way than those trained on.

    Args:
        info: of the checkpoint.
        cache: the cache to be read.
        where: name of the checkpoint, for the message.

    Raises:
        ConfigError: a stream is absent or has another configuration; the difference is named.
    """
    for stream in info.streams:
        found = list(cache.configs(stream.name))
        if any(config_digest(config) == stream.digest for config in found):
            continue
        if not found:
            raise ConfigError(
                f"{where} needs the stream {stream.name}, which the cache does not have; run "
                f"`feat extract --streams {','.join(s.name for s in info.streams)}`"
            )
        raise ConfigError(
            f"{where} was trained on other {stream.name} features than the cache has: "
            f"{config_difference(stream.config, found[0])}; extract with the settings of the "
            "checkpoint or train again"
        )
