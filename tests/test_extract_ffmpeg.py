"""Reading ffmpeg's log: lines as several versions of ffmpeg write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.ffmpeg import ffmpeg_version, passthrough_options
from extract.decode.ffmpeg_log import FFmpegLog

# ffmpeg 9.0 on a phone video with a picture before it; then the log of 4.2, which names the
# filter's input differently and numbers no inputs
NEW = """\
[info] Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:x, Stream #0:7: Video: fake, 1x1.mp4':
[info]   Metadata:
[info]     title           : n: 0 pts: 77
[info]   Stream #0:0[0x1]: Video: png, rgb24(pc, gbr/unknown/unknown), 300x300, 90k tbr \
(attached pic)
[info]   Stream #0:1[0x2](und): Video: h264 (High 4:4:4 Predictive) (avc1 / 0x31637661), \
yuv444p(tv, bt709, progressive), 568x320 [SAR 1:1 DAR 71:40], 1172 kb/s, 29.97 fps, 29.97 tbr, \
30k tbn (default)
[info]     Side data:
[info]       Display Matrix: rotation of -90.00 degrees
[info]   Stream #0:2[0x3](eng): Audio: aac (LC) (mp4a / 0x6134706D), 48000 Hz, stereo, fltp
[info] Stream mapping:
[info]   Stream #0:1 (h264) -> scale:default
[info]   showinfo:default -> Stream #0:0 (rawvideo)
[Parsed_showinfo_2 @ 0x7fe980010140] [info] config in time_base: 1/30000, frame_rate: 30000/1001
[Parsed_showinfo_2 @ 0x7fe980010140] [info] n:   0 pts:   1001 pts_time:0.0333667 duration:1001 \
fmt:rgb24 cl:unspecified sar:0/1 s:224x224 i:P iskey:1 type:I
[info] Output #0, rawvideo, to 'pipe:1':
[info]   Stream #0:0: Video: rawvideo (RGB[24]), rgb24(pc), 224x224, q=2-31, 36126 kb/s, 25 fps
[Parsed_showinfo_2 @ 0x7fe980010140] [info] n:   1 pts:   2002 pts_time:0.0667333 type:P
"""
OLD = """\
[info] Input #0, avi, from 'file:x.avi':
[info]   Duration: 00:00:06.56, start: 0.000000, bitrate: 359 kb/s
[info]     Stream #0:0: Video: mpeg4 (Advanced Simple Profile) (XVID / 0x44495658), yuv420p, \
320x240 [SAR 1:1 DAR 4:3], 209 kb/s, 12.50 fps, 25 tbr, 25 tbn, 25 tbc
[info]     Stream #0:1: Audio: mp3 (U[0][0][0] / 0x0055), 44100 Hz, stereo, fltp, 125 kb/s
[info] Stream mapping:
[info]   Stream #0:0 (mpeg4) -> scale
[info]   showinfo -> Stream #0:0 (rawvideo)
[Parsed_showinfo_2 @ 0x5d] [info] config in time_base: 1/25, frame_rate: 25/1
[Parsed_showinfo_2 @ 0x5d] [info] n:   0 pts:      0 pts_time:0       pos:     5686 fmt:rgb24 s:2x2
[Parsed_showinfo_2 @ 0x5d] [info] n:   1 pts:  NOPTS pts_time:NOPTS   pos:     5686 fmt:rgb24 s:2x2
"""


def log_of(text: str) -> FFmpegLog:
    log = FFmpegLog()
    for line in text.splitlines():
        log.feed(line)
    return log


def test_new_log():
    log = log_of(NEW)
    info = log.stream_info()
    assert (info.stream_index, info.width, info.height) == (1, 568, 320)
    assert (info.codec, info.pix_fmt, info.rotation) == ("h264", "yuv444p", 90)
    assert info.frame_rate == pytest.approx(30000 / 1001, abs=1e-12)
    assert list(log.pts_seconds) == pytest.approx([1001 / 30000, 2002 / 30000], abs=1e-12)
    assert log.stream_kinds() == ["video png (picture)", "video h264", "audio aac"]
    assert (log.num_errors, log.cause()) == (0, "")


def test_old_log():
    log = log_of(OLD)
    info = log.stream_info()
    assert (info.codec, info.pix_fmt, info.width, info.rotation) == ("mpeg4", "yuv420p", 320, 0)
    # the average, not the rate at which frames could come
    assert info.frame_rate == 12.5
    assert log.pts_seconds[0] == 0
    assert math.isnan(log.pts_seconds[1])


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


def test_a_torn_line_costs_one_time_not_all_that_follow():
    lines = NEW.splitlines()
    frame = "[Parsed_showinfo_2 @ 0x1] [info] n: {} pts: {} pts_time:0"
    lines += [frame.format(2, 3003)[:33], frame.format(3, 4004), frame.format(4, 5005)]
    times = list(log_of("\n".join(lines)).pts_seconds)
    assert math.isnan(times[2])
    assert times[3:] == pytest.approx([4004 / 30000, 5005 / 30000])


def test_frames_after_a_change_of_size_count_on():
    again = "[Parsed_showinfo_2 @ 0x7] [info] config in time_base: 1/1000, frame_rate: 25/1\n"
    again += "[Parsed_showinfo_2 @ 0x7] [info] n:   0 pts:   500 pts_time:0.5\n"
    assert list(log_of(NEW + again).pts_seconds)[2:] == [0.5]
    torn = again.replace("n:   0 pts:   500", "n:   1 pts:   540")
    times = list(log_of(NEW + torn).pts_seconds)[2:]
    assert math.isnan(times[0])
    assert times[1:] == [0.54]


@given(st.lists(st.text(max_size=80), max_size=20))
def test_no_text_upsets_it(lines):
    log = log_of(NEW)
    for line in lines:
        log.feed(line)
        log.feed(f"[info]   Stream #0:0: Video: {line}")
        log.feed(f"[error] {line}")
    log.stream_info()
    log.stream_kinds()
    assert "\n" not in log.cause()


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
