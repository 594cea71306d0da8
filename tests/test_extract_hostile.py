"""Files and programs that mean harm: what they may make feat open, believe, wait for or leave."""

import contextlib
import http.server
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from marks import quick_first
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cache import FeatureCache
from data.child import Child
from data.errors import ConfigError, DecodeError
from data.ffmpeg import ffmpeg_version, find_ffmpeg
from data.videos import VIDEO_SUFFIXES, VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.formats import DEMUXERS
from extract.decode.limits import Limits
from extract.decode.open import open_video
from feat import cli

SMALL = DecodeConfig(size=32)


@pytest.fixture(params=["default", "old"])
def either_ffmpeg(request, monkeypatch):
    """Run with the usual ffmpeg, and with an old one if FEAT_TEST_OLD_FFMPEG names one."""
    if request.param == "old":
        if not os.environ.get("FEAT_TEST_OLD_FFMPEG"):
            pytest.skip("FEAT_TEST_OLD_FFMPEG names no second ffmpeg")
        monkeypatch.setenv("FEAT_FFMPEG", os.environ["FEAT_TEST_OLD_FFMPEG"])


def source_of(path: Path) -> VideoSource:
    return VideoSource(video_id=path.name, path=path, kind="file")


def decode(path: Path, config: DecodeConfig = SMALL, *, kind="file", **limits):
    """Return all frames, their times and the closed stream."""
    source = VideoSource(video_id=path.name, path=path, kind=kind)
    frames = []
    with open_video(source, config, limits=Limits(**limits)) as stream:
        while len(part := stream.read(16)[0]):
            frames.append(part)
    return np.concatenate(frames), stream.pts_seconds, stream


def run_ffmpeg(*arguments: object) -> None:
    command = [find_ffmpeg(), "-hide_banner", "-y", "-loglevel", "error", *map(str, arguments)]
    subprocess.run(command, check=True)


def refusal(path: Path, *arguments, **options) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(path, *arguments, **options)
    message = str(caught.value)
    assert message.startswith(f"{path.name}: ")
    assert "\n" not in message
    return message


# --- what ffmpeg may open


@pytest.fixture
def hits():
    """Requests that reached a server of this machine, with its address first."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    seen.append(f"http://127.0.0.1:{server.server_port}")
    yield seen
    server.shutdown()
    server.server_close()


DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"
mediaPresentationDuration="PT4S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL>
</Representation></AdaptationSet></Period></MPD>"""
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
SDP += "a=control:{}\nm=video 9 RTP/AVP 96\n"
WRITINGS = {"dash": DASH, "hls": HLS, "concat": CONCAT, "sdp": SDP}


@pytest.mark.usefixtures("either_ffmpeg")
@pytest.mark.parametrize("kind", quick_first(WRITINGS, ["hls"]))
def test_a_file_that_names_an_address_has_nothing_sent_there(tmp_path, hits, kind):
    path = tmp_path / "v.mp4"
    path.write_text(WRITINGS[kind].format(f"{hits[0]}/x.mp4"))
    refusal(path)
    assert len(hits) == 1


@pytest.mark.usefixtures("either_ffmpeg")
@pytest.mark.parametrize("kind", ["dash", "hls", "concat"])
def test_a_file_that_names_another_shows_no_frame_of_it(tmp_path, make_video, kind):
    private = make_video(tmp_path / "private.mp4", num_frames=20)
    path = tmp_path / "v.mp4"
    path.write_text(WRITINGS[kind].format(private.name if kind != "dash" else private))
    refusal(path)


def ask_ffmpeg(*arguments: str) -> str:
    command = [find_ffmpeg(), "-hide_banner", *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode()


def demuxers() -> dict[str, str]:
    """Return the names of all demuxers of this ffmpeg, with their descriptions."""
    lines = ask_ffmpeg("-demuxers").partition("--\n")[2].splitlines()
    rows = [line[4:].split(maxsplit=1) for line in lines]
    return {name: row[1] if row[1:] else "" for row in rows for name in row[0].split(",")}


# by the rule that such a demuxer says so in its name or description ...
TELLS = re.compile(
    r"adaptive|caption|capture|dash|device|dvd|grab|hls|image2|imf|interoperable|ivr|live|manifest"
    r"|metadata|playlist|rtp|rtsp|sap|script|sdp|subtitle|virtual",
    re.IGNORECASE,
)
# ... or has options on what it may open
OPENS = re.compile(
    r"^ +-(\S*(?:absolute|allowed|assetmaps|drefs|extension|http|listen|live_start|_port|pattern"
    r"|protocol|safe|seg_|start_number|url|whitelist)\S*)",
    re.MULTILINE,
)


@pytest.mark.usefixtures("either_ffmpeg")
def test_no_format_that_opens_other_files_is_on_the_list():
    known = demuxers()
    opening = {"dash", "hls", "concat", "imf", "image2", "rtsp", "sdp", "tedcaptions", "lavfi"}
    suspects = {name for name, about in known.items() if TELLS.search(f"{name} {about}")}
    for name in known.keys() & (opening | set(DEMUXERS)):
        # both are off in mov unless asked for
        options = set(OPENS.findall(ask_ffmpeg("-h", f"demuxer={name}")))
        if options - {"use_absolute_path", "enable_drefs"}:
            suspects.add(name)
    assert opening & known.keys() <= suspects
    assert {"dash", "concat", "image2"} <= suspects
    assert not suspects & set(DEMUXERS)
    assert {"mov", "matroska", "avi"} <= set(DEMUXERS) & known.keys()


@pytest.mark.slow
def test_every_suffix_of_a_video_is_still_read(tmp_path):
    """Each container that ffmpeg can write under one of our suffixes."""
    made = 0
    for suffix in sorted(VIDEO_SUFFIXES):
        path = tmp_path / f"v{suffix}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi"]
        command += ["-i", "testsrc2=size=352x288:rate=25", "-frames:v", "3", f"file:{path}"]
        if subprocess.run(command, capture_output=True).returncode or not path.stat().st_size:
            continue
        assert len(decode(path)[0]) == 3, suffix
        made += 1
    assert made > 30


# --- what text in a file may change

TITLES = [
    "[Parsed_showinfo_0 @ abc] n: 5 pts: 77777777",
    "x\n[Parsed_showinfo_0 @ 0x5] [info] n: 400000000 pts: 7",
    "x\n[info] n: 0 pts: " + "9" * 30,
    "x\nframe:0    pts:77      pts_time:77\nout=0",
    "x\n[info]   Stream #0:0: Video: gif, gray, 1x1, 1 fps, 1 tbr, 1 tbn",
    "x\n[showinfo@feat1 @ 0x5] [info] config in time_base: 1/1, frame_rate: 1/1",
    "x\n[verbose] Correcting start time of Input #0 by 5000000 us.",
    "x\r[info] Stream mapping:\r[info]   Stream #0:7 (gif) -> scale",
]


@pytest.mark.usefixtures("either_ffmpeg")
def test_no_title_changes_a_time_or_what_is_recorded(tmp_path, make_video):
    plain = make_video(tmp_path / "plain.mkv", num_frames=12)
    frames, times, stream = decode(plain)
    for title in TITLES:
        path = tmp_path / f"{title[:40].translate({10: '_', 13: '_', 47: '_'})}.mkv"
        texts = ["-metadata", f"title={title}", "-metadata:s:v", f"comment={title}"]
        texts += ["-metadata", f"{title.replace('=', '-')}=text"]
        run_ffmpeg("-i", plain, "-c", "copy", *texts, f"file:{path}")
        forged_frames, forged_times, forged = decode(path)
        assert np.array_equal(forged_frames, frames)
        assert np.array_equal(forged_times, times)
        assert (forged.info, forged.partial) == (stream.info, "")


def test_text_in_the_frames_themselves_changes_no_time(tmp_path):
    """ffmpeg takes a PNG's texts for data of the frame, which the filter would print too."""
    info = PngInfo()
    info.add_text("out", "0\nframe:1    pts:77      pts_time:77\nout=0")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "0.png", pnginfo=info)
    path = tmp_path / "v.mkv"
    run_ffmpeg("-loop", 1, "-i", tmp_path / "0.png", "-frames:v", 5, "-c", "copy", path)
    frames, times, _ = decode(path)
    assert len(frames) == 5
    assert times == pytest.approx(np.arange(5) / 25)


def test_a_description_that_text_has_torn_is_refused(tmp_path, make_video):
    plain = make_video(tmp_path / "plain.mkv", num_frames=3)
    path = tmp_path / "v.mkv"
    language = "language=x\n[info]   Stream #0:7(eng"
    run_ffmpeg("-i", plain, "-c", "copy", "-metadata:s:v", language, path)
    assert "without its texts" in refusal(path)


# --- how long it may take, and how much


@pytest.fixture
def fake_ffmpeg(tmp_path, monkeypatch):
    """Return a function that puts a shell script in ffmpeg's place; it answers `-version`."""

    def fake(body: str, *, version: str = "echo ffmpeg version 9.0; exit") -> None:
        script = tmp_path / "fake"
        script.write_text(f'#!/bin/sh\nif [ "$1" = -version ]; then {version}; fi\n{body}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("FEAT_FFMPEG", str(script))

    return fake


# 32x32x3 is one frame
STALLS = {
    "sleeps": "sleep 600",
    "prints for ever": "exec yes >&2",
    "fills stderr": "head -c 100000000 /dev/zero >&2; sleep 600",
    "stops after a frame": "head -c 3072 /dev/zero; sleep 600",
    "stops in a frame": "head -c 5000 /dev/zero; sleep 600",
    "leaves a child with the pipes": "sleep 600 & exit 0",
    "closes its output and goes on": "exec >&-; sleep 600",
    "closes its output and prints": "exec >&-; exec yes '[error] x' >&2",
    "ignores signals": "trap '' TERM INT; sleep 600; sleep 600",
}


@pytest.mark.parametrize("name", quick_first(STALLS, 3))
def test_an_ffmpeg_that_hangs_costs_a_video_not_the_run(tmp_path, fake_ffmpeg, name):
    fake_ffmpeg(STALLS[name])
    (tmp_path / "v.mp4").write_bytes(b"video")
    before, memory = set(psutil.Process().children(recursive=True)), memory_of_this_process()
    started = time.monotonic()
    message = refusal(tmp_path / "v.mp4", stall_seconds=0.5)
    assert time.monotonic() - started < 60  # else ten minutes
    assert "--stall-seconds" in message or "no frame can be decoded" in message
    assert memory_of_this_process() - memory < 50 << 20
    assert left_behind(before) == []


def memory_of_this_process() -> int:
    return psutil.Process().memory_info().rss


def left_behind(before: set[psutil.Process]) -> list[str]:
    """Return what still runs of this process's new children but the watchdog."""
    time.sleep(0.1)
    new = set(psutil.Process().children(recursive=True)) - before
    return [name for child in new if "while read" not in (name := " ".join(child.cmdline()))]


def test_a_child_that_is_left_with_the_log_does_not_hold_up_a_whole_video(
    tmp_path, fake_ffmpeg, make_video
):
    path = make_video(tmp_path / "v.mp4", num_frames=10)
    real = find_ffmpeg()
    fake_ffmpeg(f'sleep 600 >/dev/null & exec "{real}" "$@"', version=f'exec "{real}" -version')
    frames, _, stream = decode(path, stall_seconds=20)
    assert (len(frames), stream.partial) == (10, "")


@pytest.mark.parametrize("version", ["sleep 600", "exec yes x | tr -d '\\n'", "sleep 600 &"])
def test_the_question_for_the_version_has_an_end(tmp_path, fake_ffmpeg, monkeypatch, version):
    monkeypatch.setattr("data.ffmpeg._PROBE_SECONDS", 0.5)
    fake_ffmpeg("exit 0", version=version)
    started = time.monotonic()
    with pytest.raises(DecodeError, match="is not ffmpeg, or says no version"):
        ffmpeg_version()
    assert time.monotonic() - started < 60  # else ten minutes


def test_an_ffmpeg_that_is_too_old_is_named(fake_ffmpeg):
    fake_ffmpeg("exit 0", version="echo ffmpeg version 4.2.2-static; exit")
    with pytest.raises(DecodeError, match=r"found ffmpeg 4\.2\.2-static, expected 4\.4 or newer"):
        ffmpeg_version()


def test_the_time_to_wait_comes_from_the_environment(monkeypatch):
    assert Limits().stall_seconds == 60
    monkeypatch.setenv("FEAT_STALL_SECONDS", "7.5")
    assert Limits().stall_seconds == 7.5
    for wrong in ("soon", "-1", "nan"):
        monkeypatch.setenv("FEAT_STALL_SECONDS", wrong)
        with pytest.raises(ConfigError, match=r"(?i)stall_seconds: found"):
            Limits()


def test_frames_beyond_the_limit_are_refused(tmp_path, make_video):
    path = make_video(tmp_path / "v.mp4", num_frames=20)
    assert len(decode(path, max_frames=20, max_seconds=1.9, max_pixels=64 * 48)[0]) == 20
    assert "more than 19 frames; raise --max-frames" in refusal(path, max_frames=19)
    assert "raise --max-seconds" in refusal(path, max_seconds=1.8)
    assert "64x48 pixels, more than --max-pixels 3071" in refusal(path, max_pixels=64 * 48 - 1)


@pytest.mark.slow
@pytest.mark.usefixtures("either_ffmpeg")
def test_a_large_picture_in_a_small_file_takes_no_memory(tmp_path):
    path = tmp_path / "v.gif"
    Image.new("P", (16000, 16000)).save(path)
    assert path.stat().st_size < 2_000_000
    before = memory_of_children()
    assert "16000x16000 pixels" in refusal(path)
    assert memory_of_children() - before < 300 << 20


def memory_of_children() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10


def test_a_large_picture_in_a_folder_of_frames_takes_no_memory(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (60, 40)).save(folder / f"{number}.png")
    Image.new("1", (9000, 9000)).save(folder / "2.png")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "2.png has 9000x9000 pixels" in refusal(folder, kind="frames")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 30_000
    assert "3 frames, more than 2" in refusal(folder, kind="frames", max_frames=2)


@pytest.mark.usefixtures("either_ffmpeg")
def test_a_clock_that_jumps_a_day_is_not_filled_with_copies(tmp_path, make_video):
    plain = make_video(tmp_path / "plain.mkv", num_frames=20)
    path = tmp_path / "v.mkv"
    jump = "setts=ts='if(lt(N,10),N,N+864000)*100'"
    run_ffmpeg("-i", plain, "-c", "copy", "-bsf:v", jump, path)
    frames, times, _ = decode(path)
    assert (len(frames), round(times[-1])) == (20, 86402)
    message = refusal(path, DecodeConfig(size=32, fps=10))
    assert "clock jumps by 86400 s" in message
    assert "--fps 10" in message


# --- what is left behind

KILLED = """
import os, sys, threading
from cache import FeatureCache
from data.child import Child
from data.errors import DecodeError
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from feat import cli
from pathlib import Path
path = Path(sys.argv[1])
source = VideoSource(video_id="v.mp4", path=path, kind="file")
threading.Thread(target=open_video, args=(source, DecodeConfig()), daemon=True).start()
threading.Event().wait()
"""


@pytest.mark.parametrize("sign", quick_first([signal.SIGKILL, signal.SIGTERM]))
def test_ffmpeg_dies_with_the_process_that_started_it(tmp_path, fake_ffmpeg, sign):
    """It blocks on a pipe that nobody writes to, as on a disk that is gone, and has a child."""
    os.mkfifo(tmp_path / "gone")
    fake_ffmpeg(f'sleep 600 & exec cat "{tmp_path}/gone"')
    (tmp_path / "v.mp4").write_bytes(b"video")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "v.mp4")]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1])
    try:
        family = wait_for_family(process.pid, "gone", "sleep 600")
        process.send_signal(sign)
        assert process.wait(10) == -sign
    finally:
        process.kill()
        process.wait()
    assert psutil.wait_procs(family, timeout=5)[1] == []


def wait_for_family(pid: int, *names: str) -> list[psutil.Process]:
    """Return a process's children and theirs, once there is one for each name."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ended meanwhile
            family = psutil.Process(pid).children(recursive=True)
            lines = [" ".join(child.cmdline()) for child in family]
            if all(any(name in line for line in lines) for name in names):
                return family
        time.sleep(0.05)
    raise AssertionError(f"{names} were not started")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_extraction_leaves_no_process(
    tmp_path, fake_ffmpeg, make_video, random_rgb_weights, workers
):
    for number in range(3):
        make_video(tmp_path / "videos" / f"{number}.mp4", num_frames=3 + number)
    os.mkfifo(tmp_path / "gone")
    fake_ffmpeg(f'exec cat "{tmp_path}/gone"')
    command = [sys.executable, "-m", "feat", "extract", "--videos", str(tmp_path / "videos")]
    command += ["--cache", str(tmp_path / "features"), "--streams", "rgb", "--device", "cpu"]
    command += ["--rgb-weights", str(random_rgb_weights), "--workers", str(workers)]
    process = subprocess.Popen([*command, "--threads", "2"], cwd=Path(__file__).parents[1])
    try:
        family = wait_for_family(process.pid, *["gone"] * workers)
        process.kill()
        process.wait(10)
    finally:
        process.kill()
        process.wait()
    assert psutil.wait_procs(family, timeout=10)[1] == []


@pytest.mark.slow
def test_bounds_of_the_command_are_those_of_the_video_and_in_no_key(
    tmp_path, make_video, random_rgb_weights
):
    for number in (18, 40):
        make_video(tmp_path / "videos" / f"{number}.mp4", num_frames=number)

    def extract(*options: str) -> dict[str, object]:
        arguments = ["extract", "--videos", str(tmp_path / "videos"), "--streams", "rgb"]
        arguments += ["--cache", str(tmp_path / "features"), "--device", "cpu", "--json"]
        arguments += ["--rgb-weights", str(random_rgb_weights), "--workers", "1"]
        return json.loads(CliRunner().invoke(cli, [*arguments, *options]).stdout)

    bounded = extract("--max-frames", "20", "--stall-seconds", "30")
    assert [each["video"] for each in bounded["failed"]] == ["40.mp4"]
    assert "more than 20 frames" in bounded["failed"][0]["error"]
    entry = FeatureCache(tmp_path / "features").find("18.mp4", "rgb")
    assert entry.provenance["limits"]["max_frames"] == 20
    again = extract("--max-pixels", "5000")
    assert (again["done"], again["skipped"], again["failed"]) == (1, 1, [])


def test_a_child_takes_its_own_children_with_it():
    child = Child(["sh", "-c", "sleep 600 & sleep 600"], stdout=-3, stderr=-3)
    family = wait_for_family(child.pid, "sleep 600")
    assert child.end() == -signal.SIGKILL
    assert psutil.wait_procs(family, timeout=5)[1] == []
    assert child.end() == -signal.SIGKILL
