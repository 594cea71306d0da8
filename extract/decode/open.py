"""Video -> RGB frames of one size, in order and with their times, streaming.

Frames are scaled by swscale's bicubic kernel with its default parameters (B=0, C=0.6): others are
cut to whole numbers by ffmpeg 4. `extract.decode.scaling` is the same kernel for images.
"""

from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.folder import FolderStream
from extract.decode.limits import Limits
from extract.decode.stream import FrameStream
from extract.decode.video import FFmpegStream


def open_video(
    source: VideoSource,
    config: DecodeConfig,
    *,
    threads: int | None = None,
    folder_fps: float = 25.0,
    limits: Limits | None = None,
) -> FrameStream:
    """Open a video or a frame folder and decode its first frame.

    Args:
        source: the video.
        config: size and sampling of the frames.
        threads: ffmpeg's decoding and scaling threads; None lets ffmpeg choose.
        folder_fps: frame rate that a folder of images is taken to have. It sets the times of the
            frames; which frames there are depends on it only if `config.fps` is given.
        limits: what the video may cost; None for the defaults.

    Raises:
        DecodeError: no frame can be decoded, or there is no ffmpeg.
        ConfigError: FEAT_STALL_SECONDS is no number.
    """
    limits = limits or Limits()
    if source.kind == "frames":
        return FolderStream(source, config, folder_fps=folder_fps, limits=limits)
    return FFmpegStream(source, config, threads=threads, limits=limits)
