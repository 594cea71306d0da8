"""Everything about extraction that changes a feature's value, and so its key."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from data.errors import ConfigError
from extract.decode import DecodeConfig
from extract.i3d_layers import Stream
from extract.tvl1 import TVL1Config
from extract.weights import Weights

STREAMS: tuple[Stream, ...] = get_args(Stream)

# Raise one when the code behind it changes the values it produces: features made before and
# after then carry different keys and cannot be mixed up.
DECODE_VERSION = 1
FLOW_VERSION = 1
NETWORK_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """How features are made.

    Devices, workers and paths are arguments of the runner: they do not change the result beyond
    floating-point noise and stay out of the key. `precision` does and is part of it.

    Attributes:
        streams: which of `rgb` and `flow` to extract.
        decode: frame size and sampling.
        clip_len: frames a clip, m in Wan et al. 2021, section 5.1.
        clip_stride: frames between the starts of two clips; equal to `clip_len` for no overlap.
        tvl1: the optical flow's parameters.
        flow_clamp: flow is clamped to [-flow_clamp, flow_clamp] pixels, then divided by it
            (Carreira & Zisserman 2017, the authors' preprocessing).
        precision: arithmetic of the network, `float32`, `bfloat16` or `float16`.
    """

    streams: tuple[Stream, ...] = STREAMS
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    clip_len: int = 16
    clip_stride: int = 16
    tvl1: TVL1Config = field(default_factory=TVL1Config)
    flow_clamp: float = 20.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        unknown = [stream for stream in self.streams if stream not in STREAMS]
        if unknown or not self.streams:
            raise ConfigError(
                f"streams: found {','.join(self.streams) or 'none'}, expected one or more of "
                f"{', '.join(STREAMS)}"
            )
        if self.clip_len < 8:
            # the last average pooling of I3D spans two time steps of stride eight
            raise ConfigError(f"clip_len: found {self.clip_len}, expected 8 or more frames")
        if not 1 <= self.clip_stride <= self.clip_len:
            raise ConfigError(
                f"clip_stride: found {self.clip_stride}, expected 1 to clip_len={self.clip_len} "
                "(a larger stride would leave frames without a feature)"
            )
        if self.flow_clamp <= 0:
            raise ConfigError(f"flow_clamp: found {self.flow_clamp}, expected a positive number")

    def stream_config(self, stream: Stream, weights: Weights) -> dict[str, Any]:
        """Return what determines one stream's features, as JSON: the configuration in its key."""
        config: dict[str, Any] = {
            "stream": stream,
            "decode": {**dataclasses.asdict(self.decode), "version": DECODE_VERSION},
            "clips": {"clip_len": self.clip_len, "clip_stride": self.clip_stride, "tail": "pad"},
            "network": {
                "name": "i3d-inception-v1",
                "version": NETWORK_VERSION,
                "layer": "last average pooling",
                "precision": self.precision,
            },
            "weights": {"kind": weights.kind, "name": weights.name, "digest": weights.digest},
        }
        if stream == "flow":
            config["flow"] = {
                "name": "tvl1",
                "version": FLOW_VERSION,
                **dataclasses.asdict(self.tvl1),
                "clamp": self.flow_clamp,
            }
        return config

    def stream_configs(self, weights: Mapping[Stream, Weights]) -> dict[Stream, dict[str, Any]]:
        """Return `stream_config` of every stream that is asked for."""
        return {stream: self.stream_config(stream, weights[stream]) for stream in self.streams}
