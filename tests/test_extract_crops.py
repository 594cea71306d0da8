"""Several crops: which pixels they are, and that they go the whole way into a cache.

Expected pixels are those of torchvision's `five_crop` and `hflip`, written out by hand: corners as
slices, the centre at int(round((side - size) / 2)), the mirrored five cut from the mirrored frame.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cache import label
from PIL import Image
from test_extract_backbones import COLOUR, HALVES, MOTION, TVL1
from test_extract_decode import decode, make_video, textured_frames, write_frames

from cache import FeatureCache
from data.errors import ConfigError, DecodeError
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.crops import cut_crops, mirrored
from extract.decode.config import DecodeConfig
from extract.devices import Resources
from extract.flow.tvl1 import rgb_to_gray, tvl1_flow
from extract.run.runner import run_extraction
from feat import cli
from model.methods.registry import choose_method
from model.runs.train import run_training
from predict.scoring import ExtractOptions, run_prediction
from predict.sought import find_sought

pytestmark = pytest.mark.usefixtures("one_thread")

WHOLE = DecodeConfig(resize="short-side")


def ten_crops(frames: np.ndarray, size: int) -> list[np.ndarray]:
    """The crops of frames (..., H, W, C): centre first, then as torchvision's five_crop."""

    def five(image: np.ndarray) -> list[np.ndarray]:
        height, width = image.shape[-3:-1]
        top, left = int(round((height - size) / 2.0)), int(round((width - size) / 2.0))  # noqa: RUF046
        return [
            image[..., top : top + size, left : left + size, :],
            image[..., 0:size, 0:size, :],
            image[..., 0:size, width - size : width, :],
            image[..., height - size : height, 0:size, :],
            image[..., height - size : height, width - size : width, :],
        ]

    return five(frames) + five(frames[..., ::-1, :])


@given(st.integers(5, 14), st.integers(5, 14), st.sampled_from([5, 10]))
@settings(max_examples=60)
def test_crops_are_torchvisions_pixel_for_pixel(height: int, width: int, count: int) -> None:
    frames = np.arange(2 * 3 * height * width * 3).reshape(2, 3, height, width, 3).astype(np.uint8)
    found = list(cut_crops(torch.from_numpy(frames), count, 5))
    assert len(found) == count
    for crop, expected in zip(found, ten_crops(frames, 5), strict=False):
        np.testing.assert_array_equal(crop.numpy(), expected)


def test_mirrored_flow_points_the_other_way_and_is_nearly_that_of_mirrored_frames() -> None:
    still = textured_frames(1, 60, 80)[0]
    frames = np.stack([np.roll(still, 2 * step, axis=1) for step in range(3)])
    flow = torch.from_numpy(tvl1_flow(rgb_to_gray(frames)))[None]
    turned = torch.from_numpy(tvl1_flow(rgb_to_gray(np.ascontiguousarray(frames[:, :, ::-1]))))
    difference = (mirrored(flow)[0] - turned).abs()
    assert flow[0, :, 20:40, 20:60, 0].median() == pytest.approx(2, abs=0.2)
    assert difference[:, 10:-10, 10:-10].median() < 0.05


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        # int(size * long / short), as torchvision's Resize(256)
        (240, 320, (256, 341)),
        (480, 856, (256, 456)),
        (1080, 1920, (256, 455)),
        (640, 360, (455, 256)),
        (100, 100, (256, 256)),
    ],
)
def test_frames_are_of_torchvisions_size(tmp_path, height, width, expected) -> None:
    assert WHOLE.frame_size(height, width) == expected
    original = textured_frames(2, height, width)
    frames, _, stream = decode(write_frames(tmp_path / "v.mkv", original), WHOLE)
    assert frames.shape == (2, *expected, 3)
    assert stream.partial == ""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(original):
        picture = Image.fromarray(frame)
        picture.save(folder / f"{number}.png")
        scaled = np.asarray(picture.resize(expected[::-1], Image.Resampling.BICUBIC), dtype=int)
        # another kernel, see test_extract_decode
        assert np.abs(frames[number] - scaled)[2:-2, 2:-2].mean() < 1


def test_a_picture_of_another_size_on_the_way_becomes_one_of_the_first(tmp_path) -> None:
    joined = tmp_path / "joined.h264"
    parts = [
        make_video(tmp_path / f"{size}.h264", "-c:v", "libx264", "-r", 25, num_frames=5, size=size)
        for size in ("64x48", "96x96")
    ]
    joined.write_bytes(b"".join(path.read_bytes() for path in parts))
    for _ in range(10):  # it depended on which of ffmpeg's threads was first
        frames, _, stream = decode(joined, DecodeConfig(resize="short-side", size=56))
        assert (frames.shape, stream.partial) == ((10, 64, 85, 3), "")
    # the second part's pictures, squashed to the first one's size
    original = decode(parts[1], DecodeConfig(size=96))[0]
    for frame, picture in zip(frames[5:], original, strict=True):
        scaled = np.asarray(Image.fromarray(picture).resize((85, 64), Image.Resampling.BICUBIC))
        assert np.abs(frame.astype(int) - scaled)[2:-2, 2:-2].mean() < 2


def test_a_picture_far_from_a_square_is_refused(tmp_path) -> None:
    path = make_video(tmp_path / "v.mkv", "-c:v", "ffv1", size="400x40")
    with pytest.raises(DecodeError, match=r"v.mkv: pictures of 400x40 pixels.*--crops 1$"):
        decode(path, WHOLE)


@pytest.mark.parametrize("resources", [Resources(device="cpu"), Resources(device="cpu", batch=25)])
def test_ten_crops_go_the_whole_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resources: Resources
) -> None:
    for each in (COLOUR, MOTION):
        monkeypatch.setitem(BACKBONES, each.stream, each)  # type: ignore[misc]
    videos = tmp_path / "videos"
    videos.mkdir()
    # of two shapes: clips of both cannot be in one batch
    make_video(videos / "a.mkv", "-c:v", "ffv1", num_frames=20, size="64x48")
    make_video(videos / "b.mkv", "-c:v", "ffv1", num_frames=17, size="48x64")
    small = replace(WHOLE, size=64)
    config = ExtractConfig(streams=("colour", "motion"), decode=small, crops=10, tvl1=TVL1)
    report = run_extraction(videos, tmp_path / "features", config, resources=resources)
    assert (report.done, report.failed) == (2, [])
    cache = FeatureCache(tmp_path / "features")
    for name in ("a.mkv", "b.mkv"):
        entries = [cache.find(name, stream) for stream in config.streams]
        assert [entry.kind for entry in entries] == ["crops", "crops"]
        assert [entry.feature_shape for entry in entries] == [(2, 10, 3), (2, 10, 2)]
        frames, _, _ = decode(videos / name, small)
        expected = [crop.mean(axis=(0, 1, 2)) for crop in ten_crops(frames[:16], 64)]
        colour = cache.read(name, "colour")
        np.testing.assert_allclose(colour[0], expected, rtol=1e-4)
        assert entries[1].has_flow_stats
        recorded = {entry.stream: entry.config for entry in entries}
        assert recorded["colour"]["crops"] == {"count": 10, "version": 1}
        assert ExtractConfig.from_stream_configs(recorded) == config
    again = run_extraction(videos, tmp_path / "features", config, resources=resources)
    assert (again.done, again.skipped) == (0, 2)


def test_a_run_that_was_trained_on_crops_predicts_with_the_same_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in (COLOUR, MOTION):
        monkeypatch.setitem(BACKBONES, each.stream, each)  # type: ignore[misc]
    videos = tmp_path / "videos"
    videos.mkdir()
    rows = []
    for number in range(6):
        make_video(videos / f"{number}.mkv", "-c:v", "ffv1", num_frames=48 + number, size="64x48")
        rows.append(label(f"{number}.mkv", "train", "16:32" if number % 2 else ""))
    config = ExtractConfig(streams=("colour",), decode=replace(WHOLE, size=64), crops=10)
    cpu = Resources(device="cpu")
    run_extraction(videos, tmp_path / "features", config, resources=cpu)
    cache = FeatureCache(tmp_path / "features")
    run = run_training(cache, rows, choose_method("logistic"), out=tmp_path / "run").run
    new = make_video(tmp_path / "new.mkv", "-c:v", "ffv1", num_frames=40, size="64x48")
    (sought,) = found = find_sought([new])
    options = ExtractOptions(keep_dir=tmp_path / "keep", device="cpu")
    assert run_prediction(found, run, options, threshold=None) == config
    assert (sought.error, len(sought.prediction.scores)) == ("", 40)
    (entry,) = FeatureCache(tmp_path / "keep").entries()
    assert (entry.kind, entry.feature_shape) == ("crops", (3, 10, 3))


def test_crops_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(BACKBONES, "halves", HALVES)  # type: ignore[misc]
    for settings_, message in (
        ({"crops": 3, "decode": WHOLE}, "crops: found 3, expected one of 1, 5, 10"),
        ({"crops": 10}, "crops: found 10 of frames of resize=squash"),
        ({"decode": WHOLE}, "crops: found 1 of frames of resize=short-side"),
        ({"crops": 5, "decode": WHOLE, "streams": ("halves",)}, "halves fills a stream of crops"),
    ):
        with pytest.raises(ConfigError, match=message):
            ExtractConfig(**settings_)
    arguments = ["extract", str(tmp_path), "--crops", "10", "--resize", "squash"]
    result = CliRunner().invoke(cli, arguments)
    assert (result.exit_code, "leave --resize out" in result.stderr) == (2, True)


@pytest.mark.slow
def test_an_extraction_that_stopped_goes_on_to_the_same_crops_of_files_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "colour", COLOUR)  # type: ignore[misc]
    videos = tmp_path / "videos"
    (videos / "folder").mkdir(parents=True)
    frames = textured_frames(17, 48, 64)
    write_frames(videos / "file.mkv", frames)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(videos / "folder" / f"{number:02}.png")
    config = ExtractConfig(streams=("colour",), decode=WHOLE, crops=10)
    resources = Resources(device="cpu")
    whole = run_extraction(videos, tmp_path / "whole", config, resources=resources)
    first = run_extraction(videos, tmp_path / "parts", config, resources=resources, limit=1)
    second = run_extraction(videos, tmp_path / "parts", config, resources=resources)
    assert (whole.done, first.done, second.done, second.skipped) == (2, 1, 1, 1)
    found = [FeatureCache(tmp_path / name) for name in ("whole", "parts")]
    rows = {
        name: [cache.read(name, "colour") for cache in found] for name in ("file.mkv", "folder")
    }
    for ours, theirs in rows.values():
        assert ours.shape == (2, 10, 3)
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(rows["file.mkv"][0], rows["folder"][0], atol=1.0)
    expected, _, _ = decode(videos / "file.mkv", WHOLE)
    means = [crop.mean(axis=(0, 1, 2)) for crop in ten_crops(expected[:16], 224)]
    np.testing.assert_allclose(rows["file.mkv"][0][0], means, rtol=1e-4)
