"""A video's frames, kept as they are decoded: for methods that look at pixels, not at features."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.streams import FRAMES
from data.errors import CacheError
from data.files import explain_os_error
from data.videos import VideoSource
from extract.clips import clip_table
from extract.decode.config import DecodeConfig, FramesConfig
from extract.decode.limits import Limits
from extract.streaming import VideoFeatures

FRAMES_A_READ = 16


def read_frames(
    source: VideoSource,
    config: FramesConfig,
    folder: Path,
    *,
    fps: float | None,
    threads: int,
    folder_fps: float,
    limits: Limits,
    on_frames: Callable[[int, int], None],
) -> VideoFeatures:
    """Return all frames of a video, (T, H, W, C) uint8, mapped from a file without a name.

    Each is a row of its own in the clip table, so that scores are of frames.

    Args:
        source: the video.
        config: size and colours.
        folder: where that file is: the cache's, which will hold as much again.
        fps: see `DecodeConfig`.
        threads: of the decoder.
        folder_fps: frame rate that a folder of images is taken to have.
        limits: what the video may cost.
        on_frames: told now and then: frames read so far, frames expected in all (0 if that is not
            known).

    Raises:
        DecodeError: no frame can be decoded, or ffmpeg was killed.
        CacheError: the disk is full, or fails.
    """
    from extract.decode.open import open_video

    decode = DecodeConfig(size=config.size, fps=fps)
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise CacheError(explain_os_error("keep frames", folder, error)) from error
    with (
        file,
        open_video(source, decode, threads=threads, folder_fps=folder_fps, limits=limits) as stream,
    ):
        while len(frames := stream.read(FRAMES_A_READ)[0]):
            left = _colours(frames, config).data.cast("B")
            try:
                while left:  # a disk that fills up takes a part of it first
                    left = left[file.write(left) :]
            except OSError as error:
                raise CacheError(explain_os_error("keep frames", folder, error)) from error
            on_frames(stream.num_frames, stream.info.expected_frames)
        shape = (stream.num_frames, config.size, config.size, config.channels)
        return VideoFeatures(
            arrays={FRAMES: np.memmap(file, np.uint8, "r", shape=shape)},
            clips=clip_table(
                stream.pts_seconds, clip_len=1, clip_stride=1, frame_rate=stream.info.frame_rate
            ),
            frame_seconds=stream.pts_seconds,
            info=stream.info,
            num_frames=stream.num_frames,
            partial=stream.partial,
        )


def _colours(frames: NDArray[np.uint8], config: FramesConfig) -> NDArray[np.uint8]:
    """Return (T, H, W, C) of (T, H, W, 3) RGB."""
    if not config.gray:
        return np.ascontiguousarray(frames)
    from extract.flow.tvl1 import rgb_to_gray

    return rgb_to_gray(frames)[..., None]
