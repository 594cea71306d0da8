"""Our bicubic scaling against ffmpeg's."""

import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ffmpeg import find_ffmpeg
from extract.decode.scaling import bicubic_weights, scale_bicubic

SIDES = st.integers(1, 400)


def by_ffmpeg(image: np.ndarray, height: int, width: int) -> np.ndarray:
    raw = ("-f", "rawvideo", "-pix_fmt", "gray")
    size = ("-s", f"{image.shape[1]}x{image.shape[0]}", "-i", "pipe:0")
    scale = f"scale={width}:{height}:flags=bicubic+accurate_rnd+bitexact"
    command = [find_ffmpeg(), "-v", "error", *raw, *size, "-vf", scale, *raw, "pipe:1"]
    done = subprocess.run(command, input=image.tobytes(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(height, width)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        *(((240, 360), (224, 224)), ((100, 60), (224, 224)), ((480, 640), (224, 224))),
        *(((301, 97), (64, 80)), ((224, 224), (224, 224)), ((16, 16), (224, 32))),
    ],
)
def test_noise_is_scaled_as_by_ffmpeg(shape, target):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ours = scale_bicubic(image, *target).astype(int)
    difference = np.abs(ours - by_ffmpeg(image, *target))
    # white noise is the worst case; swscale adds a quirk of its own near borders when enlarging
    y, x = (2 * -(-new // old) for new, old in zip(target, shape, strict=True))
    assert difference[y:-y, x:-x].max() <= 2
    assert difference.max() <= 12
    assert difference.mean() < 0.25


@given(SIDES, SIDES)
def test_every_row_of_weights_sums_to_one(num_in, num_out):
    weights = bicubic_weights(num_in, num_out)
    assert weights.shape == (num_out, num_in)
    assert weights.sum(axis=1) == pytest.approx(1, abs=1e-4)


@given(SIDES, SIDES, SIDES, SIDES, st.integers(0, 255))
def test_a_flat_image_stays_flat(height, width, new_height, new_width, level):
    scaled = scale_bicubic(np.full((height, width, 3), level, np.uint8), new_height, new_width)
    assert scaled.shape == (new_height, new_width, 3)
    assert (scaled == level).all()


def test_the_same_size_changes_nothing_and_channels_stay_apart():
    image = np.random.default_rng(1).integers(0, 256, (31, 17, 3), np.uint8)
    assert np.array_equal(scale_bicubic(image, 31, 17), image)
    larger = scale_bicubic(image, 62, 34)
    for channel in range(3):
        assert np.array_equal(larger[..., channel], scale_bicubic(image[..., channel], 62, 34))
