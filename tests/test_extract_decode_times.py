"""The times of frames against ffmpeg's own account of each container.

A player shows a frame at its stored time less that of the file's start, which is the earliest of
its pictures and sounds: `-copyts` has ffmpeg tell the one, its report on the file the other.
"""

import re
import subprocess
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from marks import quick_first

from data.ffmpeg import ffmpeg_version, find_ffmpeg, passthrough_options
from data.videos import find_videos
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video

((_passthrough, _value),) = passthrough_options(ffmpeg_version()).items()
EVERY_FRAME = (f"-{_passthrough}", _value)
# every frame is of one gray, lighter by 3 than the one before
RAMP = "color=black:size=64x48:rate=25,format=yuv420p,geq=lum='16+3*N':cb=128:cr=128"
CONTAINERS = {
    "ts": "-c:v mpeg2video -c:a mp2",
    "mpg": "-c:v mpeg2video -bf 2 -c:a mp2",
    "m2ts": "-c:v mpeg4 -c:a mp2",
    "vob": "-c:v mpeg2video -c:a mp2",
    "mp4": "-c:v mpeg4 -c:a aac",
    "mov": "-c:v mpeg4 -bf 2 -c:a aac",
    "mkv": "-c:v mpeg4 -bf 2 -c:a aac",
    "webm": "-c:v libvpx -c:a libvorbis",
    "avi": "-c:v mpeg4 -c:a mp2",
    "flv": "-c:v flv1 -c:a mp3",
    "ogv": "-c:v libtheora -c:a libvorbis",
    "wmv": "-c:v wmv2 -c:a wmav2",
    "nut": "-c:v mpeg4 -c:a mp2",
}
# when the sound begins and when the picture, and what more
BEGINNINGS = {
    "picture late": (0, 1, ""),
    "sound late": (1, 0, ""),
    "both late": (2, 3, ""),
    "no sound": (None, 1, ""),
    "before 0": (0, 0.2, "-output_ts_offset -2.6 -avoid_negative_ts disabled"),
    "past the wrap": (0, 1, "-output_ts_offset 95440"),  # of 33 bits, 26.5 hours
}
# an edit list hides the frames before 0; the clocks of the others begin at 0
NOT_BEFORE_0 = {"mp4", "mov", "avi", "flv", "ogv", "wmv", "nut"}
CASES = [
    (container, beginning)
    for container in CONTAINERS
    for beginning in BEGINNINGS
    if not (beginning == "before 0" and container in NOT_BEFORE_0)
    and not (beginning == "past the wrap" and container in {"avi", "ogv"})
]


def run_ffmpeg(*arguments: object) -> str:
    command = [find_ffmpeg(), "-hide_banner", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def make(path: Path, beginning: str, *, num_frames: int = 60) -> Path:
    sound, picture, more = BEGINNINGS[beginning]
    inputs = ["-itsoffset", picture, "-f", "lavfi", "-i", RAMP]
    maps = ["-map", "0:v"]
    if sound is not None:
        inputs += ["-itsoffset", sound, "-f", "lavfi", "-i", "sine=d=3:r=44100"]
        maps += ["-map", "1:a"]
    options = [*CONTAINERS[path.suffix[1:]].split(), "-q:v", "2", *EVERY_FRAME, *more.split()]
    run_ffmpeg(*inputs, *maps, "-frames:v", num_frames, *options, path)
    return path


def shown_times(path: Path) -> np.ndarray:
    """Return when a player shows each frame, by ffmpeg's account."""
    said = run_ffmpeg(
        *("-copyts", "-i", path, "-map", "0:v:0", "-vf", "showinfo"),
        *(*EVERY_FRAME, "-f", "null", "-"),
    )
    start = re.search(r"Duration: .*, start: (-?[\d.]+)", said)
    base = re.search(r"config in time_base: (\d+/\d+)", said)
    assert base
    ticks = np.array([int(pts) for pts in re.findall(r" n: *\d+ pts: *(-?\d+) ", said)])
    return ticks * float(Fraction(base[1])) - (float(start[1]) if start else 0.0)


def decoded(path: Path, fps: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each frame, by its gray, and its time."""
    (source,) = find_videos(path)
    with open_video(source, DecodeConfig(size=16, fps=fps)) as stream:
        frames, times = stream.read(1000)
        assert not stream.partial
    return np.rint((frames.mean(axis=(1, 2, 3)) - frames[0].mean()) / 3 / 255 * 219), times


@pytest.mark.parametrize(
    ("container", "beginning"),
    quick_first(CASES, [(name, "picture late") for name in ("ts", "mpg", "mp4", "mkv")]),
)
def test_times_are_those_of_a_player(tmp_path: Path, container: str, beginning: str) -> None:
    path = make(tmp_path / f"v.{container}", beginning)
    _, times = decoded(path)
    # ffmpeg up to 5.1 takes the start in whole ticks, which are frames in some containers
    np.testing.assert_allclose(times, shown_times(path), atol=0.004)
    if beginning == "picture late" and container != "avi":  # which shows the first one from 0 on
        assert times[0] == pytest.approx(1.0, abs=0.05)


def test_times_of_a_stream_without_any_begin_at_0(tmp_path: Path) -> None:
    run_ffmpeg("-f", "lavfi", "-i", RAMP, "-frames:v", 20, "-c:v", "mpeg4", tmp_path / "v.m4v")
    np.testing.assert_allclose(decoded(tmp_path / "v.m4v")[1], np.arange(20) / 25, atol=1e-6)


@pytest.mark.parametrize("container", ["ts", "mpg", "mp4"])
def test_resampled_frames_are_those_that_are_shown_then(tmp_path: Path, container: str) -> None:
    path = make(tmp_path / f"v.{container}", "picture late")
    numbers, times = decoded(path, fps=10.0)
    assert len(numbers) == 24
    shown = shown_times(path)[numbers.astype(int)]
    np.testing.assert_allclose(times, shown, atol=0.051)
    # which frames are taken hangs on the picture alone, as ever
    silent = tmp_path / f"silent.{container}"
    run_ffmpeg("-i", path, "-map", "0:v", "-c", "copy", silent)
    assert numbers.tolist() == decoded(silent, fps=10.0)[0].tolist()


def test_a_clock_that_jumps_goes_on_evenly(tmp_path: Path) -> None:
    path = make(tmp_path / "v.ts", "picture late")
    run_ffmpeg("-i", path, "-map", 0, "-c", "copy", "-output_ts_offset", 500, tmp_path / "w.ts")
    path.write_bytes(path.read_bytes() + (tmp_path / "w.ts").read_bytes())
    _, times = decoded(path)
    np.testing.assert_allclose(times[:60], 1.01 + np.arange(60) / 25, atol=0.02)
    assert len(times) == 120
    assert np.diff(times).min() > 0
    assert times[-1] < 10
