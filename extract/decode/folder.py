"""Folders of numbered images as videos.

Pillow reads them, not ffmpeg. ffmpeg's image readers stop at the first file that differs in format
from the one before or is broken, take percent signs in names for patterns, and say nothing about
which file it was; and a frame that is dropped shifts every label after it. Pillow takes one file
at a time, so that a folder may mix sizes, formats and depths, and a broken image is named and
replaced by the one before it.
"""

import itertools
import math
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data.errors import ConfigError, DecodeError
from data.videos import VideoSource, frame_paths
from extract.decode.config import DecodeConfig
from extract.decode.limits import Limits
from extract.decode.scaling import scale_bicubic
from extract.decode.stream import StreamInfo

Frame = NDArray[np.uint8]

# What Pillow's readers raise on damaged files; UnidentifiedImageError is an OSError.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)
_EXIF_ORIENTATION = 0x0112
_EXIF_DEGREES = {3: 180, 6: 90, 8: 270}


class FolderStream:
    """Frames of a folder of images. See `FrameStream`."""

    info: StreamInfo

    def __init__(
        self,
        source: VideoSource,
        config: DecodeConfig,
        *,
        folder_fps: float,
        limits: Limits,
        shape: tuple[int, int] | None = None,
    ) -> None:
        """Open the first image.

        Args:
            source: the folder.
            config: size and sampling of the frames.
            folder_fps: frame rate that it is taken to have.
            limits: what it may cost.
            shape: height and width of the frames, instead of what `config` says, for people.
        """
        if not 0 < folder_fps <= 1000:
            raise ConfigError(f"folder_fps: found {folder_fps}, expected frames a second, to 1000")
        self._source = source
        self._config = config
        self._folder_fps = folder_fps
        self._limits = limits
        self._shape = shape
        self._paths = frame_paths(source)
        self._expected = round(len(self._paths) * (config.fps or folder_fps) / folder_fps)
        if self._expected > limits.max_frames:
            raise DecodeError(
                f"{source.video_id}: {self._expected} frames, more than {limits.max_frames}; raise "
                "--max-frames or divide the folder"
            )
        self._pts = array("d")
        self._size: tuple[int, int] | None = None
        self._broken: list[str] = []
        self.info, self._last = self._open_first()
        self._frames = self._sample()

    @property
    def num_frames(self) -> int:
        """Frames delivered so far."""
        return len(self._pts)

    @property
    def partial(self) -> str:
        """Which images could not be read; "" if all could."""
        if not self._broken:
            return ""
        others = f" and {len(self._broken) - 1} more" if len(self._broken) > 1 else ""
        return f"cannot read {self._broken[0]}{others}; a neighbouring image stands in"

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """Times of the frames delivered so far, (num_frames,) float64."""
        return np.array(self._pts, dtype=np.float64)

    def read(self, max_frames: int) -> tuple[Frame, NDArray[np.float64]]:
        """Return the next frames and their times; see `FrameStream.read`."""
        if max_frames < 1:
            raise ValueError(f"max_frames: found {max_frames}, expected 1 or more")
        frames = np.empty((max_frames, *self._last.shape), np.uint8)
        count = 0
        for frame in itertools.islice(self._frames, max_frames):
            frames[count] = frame
            count += 1
        pts = np.arange(self.num_frames, self.num_frames + count) / self.info.frame_rate
        self._pts.extend(pts)
        return frames[:count], pts

    def close(self) -> None:
        """Deliver no more frames; harmless when repeated."""
        self._frames = iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_first(self) -> tuple[StreamInfo, Frame]:
        """Return the stream's description and the first image that can be read."""
        cause = ""
        for path in self._paths:
            try:
                with Image.open(path) as image:
                    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
                    info = StreamInfo(
                        stream_index=0,
                        width=image.width,
                        height=image.height,
                        codec=(image.format or "").lower(),
                        pix_fmt=image.mode,
                        rotation=_EXIF_DEGREES.get(orientation, 0),
                        frame_rate=self._config.fps or self._folder_fps,
                        expected_frames=self._expected,
                    )
                    return info, self._fit(image, path)
            except _DAMAGE as error:
                cause = cause or f"{path.name}: {_one_line(error)}"
        raise DecodeError(
            f"{self._source.video_id}: none of {len(self._paths)} images can be read: {cause}; "
            "copy or convert them again"
        )

    def _sample(self) -> Iterator[Frame]:
        """Yield every image once, or as often as the frame rate asked for shows it."""
        if self._config.fps is None:
            yield from (self._read_image(path) for path in self._paths)
            return
        # like ffmpeg's fps filter: image i is shown from the tick nearest to its time
        ratio = self._config.fps / self._folder_fps
        tick = 0
        for i, path in enumerate(self._paths):
            next_tick = math.floor((i + 1) * ratio + 0.5)
            if next_tick > tick:
                yield from itertools.repeat(self._read_image(path), next_tick - tick)
            tick = next_tick

    def _read_image(self, path: Path) -> Frame:
        try:
            with Image.open(path) as image:
                self._last = self._fit(image, path)
        except _DAMAGE as error:
            self._broken.append(f"{path.name}: {_one_line(error)}")
        return self._last

    def _fit(self, image: Image.Image, path: Path) -> Frame:
        # only the head of the file has been read: an image of one colour takes a thousandth on disk
        if image.width * image.height > self._limits.max_pixels:
            raise DecodeError(
                f"{self._source.video_id}: {path.name} has {image.width}x"
                f"{image.height} pixels, more than --max-pixels {self._limits.max_pixels} admits; "
                "raise it, or make the images smaller"
            )
        shape = self._shape or (self._size if self._config.shows_all else None)
        try:
            fitted = fit_image(image, self._config, shape)
        except DecodeError as error:
            raise DecodeError(f"{self._source.video_id}: {path.name}: {error}") from error
        self._size = fitted.shape[0], fitted.shape[1]
        return fitted


def fit_image(
    image: Image.Image, config: DecodeConfig, shape: tuple[int, int] | None = None
) -> Frame:
    """Return an image as a frame, (H, W, 3) uint8 RGB; H and W are `DecodeConfig.frame_size`.

    Transparency is dropped, 16-bit grey keeps its upper eight bits.

    Args:
        image: the image.
        config: how it is scaled.
        shape: height and width to squash it to, such as those of the frames before it.

    Raises:
        DecodeError: see `DecodeConfig.frame_size`.
        ValueError: the pixels are floating-point or exceed 16 bits.
    """
    image = _to_eight_bits(ImageOps.exif_transpose(image))
    size = config.size
    pixels = np.asarray(image)
    if shape or config.shows_all:
        fitted = scale_bicubic(pixels, *(shape or config.frame_size(*pixels.shape[:2])))
    else:
        scale = config.short_side / min(image.size)
        height, width = (max(size, round(side * scale)) for side in pixels.shape[:2])
        top, left = (height - size) // 2, (width - size) // 2
        fitted = scale_bicubic(pixels, height, width)[top : top + size, left : left + size]
    return fitted if fitted.ndim == 3 else np.repeat(fitted[..., None], 3, axis=2)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "L" or image.mode == "RGB":
        return image
    if not image.mode.startswith(("I", "F")):
        return image.convert("RGB")
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f" or int(pixels.min()) < 0 or int(pixels.max()) > 0xFFFF:
        raise ValueError(f"pixels of type {image.mode} have no fixed range; save 8 or 16 bits")
    return Image.fromarray((pixels >> 8).astype(np.uint8))


def _one_line(error: BaseException) -> str:
    # Pillow repeats the path in some messages; the caller names the file already
    text = " ".join(str(error).split()) or type(error).__name__
    return "not an image" if text.startswith("cannot identify image file") else text
