"""Video -> RGB frames of one size, in order and with their times, streaming.

Frames are scaled by swscale's bicubic kernel with its default parameters (B=0, C=0.6): others are
cut to whole numbers by ffmpeg 4. `extract.decode.scaling` is the same kernel for images.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, Self, get_args

import numpy as np
from numpy.typing import NDArray

from data.errors import ConfigError
from data.ffmpeg import ffmpeg_version
from data.videos import VideoSource
from extract.decode.ffmpeg_log import StreamInfo

__all__ = ["DecodeConfig", "FrameStream", "StreamInfo", "ffmpeg_version", "open_video"]

Resize = Literal["squash", "crop"]

# Kinetics networks were trained on 224-pixel crops of frames whose short side is 256
# (Carreira & Zisserman 2017, section 3).
_SHORT_SIDE = 256 / 224


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How frames are made from a video. All of it changes pixels, so all of it is in the key.

    Attributes:
        resize: `squash` scales the whole frame to a square (Wan et al. 2021); `crop` scales the
            short side to 256/224 of `size` and takes the centre (Kinetics). Both go by stored
            pixels: a sample aspect ratio is not applied.
        size: width and height of the result, pixels.
        fps: None delivers every coded frame once; a number resamples to so many a second.
    """

    resize: Resize = "squash"
    size: int = 224
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise ConfigError(f"resize: found {self.resize!r}, expected squash or crop")
        if self.size < 1:
            raise ConfigError(f"size: found {self.size}, expected a positive number of pixels")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps: found {self.fps}, expected frames a second, up to 1000")

    @property
    def short_side(self) -> int:
        """Pixels of the short side before the centre is cropped."""
        return round(self.size * _SHORT_SIDE)


class FrameStream(Protocol):
    """An open video. Use it in a `with` block: leaving it ends ffmpeg, read to the end or not."""

    info: StreamInfo

    @property
    def num_frames(self) -> int:
        """Frames delivered so far."""

    @property
    def partial(self) -> str:
        """Why decoding stopped early or what errors were seen, one line; "" if all went well.

        Final once `read` has returned no frame.
        """

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """Presentation times of the frames delivered so far, (num_frames,) float64."""

    def read(self, max_frames: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return the next frames and their times.

        Returns:
            (n, size, size, 3) uint8 RGB and (n,) float64 seconds since the start of the file.
            n is `max_frames` except at the end, where it is what is left, then 0.

        Raises:
            DecodeError: ffmpeg was killed, so that what is missing is not the file's fault.
        """

    def close(self) -> None:
        """End the decode and free everything; harmless when repeated."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


def open_video(
    source: VideoSource,
    config: DecodeConfig,
    *,
    threads: int | None = None,
    folder_fps: float = 25.0,
) -> FrameStream:
    """Open a video or a frame folder and decode its first frame.

    Args:
        source: the video.
        config: size and sampling of the frames.
        threads: ffmpeg's decoding and scaling threads; None lets ffmpeg choose.
        folder_fps: frame rate that a folder of images is taken to have. It sets the times of the
            frames; which frames there are depends on it only if `config.fps` is given.

    Raises:
        DecodeError: no frame can be decoded, or there is no ffmpeg.
    """
    if source.kind == "frames":
        from extract.decode.folder import FolderStream

        return FolderStream(source, config, folder_fps=folder_fps)
    from extract.decode.video import FFmpegStream

    return FFmpegStream(source, config, threads=threads)
