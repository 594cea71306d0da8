"""Folders of images as videos."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import ConfigError, DecodeError
from data.ffmpeg import find_ffmpeg
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video

SMALL = DecodeConfig(size=32)


def grey(level: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    return Image.new("RGB", size, (level, level, level))


def numbered_folder(folder: Path, num_frames: int, suffix: str = "png") -> Path:
    """Image i is filled with grey level 2 * i."""
    folder.mkdir(exist_ok=True)
    for i in range(num_frames):
        grey(2 * i).save(folder / f"{i}.{suffix}")
    return folder


def decode(folder: Path, config: DecodeConfig = SMALL, **options):
    source = VideoSource(video_id="clips/07", path=folder, kind="frames")
    frames, times = [], []
    with open_video(source, config, **options) as stream:
        while True:
            part, pts = stream.read(7)
            assert len(part) == len(pts)
            if not len(part):
                break
            frames.append(part)
            times.append(pts)
    return np.concatenate(frames), np.concatenate(times), stream


def numbers(frames: np.ndarray) -> list[int]:
    return np.rint(frames.mean(axis=(1, 2, 3)) / 2).astype(int).tolist()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp"])
def test_every_image_is_a_frame_in_natural_order(tmp_path, suffix):
    frames, pts, stream = decode(numbered_folder(tmp_path / "f", 30, suffix))
    assert frames.shape == (30, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert numbers(frames) == list(range(30))
    assert pts == pytest.approx(np.arange(30) / 25)
    assert np.array_equal(stream.pts_seconds, pts)
    assert (stream.num_frames, stream.partial) == (30, "")
    assert (stream.info.width, stream.info.height, stream.info.frame_rate) == (40, 30, 25)


def test_the_frame_rate_sets_times_only(tmp_path):
    folder = numbered_folder(tmp_path / "f", 12)
    frames, pts, stream = decode(folder, folder_fps=10)
    assert numbers(frames) == list(range(12))
    assert pts == pytest.approx(np.arange(12) / 10)
    assert stream.info.frame_rate == 10


@pytest.mark.parametrize(("rate", "fps"), [(10, 25), (25, 10), (30, 25), (10, 10), (7, 3)])
def test_resampling_picks_the_frames_that_ffmpegs_fps_filter_picks(tmp_path, rate, fps):
    folder = numbered_folder(tmp_path / "f", 60)
    video = tmp_path / "v.mkv"
    pattern = ("-framerate", str(rate), "-i", str(folder / "%d.png"))
    subprocess.run(
        [find_ffmpeg(), "-v", "error", *pattern, "-c:v", "ffv1", "-pix_fmt", "bgr0", str(video)],
        check=True,
    )
    config = DecodeConfig(size=32, fps=fps)
    with open_video(VideoSource(video_id="v", path=video, kind="file"), config) as stream:
        expected, expected_pts = stream.read(1000)
    frames, pts, stream = decode(folder, config, folder_fps=rate)
    assert numbers(frames) == numbers(expected)
    assert pts == pytest.approx(expected_pts)
    assert stream.info.frame_rate == fps


def test_a_folder_and_the_video_of_its_frames_give_the_same_pixels(tmp_path):
    rng = np.random.default_rng(5)
    folder = tmp_path / "f"
    folder.mkdir()
    for i in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
        coarse.resize((150, 110), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    video = tmp_path / "v.mkv"
    lossless = ("-c:v", "ffv1", "-pix_fmt", "bgr0")
    pattern = str(folder / "%d.png")
    command = [find_ffmpeg(), "-v", "error", "-i", pattern, *lossless, str(video)]
    subprocess.run(command, check=True)
    for config in (DecodeConfig(size=64), DecodeConfig(size=64, resize="crop")):
        with open_video(VideoSource(video_id="v", path=video, kind="file"), config) as stream:
            expected = stream.read(10)[0].astype(int)
        difference = np.abs(decode(folder, config)[0].astype(int) - expected)
        assert difference.max() <= 3
        assert difference.mean() < 0.8


def test_sizes_formats_and_depths_may_be_mixed(tmp_path):
    level = 100
    rgb = grey(level)
    wide = np.full((60, 200), level * 257, np.uint16)
    images = {
        "1.png": rgb,
        "2.jpg": grey(level, (33, 91)),
        "3.bmp": rgb,
        "4.tif": rgb.convert("L"),
        "5.png": Image.fromarray(wide),
        "6.tiff": Image.fromarray(wide),
        "7.png": rgb.quantize(4),
        "8.png": rgb.convert("RGBA"),
        "9.png": rgb.convert("LA"),
        "10.jpg": rgb.convert("CMYK"),
        "11.png": grey(level, (1, 1)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    frames, _, stream = decode(tmp_path)
    assert stream.partial == ""
    assert len(frames) == len(images)
    for name, frame in zip(images, frames, strict=True):
        assert frame.min() >= level - 2, name
        assert frame.max() <= level + 2, name


def test_black_and_white_images(tmp_path):
    Image.new("1", (20, 20), 1).save(tmp_path / "1.png")
    Image.new("1", (20, 20), 0).save(tmp_path / "2.png")
    assert decode(tmp_path)[0].mean(axis=(1, 2, 3)).tolist() == [255, 0]


def test_names_with_percent_signs_and_spaces(tmp_path):
    folder = tmp_path / "50% off %03d"
    folder.mkdir()
    for i, name in enumerate(["a %d.png", "b%05d.png", "-c.png", "ü 監.png", "[x]*.png"]):
        grey(10 * i).save(folder / name)
    assert len(decode(folder)[0]) == 5


def test_the_cameras_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (40, 20), "black")
    picture.paste("white", (0, 0, 10, 20))
    exif = Image.Exif()
    # 6: turn clockwise by 90 degrees to show; the white left side comes to the top
    exif[0x0112] = 6
    picture.save(tmp_path / "1.jpg", exif=exif, quality=95)
    frames, _, stream = decode(tmp_path)
    assert stream.info.rotation == 90
    assert (stream.info.width, stream.info.height) == (40, 20)
    assert frames[0, :6].mean() > 240
    assert frames[0, 10:].mean() < 15


def test_a_broken_image_keeps_its_place(tmp_path):
    folder = numbered_folder(tmp_path / "f", 12, "jpg")
    whole = (folder / "5.jpg").read_bytes()
    (folder / "5.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "9.jpg").write_text("not a picture")
    frames, _, stream = decode(folder)
    # labels count frames: none may be dropped
    assert numbers(frames) == [0, 1, 2, 3, 4, 4, 6, 7, 8, 8, 10, 11]
    assert stream.partial.startswith("cannot read 5.jpg: ")
    assert "1 more" in stream.partial
    assert "\n" not in stream.partial


def test_a_broken_first_image_is_replaced_by_the_first_good_one(tmp_path):
    folder = numbered_folder(tmp_path / "f", 4)
    (folder / "0.png").write_bytes(b"")
    frames, _, stream = decode(folder)
    assert numbers(frames) == [1, 1, 2, 3]
    assert stream.partial.startswith("cannot read 0.png: ")


def test_no_readable_image_is_an_error_with_the_cause(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes(b"no picture")
    with pytest.raises(
        DecodeError, match=r"^clips/07: none of 3 images can be read: 0\.jpg: not an image; "
    ) as caught:
        decode(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(np.full((20, 20), 1 << 20, dtype)).save(tmp_path / "1.tif")
    with pytest.raises(DecodeError, match="have no fixed range"):
        decode(tmp_path)


def test_crop_takes_the_centre_of_the_short_side(tmp_path):
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste("blue", (100, 0, 200, 100))
    picture.save(tmp_path / "1.png")
    frames, _, _ = decode(tmp_path, DecodeConfig(size=56, resize="crop"))
    # 56 of 192 columns, wholly inside the blue third
    assert frames[0].reshape(-1, 3).mean(axis=0) == pytest.approx([0, 0, 255], abs=1)


def test_leaving_early_is_fine(tmp_path):
    source = VideoSource(video_id="v", path=numbered_folder(tmp_path / "f", 9), kind="frames")
    with open_video(source, SMALL) as stream:
        assert len(stream.read(2)[0]) == 2
    assert len(stream.read(2)[0]) == 0
    assert stream.num_frames == 2


@pytest.mark.parametrize("rate", [0, -1, float("nan")])
def test_an_impossible_frame_rate_is_refused(tmp_path, rate):
    with pytest.raises(ConfigError, match="folder_fps"):
        decode(numbered_folder(tmp_path / "f", 2), folder_fps=rate)
