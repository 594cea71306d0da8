"""A backbone registered in one place goes the whole way: keys, extraction, cache, prediction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from cache import FeatureCache
from data.errors import ConfigError
from data.videos import VideoSource
from extract.backbones import BACKBONES, Backbone
from extract.config import ExtractConfig, recorded_weights
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from extract.devices import Resources
from extract.flow.tvl1 import TVL1Config
from extract.run.runner import run_extraction
from extract.weights.resolve import Weights
from feat import cli

CPU = Resources(device="cpu")


@dataclass(frozen=True)
class Drawn:
    """A backbone of a few lines; `function` is its network."""

    stream: str
    needs: str
    shape: tuple[int, ...]
    function: Callable[[torch.Tensor], torch.Tensor]
    kind: str = "features"
    sizes: range = range(64, 225)
    identity = {"name": "drawn", "version": 3, "layer": "only"}  # noqa: RUF012
    clip_lens = range(16, 17)
    resizes = ("squash", "crop", "short-side")
    dtype = "float32"

    def find_weights(self, choices: Any, *, present: Any = (), recorded: Any = None) -> Weights:
        return Weights(stream=self.stream, kind="file", name="none", digest="0" * 64, path=Path())

    def load(self, weights: Weights, *, device: torch.device, precision: str) -> Any:
        return self.function


COLOUR = Drawn("colour", "frames", (3,), lambda clips: clips.float().mean(dim=(1, 2, 3)))
MOTION = Drawn("motion", "flow", (2,), lambda clips: clips.abs().mean(dim=(1, 2, 3)))
HALVES = Drawn(
    "halves",
    "frames",
    (2, 3),
    lambda clips: torch.stack([part.float().mean(dim=(1, 2, 3)) for part in clips.chunk(2, 3)], 1),
    kind="crops",
)
SMALL = DecodeConfig(size=64)
TVL1 = TVL1Config(num_scales=2, num_warps=1, outer_iterations=1, inner_iterations=3)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for each in (COLOUR, MOTION, HALVES):
        backbone: Backbone = each  # type: ignore[assignment]
        monkeypatch.setitem(BACKBONES, each.stream, backbone)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config(registered: None) -> ExtractConfig:
    return ExtractConfig(streams=("colour", "motion", "halves"), decode=SMALL, tvl1=TVL1)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video) -> Path:
    root = tmp_path_factory.mktemp("videos")
    make_video(root / "a.mp4", num_frames=40)
    return root


def test_features_of_two_new_backbones_are_in_the_cache(
    videos: Path, tmp_path: Path, config: ExtractConfig
) -> None:
    report = run_extraction(
        videos, tmp_path / "features", config, resources=Resources(device="cpu")
    )
    assert (report.done, report.failed) == (1, [])
    cache = FeatureCache(tmp_path / "features")
    source = VideoSource(video_id="a.mp4", path=videos / "a.mp4", kind="file")
    with open_video(source, config.decode, threads=1) as stream:
        frames, _ = stream.read(100)
    colour = cache.read("a.mp4", "colour")
    assert colour.shape == (3, 3)
    padded = np.concatenate([frames, np.repeat(frames[-1:], 8, axis=0)]).astype(np.float64)
    expected = padded.reshape(3, 16, -1, 3).mean(axis=(1, 2))
    np.testing.assert_allclose(colour, expected, rtol=1e-4)
    halves = cache.read_record(cache.find("a.mp4", "halves").key)
    assert (halves.kind, halves.features.shape, halves.flow_stats) == ("crops", (3, 2, 3), None)
    np.testing.assert_allclose(halves.features.mean(axis=1), expected, rtol=1e-4)
    assert cache.feature_streams("a.mp4") == ["colour", "halves", "motion"]
    motion = cache.read_record(cache.find("a.mp4", "motion").key)
    assert motion.flow_stats is not None
    # the first clip is all real and nothing in it is clamped: the statistics know its mean too
    assert motion.flow_stats[0, 2] < config.flow_clamp
    np.testing.assert_allclose(
        motion.features[0] * config.flow_clamp, motion.flow_stats[0, :2], rtol=1e-4
    )


def test_what_was_recorded_of_a_new_backbone_is_read_back(
    videos: Path, tmp_path: Path, config: ExtractConfig
) -> None:
    run_extraction(videos, tmp_path / "features", config, resources=CPU)
    cache = FeatureCache(tmp_path / "features")
    configs = {name: cache.find("a.mp4", name).config for name in config.streams}
    assert configs["colour"]["network"] == {**COLOUR.identity, "precision": "float32"}
    assert "flow" not in configs["colour"]
    assert configs["motion"]["flow"]["clamp"] == config.flow_clamp
    assert ExtractConfig.from_stream_configs(configs) == config
    assert recorded_weights("motion", configs["motion"]).digest == "0" * 64


def test_a_clip_that_a_backbone_does_not_take_is_refused(
    config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"clip_len: found 32, colour takes 16$"):
        replace(config, clip_len=32)
    with pytest.raises(ConfigError, match=r"clip_len: found 7, rgb takes 8 or more$"):
        ExtractConfig(clip_len=7, clip_stride=7)
    monkeypatch.setitem(BACKBONES, "colour", replace(COLOUR, sizes=range(224, 225)))  # type: ignore[misc]
    with pytest.raises(ConfigError, match=r"size: found 112, colour takes 224$"):
        replace(config, decode=replace(config.decode, size=112))


def test_rows_that_are_not_what_was_declared_fail_the_video(
    videos: Path, tmp_path: Path, config: ExtractConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "colour", replace(COLOUR, shape=(4,)))  # type: ignore[misc]
    config = replace(config, streams=("colour",))
    report = run_extraction(
        videos, tmp_path / "features", config, resources=Resources(device="cpu")
    )
    (failed,) = report.failed
    assert "the network of colour gave (1, 3) torch.float32, declared are (1, 4)" in failed["error"]


def test_an_unknown_stream_is_refused_with_the_registered_ones(
    videos: Path, tmp_path: Path, registered: None
) -> None:
    arguments = ["--videos", str(videos), "--cache", str(tmp_path / "c"), "--streams", "rgb,clip"]
    result = CliRunner().invoke(cli, ["extract", *arguments])
    assert result.exit_code == 1
    known = "rgb, flow, c3d, colour, motion, halves"
    assert f"found rgb,clip, expected one or more of {known}" in result.stderr
