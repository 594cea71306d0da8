"""Reading ffmpeg's log and times: lines as several versions of ffmpeg write them."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ffmpeg import ffmpeg_version, passthrough_options
from extract.decode import frame_times
from extract.decode.ffmpeg_log import FFmpegLog
from extract.decode.frame_times import DECODED, DELIVERED, FrameTimes

SECRET = "feat0123456789abcdef"

# ffmpeg 9.0 on a phone video with a picture before it; then the log of 5.1 on an AVI
NEW = """\
[info] Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:x, Stream #0:7: Video: fake, 1x1.mp4':
[info]   Metadata:
[info]     title           : n: 0 pts: 77
[info]   Stream #0:0[0x1]: Video: png{S}rgb24(pc, gbr/unknown/unknown), 300x300{S}90k tbr \
(attached pic)
[info]   Stream #0:1[0x2](und): Video: h264 (High 4:4:4 Predictive) (avc1 / 0x31637661){S}\
yuv444p(tv, bt709, progressive), 568x320 [SAR 1:1 DAR 71:40], 1172 kb/s{S}29.97 fps, 29.97 tbr, \
30k tbn (default)
[info]     Side data:
[info]       Display Matrix: rotation of -90.00 degrees
[info]   Stream #0:2[0x3](eng): Audio: aac (LC) (mp4a / 0x6134706D){S}48000 Hz, stereo, fltp
[info] Stream mapping:
[info]   Stream #0:1 (h264) -> scale:default
[info]   metadata:default -> Stream #0:0 (rawvideo)
[showinfo@{S}1 @ 0x7fe980010140] [info] config in time_base: 1/30000, frame_rate: 30000/1001
[showinfo@{S}1 @ 0x7fe980010140] [info] config out time_base: 0/0, frame_rate: 0/0
[info] Output #0, rawvideo, to 'pipe:1':
[info]   Stream #0:0: Video: rawvideo (RGB[24]), rgb24(pc), 224x224, q=2-31, 36126 kb/s, 25 fps
""".replace("{S}", SECRET)
OLD = """\
[info] Input #0, avi, from 'file:x.avi':
[info]   Duration: 00:00:06.56, start: 0.000000, bitrate: 359 kb/s
[info]     Stream #0:0: Video: mpeg4 (Advanced Simple Profile) (XVID / 0x44495658){S}yuv420p, \
320x240 [SAR 1:1 DAR 4:3], 209 kb/s{S}12.50 fps, 25 tbr, 25 tbn, 25 tbc
[info]     Stream #0:1: Audio: mp3 (U[0][0][0] / 0x0055){S}44100 Hz, stereo, fltp, 125 kb/s
[info] Stream mapping:
[info]   Stream #0:0 (mpeg4) -> scale
[info]   metadata -> Stream #0:0 (rawvideo)
[showinfo@{S}1 @ 0x5d] [info] config in time_base: 1/25, frame_rate: 25/1
""".replace("{S}", SECRET)


def log_of(text: str) -> FFmpegLog:
    log = FFmpegLog(SECRET)
    log.feed(text.encode())
    return log


def test_new_log():
    log = log_of(NEW)
    info = log.stream_info()
    assert (info.stream_index, info.width, info.height) == (1, 568, 320)
    assert (info.codec, info.pix_fmt, info.rotation) == ("h264", "yuv444p", 90)
    assert info.frame_rate == pytest.approx(30000 / 1001, abs=1e-12)
    assert log.time_base == Fraction(1, 30000)
    assert log.stream_kinds() == ["video png (picture)", "video h264", "audio aac"]
    assert log.other_videos() == []
    assert (log.num_errors, log.cause()) == (0, "")


def test_old_log():
    log = log_of(OLD)
    info = log.stream_info()
    assert (info.codec, info.pix_fmt, info.width, info.rotation) == ("mpeg4", "yuv420p", 320, 0)
    # the average, not the rate at which frames could come
    assert info.frame_rate == 12.5
    assert info.expected_frames == 82
    assert log.time_base == Fraction(1, 25)


@given(st.integers(1, 400))
def test_the_log_may_come_in_any_pieces(size):
    log = FFmpegLog(SECRET)
    for start in range(0, len(NEW), size):
        log.feed(NEW.encode()[start : start + size])
    assert log.stream_info() == log_of(NEW).stream_info()


FORGED = """\
[showinfo@guess1 @ 0x7fe980010140] [info] config in time_base: 1/1, frame_rate: 1/1
[info]   Stream #0:1: Video: fake, gray, 1x1, 1 fps, 1 tbr, 1 tbn
[info]   Stream #0:9 (fake) -> scale:default
[info]       Display Matrix: rotation of 9{n} degrees
[info]   Duration: 9{n}:00:00.00, start
[Parsed_showinfo_0 @ abc] [info] n: 5 pts: 77777777
[Parsed_showinfo_0 @ abc] [info] n: 4{n} pts: 4{n}
""".replace("{n}", "0" * 40)


@pytest.mark.parametrize("line", range(1, NEW[: NEW.index("[info] Stream mapping")].count("\n")))
def test_text_that_looks_like_the_log_changes_nothing(line):
    """It may come from titles, names of chapters, languages: anywhere among the description."""
    lines = NEW.splitlines(keepends=True)
    forged = log_of("".join([*lines[:line], FORGED, *lines[line:]]))
    assert forged.stream_info() == log_of(NEW).stream_info()
    assert forged.time_base == Fraction(1, 30000)


def test_a_torn_description_is_told_not_guessed():
    torn = NEW.replace("[info]   Stream #0:1[0x2](und)", "[info]   Stream #0:1[0x2](x\n[info]  y)")
    assert log_of(torn).stream_info() is None


def test_a_message_without_its_line_break_does_not_hide_the_time_base():
    head, _, tail = NEW.partition(f"[showinfo@{SECRET}1")
    lost = tail.partition("\n")[2]
    second = f"[showinfo@{SECRET}2 @ 0x7f] [info] config in time_base: 1/30000, frame_rate: 25/1\n"
    swallowed = "[warning] Odd rotation angle.config in time_base: 1/7, frame_rate: 7/1\n"
    assert log_of(head + swallowed + lost + second).time_base == Fraction(1, 30000)


def test_errors_are_counted_and_the_telling_one_is_the_cause():
    log = log_of(
        "[in#0 @ 0x5] [warning] Format mov detected only with low score\n"
        "[vist#0:0/h264 @ 0x5] [dec:h264 @ 0x6] [error] Error submitting packet to decoder\n"
        "[h264 @ 0x6] [error] Invalid NAL unit size (-1 > 551).\n"
        "[fatal] Error opening input files: Invalid data found when processing input\n"
    )
    assert log.num_errors == 3
    assert log.cause() == "Invalid NAL unit size (-1 > 551)."


def test_many_errors_are_counted_but_not_kept():
    log = log_of("[h264 @ 0x6] [error] error while decoding MB 1 2\n" * 1000)
    assert log.num_errors == 1000
    assert len(log.errors) < 10


def test_a_message_cannot_upset_the_terminal():
    assert log_of("[error] \x1b[2J\x07gone\u202e\n").cause() == "?[2J?gone?"
    assert len(log_of(f"[error] {'x' * 100_000}\n").cause()) <= 300


@given(st.lists(st.text(max_size=80), max_size=20))
def test_no_text_upsets_it(lines):
    log = log_of(NEW)
    before = log.stream_info()
    for line in lines:
        log.feed(f"{line}\n[info]   Stream #0:0: Video: {line}\n[error] {line}\n".encode())
    assert log.stream_info() == before
    log.stream_kinds()
    assert "\n" not in log.cause()


def record(number: int, pts: object, name: str = DELIVERED, seconds: object = 0) -> str:
    return f"frame:{number:<4} pts:{pts!s:<7} pts_time:{seconds!s:<7}\n{name}=0\n"


@given(
    st.lists(st.none() | st.integers(-(2**63) + 1, 2**63 - 1), max_size=50),
    st.fractions(min_value=Fraction(1, 10**9), max_value=100),
    st.integers(1, 60),
)
def test_times_are_exact_in_whatever_pieces_they_come(ticks, time_base, size):
    text = "".join(record(i, "NOPTS" if t is None else t) for i, t in enumerate(ticks)).encode()
    times = FrameTimes()
    for start in range(0, len(text), size):
        times.feed(text[start : start + size])
    assert len(times) == len(ticks)
    expected = [math.nan if t is None else float(t * time_base) for t in ticks]
    np.testing.assert_array_equal(times.take(len(ticks), time_base), expected)
    assert len(times) == 0


def test_the_gap_between_frames_is_that_before_resampling():
    times = FrameTimes()
    times.feed(record(0, 0, DECODED, "0").encode())
    times.feed((record(1, 9, DECODED, "86400.5") + record(0, 1) + record(2, 9, DECODED)).encode())
    assert (times.longest_gap, len(times)) == (86400.5, 1)


@pytest.mark.parametrize(
    "text",
    [
        *("x" * 300, record(0, "1" * 30), record(0, 2**63), record(0, 1, "title") + "y" * 200),
        record(0, 1) * 1001,
    ],
    ids=["garbage", "long", "large", "name", "endless"],
)
def test_what_no_filter_of_ours_prints_is_refused(text, monkeypatch):
    monkeypatch.setattr(frame_times, "_MAX_AHEAD", 1000)
    with pytest.raises(ValueError, match="time"):
        FrameTimes().feed((text + " " * 300).encode())


@pytest.mark.parametrize(
    ("version", "option"),
    [
        *(("4.4.2-0ubuntu0.22.04.1", "vsync"), ("4.2.2-static", "vsync"), ("5.0.1", "vsync")),
        *(("5.1", "fps_mode"), ("7.0.2-static", "fps_mode"), ("n9.0.2-17-g2a571b", "fps_mode")),
        ("N-118000-g1234567", "fps_mode"),
    ],
)
def test_passthrough_by_version(version, option):
    assert passthrough_options(version) == {option: "passthrough"}


def test_the_ffmpeg_in_use_tells_its_version():
    assert any(char.isdigit() for char in ffmpeg_version())
