"""Everything about extraction that changes a feature's value, and so its key."""

import dataclasses
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from cache import config_difference
from cache.streams import CROPS, FEATURES, FRAMES
from data.errors import ConfigError, FeatError
from extract.backbones import BACKBONES, Backbone, MapBackbone
from extract.decode.config import DecodeConfig, FramesConfig
from extract.flow.tvl1 import TVL1Config
from extract.weights.resolve import Weights

_Section = TypeVar("_Section", DecodeConfig, TVL1Config)

DEFAULT_STREAMS = ("rgb", "flow")
CROP_COUNTS = (1, 5, 10)

# Raise one when the code behind it changes the values it produces: features made before and
# after then carry different keys and cannot be mixed up. Networks have versions of their own.
DECODE_VERSION = 1
CROPS_VERSION = 1
MAP_VERSION = 1
FLOW_VERSION = 3  # exact reciprocals and sums: one flow on every processor and GPU


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How features are made.

    Devices, workers and paths are arguments of the runner: they do not change the result beyond
    floating-point noise and stay out of the key. `precision` does and is part of it.

    Attributes:
        streams: which to extract, of `extract.backbones.BACKBONES`.
        decode: frame size and sampling.
        clip_len: frames a clip, m in Wan et al. 2021, section 5.1.
        clip_stride: frames between the starts of two clips; equal to `clip_len` for no overlap.
        tvl1: the optical flow's parameters.
        flow_clamp: flow is clamped to [-flow_clamp, flow_clamp] pixels, then divided by it
            (Carreira & Zisserman 2017, the authors' preprocessing).
        precision: arithmetic of the network, `float32`, `bfloat16` or `float16`.
        frames: what to keep of the frames themselves; None for nothing. Then `streams` may be
            empty.
        crops: of each clip, of `CROP_COUNTS`; see `extract.crops`. More than one are cut from
            frames that are decoded whole (`short-side`).
        feature_map: keep a feature for each place of a clip's last map, row by row, in the place
            of their mean.
    """

    streams: tuple[str, ...] = DEFAULT_STREAMS
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    clip_len: int = 16
    clip_stride: int = 16
    tvl1: TVL1Config = field(default_factory=TVL1Config)
    flow_clamp: float = 20.0
    precision: str = "float32"
    crops: int = 1
    feature_map: bool = False
    frames: FramesConfig | None = None

    def __post_init__(self) -> None:
        unknown = [stream for stream in self.streams if stream not in BACKBONES]
        if unknown or not (self.streams or self.frames):
            raise ConfigError(
                f"streams: found {','.join(self.streams) or 'none'}, expected one or more of "
                f"{', '.join([*BACKBONES, FRAMES])}"
            )
        for stream in self.streams:
            for what, found, takes in (
                ("clip_len", self.clip_len, BACKBONES[stream].clip_lens),
                ("decode.size", self.decode.size, BACKBONES[stream].sizes),
            ):
                if found not in takes:
                    raise ConfigError(f"{what}: found {found}, {stream} takes {_span(takes)}")
            if self.decode.resize not in BACKBONES[stream].resizes:
                raise ConfigError(
                    f"resize: found {self.decode.resize}, {stream} takes frames of "
                    f"{' or '.join(BACKBONES[stream].resizes)}: leave --resize and --crops out"
                )
        if not 1 <= self.clip_stride <= self.clip_len:
            raise ConfigError(
                f"clip_stride: found {self.clip_stride}, expected 1 to clip_len={self.clip_len} "
                "(a larger stride would leave frames without a feature)"
            )
        self._check_crops()
        self._check_map()
        if self.flow_clamp <= 0:
            raise ConfigError(f"flow_clamp: found {self.flow_clamp}, expected a positive number")

    def _check_crops(self) -> None:
        if self.crops not in CROP_COUNTS:
            known = ", ".join(map(str, CROP_COUNTS))
            raise ConfigError(f"crops: found {self.crops}, expected one of {known}")
        if (self.crops > 1) != (self.decode.resize == "short-side"):
            raise ConfigError(
                f"crops: found {self.crops} of frames of resize={self.decode.resize}, several are "
                "cut from frames of resize=short-side, and these need several"
            )
        for stream in self.streams:
            if self.crops > 1 and BACKBONES[stream].kind != FEATURES:
                raise ConfigError(
                    f"crops: found {self.crops}, {stream} fills a stream of "
                    f"{BACKBONES[stream].kind}, which has none"
                )

    def _check_map(self) -> None:
        if self.feature_map and self.crops > 1:
            raise ConfigError(
                f"feature_map: found {self.crops} crops, expected 1: keep the map or crops"
            )
        if self.feature_map and not self.streams:
            raise ConfigError("feature_map: frames have no map; name rgb or flow in --streams")
        for stream in self.streams:
            self.backbone(stream)

    def backbone(self, stream: str) -> Backbone:
        """Return what fills a stream.

        Raises:
            ConfigError: its map is wanted, and it has none.
        """
        backbone = BACKBONES[stream]
        if not self.feature_map:
            return backbone
        mapped = backbone.with_map(self.decode.size) if isinstance(backbone, MapBackbone) else None
        if mapped is None:
            raise ConfigError(
                f"feature_map: the features of {stream} are no means over a map; leave "
                "--feature-map out, or extract it into another --cache"
            )
        return mapped

    def kind(self, stream: str) -> str:
        """Return the kind of array that a stream holds, one of `cache.streams.KINDS`."""
        return CROPS if self.crops > 1 else self.backbone(stream).kind

    def stream_config(self, stream: str, weights: Weights) -> dict[str, Any]:
        """Return what determines one stream's features, as JSON: the configuration in its key."""
        config: dict[str, Any] = {
            "stream": stream,
            "decode": {**dataclasses.asdict(self.decode), "version": DECODE_VERSION},
            "clips": {"clip_len": self.clip_len, "clip_stride": self.clip_stride, "tail": "pad"},
            "network": {**BACKBONES[stream].identity, "precision": self.precision},
            "weights": {"kind": weights.kind, "name": weights.name, "digest": weights.digest},
        }
        if self.crops > 1:
            config["crops"] = {"count": self.crops, "version": CROPS_VERSION}
        if self.feature_map:
            side = math.isqrt(self.backbone(stream).shape[0])
            config["feature_map"] = {"height": side, "width": side, "version": MAP_VERSION}
        if BACKBONES[stream].needs == "flow":
            config["flow"] = {
                "name": "tvl1",
                "version": FLOW_VERSION,
                **dataclasses.asdict(self.tvl1),
                "clamp": self.flow_clamp,
            }
        return config

    def stream_configs(self, weights: Mapping[str, Weights]) -> dict[str, dict[str, Any]]:
        """Return the configuration of every stream that is asked for, as it enters the keys."""
        configs = {stream: self.stream_config(stream, weights[stream]) for stream in self.streams}
        if self.frames:
            configs[FRAMES] = {
                "stream": FRAMES,
                "decode": {"fps": self.decode.fps, "version": DECODE_VERSION},
                "frames": self.frames.to_json(),
            }
        return configs

    @classmethod
    def from_stream_configs(cls, configs: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return the configuration that makes features of these: the inverse of `stream_configs`.

        Args:
            configs: `stream_config` of each stream, as a cache or a run recorded it.

        Raises:
            ConfigError: this build makes no such features: they were imported, or another version
                made them, or the streams were decoded differently. The difference is named.
        """
        for stream, recorded in configs.items():
            part = recorded.get(FRAMES if stream == FRAMES else "network")
            if stream not in (*BACKBONES, FRAMES) or not isinstance(part, Mapping):
                raise ConfigError(
                    f"{stream}: features that were imported, not extracted from videos by this "
                    "build; they cannot be made of another video"
                )
        try:
            config = cls._from_recorded(configs)
            again = config.stream_configs(
                {stream: recorded_weights(stream, configs[stream]) for stream in config.streams}
            )
        except (KeyError, TypeError, ValueError, FeatError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ConfigError(
                f"the recorded configuration of the features cannot be read: {what}; it may be of "
                "a newer version: upgrade feat"
            ) from error
        for stream, made in again.items():
            # by text, as a key sees it: 20 and 20.0 are two configurations
            if difference := config_difference(made, configs[stream], where="recorded"):
                raise ConfigError(
                    f"{stream}: this build cannot make the recorded features: {difference}; "
                    "extract and train again, or use the version of feat that made them"
                )
        return config

    @classmethod
    def _from_recorded(cls, configs: Mapping[str, Mapping[str, Any]]) -> Self:
        """Read every field from the first stream that has it; whether all fits is seen later."""
        settings: dict[str, Any] = {}
        if FRAMES in configs:
            settings["frames"] = FramesConfig.from_json(configs[FRAMES]["frames"])
        of_clips = [config for stream, config in configs.items() if stream in BACKBONES]
        if not of_clips:
            decode = DecodeConfig(fps=configs[FRAMES]["decode"]["fps"])
            return cls(streams=(), decode=decode, **settings)
        first = of_clips[0]
        if len({"feature_map" in config for config in of_clips}) > 1:
            raise ConfigError(
                "some streams have a feature map and some none; no command makes both"
            )
        flow = next((config["flow"] for config in configs.values() if "flow" in config), None)
        if flow is not None:
            settings |= {"tvl1": _read_fields(TVL1Config, flow), "flow_clamp": flow["clamp"]}
        return cls(
            streams=tuple(stream for stream in BACKBONES if stream in configs),
            decode=_read_fields(DecodeConfig, first["decode"]),
            clip_len=first["clips"]["clip_len"],
            clip_stride=first["clips"]["clip_stride"],
            precision=first["network"]["precision"],
            crops=first["crops"]["count"] if "crops" in first else 1,
            feature_map="feature_map" in first,
            **settings,
        )


def recorded_weights(stream: str, config: Mapping[str, Any]) -> Weights:
    """Return the weights that a recorded configuration names, without a file.

    Raises:
        KeyError, TypeError: it names none.
    """
    weights = config["weights"]
    return Weights(
        stream=stream,
        kind=weights["kind"],
        name=weights["name"],
        digest=weights["digest"],
        path=Path(),
    )


def _span(values: range) -> str:
    """Return a range as people say it: `16`, `8 to 64` or `8 or more`."""
    if values.stop == sys.maxsize:
        return f"{values.start} or more"
    return f"{values[0]} to {values[-1]}" if len(values) > 1 else str(values.start)


def _read_fields(kind: type[_Section], values: Mapping[str, Any]) -> _Section:
    return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})
