"""Configurations: what they refuse, and what can be read back from a record of them."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import config_digest
from data.errors import ConfigError
from extract.config import FLOW_VERSION, ExtractConfig, recorded_weights
from extract.decode.config import DecodeConfig
from extract.flow.tvl1 import TVL1Config
from extract.weights.resolve import Weights


def weights(stream: str, kind: str = "published", digest: str = "d" * 64) -> Weights:
    return Weights(stream=stream, kind=kind, name=f"a-{stream}", digest=digest, path=Path("x"))


BOTH = {"rgb": weights("rgb"), "flow": weights("flow", "crossmodal", "crossmodal:" + "d" * 64)}

floats = st.floats(min_value=1e-3, max_value=0.99)
counts = st.integers(min_value=1, max_value=20)
decodes = st.builds(
    DecodeConfig,
    resize=st.sampled_from(["squash", "crop"]),
    size=st.integers(32, 512),
    fps=st.none() | st.floats(0.5, 60) | st.integers(1, 60),
)
tvl1s = st.builds(
    TVL1Config,
    tau=floats,
    lambda_=floats,
    theta=floats,
    num_scales=counts,
    scale_step=floats,
    num_warps=counts,
    epsilon=floats,
    inner_iterations=counts,
    outer_iterations=counts,
    median_size=st.sampled_from([1, 5]),
)


@st.composite
def configs(draw: st.DrawFn) -> ExtractConfig:
    clip_len = draw(st.integers(8, 64))
    return ExtractConfig(
        streams=draw(st.sampled_from([("rgb",), ("flow",), ("rgb", "flow")])),
        decode=draw(decodes),
        clip_len=clip_len,
        clip_stride=draw(st.integers(1, clip_len)),
        tvl1=draw(tvl1s),
        flow_clamp=draw(st.floats(1, 100) | st.integers(1, 100)),
        precision=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
    )


def recorded(config: ExtractConfig) -> dict[str, dict[str, Any]]:
    """What a cache or a run gives back of it."""
    return json.loads(json.dumps(config.stream_configs(BOTH)))


@given(configs())
def test_a_recorded_configuration_is_read_back_exactly(config: ExtractConfig) -> None:
    record = recorded(config)
    again = ExtractConfig.from_stream_configs(record)
    assert recorded(again) == record
    if "flow" in config.streams:
        assert again == config
    for stream in config.streams:
        assert recorded_weights(stream, record[stream]).digest == BOTH[stream].digest


def test_the_keys_of_rgb_and_flow_are_those_of_the_first_release() -> None:
    # of rgb as the build before backbones were registered: caches out there hold such keys
    plain = ExtractConfig().stream_configs({name: weights(name) for name in ("rgb", "flow")})
    assert {name: config_digest(config) for name, config in plain.items()} == {
        "rgb": "4a47ae23281772a7241d18cefd897a92479ca6a3a6168a87044d855cd26cf56f",
        "flow": "c79e41d8038cf1df595f805526fb2ff5923052196c32ba5a2a3c3f00ba23a36f",
    }


def test_the_order_of_the_record_does_not_matter() -> None:
    record = recorded(ExtractConfig())
    assert ExtractConfig.from_stream_configs(dict(reversed(record.items()))) == ExtractConfig()


def changed(path: str, value: object) -> dict[str, dict[str, Any]]:
    """The record of the defaults with one value replaced, or removed if it is None."""
    record = copy.deepcopy(recorded(ExtractConfig()))
    *parents, last = path.split(".")
    place: dict[str, Any] = record
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("rgb.decode.version", 99, "decode.version: 1 here, 99 recorded"),
        ("flow.flow.version", 99, f"flow.version: {FLOW_VERSION} here, 99 recorded"),
        ("rgb.network.version", 99, "network.version: 1 here, 99 recorded"),
        ("rgb.network.name", "slowfast", "network.name: i3d-inception-v1 here, slowfast recorded"),
        ("rgb.clips.tail", "drop", "clips.tail: pad here, drop recorded"),
        ("flow.decode.resize", "crop", "flow: .*decode.resize: squash here, crop recorded"),
        ("rgb.decode.gamma", 2.2, "decode.gamma: nothing here, 2.2 recorded"),
        ("rgb.decode.resize", "letterbox", "found 'letterbox'"),
        ("rgb.decode.size", None, "'size' is missing"),
        ("flow.flow.tau", None, "'tau' is missing"),
        ("flow.flow.tau", "fast", "newer version"),
        ("rgb.clips", [], "newer version"),
        ("rgb.weights", None, "'weights' is missing"),
    ],
)
def test_what_this_build_cannot_make_is_named(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        ExtractConfig.from_stream_configs(changed(path, value))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stream", ["c3d", "rgb"])
def test_imported_features_have_no_extraction(stream: str) -> None:
    record = {stream: {"stream": stream, "origin": "somebody", "layout": "segments"}}
    with pytest.raises(ConfigError, match=f"{stream}: features that were imported"):
        ExtractConfig.from_stream_configs(record)
