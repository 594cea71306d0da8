"""Which ffmpeg to run: it decodes the videos, and encodes the samples that `feat sample` draws."""

import os
import re
import shutil
import subprocess
from functools import lru_cache

from data.errors import DecodeError


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
        done = subprocess.run(
            [binary, "-version"], stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise DecodeError(f"{binary}: cannot be run as ffmpeg: {error}") from error
    match = re.match(r"ffmpeg version (\S+)", done.stdout.decode(errors="replace"))
    if match is None:
        raise DecodeError(f"{binary}: is not ffmpeg; correct FEAT_FFMPEG or the PATH")
    return match[1]


def ffmpeg_version() -> str:
    """Return the version of the ffmpeg that `find_ffmpeg` returns, such as `7.0.2-static`."""
    return _version_of(find_ffmpeg())


def passthrough_options(version: str) -> dict[str, str]:
    """Return the output option that hands on every frame once, whatever its time stamp.

    ffmpeg 5.1 renamed `-vsync` to `-fps_mode`; 8.0 dropped the old name.
    """
    match = re.match(r"n?(\d+)\.(\d+)", version)
    # a build from git ("N-1234-g5678") has no number and is taken for a recent one
    old = match is not None and (int(match[1]), int(match[2])) < (5, 1)
    return {"vsync": "passthrough"} if old else {"fps_mode": "passthrough"}
