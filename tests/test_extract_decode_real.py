"""Decoding of real files: every codec, rotation and kind of damage that FINDINGS lists."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from marks import quick_first

from data.videos import VideoSource, find_videos, frame_paths
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from extract.decode.scaling import scale_bicubic

pytestmark = pytest.mark.realdata

# Counted with `ffmpeg -i FILE -map 0:v:0 -fps_mode passthrough -f null -` and with OpenCV 5.0: they
# agree on all that OpenCV can read (not the whole of the corrupted file, nor AV1).
NUM_FRAMES = {
    "dmlc-corrupted.mp4": 49,
    "dmlc-flipping_a_pancake.mkv": 310,
    "dmlc-unordered.mov": 4,
    "dmlc-video_0.mov": 3,
    "dmlc-video_90.mov": 3,
    "dmlc-video_180.mov": 3,
    "dmlc-video_270.mov": 3,
    "imageio-cockatoo.mp4": 280,
    "imageio-cockatoo_yuv420.mp4": 280,
    "imageio-realshort.mp4": 36,
    "imageio-test.webm": 94,
    "open-mmlab-demo.mp4": 280,
    "open-mmlab-demo_skeleton.mp4": 72,
    "open-mmlab-demo_spatiotemporal_det.mp4": 57,
    "open-mmlab-part_0.mp4": 32,
    "open-mmlab-test.avi": 164,
    "open-mmlab-test.mp4": 300,
    "open-mmlab-test_video_structuralize.mp4": 300,
    "pytorch-av1_video.mkv": 125,
    "pytorch-bt709_full_range.mp4": 30,
    "pytorch-h264_10bits.mp4": 30,
    "pytorch-h265_10bits.mp4": 30,
    "pytorch-h265_video.mp4": 10,
    "pytorch-nasa_13013.mp4": 325,
    "v-iashin-v_GGSY1Qvo990.mp4": 355,
    "v-iashin-v_ZNVhz7ctTq0.mp4": 420,
}
QUICK = [
    *("dmlc-corrupted.mp4", "dmlc-video_90.mov", "imageio-realshort.mp4", "imageio-test.webm"),
    *("open-mmlab-part_0.mp4", "pytorch-av1_video.mkv", "pytorch-h265_10bits.mp4"),
]
ROTATIONS = {"dmlc-video_90.mov": 90, "dmlc-video_180.mov": 180, "dmlc-video_270.mov": 270}
READ_BY_OPENCV = sorted(NUM_FRAMES.keys() - {"dmlc-corrupted.mp4", "pytorch-av1_video.mkv"})


@pytest.fixture(scope="module")
def decoder_files(shared_data) -> Path:
    return shared_data / "decoder"


def source_of(path: Path) -> VideoSource:
    return VideoSource(video_id=path.name, path=path, kind="file")


def count(source: VideoSource, config: DecodeConfig) -> tuple[int, str]:
    with open_video(source, config) as stream:
        while len(stream.read(64)[0]):
            pass
        assert np.isfinite(stream.pts_seconds).all()
        return stream.num_frames, stream.partial


def by_opencv(path: Path, max_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return RGB frames as stored, turned for display, and their seconds."""
    capture = cv2.VideoCapture(str(path))
    frames, seconds = [], []
    while len(frames) < max_frames and (pair := capture.read())[0]:
        frames.append(cv2.cvtColor(pair[1], cv2.COLOR_BGR2RGB))
        seconds.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    return np.stack(frames), np.array(seconds)


def test_the_list_of_files_is_complete(decoder_files):
    assert {path.name for path in decoder_files.iterdir()} == set(NUM_FRAMES)


@pytest.mark.parametrize("name", quick_first(sorted(NUM_FRAMES), QUICK))
def test_every_coded_frame_is_delivered(decoder_files, name):
    num_frames, partial = count(source_of(decoder_files / name), DecodeConfig(size=32))
    assert num_frames == NUM_FRAMES[name]
    # healthy files raise no alarm, the corrupted one does
    assert bool(partial) == (name == "dmlc-corrupted.mp4")


@pytest.mark.parametrize(
    "name", quick_first(READ_BY_OPENCV, [name for name in QUICK if name in READ_BY_OPENCV])
)
def test_times_and_pixels_are_opencvs(decoder_files, name):
    path = decoder_files / name
    with open_video(source_of(path), DecodeConfig()) as stream:
        frames, pts = stream.read(12)
    pictures, seconds = by_opencv(path, 12)
    # the start of the file may be the sound's: versions of ffmpeg differ by its encoder's delay
    assert pts[0] == pytest.approx(seconds[0], abs=0.01)
    assert pts - pts[0] == pytest.approx(seconds - seconds[0], abs=1e-9)
    for frame, picture in zip(frames[::4], pictures[::4], strict=True):
        expected = scale_bicubic(picture, 224, 224).astype(int)
        # OpenCV converts colours before we scale, and without dithering from 10 bits
        assert np.abs(frame - expected).mean() < 4


@pytest.mark.parametrize(("name", "rotation"), ROTATIONS.items())
def test_rotation_is_recorded(decoder_files, name, rotation):
    with open_video(source_of(decoder_files / name), DecodeConfig()) as stream:
        assert stream.info.rotation == rotation
        assert (stream.info.width, stream.info.height) == (568, 320)


def test_the_first_of_several_video_streams_is_recorded(decoder_files):
    with open_video(source_of(decoder_files / "pytorch-nasa_13013.mp4"), DecodeConfig()) as stream:
        assert (stream.info.stream_index, stream.info.width, stream.info.height) == (0, 320, 180)
        assert stream.info.frame_rate == 25


def cut_off(path: Path, folder: Path, kept: float) -> VideoSource:
    content = path.read_bytes()
    cut = folder / path.name
    cut.write_bytes(content[: int(kept * len(content))])
    return source_of(cut)


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    "name", ["imageio-test.webm", "open-mmlab-test.avi", "v-iashin-v_ZNVhz7ctTq0.mp4"]
)
def test_a_truncated_file_gives_the_part_it_has(decoder_files, tmp_path, name, kept):
    cut = cut_off(decoder_files / name, tmp_path, kept)
    num_frames, _ = count(cut, DecodeConfig(size=32))
    assert 0.4 * kept < num_frames / NUM_FRAMES[name] < 1


@pytest.mark.parametrize(("name", "num_frames"), [("17.avi", 426), ("21.avi", 76)])
def test_avenue_has_the_lengths_of_its_masks(shared_data, name, num_frames):
    source = source_of(shared_data / "avenue" / name)
    assert count(source, DecodeConfig(size=32)) == (num_frames, "")


def test_ped2_folders_are_videos(shared_data):
    sources = find_videos(shared_data / "ped2")
    assert len(sources) == 28
    assert sum(len(frame_paths(source)) for source in sources) == 2550 + 2010
    assert count(sources[0], DecodeConfig(size=32)) == (180, "")
    with open_video(sources[0], DecodeConfig()) as stream:
        frames, _ = stream.read(1)
        assert (stream.info.width, stream.info.height) == (360, 240)
    expected = cv2.imread(str(frame_paths(sources[0])[0]))
    assert np.abs(frames[0] - scale_bicubic(expected, 224, 224).astype(int)).max() <= 1


def test_a_gif_is_a_video(shared_data):
    gif = next((shared_data / "i3d").rglob("*rgb*.gif"))
    # 79 frames in DeepMind's sample array
    assert count(source_of(gif), DecodeConfig(size=32)) == (79, "")
