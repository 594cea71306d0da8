"""What one video may cost: bounds that refuse a video and never change a feature."""

import math
from dataclasses import dataclass, field

from data.errors import ConfigError
from data.process import stall_seconds


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on one video, generous enough for any that is what it says it is.

    A video beyond a bound fails; features of a video within them do not depend on them, so they
    are in no key. A cache records them with what made the features.

    Attributes:
        max_pixels: of a frame as it is stored.
        max_frames: that are delivered.
        max_seconds: from the first frame to the last, by their times.
        stall_seconds: without a frame, while one is waited for.
    """

    max_pixels: int = 1 << 26
    max_frames: int = 5_000_000
    max_seconds: float = 366 * 86400.0
    stall_seconds: float = field(default_factory=stall_seconds)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name}: found {value}, expected a positive number")
