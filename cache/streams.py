"""What a stream can be: the kinds of arrays, and the order in which streams come.

A stream of one video is one array. Its kind says what a row stands for and which types and axes it
may have. Writing, the reader that needs no HDF5 library, `feat cache verify` and `merge` follow
from that, so adding a kind takes a line in `KINDS`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

#: The kind of what every shard of layout 1 holds.
FEATURES = "features"

#: The kind of the features of several crops of each frame, such as ten.
CROPS = "crops"

#: The kinds that a model reads: crops as their mean, or one by one.
READ_BY_MODELS = (FEATURES, CROPS)

STREAM_ORDER = ("rgb", "flow")

#: The stream of small pictures of a video, an image for each clip. They are no features: no model
#: reads them, they do not tell a video's frames, and they lie in shards of their own, so that
#: `push` can leave them out.
THUMBNAILS = "thumbnails"

#: The stream of a video's frames, for methods that look at pixels. Like thumbnails they show who
#: is in the video, and lie in shards of their own.
FRAMES = "frames"

#: The streams that show who is in a video.
PICTURES = (THUMBNAILS, FRAMES)


@dataclass(frozen=True, kw_only=True)
class StreamKind:
    """One kind of array.

    Attributes:
        axes: a letter for each axis, the first of which counts the rows.
        dtypes: types that it may have, by NumPy's names.
        rows: what a row stands for: a clip of the record's clip table, or a frame of its video.
        ragged: a row is a string of bytes, such as an encoded image. The array is (N,) uint8, all
            rows one after the other, and `bounds`, (rows + 1,) int64, says where each begins.
    """

    axes: tuple[str, ...]
    dtypes: tuple[str, ...]
    rows: Literal["clips", "frames"] = "clips"
    ragged: bool = False

    @property
    def is_measured(self) -> bool:
        """Whether its values are measurements, in which NaN is a flaw and noise is none."""
        return all(name.startswith("float") for name in self.dtypes)

    def num_rows(self, *, num_clips: int, num_frames: int) -> int:
        """Return how many rows the array of a video must have."""
        return num_clips if self.rows == "clips" else num_frames

    def check(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype,
        *,
        bounds: tuple[int, ...] | None,
        num_clips: int,
        num_frames: int,
    ) -> None:
        """Make sure that an array can be of this kind.

        Args:
            shape: of the array.
            dtype: of the array, in any byte order.
            bounds: shape of its bounds, None if there are none.
            num_clips: clips of the record's clip table.
            num_frames: frames of its video.

        Raises:
            ValueError: it cannot.
        """
        name = dtype.newbyteorder("=").name
        if len(shape) != len(self.axes) or 0 in shape or name not in self.dtypes:
            raise ValueError(
                f"features must be ({', '.join(self.axes)}) {' or '.join(self.dtypes)}, "
                f"got {shape} {name}"
            )
        num_rows = self.num_rows(num_clips=num_clips, num_frames=num_frames)
        if self.ragged and bounds != (num_rows + 1,):
            raise ValueError(f"bounds must be ({num_rows + 1},), got {bounds}")
        if not self.ragged and bounds is not None:
            raise ValueError("bounds are for rows that differ in length")
        if not self.ragged and shape[0] != num_rows:
            raise ValueError(f"{shape[0]} rows of features but {num_rows} of {self.rows}")


#: Images are encoded, one a clip.
KINDS: dict[str, StreamKind] = {
    FEATURES: StreamKind(axes=("S", "D"), dtypes=("float32", "float16")),
    CROPS: StreamKind(axes=("S", "C", "D"), dtypes=("float32", "float16")),
    FRAMES: StreamKind(axes=("T", "H", "W", "C"), dtypes=("uint8",), rows="frames"),
    "images": StreamKind(axes=("N",), dtypes=("uint8",), ragged=True),
}


def split_bytes(array: np.ndarray, bounds: np.ndarray) -> list[bytes]:
    """Return the rows of a ragged kind: row i is `array[bounds[i] : bounds[i + 1]]`."""
    data = array.tobytes()
    return [data[start:end] for start, end in pairwise(bounds.tolist())]


def order_streams(streams: Iterable[str]) -> tuple[str, ...]:
    """Return streams as they stand side by side: `STREAM_ORDER`, then any others by name."""
    known = {name: place for place, name in enumerate(STREAM_ORDER)}
    return tuple(sorted(streams, key=lambda name: (known.get(name, len(known)), name)))
