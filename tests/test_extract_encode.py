"""Parts cut out of videos, and videos with a picture below: frames, times and sound by ffmpeg."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from marks import quick_first
from PIL import Image

from data.errors import DecodeError
from data.ffmpeg import ffmpeg_version, find_ffmpeg, passthrough_options
from data.videos import VideoSource, find_videos
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from extract.encode import Part, Reading, Strip, cut_parts, render_below, shown_size

EVERY = Reading(fps=None, folder=10.0)
# every frame is of one gray, lighter by 7 than the one before
RAMP = "color=black:size=64x48:rate=10,format=yuv420p,geq=lum='16+7*N':cb=128:cr=128"


def make(path: Path, *options: str, video: str = RAMP, num: int = 30):
    subprocess.run(
        [find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-f", "lavfi", "-i", video,
         *options, "-frames:v", str(num), "-pix_fmt", "yuv420p", str(path)],
        check=True,
    )  # fmt: skip
    (source,) = find_videos(path)
    return source


def decoded(source: VideoSource, rate: Reading = EVERY, size: int = 32):
    """Return frames and times as the features were made from them."""
    with open_video(source, DecodeConfig(size=size, fps=rate.fps), folder_fps=rate.folder) as video:
        blocks = []
        while len(block := video.read(64)[0]):
            blocks.append(block.astype(int))
        assert not video.partial
        return np.concatenate(blocks), video.pts_seconds


def part_of(source: VideoSource, start: int, end: int, path: Path, rate: Reading = EVERY) -> Part:
    times = np.append(decoded(source, rate)[1], 1e6)
    return Part(path=path, start_frame=start, end_frame=end,
                start_seconds=times[start], end_seconds=times[end])  # fmt: skip


def said_of(path: Path) -> str:
    done = subprocess.run(
        [find_ffmpeg(), "-hide_banner", "-i", str(path), "-f", "null", "-"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stderr


def check_cut(source: VideoSource, spans: list[tuple[int, int]], folder: Path, rate=EVERY) -> None:
    parts = [part_of(source, a, b, folder / f"{a}-{b}.mp4", rate) for a, b in spans]
    cut_parts(source, parts, rate)
    frames, times = decoded(source, rate)
    for (a, b), part in zip(spans, parts, strict=True):
        found, found_times = decoded(next(iter(find_videos(part.path))))
        assert len(found) == b - a
        np.testing.assert_allclose(found_times - found_times[0], times[a:b] - times[a], atol=1e-4)
        grays = (frames.mean(axis=(1, 2, 3))[a:b], found.mean(axis=(1, 2, 3)))
        np.testing.assert_allclose(*grays, atol=2.5)  # a neighbour's is 7 away
    assert sorted(p.name for p in folder.iterdir()) == sorted(part.path.name for part in parts)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_cuts_hold_exactly_their_frames_at_their_times(tmp_path: Path, out: Path) -> None:
    # two frames a key frame apart, and B frames: what a copy could not begin at
    source = make(tmp_path / "a: 50%d.mp4", "-g", "12", "-bf", "2")
    check_cut(source, [(0, 1), (7, 19), (29, 30)], out)


def test_frames_of_a_variable_rate_keep_their_times(tmp_path: Path, out: Path) -> None:
    source = make(tmp_path / "v.mkv", "-vf", "setpts='(N+N*N/20)/10/TB'", "-fps_mode", "vfr")
    assert np.ptp(np.diff(decoded(source)[1])) > 0.1
    check_cut(source, [(4, 25)], out)


def test_frames_are_counted_as_they_were_resampled(tmp_path: Path, out: Path) -> None:
    source = make(tmp_path / "a.mp4")
    check_cut(source, [(3, 9)], out, Reading(fps=4.0, folder=10.0))


def test_frames_that_change_in_size_are_counted_on(tmp_path: Path, out: Path) -> None:
    for name, size in (("a", "64x48"), ("b", "128x72")):
        make(tmp_path / f"{name}.ts", "-c:v", "libx264", num=20,
             video=f"testsrc2=size={size}:rate=10")  # fmt: skip
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    (source,) = find_videos(both)
    (part,) = [part_of(source, 15, 36, out / "c.mp4")]
    cut_parts(source, [part], EVERY)
    found, _ = decoded(next(iter(find_videos(part.path))))
    frames, _ = decoded(source)
    assert len(found) == 21
    assert np.abs(found - frames[15:36]).mean() < 8


def test_a_folder_of_images_is_cut_by_its_images(tmp_path: Path, out: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(12):
        size = (34, 22) if number != 5 else (50, 40)  # one of another size
        Image.new("RGB", size, (20 * number,) * 3).save(folder / f"{number:03d}.png")
    (source,) = find_videos(folder)
    parts = [part_of(source, a, b, out / f"{a}.mp4") for a, b in ((2, 7), (11, 12))]
    cut_parts(source, parts, EVERY)
    for part in parts:
        found, times = decoded(next(iter(find_videos(part.path))))
        numbers = np.rint(found.mean(axis=(1, 2, 3)) / 20).tolist()
        assert numbers == list(range(part.start_frame, part.end_frame))
        np.testing.assert_allclose(times, np.arange(len(times)) / 10, atol=1e-4)


def test_the_sound_is_cut_with_the_frames(tmp_path: Path, out: Path) -> None:
    source = make(tmp_path / "a.mp4", "-f", "lavfi", "-i", "sine=frequency=440", "-shortest")
    check_cut(source, [(10, 20)], out)
    said = said_of(out / "10-20.mp4")
    assert "Audio: aac" in said
    match = re.search(r"Duration: 00:00:0(\d\.\d\d)", said)
    assert match
    assert float(match[1]) == pytest.approx(1.0, abs=0.06)  # an AAC frame has 23 ms


# when picture and sound begin, and a second sound if there is one
BEGINNINGS = {
    "picture late": (1.0, 0.0, None),
    "sound late": (0.0, 1.5, None),
    "another sound first": (1.3, 0.8, 0.0),
}


def flashing(path: Path, beginning: str, *options: str) -> VideoSource:
    """Make a video that flashes and beeps from its third second on, for a fifth of one."""
    picture, sound, other = BEGINNINGS[beginning]
    at, beep = 3 - picture, 3 - sound
    flash = f"geq=lum='if(between(N,{at * 25:.0f},{at * 25 + 4:.0f}),235,16)':cb=128:cr=128"
    inputs = [
        (picture, f"color=black:size=64x48:rate=25:d=5,format=yuv420p,{flash}"),
        (sound, f"aevalsrc='between(t,{beep:.2f},{beep + 0.2:.2f})*sin(5000*t)':s=44100:d=5"),
    ]
    if other is not None:
        inputs.append((other, "anullsrc=r=44100:d=6"))
    command = [find_ffmpeg(), "-hide_banner", "-loglevel", "error"]
    for start, graph in inputs:
        command += ["-itsoffset", str(start), "-f", "lavfi", "-i", graph]
    for n in range(len(inputs)):
        command += ["-map", str(n)]
    ((passthrough, value),) = passthrough_options(ffmpeg_version()).items()
    subprocess.run([*command, f"-{passthrough}", value, *options, str(path)], check=True)
    (source,) = find_videos(path)
    return source


def beginnings_of_flash_and_beep(path: Path) -> tuple[float, float]:
    command = [find_ffmpeg(), "-v", "error", "-i", str(path)]
    sound = ["-map", "0:a", "-af", "aresample=async=1:first_pts=0", "-ac", "1", "-ar", "8000"]
    done = subprocess.run([*command, *sound, "-f", "s16le", "-"], check=True, capture_output=True)
    beep = np.flatnonzero(np.abs(np.frombuffer(done.stdout, np.int16)) > 3000)[0] / 8000
    frames, times = decoded(next(iter(find_videos(path))))
    top = frames[:, :16].mean(axis=(1, 2, 3))
    return times[np.flatnonzero(top > 128)[0]], beep


@pytest.mark.parametrize(
    ("container", "beginning", "fps"),
    quick_first(
        [
            (container, beginning, fps)
            for container in ("ts", "mpg", "mp4", "mkv")
            for beginning in BEGINNINGS
            for fps in (None, 12.5)
            # whose first sound is that which begins first
            if (container, beginning) != ("mpg", "another sound first")
        ],
        [("ts", "picture late", None), ("ts", "another sound first", 12.5)],
    ),
)
def test_flash_and_beep_stay_together(
    tmp_path: Path, out: Path, container: str, beginning: str, fps: float | None
) -> None:
    options = ["-c:v", "mpeg2video", "-c:a", "mp2"] if container in ("ts", "mpg") else []
    source = flashing(tmp_path / f"a.{container}", beginning, *options)
    reading = Reading(fps=fps, folder=10.0)
    frames, times = decoded(source, reading)
    flash = int(np.flatnonzero(frames.mean(axis=(1, 2, 3)) > 128)[0])
    assert times[flash] == pytest.approx(3.0, abs=0.1)

    # the second part begins before the sound, if that is late
    parts = [part_of(source, a, flash + 12, out / f"{a}.mp4", reading) for a in (flash - 12, 3)]
    cut_parts(source, parts, reading)
    for part in parts:
        seen, heard = beginnings_of_flash_and_beep(part.path)
        assert seen == pytest.approx(times[flash] - times[part.start_frame], abs=0.01)
        assert heard == pytest.approx(seen, abs=0.1)

    image = np.full((40, shown_size(source, reading)[0], 3), 255, np.uint8)
    strip = Strip(image=image, start_seconds=times[0], end_seconds=times[-1])
    render_below(source, out / "r.mp4", strip, reading, num_frames=len(times))
    seen, heard = beginnings_of_flash_and_beep(out / "r.mp4")
    assert heard == pytest.approx(seen, abs=0.1)
    rendered, _ = decoded(next(iter(find_videos(out / "r.mp4"))), size=280)
    assert len(rendered) == len(times)
    place = rendered[flash, 250:270].mean(axis=(0, 2)).argmin() / 280
    share = (times[flash] - times[0]) / (times[-1] - times[0])
    assert place == pytest.approx(share, abs=0.03)


def test_the_line_stands_right_without_the_sound_that_began_first(
    tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    source = flashing(tmp_path / "a.ts", "picture late", "-c:v", "mpeg2video", "-c:a", "mp2")
    _, times = decoded(source)
    width = shown_size(source, EVERY)[0]
    image = np.full((40, width, 3), 255, np.uint8)
    strip = Strip(image=image, start_seconds=times[0], end_seconds=times[-1])
    use_ffmpeg(tmp_path, monkeypatch, "*0:a:0*) exit 1")
    render_below(source, out / "r.mp4", strip, EVERY, num_frames=len(times))
    assert "written without its sound" in caplog.text
    rendered, _ = decoded(next(iter(find_videos(out / "r.mp4"))), size=280)
    places = rendered[:, 250:270].mean(axis=(1, 3)).argmin(axis=1) / 280
    shares = (times - times[0]) / (times[-1] - times[0])
    np.testing.assert_allclose(places, np.minimum(shares, 1 - 2 / width), atol=0.03)


def test_sound_that_cannot_be_read_is_left_out_with_a_warning(
    tmp_path: Path, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = make(tmp_path / "good.mkv", "-f", "lavfi", "-i", "sine", "-shortest", "-c:a", "mp2")
    content = good.path.read_bytes()
    assert content.count(b"A_MPEG/L2") == 1
    bad = tmp_path / "bad.mkv"
    bad.write_bytes(content.replace(b"A_MPEG/L2", b"A_XXXX/L2"))
    check_cut(next(iter(find_videos(bad))), [(10, 20)], out)
    (message,) = caplog.messages
    assert message.startswith("bad.mkv: written without its sound: ffmpeg ")
    assert "Audio" not in said_of(out / "10-20.mp4")


def test_a_video_that_ends_too_early_leaves_no_file(tmp_path: Path, out: Path) -> None:
    source = make(tmp_path / "a.mp4", num=5)
    part = Part(path=out / "p.mp4", start_frame=2, end_frame=9, start_seconds=0, end_seconds=1)
    with pytest.raises(DecodeError, match=r"^a\.mp4: frame 5 cannot be decoded, the video ends"):
        cut_parts(source, [part], EVERY)
    assert not list(out.iterdir())


def use_ffmpeg(folder: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """Let feat run an ffmpeg that does something else in a case."""
    script = folder / "ffmpeg"
    script.write_text(f'#!/bin/sh\ncase "$*" in {case};; esac\nexec "{find_ffmpeg()}" "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("FEAT_FFMPEG", str(script))


def test_a_ffmpeg_without_h264_writes_mpeg4(tmp_path: Path, out: Path, monkeypatch) -> None:
    source = make(tmp_path / "a.mp4", num=12)
    use_ffmpeg(tmp_path, monkeypatch, "*encoder=lib*) exit 1")
    check_cut(source, [(2, 9)], out)
    assert "Video: mpeg4" in said_of(out / "2-9.mp4")


def test_a_ffmpeg_that_hangs_is_given_up_and_leaves_nothing(
    tmp_path: Path, out: Path, monkeypatch
) -> None:
    source = make(tmp_path / "a.mp4", num=5)
    part = part_of(source, 1, 3, out / "p.mp4")
    use_ffmpeg(tmp_path, monkeypatch, "*enc_time_base*) echo $$ > $0.pid; sleep 100")
    monkeypatch.setenv("FEAT_STALL_SECONDS", "0.5")
    with pytest.raises(DecodeError, match=r"^a\.mp4: no frame came from ffmpeg for 0\.5 s"):
        cut_parts(source, [part], Reading(fps=None, folder=10.0))
    assert not list(out.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "ffmpeg.pid").read_text()), 0)


def test_the_picture_stands_below_and_its_line_moves_with_time(tmp_path: Path, out: Path) -> None:
    source = make(tmp_path / "a.mp4", video="color=red:size=64x48:rate=10", num=20)
    width, height = shown_size(source, EVERY)
    assert (width, height) == (320, 240)  # five times as large: a curve must be legible
    image = np.full((40, width, 3), 255, np.uint8)
    strip = Strip(image=image, start_seconds=0.0, end_seconds=2.0)
    render_below(source, out / "r.mp4", strip, EVERY, num_frames=20)
    (rendered,) = find_videos(out / "r.mp4")
    found, times = decoded(rendered, size=280)
    np.testing.assert_allclose(times, np.arange(20) / 10, atol=1e-4)
    top, bottom = found[:, 10:230], found[:, 250:270]
    assert top[..., 0].min() > 200
    assert top[..., 1:].max() < 60
    places = bottom.mean(axis=(1, 3)).argmin(axis=1) / 280 * width
    np.testing.assert_allclose(places, times / 2 * width, atol=3)
