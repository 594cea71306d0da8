"""How frames are made from a video."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from cache.streams import FRAMES
from data.errors import ConfigError, DecodeError

Resize = Literal["squash", "crop", "short-side"]

# Kinetics networks were trained on 224-pixel crops of frames whose short side is 256
# (Carreira & Zisserman 2017, section 3).
_SHORT_SIDE = 256 / 224
# Frames of any shape are kept whole; what nobody films would take gigabytes.
_MAX_ASPECT = 8
FRAMES_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """How frames are made from a video. All of it changes pixels, so all of it is in the key.

    Attributes:
        resize: `squash` scales the whole frame to a square (Wan et al. 2021); `crop` scales the
            short side to 256/224 of `size` and takes the centre (Kinetics); `short-side` scales
            alike and keeps the whole frame, for several crops. All go by stored pixels: a sample
            aspect ratio is not applied.
        size: width and height of what a network gets, pixels: of the frames, or of crops of them.
        fps: None delivers every coded frame once; a number resamples to so many a second.
    """

    resize: Resize = "squash"
    size: int = 224
    fps: float | None = None

    def __post_init__(self) -> None:
        if self.resize not in get_args(Resize):
            raise ConfigError(f"resize: found {self.resize!r}, expected squash, crop or short-side")
        if self.size < 1:
            raise ConfigError(f"size: found {self.size}, expected a positive number of pixels")
        if self.fps is not None and not 0 < self.fps <= 1000:
            raise ConfigError(f"fps: found {self.fps}, expected frames a second, up to 1000")

    @property
    def short_side(self) -> int:
        """Pixels of the short side before crops are cut."""
        return round(self.size * _SHORT_SIDE)

    @property
    def shows_all(self) -> bool:
        """Whether a frame shows the whole picture, if not in its proportions."""
        return self.resize != "crop"

    def frame_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the frames of a video, pixels.

        The long side of `short-side` is cut to a whole number, as by torchvision's `Resize`.

        Args:
            height: of the picture as it is shown, upright.
            width: of the same.

        Raises:
            DecodeError: the picture is so narrow that its frames would be huge.
        """
        if self.resize != "short-side":
            return self.size, self.size
        short = min(height, width)
        if max(height, width) > _MAX_ASPECT * short:
            raise DecodeError(
                f"pictures of {width}x{height} pixels: for crops the long side may be "
                f"{_MAX_ASPECT} times the short one at most; extract it with --crops 1"
            )
        return int(self.short_side * height / short), int(self.short_side * width / short)


@dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """How the frames are made that the stream `frames` keeps.

    Attributes:
        size: width and height, pixels; the whole picture is squashed to a square, as by the
            reference code of Liu et al. 2018 and Park et al. 2020.
        gray: keep the luma alone, as Hasan et al. 2016.
    """

    size: int = 256
    gray: bool = False

    @property
    def channels(self) -> int:
        """Values a pixel."""
        return 1 if self.gray else 3

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `frames[:256x256[,gray]]` asks for.

        Raises:
            ConfigError: it says something else.
        """
        name, colon, wanted = text.partition(":")
        size, *colours = wanted.split(",") if colon else ("256x256",)
        width, by, height = size.partition("x")
        sides = {width, height if by else width}
        if (
            name != FRAMES
            or colours not in ([], ["gray"])
            or len(sides) != 1
            or not width.isdecimal()
            or int(width) < 1
        ):
            raise ConfigError(
                f"streams: found {text}, expected frames, frames:256x256 or frames:256x256,gray; "
                "frames are square"
            )
        return cls(size=int(width), gray=bool(colours))

    def to_json(self) -> dict[str, Any]:
        """Return what enters the key, beside how frames are sampled."""
        return {"size": self.size, "gray": self.gray, "version": FRAMES_VERSION}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration that a key was made of."""
        return cls(size=values["size"], gray=values["gray"])
