"""Which ffmpeg to run: it decodes the videos, and encodes the samples that `feat sample` draws."""

import os
import re
import select
import shutil
import subprocess
import time
from functools import lru_cache

from data.child import Child
from data.errors import DecodeError

# the first whose filters can print without a buffer and whose time stamps can be set in packets
_OLDEST = (4, 4)
_PROBE_SECONDS = 30
_PROBE_BYTES = 4096


@lru_cache(maxsize=1)
def _default_binary() -> str:
    found = shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise DecodeError(
            "ffmpeg: not on the PATH and none bundled for this platform; install ffmpeg or name "
            "one in FEAT_FFMPEG"
        ) from error


def find_ffmpeg() -> str:
    """Return the ffmpeg to run: FEAT_FFMPEG, else the one on the PATH, else the bundled one.

    Raises:
        DecodeError: there is none, or FEAT_FFMPEG names none.
    """
    chosen = os.environ.get("FEAT_FFMPEG")
    if not chosen:
        return _default_binary()
    found = shutil.which(chosen)
    if found is None:
        raise DecodeError(f"FEAT_FFMPEG={chosen}: no such program; correct or unset it")
    return found


@lru_cache(maxsize=8)
def _version_of(binary: str) -> str:
    try:
        child = Child([binary, "-version"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise DecodeError(f"{binary}: cannot be run as ffmpeg: {error}") from error
    try:
        text = _read_briefly(child)
    finally:
        child.end()
    match = re.match(r"ffmpeg version (\S{1,100})", text)
    if match is None:
        raise DecodeError(
            f"{binary}: is not ffmpeg, or says no version within {_PROBE_SECONDS} s; correct "
            "FEAT_FFMPEG or the PATH"
        )
    numbers = _numbers(match[1])
    if numbers and numbers < _OLDEST:
        raise DecodeError(
            f"{binary}: found ffmpeg {match[1]}, expected {_OLDEST[0]}.{_OLDEST[1]} or newer; name "
            "another one in FEAT_FFMPEG"
        )
    return match[1]


def _read_briefly(child: Child) -> str:
    """Return the first line of what a program says, or what there is of it when time is up."""
    assert child.stdout
    text = b""
    deadline = time.monotonic() + _PROBE_SECONDS
    while b"\n" not in text and len(text) < _PROBE_BYTES:
        if not select.select([child.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            break
        block = os.read(child.stdout.fileno(), _PROBE_BYTES)
        if not block:
            break
        text += block
    return text.decode(errors="replace")


def _numbers(version: str) -> tuple[int, int] | None:
    # a build from git ("N-1234-g5678") has no number and is taken for a recent one
    match = re.match(r"n?(\d{1,4})\.(\d{1,4})", version)
    return (int(match[1]), int(match[2])) if match else None


def ffmpeg_version() -> str:
    """Return the version of the ffmpeg that `find_ffmpeg` returns, such as `7.0.2-static`."""
    return _version_of(find_ffmpeg())


@lru_cache(maxsize=32)
def has_encoder(binary: str, name: str) -> bool:
    """Tell whether an ffmpeg has an encoder, such as `libx264`."""
    command = [binary, "-hide_banner", "-h", f"encoder={name}"]
    child = Child(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        return _read_briefly(child).startswith(f"Encoder {name} ")
    finally:
        child.end()


def passthrough_options(version: str) -> dict[str, str]:
    """Return the output option that hands on every frame once, whatever its time stamp.

    ffmpeg 5.1 renamed `-vsync` to `-fps_mode`; 8.0 dropped the old name.
    """
    numbers = _numbers(version)
    return {"vsync" if numbers and numbers < (5, 1) else "fps_mode": "passthrough"}
