"""How frames are made from a video."""

from dataclasses import dataclass
from typing import Literal, get_args

from data.errors import ConfigError

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
