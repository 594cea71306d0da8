"""Clips: which frames form one forward pass of the network. Arithmetic and buffering, no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cache.checkpoints import MAX_CLIPS
from cache.records import ClipTable

ALL_CLIPS = range(MAX_CLIPS)


def clip_starts(num_frames: int, *, clip_len: int, clip_stride: int) -> range:
    """Return the first frame index of every clip of one video.

    A clip is `clip_len` consecutive frames; starts lie `clip_stride` frames apart. The last clip
    may reach past the end, where the last frame is repeated, and no clip is added once the end is
    covered. 11 frames, clip_len=4, clip_stride=3:
        0 3 6 9    the last clip is frames 9 10 10 10

    Raises:
        ValueError: `clip_stride` is not 1 to `clip_len`, or `num_frames` is negative.
    """
    if not 1 <= clip_stride <= clip_len or num_frames < 0:
        raise ValueError(
            f"found num_frames={num_frames}, clip_len={clip_len}, clip_stride={clip_stride}; "
            "expected strides of 1 to clip_len and no negative number of frames"
        )
    if num_frames == 0:
        return range(0)
    # a start is wanted while the clip before it ends short of the video's end
    return range(0, max(1, num_frames - clip_len + clip_stride), clip_stride)


def cut_clips(num_clips: int, num_pieces: int) -> list[range]:
    """Return equal pieces of a video, as ranges of its clips; the last one has no end.

    How many frames there are is known when they have been decoded and not before.

    Args:
        num_clips: that the video is expected to have.
        num_pieces: 1 or more.
    """
    starts = [num_clips * number // num_pieces for number in range(num_pieces)]
    return [range(*piece) for piece in pairwise([*starts, MAX_CLIPS])]


def clip_table(
    pts_seconds: NDArray[np.float64],
    *,
    clip_len: int,
    clip_stride: int,
    frame_rate: float,
) -> ClipTable:
    """Return frames and seconds of every clip of a video whose frames have these times.

    A clip ends when the frame after it is shown, the last one when the video's last frame has been
    shown for the median time between two frames.

    Args:
        pts_seconds: (T,) float64, seconds, of every frame that was delivered.
        clip_len: frames a clip.
        clip_stride: frames between two starts.
        frame_rate: frames per second; gives the duration of a video's only frame.
    """
    num_frames = len(pts_seconds)
    starts = np.array(
        clip_starts(num_frames, clip_len=clip_len, clip_stride=clip_stride), dtype=np.int64
    )
    ends = np.minimum(starts + clip_len, num_frames)
    gaps = np.diff(pts_seconds)
    # broken files repeat or reverse times: a duration is never negative
    duration = float(max(0.0, np.median(gaps))) if len(gaps) else 1.0 / frame_rate
    edges = np.append(pts_seconds, pts_seconds[-1:] + duration)
    start_seconds = edges[starts]
    return ClipTable(
        start_frame=starts,
        end_frame=ends,
        start_seconds=start_seconds,
        end_seconds=np.maximum(edges[ends], start_seconds),
        clip_len=clip_len,
    )


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip's frames and the frame that follows.

    Attributes:
        start_frame: index of its first frame in the video.
        num_real: frames that the video has for it; the rest, up to `clip_len`, repeat the last.
        frames: (clip_len + 1, H, W, 3) uint8 RGB, read-only. The last one is the successor of the
            clip's last frame, so that the flow of clip_len frame pairs can be computed. At the
            end of the video the last frame is its own successor: that flow is zero.
    """

    start_frame: int
    num_real: int
    frames: NDArray[np.uint8]


class FrameReader(Protocol):
    """What `iter_clips` needs of an `extract.decode.stream.FrameStream`."""

    def read(self, max_frames: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return the next frames and their times; fewer than `max_frames` only at the end."""


def iter_clips(stream: FrameReader, *, clip_len: int, clip_stride: int) -> Iterator[Clip]:
    """Yield the clips of an open video, in order, holding no more than two clips of frames.

    The starts are those of `clip_starts`.

    Raises:
        ValueError: `clip_stride` is not 1 to `clip_len`.
    """
    clip_starts(0, clip_len=clip_len, clip_stride=clip_stride)
    start = 0
    frames, _ = stream.read(clip_len + 1)
    while len(frames):
        num_real = min(len(frames), clip_len)
        yield Clip(start_frame=start, num_real=num_real, frames=_padded(frames, clip_len + 1))
        if len(frames) <= clip_len:
            return
        start += clip_stride
        new, _ = stream.read(clip_stride)
        frames = np.concatenate([frames[clip_stride:], new])


def _padded(frames: NDArray[np.uint8], length: int) -> NDArray[np.uint8]:
    """Repeat the last frame up to `length` frames; the result is read-only."""
    if len(frames) < length:
        tail = np.broadcast_to(frames[-1:], (length - len(frames), *frames.shape[1:]))
        frames = np.concatenate([frames, tail])
    # the next clip may share the last frames
    frames.flags.writeable = False
    return frames
