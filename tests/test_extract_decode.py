"""Decoding of video files that ffmpeg makes on the spot."""

import contextlib
import http.server
import os
import shlex
import shutil
import stat
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from data.errors import ConfigError, DecodeError
from data.ffmpeg import find_ffmpeg
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video

SMALL = DecodeConfig(size=32)


def run_ffmpeg(*arguments: object, stdin: bytes | None = None) -> None:
    # the bundled one makes the videos: options and encoders of the one on the PATH may be older
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-hide_banner",
        "-y",
        "-loglevel",
        "error",
        *map(str, arguments),
    ]
    subprocess.run(command, input=stdin, check=True, capture_output=True)


def make_video(path: Path, *arguments: object, num_frames: int = 20, size: str = "64x48") -> Path:
    source = f"testsrc2=size={size}:rate=10"
    run_ffmpeg("-f", "lavfi", "-i", source, "-frames:v", num_frames, *arguments, f"file:{path}")
    return path


def write_frames(path: Path, frames: np.ndarray, *arguments: object, rate: int = 10) -> Path:
    """Store RGB frames (T, H, W, 3) uint8 without loss."""
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "pipe:0")
    lossless = ("-c:v", "ffv1", "-pix_fmt", "bgr0")
    run_ffmpeg(*raw, *lossless, *arguments, f"file:{path}", stdin=frames.tobytes())
    return path


def grey_frames(num_frames: int, height: int = 24, width: int = 32) -> np.ndarray:
    """Frame i is filled with grey level 2 * i, so that a frame tells its own number."""
    levels = (2 * np.arange(num_frames)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def textured_frames(num_frames: int, height: int, width: int) -> np.ndarray:
    """Smooth random grey pictures: how they are scaled is well determined."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (num_frames, height // 8 + 1, width // 8 + 1), np.uint8)
    pictures = [
        Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC) for frame in coarse
    ]
    return np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])


def source_of(path: Path) -> VideoSource:
    return VideoSource(video_id=path.name, path=path, kind="file")


def decode(path: Path, config: DecodeConfig = SMALL, *, block: int = 7, **options):
    """Return all frames, their times and the closed stream."""
    frames, times = [], []
    with open_video(source_of(path), config, **options) as stream:
        while True:
            part, pts = stream.read(block)
            assert len(part) == len(pts)
            if not len(part):
                break
            frames.append(part)
            times.append(pts)
        assert len(stream.read(block)[0]) == 0
    return np.concatenate(frames), np.concatenate(times), stream


def numbers(frames: np.ndarray) -> list[int]:
    return np.rint(frames.mean(axis=(1, 2, 3)) / 2).astype(int).tolist()


def test_every_frame_comes_once_in_order_with_its_time(tmp_path):
    path = write_frames(tmp_path / "v.mkv", grey_frames(100))
    frames, pts, stream = decode(path)
    assert frames.shape == (100, 32, 32, 3)
    assert frames.dtype == np.uint8
    assert numbers(frames) == list(range(100))
    assert pts == pytest.approx(np.arange(100) / 10, abs=1e-9)
    assert stream.num_frames == 100
    assert np.array_equal(stream.pts_seconds, pts)
    assert stream.partial == ""


@pytest.mark.parametrize("block", [1, 16, 20, 21, 1000])
def test_read_returns_what_was_asked_for_until_the_end(tmp_path, block):
    path = write_frames(tmp_path / "v.mkv", grey_frames(20))
    with open_video(source_of(path), SMALL) as stream:
        counts = [len(stream.read(block)[0]) for _ in range(20 // block + 2)]
    assert counts == [block] * (20 // block) + [20 % block, 0]


def test_variable_frame_rate_neither_duplicates_nor_drops(tmp_path):
    times_ms = [0, 40, 50, 60, 1000, 1001, 1003, 9000, 5000123, 5000124]
    terms = "+".join(f"eq(N\\,{i})*{ms}" for i, ms in enumerate(times_ms))
    path = write_frames(
        tmp_path / "v.mkv",
        grey_frames(10),
        *("-vf", f"settb=1/1000,setpts={terms}"),
        *("-fps_mode", "passthrough", "-enc_time_base", "1:1000"),
    )
    frames, pts, _ = decode(path)
    assert numbers(frames) == list(range(10))
    # exact to the millisecond even where six digits would not be enough
    assert np.rint(pts * 1000).astype(int).tolist() == times_ms


def test_fps_resamples_and_only_then(tmp_path):
    path = write_frames(tmp_path / "v.mkv", grey_frames(20), rate=10)
    frames, pts, stream = decode(path, DecodeConfig(size=32, fps=25))
    assert stream.info.frame_rate == 25
    assert pts == pytest.approx(np.arange(50) / 25)
    shown = numbers(frames)
    assert shown == sorted(shown)
    assert sorted(set(shown)) == list(range(20))
    assert len(decode(path, DecodeConfig(size=32, fps=5))[0]) == 10


@pytest.mark.parametrize(("anticlockwise", "rotation"), [(-90, 90), (90, 270), (180, 180)])
def test_rotation_is_applied_and_recorded(tmp_path, anticlockwise, rotation):
    upright = make_video(tmp_path / "v.mp4", "-c:v", "libx264", "-pix_fmt", "yuv444p")
    turned = tmp_path / "turned.mp4"
    run_ffmpeg("-display_rotation", anticlockwise, "-i", upright, "-c", "copy", turned)
    before, _, plain = decode(upright, DecodeConfig(size=64))
    after, _, stream = decode(turned, DecodeConfig(size=64))
    assert (plain.info.rotation, stream.info.rotation) == (0, rotation)
    assert (stream.info.width, stream.info.height) == (64, 48)
    expected = np.rot90(before, k=-rotation // 90, axes=(1, 2)).astype(int)
    assert np.abs(after.astype(int) - expected).mean() < 1


FORMATS = [
    ("h264.mp4", "h264", "yuv420p", ("-c:v", "libx264")),
    ("h264_10.mp4", "h264", "yuv420p10le", ("-c:v", "libx264")),
    ("h264_444.mov", "h264", "yuv444p", ("-c:v", "libx264")),
    ("hevc_10.mkv", "hevc", "yuv420p10le", ("-c:v", "libx265", "-x265-params", "log-level=0")),
    ("vp9.webm", "vp9", "yuv420p", ("-c:v", "libvpx-vp9", "-cpu-used", 8)),
    ("mpeg4.avi", "mpeg4", "yuv420p", ("-c:v", "mpeg4", "-q:v", 2)),
    ("mjpeg.avi", "mjpeg", "yuvj422p", ("-c:v", "mjpeg", "-q:v", 2)),
    ("full.mp4", "h264", "yuvj420p", ("-c:v", "libx264")),
    ("rgb48.mkv", "ffv1", "gbrp16le", ("-c:v", "ffv1")),
    ("raw.avi", "rawvideo", "bgr24", ("-c:v", "rawvideo")),
    ("alpha.mov", "png", "rgba", ("-c:v", "png")),
    ("anim.gif", "gif", "bgra", ()),
]


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "arguments"), FORMATS)
def test_any_codec_and_pixel_format_gives_the_right_colours(
    tmp_path, name, codec, pix_fmt, arguments
):
    # left half a strong orange, right half a dull blue; odd width and height
    frames = np.empty((5, 49, 67, 3), np.uint8)
    frames[:, :, :33] = (220, 120, 30)
    frames[:, :, 33:] = (40, 60, 110)
    even = "scale=68:50:flags=neighbor" if "420" in pix_fmt else "null"
    chosen = () if name.endswith("gif") else ("-pix_fmt", pix_fmt)
    path = tmp_path / name
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "67x49", "-r", 10, "-i", "pipe:0")
    run_ffmpeg(*raw, "-vf", even, *arguments, *chosen, path, stdin=frames.tobytes())
    decoded, _, stream = decode(path)
    assert (stream.info.codec, stream.info.pix_fmt) == (codec, pix_fmt)
    assert stream.partial == ""
    assert len(decoded) == 5
    left, right = decoded[:, 4:-4, 2:13], decoded[:, 4:-4, 19:30]
    assert left.mean(axis=(0, 1, 2)) == pytest.approx((220, 120, 30), abs=7)
    assert right.mean(axis=(0, 1, 2)) == pytest.approx((40, 60, 110), abs=7)


def test_grey_video_becomes_rgb(tmp_path):
    path = make_video(tmp_path / "v.mkv", "-c:v", "ffv1", "-pix_fmt", "gray")
    frames, _, stream = decode(path)
    assert stream.info.pix_fmt == "gray"
    assert np.array_equal(frames[..., 0], frames[..., 1])
    assert np.array_equal(frames[..., 0], frames[..., 2])


@pytest.mark.parametrize(("height", "width"), [(120, 200), (97, 61), (20, 33), (224, 224)])
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_scaling_is_bicubic_over_the_right_part(tmp_path, resize, height, width):
    """Pillow's bicubic has a = -0.5, swscale's -0.6: close, and nearest or bilinear are not."""
    original = textured_frames(3, height, width)
    config = DecodeConfig(resize=resize, size=56)
    frames, _, _ = decode(write_frames(tmp_path / "v.mkv", original), config)
    for frame, picture in zip(frames, map(Image.fromarray, original), strict=True):
        if resize == "squash":
            expected = picture.resize((56, 56), Image.Resampling.BICUBIC)
        else:
            w, h = (64, round(64 * height / width))
            if width > height:
                w, h = (round(64 * width / height), 64)
            scaled = picture.resize((w, h), Image.Resampling.BICUBIC)
            left, top = (w - 56) // 2, (h - 56) // 2
            expected = scaled.crop((left, top, left + 56, top + 56))
        # the borders are treated differently
        difference = (frame.astype(int) - np.asarray(expected))[2:-2, 2:-2]
        assert np.abs(difference).max() <= 6
        assert np.abs(difference).mean() < 1
        assert abs(difference.mean()) < 0.2


def test_threads_do_not_change_pixels(tmp_path):
    path = make_video(tmp_path / "v.mp4", "-c:v", "libx264", size="320x240")
    first, _, _ = decode(path, DecodeConfig(size=224), threads=1)
    again, _, _ = decode(path, DecodeConfig(size=224), threads=4)
    default, _, _ = decode(path, DecodeConfig(size=224))
    assert np.array_equal(first, again)
    assert np.array_equal(first, default)


def test_the_first_video_stream_is_taken_not_the_largest(tmp_path):
    small = make_video(tmp_path / "s.mp4", "-c:v", "libx264", num_frames=5)
    large = make_video(tmp_path / "l.mp4", "-c:v", "libx264", num_frames=9, size="320x240")
    audio = tmp_path / "a.m4a"
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", audio)
    both = tmp_path / "both.mp4"
    inputs = [part for path in (audio, small, large) for part in ("-i", path)]
    run_ffmpeg(*inputs, "-map", 0, "-map", 1, "-map", 2, "-c", "copy", both)
    frames, _, stream = decode(both)
    assert (len(frames), stream.info.stream_index, stream.info.width) == (5, 1, 64)


@pytest.fixture
def cover(tmp_path):
    path = tmp_path / "cover.png"
    Image.new("RGB", (300, 300), "red").save(path)
    return path


def test_cover_art_is_not_the_video(tmp_path, cover):
    video = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=6)
    path = tmp_path / "with_cover.mp4"
    maps = ("-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic")
    run_ffmpeg("-i", cover, "-i", video, *maps, path)
    frames, _, stream = decode(path)
    assert (len(frames), stream.info.codec) == (6, "h264")


def test_music_with_cover_art_has_no_video_stream(tmp_path, cover):
    path = tmp_path / "song.mp4"
    maps = ("-map", 0, "-map", 1, "-c:v", "copy", "-disposition:v:0", "attached_pic")
    run_ffmpeg("-i", cover, "-f", "lavfi", "-i", "sine=d=1", *maps, path)
    expected = r"song\.mp4: no video stream, only (video png \(picture\)|audio aac), "
    with pytest.raises(DecodeError, match=expected):
        decode(path)


@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        'it\'s "quoted".mp4',
        "-i.mp4",
        "100%d%03d.mp4",
        "Überwachung 監視 🎥.mp4",
        "a:b,c;[d]=e\\f|g.mp4",
        "-",
    ],
)
def test_any_file_name_works(tmp_path, monkeypatch, name):
    # made under a plain name and renamed, so that only our own call sees the odd one
    made = make_video(tmp_path / "plain.mp4", "-c:v", "libx264", num_frames=3)
    made.rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(decode(Path(name))[0]) == 3
    assert len(decode(tmp_path / name)[0]) == 3


def test_a_still_video_of_one_frame(tmp_path):
    path = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=1)
    frames, pts, _ = decode(path)
    assert len(frames) == 1
    assert pts.tolist() == [0.0]


@pytest.mark.parametrize(
    "change", [("64x48", "96x96", "yuv420p"), ("64x48", "64x48", "yuv444p")], ids=["size", "format"]
)
def test_a_change_on_the_way_leaves_a_whole_video(tmp_path, change):
    joined = tmp_path / "joined.h264"
    before, after, pix_fmt = change
    parts = (("a.h264", before, "yuv420p"), ("b.h264", after, pix_fmt))
    content = (
        make_video(tmp_path / n, "-c:v", "libx264", "-r", 25, "-pix_fmt", f, num_frames=5, size=s)
        for n, s, f in parts
    )
    joined.write_bytes(b"".join(path.read_bytes() for path in content))
    frames, pts, stream = decode(joined)
    assert len(frames) == 10
    assert pts == pytest.approx(np.arange(10) / 25)
    assert stream.partial == ""


def test_a_thumbnail_that_is_no_cover_is_told_from_the_video(tmp_path, cover, caplog):
    video = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=6)
    path = tmp_path / "with_thumbnail.mkv"
    run_ffmpeg("-i", cover, "-i", video, "-map", 0, "-map", 1, "-c:v:1", "copy", path)
    assert len(decode(path)[0]) == 1
    (message,) = caplog.messages
    assert "0:0, has one frame; not read: 0:1 h264 64x48" in message
    assert "-map 0:1" in message
    caplog.clear()
    decode(video)
    make_video(tmp_path / "one.mp4", "-c:v", "libx264", num_frames=1)
    decode(tmp_path / "one.mp4")
    assert not caplog.messages


def test_an_odd_rotation_leaves_the_times_right(tmp_path):
    """ffmpeg's warning about it has no line break and swallows the head of the next message."""
    plain = make_video(tmp_path / "plain.mp4", "-c:v", "libx264", num_frames=6)
    path = tmp_path / "v.mp4"
    run_ffmpeg("-display_rotation", 45, "-i", plain, "-c", "copy", path)
    assert decode(path)[1] == pytest.approx(np.arange(6) / 10)


def test_a_truncated_video_gives_what_it_has_and_says_why(tmp_path):
    arguments = ("-c:v", "libx264", "-g", 5, "-movflags", "+faststart")
    path = make_video(tmp_path / "v.mp4", *arguments, num_frames=60, size="160x120")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    frames, pts, stream = decode(path)
    assert 10 < len(frames) < 60
    assert len(pts) == len(frames)
    assert stream.partial.startswith("ffmpeg: ")
    assert "\n" not in stream.partial


def test_damage_in_the_middle_is_reported(tmp_path):
    arguments = ("-c:v", "libx264", "-g", 10)
    path = make_video(tmp_path / "v.mp4", *arguments, num_frames=60, size="160x120")
    content = bytearray(path.read_bytes())
    middle = slice(len(content) // 3, len(content) // 2)
    content[middle] = np.random.default_rng(0).bytes(middle.stop - middle.start)
    path.write_bytes(content)
    frames, _, stream = decode(path)
    assert len(frames) > 10
    assert "error" in stream.partial


def test_a_video_without_its_index_is_refused_with_ffmpegs_cause(tmp_path):
    path = make_video(tmp_path / "my v.mp4", "-c:v", "libx264")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DecodeError, match=r"v\.mp4: no frame .*: moov atom not found; ") as caught:
        decode(path)
    assert "\n" not in str(caught.value)
    _, command = str(caught.value).rsplit("(", 1)
    assert shlex.split(command.rstrip(")")) == ["ffmpeg", "-i", str(path)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"just some words\n" * 50, "no frame can be decoded"),
        (bytes(10000), "no frame can be decoded"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "no frame can be decoded"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, content, expected):
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=expected) as caught:
        decode(path)
    assert str(caught.value).startswith("v.mp4: ")
    assert "\n" not in str(caught.value)


def test_sound_alone_is_refused(tmp_path):
    path = tmp_path / "v.mp4"
    run_ffmpeg("-f", "lavfi", "-i", "sine=d=1", path)
    with pytest.raises(DecodeError, match=r"v\.mp4: no video stream, only audio aac; "):
        decode(path)


def test_a_file_that_has_gone_is_refused(tmp_path):
    with pytest.raises(DecodeError, match="no such file"):
        decode(tmp_path / "gone.mp4")


def test_a_playlist_called_mp4_opens_no_address(tmp_path):
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/x.ts"
    path = tmp_path / "v.mp4"
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{address}\n#EXT-X-ENDLIST\n")
    with pytest.raises(DecodeError):
        decode(path)
    server.shutdown()
    server.server_close()
    assert hits == []


def test_leaving_early_ends_ffmpeg(tmp_path):
    path = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=600)
    started = time.monotonic()
    with open_video(source_of(path), DecodeConfig(size=224)) as stream:
        assert len(stream.read(3)[0]) == 3
        child = stream._process._child
        assert child.poll() is None
    assert child.returncode is not None
    stream.close()
    assert time.monotonic() - started < 60


def test_ctrl_c_does_not_reach_ffmpeg(tmp_path):
    """It would end in good order, and the video would seem shorter than it is."""
    path = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=600)
    with open_video(source_of(path), DecodeConfig(size=224)) as stream:
        assert os.getpgid(stream._process._child.pid) != os.getpgid(0)


def test_a_slow_reader_gets_every_frame(tmp_path):
    path = write_frames(tmp_path / "v.mkv", grey_frames(60))
    with open_video(source_of(path), DecodeConfig(size=224)) as stream:
        time.sleep(0.3)
        frames = [stream.read(20)[0] for _ in range(3)]
    assert numbers(np.concatenate(frames)) == list(range(60))


@pytest.fixture
def wrapped_ffmpeg(tmp_path, monkeypatch):
    """Return a function that puts a shell script in ffmpeg's place."""

    def wrap(body: str) -> None:
        script = tmp_path / "wrapper"
        real = find_ffmpeg()
        version = f'[ "$1" = -version ] && exec "{real}" -version'
        script.write_text(f'#!/bin/sh\nreal="{real}"\n{version}\n{body}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("FEAT_FFMPEG", str(script))

    return wrap


def test_a_killed_ffmpeg_is_an_error_not_a_shorter_video(tmp_path, wrapped_ffmpeg):
    path = write_frames(tmp_path / "v.mkv", grey_frames(60))
    frame = 32 * 32 * 3
    wrapped_ffmpeg(f'"$real" "$@" | head -c {10 * frame + 100}; kill -9 $$')
    with pytest.raises(DecodeError, match=r"v\.mkv: ffmpeg was killed by signal 9 .*run again"):
        decode(path)


def test_a_crashed_ffmpeg_is_told_from_a_killed_one(tmp_path, wrapped_ffmpeg):
    path = write_frames(tmp_path / "v.mkv", grey_frames(60))
    wrapped_ffmpeg("kill -SEGV $$")
    with pytest.raises(DecodeError, match=r"crashed after 0 frames \(signal 11\); name another"):
        decode(path)


def test_a_flood_of_messages_does_not_block(tmp_path, wrapped_ffmpeg):
    path = write_frames(tmp_path / "v.mkv", grey_frames(60))
    line = "[warning] " + "x" * 1000
    wrapped_ffmpeg(f'yes "{line}" | head -c 5000000 >&2; exec "$real" "$@"')
    frames, pts, stream = decode(path)
    assert (len(frames), len(pts), stream.partial) == (60, 60, "")


def test_a_failure_without_a_message_is_partial(tmp_path, wrapped_ffmpeg):
    path = write_frames(tmp_path / "v.mkv", grey_frames(20))
    wrapped_ffmpeg('"$real" "$@"; exit 3')
    frames, _, stream = decode(path)
    assert len(frames) == 20
    assert "status 3" in stream.partial


def test_memory_does_not_grow_with_the_videos_length(tmp_path):
    def peak(num_frames: int) -> int:
        path = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=num_frames)
        tracemalloc.start()
        with contextlib.ExitStack() as stack:
            stack.callback(tracemalloc.stop)
            stream = stack.enter_context(open_video(source_of(path), DecodeConfig(size=64)))
            while len(stream.read(16)[0]):
                pass
            assert stream.num_frames == num_frames
            return tracemalloc.get_traced_memory()[1]

    peak(20)
    # 1180 more frames of 12 KiB would be 14 MB
    assert peak(1200) < peak(20) + 200_000


def test_no_descriptor_is_left_open(tmp_path):
    path = make_video(tmp_path / "v.mp4", "-c:v", "libx264")
    decode(path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        decode(path)
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(DecodeError):
        decode(tmp_path / "bad.mp4")
    assert len(os.listdir("/proc/self/fd")) == before


def test_max_frames_must_be_positive(tmp_path):
    path = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=2)
    with open_video(source_of(path), SMALL) as stream, pytest.raises(ValueError, match="found 0"):
        stream.read(0)


@pytest.mark.parametrize("bad", [{"resize": "stretch"}, {"size": 0}, {"fps": 0}, {"fps": -1}])
def test_bad_configurations_are_refused(bad):
    with pytest.raises(ConfigError, match="found"):
        DecodeConfig(**bad)


def test_a_wrong_feat_ffmpeg_is_named(tmp_path, monkeypatch):
    path = make_video(tmp_path / "v.mp4", "-c:v", "libx264", num_frames=2)
    monkeypatch.setenv("FEAT_FFMPEG", "/nowhere/ffmpeg")
    with pytest.raises(DecodeError, match="FEAT_FFMPEG=/nowhere/ffmpeg"):
        decode(path)
    monkeypatch.setenv("FEAT_FFMPEG", shutil.which("true") or "/bin/true")
    with pytest.raises(DecodeError, match="is not ffmpeg"):
        decode(path)


def test_equal_times_are_no_error(tmp_path: Path) -> None:
    path = tmp_path / "pairs.mkv"
    command = [find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=10"]
    command += ["-frames:v", "20", "-c:v", "mpeg4", "-bf", "0"]
    command += ["-bsf:v", "setts=pts=floor(N/2)*2:dts=floor(N/2)*2", str(path)]
    subprocess.run(command, check=True)
    source = VideoSource(video_id="pairs.mkv", path=path, kind="file")
    with open_video(source, DecodeConfig(size=32)) as stream:
        frames, times = stream.read(100)
        assert stream.partial == ""
    assert len(frames) == 20
    np.testing.assert_allclose(times, np.arange(20) // 2 * 0.2)
