"""Single frames as pictures: the right ones, in the video's proportions."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DecodeError
from data.ffmpeg import find_ffmpeg
from data.videos import VideoSource, find_videos
from extract.decode.stills import read_stills


@pytest.fixture
def gray(tmp_path: Path) -> VideoSource:
    """A folder of 70 frames; frame i has the brightness i all over, 60 wide and 40 high."""
    for index in range(70):
        Image.new("RGB", (60, 40), (index, index, index)).save(tmp_path / f"{index}.png")
    return find_videos(tmp_path)[0]


def test_frames_come_in_the_order_asked_for(gray: VideoSource) -> None:
    stills = read_stills(gray, [69, 3, 64, 3], height=20)
    assert [still.shape for still in stills] == [(20, 30, 3)] * 4
    assert [int(still.mean()) for still in stills] == [69, 3, 64, 3]


def test_a_frame_that_is_not_there_is_named(gray: VideoSource) -> None:
    with pytest.raises(DecodeError, match=r"frame 70 cannot be decoded.*after 70"):
        read_stills(gray, [0, 70], height=20)


def test_resampling_counts_the_frames_that_are_left(gray: VideoSource) -> None:
    """At half the rate of 10 a second, frame 7 is the 14th or next to it."""
    (still,) = read_stills(gray, [7], height=20, fps=5.0, folder_fps=10.0)
    assert abs(float(still.mean()) - 14) <= 1


def test_pixels_that_are_no_squares_are_shown_as_wide_as_a_player_does(
    tmp_path: Path, make_video
) -> None:
    upright = make_video(tmp_path / "v.mkv", num_frames=2, size="96x48")
    shapes = []
    for number, aspect in enumerate(("1", "2", "1/3", "0")):  # 0: not known
        path = tmp_path / f"{number}.mkv"
        command = [find_ffmpeg(), "-v", "error", "-i", str(upright), "-vf", f"setsar={aspect}"]
        subprocess.run([*command, "-c:v", "ffv1", str(path)], check=True)
        (still,) = read_stills(find_videos(path)[0], [1], height=48)
        shapes.append(still.shape)
    assert shapes == [(48, 96, 3), (48, 192, 3), (48, 32, 3), (48, 96, 3)]
    # the container's word against the stream's own
    path = tmp_path / "aspect.mkv"
    command = [find_ffmpeg(), "-v", "error", "-i", str(upright), "-c", "copy", "-aspect", "4:1"]
    subprocess.run([*command, str(path)], check=True)
    (still,) = read_stills(find_videos(path)[0], [1], height=48)
    assert still.shape == (48, 192, 3)


def test_a_video_file_gives_the_frame_that_ffmpeg_shows(tmp_path: Path, make_video) -> None:
    path = make_video(tmp_path / "v.mkv", num_frames=12, size="96x48", codec="ffv1")
    (still,) = read_stills(find_videos(path)[0], [7], height=48)
    assert still.shape == (48, 96, 3)
    command = [find_ffmpeg(), "-v", "error", "-i", str(path), str(tmp_path / "%02d.png")]
    subprocess.run(command, check=True)
    images = [Image.open(tmp_path / f"{number:02d}.png").convert("RGB") for number in range(1, 13)]
    # squashed to a square and stretched again, edges are softer: the likest must be the seventh
    differences = [np.abs(still - np.asarray(image, np.float64)).mean() for image in images]
    assert int(np.argmin(differences)) == 7
