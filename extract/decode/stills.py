"""Single frames of a video as pictures for people, in the proportions of the video."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import DecodeError
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.limits import Limits
from extract.decode.open import open_video
from extract.decode.stream import StreamInfo

_READ_FRAMES = 64


def read_stills(
    source: VideoSource,
    frames: Sequence[int],
    *,
    height: int,
    fps: float | None = None,
    folder_fps: float = 25.0,
    limits: Limits | None = None,
) -> list[NDArray[np.uint8]]:
    """Return some frames of a video, (height, W, 3) uint8 RGB each, W by the video's proportions.

    The video is decoded up to the last of them: their numbers then mean what they mean in the
    features, where seeking in a file may land on another.

    Args:
        source: the video.
        frames: numbers, from 0, in any order.
        height: of the pictures, pixels.
        fps: what the video is resampled to; None for every frame.
        folder_fps: frame rate that a folder of images is taken to have.
        limits: what the video may cost; None for the defaults.

    Raises:
        DecodeError: the video cannot be decoded, or not so far.
    """
    wanted = dict.fromkeys(frames)
    found: dict[int, NDArray[np.uint8]] = {}
    config = DecodeConfig(size=height, fps=fps)
    with open_video(source, config, folder_fps=folder_fps, limits=limits) as stream:
        start = 0
        while len(found) < len(wanted):
            block, _ = stream.read(_READ_FRAMES)
            if not len(block):
                missing = min(wanted.keys() - found.keys())
                raise DecodeError(
                    f"{source.video_id}: frame {missing} cannot be decoded, the video ends after "
                    f"{start}; it changed while feat ran: run again"
                )
            for frame in wanted:
                if start <= frame < start + len(block):
                    found[frame] = _in_proportion(block[frame - start], stream.info)
            start += len(block)
    return [found[frame] for frame in frames]


def _in_proportion(square: NDArray[np.uint8], info: StreamInfo) -> NDArray[np.uint8]:
    """Return a squashed frame stretched to what it looked like."""
    size = (max(1, round(len(square) * info.shown_aspect)), len(square))
    return np.asarray(Image.fromarray(square).resize(size, Image.Resampling.BICUBIC))
