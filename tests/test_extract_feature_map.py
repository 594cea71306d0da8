"""The places of I3D's last map: which they are, and that they go the whole way into a cache."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from model_cache import label
from test_extract_decode import decode, make_video
from test_extract_i3d import made_up_state

from cache import FeatureCache
from data.errors import ConfigError
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig, FramesConfig
from extract.devices import Resources
from extract.flow.tvl1 import TVL1Config
from extract.i3d.network import I3D, pool_features, pool_places
from extract.i3d.prepared import prepare_network
from extract.run.runner import run_extraction
from feat import cli
from model.methods.registry import choose_method
from model.runs.train import run_training
from predict.scoring import ExtractOptions, run_prediction
from predict.sought import find_sought

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = ExtractConfig(
    decode=DecodeConfig(size=64),
    tvl1=TVL1Config(num_warps=1, outer_iterations=1, inner_iterations=3),
    feature_map=True,
)


@given(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7), st.integers(0, 99))
def test_places_come_row_by_row_and_their_mean_is_the_feature(
    times: int, height: int, width: int, seed: int
) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).random((2, 5, times, height, width)))
    places = pool_places(x)
    assert places.shape == (2, height * width, 5)
    # windows of two times, as the published network's last pooling
    windows = [x[:, :, t : t + 2].mean(dim=2) for t in range(max(times - 1, 1))]
    expected = torch.stack(windows).mean(dim=0)
    for row in range(height):
        for column in range(width):
            torch.testing.assert_close(places[:, row * width + column], expected[..., row, column])
    torch.testing.assert_close(places.mean(dim=1), pool_features(x))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fast_network_gives_the_places_of_the_plain_one(precision: str) -> None:
    state = made_up_state()
    clips = torch.randint(0, 256, (2, 3, 16, 64, 96), dtype=torch.uint8)
    with torch.inference_mode():
        maps = I3D.from_state_dict(state, "rgb").maps(clips.float() / 127.5 - 1)
    found, feature = (
        prepare_network(state, "rgb", device="cpu", precision=precision, feature_map=kept)(clips)
        for kept in (True, False)
    )
    expected = maps.mean(dim=2).flatten(2).transpose(1, 2)
    assert (found.shape, found.dtype) == ((2, 6, 1024), torch.float32)
    limit = 1e-5 if precision == "float32" else 0.05
    assert (found - expected).norm() / expected.norm() < limit
    torch.testing.assert_close(found.mean(dim=1), feature, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("resources", [Resources(device="cpu"), Resources(device="cpu", batch=3)])
def test_maps_go_the_whole_way_and_a_new_video_gets_them_too(
    tmp_path: Path, random_rgb_weights: Path, resources: Resources
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    rows = []
    for number in range(4):
        make_video(videos / f"{number}.mkv", "-c:v", "ffv1", num_frames=40 + number)
        rows.append(label(f"{number}.mkv", "train"))
    weights = {"rgb": str(random_rgb_weights), "flow": "crossmodal"}
    caches = []
    for config in (CONFIG, replace(CONFIG, feature_map=False)):
        cache = tmp_path / f"features-{config.feature_map}"
        report = run_extraction(videos, cache, config, resources=resources, weights=weights)
        assert (report.done, report.failed) == (4, [])
        caches.append(FeatureCache(cache))
    maps, plain = caches
    for row in rows:
        for stream in ("rgb", "flow"):
            entry = maps.find(row.video, stream)
            assert (entry.kind, entry.feature_shape) == ("crops", (3, 4, 1024))
            assert entry.config["feature_map"] == {"height": 2, "width": 2, "version": 1}
            mean = maps.read(row.video, stream).mean(axis=1)
            np.testing.assert_allclose(mean, plain.read(row.video, stream), rtol=1e-4, atol=1e-5)
    recorded = {stream: maps.find("0.mkv", stream).config for stream in ("rgb", "flow")}
    assert ExtractConfig.from_stream_configs(recorded) == CONFIG
    again = run_extraction(videos, maps.path, CONFIG, resources=resources, weights=weights)
    assert (again.done, again.skipped) == (0, 4)

    run = run_training(
        maps, rows, choose_method("srnn").changed({"steps": 2, "layers": 2}), out=tmp_path / "r"
    )
    new = make_video(tmp_path / "new.mkv", "-c:v", "ffv1", num_frames=35)
    options = ExtractOptions(
        keep_dir=tmp_path / "keep", device="cpu", rgb_weights=random_rgb_weights
    )
    (sought,) = found = find_sought([new])
    assert run_prediction(found, run.run, options, threshold=None) == CONFIG
    assert (sought.error, len(sought.prediction.scores)) == ("", 35)
    assert {e.feature_shape for e in FeatureCache(tmp_path / "keep").entries()} == {(3, 4, 1024)}


def test_the_place_of_a_clip_is_where_it_is_in_the_frame(
    tmp_path: Path, random_rgb_weights: Path
) -> None:
    """What changes in a corner changes what is near it most."""
    path = make_video(tmp_path / "v.mkv", "-c:v", "ffv1", num_frames=16, size="224x224")
    frames, _, _ = decode(path, DecodeConfig())
    state = made_up_state()
    network = prepare_network(state, "rgb", device="cpu", precision="float32", feature_map=True)
    changed = frames.copy()
    changed[:, :32, 192:] = 255 - changed[:, :32, 192:]  # top right
    one, other = (
        network(torch.from_numpy(each)[None].permute(0, 4, 1, 2, 3)) for each in (frames, changed)
    )
    difference = (one - other)[0].norm(dim=1).reshape(7, 7)
    assert difference[:2, 5:].min() > 2 * difference[3:].max()
    assert difference[:2, 5:].min() > 2 * difference[:, :3].max()


def test_streams_with_a_map_and_without_are_made_by_no_command(random_rgb_weights: Path) -> None:
    found = {"rgb": BACKBONES["rgb"].find_weights({"rgb": str(random_rgb_weights)})}
    found["flow"] = BACKBONES["flow"].find_weights(
        {"rgb": str(random_rgb_weights), "flow": "crossmodal"}
    )
    mapped = CONFIG.stream_configs(found)
    plain = replace(CONFIG, feature_map=False).stream_configs(found)
    with pytest.raises(ConfigError, match="some streams have a feature map and some none"):
        ExtractConfig.from_stream_configs({"rgb": mapped["rgb"], "flow": plain["flow"]})


def test_maps_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for changes, message in (
        ({"streams": ("rgb", "c3d")}, "the features of c3d are no means over a map"),
        ({"decode": DecodeConfig(size=256)}, "the features of rgb are no means over a map"),
        ({"streams": (), "frames": FramesConfig()}, "frames have no map"),
        (
            {"crops": 10, "decode": DecodeConfig(resize="short-side")},
            "feature_map: found 10 crops, expected 1",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(CONFIG, **changes)
    make_video(tmp_path / "v.mkv", "-c:v", "ffv1", num_frames=4)
    arguments = ["extract", str(tmp_path), "--streams", "c3d", "--feature-map"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "leave --feature-map out" in result.stderr
