"""Window and slot arithmetic: which clips form a window, which frames a score stands for.

A clip's m scores ("slots") share its L nominal frames: slot j stands for the frames f with
floor((f - start) * m / L) == j. With m = L = 16 that is one frame a slot; a tail of 5 real frames
leaves slots 5 to 15 without frames, and they are masked.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Windows:
    """All windows of some videos whose clips lie one after the other in one array."""

    rows: NDArray[np.int64]
    """(W, K): rows of the feature array. Padding repeats the video's last clip."""
    mask: NDArray[np.bool_]
    """(W, K): False where the window was padded, as the video has fewer than K clips."""
    video: NDArray[np.int64]
    """(W,): index of the video."""

    def __len__(self) -> int:
        return len(self.video)


def make_windows(first_clip: NDArray[np.int64], num_clips: int) -> Windows:
    """Return every window of `num_clips` consecutive clips, one at each possible start.

    A video of 7 clips, num_clips=5:   0-4, 1-5, 2-6
    A video of 3 clips, num_clips=5:   0 1 2 2 2, with the last two masked

    Args:
        first_clip: (V + 1,), the first row of each video, then the number of rows; every video
            has at least one clip.
        num_clips: K.
    """
    counts = np.diff(first_clip)
    if num_clips < 1 or (counts < 1).any():
        raise ValueError("a window and every video need at least one clip")
    per_video = np.maximum(counts - num_clips + 1, 1)
    video = np.repeat(np.arange(len(counts)), per_video)
    start = np.arange(len(video)) - np.repeat(np.cumsum(per_video) - per_video, per_video)
    offset = start[:, None] + np.arange(num_clips)  # (W, K) clip within the video
    last = counts[video, None] - 1
    return Windows(
        rows=first_clip[video, None] + np.minimum(offset, last),
        mask=offset <= last,
        video=video,
    )


def slot_bounds(
    start_frame: NDArray[np.int64], end_frame: NDArray[np.int64], *, clip_len: int, slots: int
) -> NDArray[np.int64]:
    """Return (S, m + 1) frames: slot j of clip i covers those from [i, j] up to [i, j + 1].

    Args:
        start_frame: (S,) first frame of each clip.
        end_frame: (S,) frame after the last real one.
        clip_len: nominal frames a clip, L; 0 where each clip's own length counts.
        slots: m.
    """
    length = end_frame - start_frame if clip_len == 0 else np.full_like(start_frame, clip_len)
    steps = -(-(np.arange(slots + 1) * length[:, None]) // slots)  # ceil(j * L / m)
    return np.minimum(start_frame[:, None] + steps, end_frame[:, None])


def slot_targets(
    frame_labels: NDArray[np.uint8], bounds: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the share of abnormal frames of each slot, and which slots hold frames at all.

    Args:
        frame_labels: (T,) 0 or 1.
        bounds: (S, m + 1) from `slot_bounds`.

    Returns:
        (S, m) float32 in [0, 1], 0 for empty slots; (S, m) bool.
    """
    bounds = np.minimum(bounds, len(frame_labels))
    before = np.concatenate([[0], np.cumsum(frame_labels, dtype=np.int64)])
    num_frames = np.diff(bounds, axis=1)
    num_abnormal = np.diff(before[bounds], axis=1)
    share = num_abnormal / np.maximum(num_frames, 1)
    return share.astype(np.float32), num_frames > 0


def average_windows(
    window_scores: NDArray[np.float64], windows: Windows, num_rows: int
) -> NDArray[np.float64]:
    """Return (rows, m): each clip's scores averaged over the windows that hold it.

    Args:
        window_scores: (W, K, m).
        windows: the W windows; padded steps are left out.
        num_rows: clips in all; every one must be in some window, as `make_windows` sees to.
    """
    total = np.zeros((num_rows, window_scores.shape[2]))
    count = np.zeros(num_rows, dtype=np.int64)
    rows = windows.rows[windows.mask]
    np.add.at(total, rows, window_scores[windows.mask])
    np.add.at(count, rows, 1)
    if not count.all():
        raise ValueError("a clip is in no window")
    return total / count[:, None]


def spread_on_frames(
    slot_scores: NDArray[np.float64], bounds: NDArray[np.int64], num_frames: int
) -> NDArray[np.float64]:
    """Return one score for every frame of a video, (T,).

    Frames in several clips (a clip stride below the clip length) get the mean; frames in none
    (a stride above it) the score of the nearest frame that has one, the earlier of two.

    Args:
        slot_scores: (S, m).
        bounds: (S, m + 1) from `slot_bounds`.
        num_frames: T; 0 where nobody knows it.
    """
    if not num_frames:
        return np.zeros(0)
    edges = np.minimum(bounds, num_frames)
    lengths = np.diff(edges, axis=1).ravel()
    first = np.repeat(edges[:, :-1].ravel() - (np.cumsum(lengths) - lengths), lengths)
    frames = first + np.arange(len(first))
    total = np.zeros(num_frames)
    np.add.at(total, frames, np.repeat(slot_scores.ravel(), lengths))
    count = np.bincount(frames, minlength=num_frames)
    covered = np.flatnonzero(count)
    if len(covered) == 0:
        raise ValueError("no clip covers a frame")
    return np.asarray(total[covered] / count[covered])[_nearest(covered, num_frames)]


def _nearest(covered: NDArray[np.int64], num_frames: int) -> NDArray[np.int64]:
    """Return for each frame the index into `covered` of the frame nearest to it."""
    frames = np.arange(num_frames)
    after = np.searchsorted(covered, frames).clip(max=len(covered) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(covered[before] - frames) <= np.abs(covered[after] - frames)
    return np.where(closer, before, after)


ABNORMAL_SHARE = 0.5
"""Share of a batch's windows that hold an abnormal frame. Wan et al. 2021 give the 60 alone."""


class BalancedBatches:
    """Draws batches of windows, a fixed share of which hold an abnormal frame.

    Each kind of window is gone through in a shuffled order before any comes a second time. The
    batch of a step depends on the seed and the step alone, so that training can go on from any
    step without what came before.
    """

    def __init__(self, is_abnormal: NDArray[np.bool_], *, batch_size: int, seed: int) -> None:
        """Prepare the two pools.

        Args:
            is_abnormal: (W,) whether a window holds an abnormal frame. Where all or none do,
                batches are made of what there is.
            batch_size: windows a batch.
            seed: of the order.
        """
        self._seed = seed
        abnormal, normal = np.flatnonzero(is_abnormal), np.flatnonzero(~is_abnormal)
        num_abnormal = round(batch_size * ABNORMAL_SHARE)
        if len(abnormal) == 0 or len(normal) == 0:
            num_abnormal = batch_size if len(abnormal) else 0
        self._pools = [(abnormal, num_abnormal), (normal, batch_size - num_abnormal)]
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        """(kind, round) -> the pool's order, of the step drawn last: the next has mostly the same,
        and shuffling a big pool takes longer than a step on a GPU."""

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the windows of a step (from 0), (batch_size,)."""
        parts = []
        orders = {}
        for kind, (pool, count) in enumerate(self._pools):
            places = np.arange(step * count, (step + 1) * count)
            for round_ in np.unique(places // max(len(pool), 1)).tolist():
                order = self._orders.get((kind, round_))
                if order is None:
                    order = np.random.default_rng((self._seed, kind, round_)).permutation(pool)
                orders[kind, round_] = order
                parts.append(order[places[places // len(pool) == round_] % len(pool)])
        self._orders = orders
        return np.concatenate(parts)
