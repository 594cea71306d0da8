"""A small picture of each clip, for people to look at. It is kept beside the features.

It is the clip's middle frame as the networks get it, in the proportions that a player shows.
"""

import io
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cache.streams import THUMBNAILS
from data.videos import VideoSource
from extract.clips import Clip, iter_clips
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig
from extract.decode.limits import Limits
from extract.decode.stream import StreamInfo
from extract.streaming import Images, VideoFeatures

LONGEST_SIDE = 160
MAX_BYTES = 8000
# The first is that of nearly all pictures; noise takes lower ones to stay below MAX_BYTES.
_QUALITIES = (75, 50, 25, 10)

#: The configuration of the stream. It leaves out how frames are sampled and divided into clips, so
#: that a video has one set of pictures whatever features it has: those of the extraction that came
#: first, whose clip table is stored with them.
CONFIG: dict[str, Any] = {
    "stream": THUMBNAILS,
    "image": {"format": "jpeg", "longest_side": LONGEST_SIDE, "version": 1},
}


class Thumbnails:
    """The pictures of one open video so far.

    Like the rows of features they are kept in one block: see `extract.streaming.Rows`.
    """

    def __init__(self, info: StreamInfo, config: DecodeConfig) -> None:
        aspect = info.shown_aspect if config.shows_all else 1.0
        self._size = (
            max(1, round(LONGEST_SIDE * min(1.0, aspect))),
            max(1, round(LONGEST_SIDE / max(1.0, aspect))),
        )
        self._data = bytearray()
        self._bounds = array("q", [0])

    def watch(self, clips: Iterable[Clip]) -> Iterator[Clip]:
        """Yield clips and keep a picture of each."""
        for clip in clips:
            self._data += encode(clip.frames[clip.num_real // 2], self._size)
            self._bounds.append(len(self._data))
            yield clip

    @property
    def images(self) -> Images:
        """The encoded pictures, once all clips are through; for `cache.streams.split_bytes`."""
        return np.frombuffer(self._data, np.uint8), np.array(self._bounds, np.int64)


def encode(frame: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """Return a frame (H, W, 3) uint8 RGB as a JPEG of at most `MAX_BYTES`.

    Args:
        frame: the frame.
        size: width and height of the picture, pixels.
    """
    picture = Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)
    for quality in _QUALITIES:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


def read_thumbnails(
    source: VideoSource,
    config: ExtractConfig,
    *,
    threads: int,
    folder_fps: float,
    limits: Limits,
    on_clip: Callable[[int, int], None],
) -> VideoFeatures:
    """Return the pictures of a video that needs no features: it is only decoded.

    Args:
        source: the video.
        config: how its frames are sampled and divided into clips.
        threads: of the decoder.
        folder_fps: frame rate that a folder of images is taken to have.
        limits: what the video may cost.
        on_clip: told after every clip: frames read so far, frames expected in all (0 if that is
            not known).

    Raises:
        DecodeError: no frame can be decoded, or ffmpeg was killed.
    """
    from extract.decode.open import open_video

    with open_video(
        source, config.decode, threads=threads, folder_fps=folder_fps, limits=limits
    ) as stream:
        thumbnails = Thumbnails(stream.info, config.decode)
        clips = iter_clips(stream, clip_len=config.clip_len, clip_stride=config.clip_stride)
        for clip in thumbnails.watch(clips):
            on_clip(clip.start_frame + clip.num_real, stream.info.expected_frames)
        return VideoFeatures.of(stream, config, {}, thumbnails.images)
