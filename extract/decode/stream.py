"""An open video: what every reader of one offers."""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class StreamInfo:
    """The video stream that is decoded, as stored.

    Attributes:
        stream_index: index among all streams of the file; 0 for a frame folder.
        width: pixels, before `rotation` is applied.
        height: pixels, before `rotation` is applied.
        codec: ffmpeg's name, such as `h264`; for a frame folder the image format.
        pix_fmt: ffmpeg's name, such as `yuv420p`; for a frame folder the image mode.
        rotation: clockwise degrees by which frames are turned for display: 0, 90, 180, 270.
        frame_rate: nominal frames per second of what is delivered, greater than 0.
        expected_frames: as the container states the duration; 0 if it does not. Often wrong: good
            for showing progress and nothing else.
        sample_aspect: width of a stored pixel, as it is shown, over its height.
        clock_start: seconds since the start of the file at which ffmpeg's clock shows 0. For
            MPEG-TS, MPEG-PS and a few more it lets its clock begin with the first of the streams
            that it is told to read, so with the picture, where a player begins with the sound.
    """

    stream_index: int
    width: int
    height: int
    codec: str
    pix_fmt: str
    rotation: int
    frame_rate: float
    expected_frames: int = 0
    sample_aspect: float = 1.0
    clock_start: float = 0.0

    @property
    def shown_aspect(self) -> float:
        """Width over height of the picture that a player shows; 1 if the size is not known."""
        aspect = self.sample_aspect * self.width / self.height if self.width and self.height else 1
        return 1 / aspect if self.rotation in (90, 270) else aspect


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
            (n, H, W, 3) uint8 RGB, H and W those of `DecodeConfig.frame_size`, and (n,) float64
            seconds since the start of the file.
            n is `max_frames` except at the end, where it is what is left, then 0.

        Raises:
            DecodeError: ffmpeg was killed, so that what is missing is not the file's fault.
        """

    def close(self) -> None:
        """End the decode and free everything; harmless when repeated."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...
