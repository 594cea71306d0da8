from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extract.clips import clip_starts, clip_table, cut_clips, iter_clips

LENGTHS = st.integers(1, 40)


def clip_and_stride(max_len: int):
    return st.integers(1, max_len).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


class ListStream:
    """Frames of 2x2 pixels, each filled with its own index."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self.position = 0

    def read(self, max_frames: int):
        assert max_frames >= 1
        stop = min(self.num_frames, self.position + max_frames)
        numbers = np.arange(self.position, stop)
        self.position = stop
        frames = np.broadcast_to(numbers[:, None, None, None], (len(numbers), 2, 2, 3))
        return frames.astype(np.uint8), numbers / 25


def clips_of(num_frames: int, clip_len: int, clip_stride: int):
    stream = ListStream(num_frames)
    return list(iter_clips(stream, clip_len=clip_len, clip_stride=clip_stride))


def test_clip_starts_by_hand():
    # drawn in the docstring of clip_starts
    assert list(clip_starts(11, clip_len=4, clip_stride=3)) == [0, 3, 6, 9]
    assert list(clip_starts(10, clip_len=4, clip_stride=3)) == [0, 3, 6]
    assert list(clip_starts(1, clip_len=16, clip_stride=16)) == [0]
    assert list(clip_starts(16, clip_len=16, clip_stride=16)) == [0]
    assert list(clip_starts(17, clip_len=16, clip_stride=16)) == [0, 16]
    assert list(clip_starts(0, clip_len=16, clip_stride=16)) == []


@pytest.mark.parametrize(
    ("frames", "length", "stride"), [(5, 0, 1), (5, 1, 0), (5, 1, 2), (-1, 1, 1)]
)
def test_impossible_lengths_are_refused(frames, length, stride):
    with pytest.raises(ValueError, match="clip_stride"):
        clip_starts(frames, clip_len=length, clip_stride=stride)


@given(st.integers(1, 300), LENGTHS)
def test_without_overlap_every_frame_is_in_exactly_one_clip(num_frames, clip_len):
    starts = clip_starts(num_frames, clip_len=clip_len, clip_stride=clip_len)
    covered = [f for s in starts for f in range(s, min(s + clip_len, num_frames))]
    assert covered == list(range(num_frames))
    assert len(starts) == -(-num_frames // clip_len)


@given(st.integers(1, 300), clip_and_stride(40))
def test_padding_covers_every_frame_and_adds_no_needless_clip(num_frames, lengths):
    clip_len, stride = lengths
    starts = list(clip_starts(num_frames, clip_len=clip_len, clip_stride=stride))
    assert starts == list(range(0, len(starts) * stride, stride))
    assert all(start < num_frames for start in starts)
    # every clip but the last ends before the video does: none repeats what another has
    assert all(start + clip_len < num_frames for start in starts[:-1])
    assert starts[-1] + clip_len >= num_frames


@given(st.integers(0, 100), clip_and_stride(20))
def test_iter_clips_yields_the_frames_that_clip_starts_says(num_frames, lengths):
    clip_len, stride = lengths
    clips = clips_of(num_frames, clip_len, stride)
    starts = list(clip_starts(num_frames, clip_len=clip_len, clip_stride=stride))
    assert [clip.start_frame for clip in clips] == starts
    for clip in clips:
        wanted = np.arange(clip.start_frame, clip.start_frame + clip_len + 1)
        assert clip.frames.shape == (clip_len + 1, 2, 2, 3)
        assert clip.frames[:, 0, 0, 0].tolist() == np.minimum(wanted, num_frames - 1).tolist()
        assert clip.num_real == min(clip_len, num_frames - clip.start_frame)


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_pieces_have_each_clip_once_and_the_last_one_no_end(num_clips, num_pieces):
    pieces = cut_clips(num_clips, num_pieces)
    assert len(pieces) == num_pieces
    assert pieces[0].start == 0
    assert all(a.stop == b.start for a, b in pairwise(pieces))
    assert pieces[-1].stop > 10**8
    lengths = [min(piece.stop, num_clips) - piece.start for piece in pieces]
    assert sum(lengths) == num_clips
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(0, 60), clip_and_stride(5), st.integers(0, 60), st.integers(1, 8))
def test_pieces_give_the_clips_of_the_whole(num_frames, lengths, expected, num_pieces):
    """However many frames were expected, and each clip with the frame behind it."""
    clip_len, stride = lengths
    whole = clips_of(num_frames, clip_len, stride)
    num_clips = len(clip_starts(expected, clip_len=clip_len, clip_stride=stride))
    in_pieces = []
    for piece in cut_clips(num_clips, num_pieces):
        stream = ListStream(num_frames)
        clips = iter_clips(stream, clip_len=clip_len, clip_stride=stride)
        in_pieces += islice(clips, piece.start, piece.stop)
    assert [clip.start_frame for clip in in_pieces] == [clip.start_frame for clip in whole]
    for one, other in zip(in_pieces, whole, strict=True):
        assert one.num_real == other.num_real
        np.testing.assert_array_equal(one.frames, other.frames)


def test_the_last_frame_is_its_own_successor():
    (clip,) = clips_of(16, 16, 16)
    assert np.array_equal(clip.frames[16], clip.frames[15])
    assert clip.num_real == 16


def test_iter_clips_reads_no_more_than_a_clip_ahead():
    stream = ListStream(200)
    clips = iter_clips(stream, clip_len=16, clip_stride=16)
    for i in range(1, 5):
        next(clips)
        assert stream.position == 16 * i + 1


def test_a_clip_keeps_its_frames_when_the_next_is_read():
    clips = clips_of(40, 16, 8)
    assert clips[0].frames[:, 0, 0, 0].tolist() == list(range(17))
    with pytest.raises(ValueError, match="read-only"):
        clips[0].frames[0] = 0


def test_table_of_a_video_with_variable_frame_rate():
    pts = np.array([0.0, 0.1, 0.2, 0.5, 0.9, 1.0, 1.1])
    table = clip_table(pts, clip_len=3, clip_stride=3, frame_rate=10)
    assert table.start_frame.tolist() == [0, 3, 6]
    assert table.end_frame.tolist() == [3, 6, 7]
    assert table.start_seconds.tolist() == [0.0, 0.5, 1.1]
    # the last frame is taken to last the median gap, 0.1 s
    assert table.end_seconds == pytest.approx([0.5, 1.1, 1.2])
    assert table.clip_len == 3


def test_table_of_one_frame_lasts_one_period():
    table = clip_table(np.array([0.25]), clip_len=16, clip_stride=16, frame_rate=8)
    assert table.end_frame.tolist() == [1]
    assert table.end_seconds.tolist() == [0.375]


@given(st.lists(st.floats(-10, 1e6, allow_nan=False), min_size=1, max_size=60), LENGTHS, st.data())
def test_table_is_sound_for_any_times(pts, clip_len, data):
    stride = data.draw(st.integers(1, clip_len))
    table = clip_table(np.array(pts), clip_len=clip_len, clip_stride=stride, frame_rate=25)
    starts = list(clip_starts(len(pts), clip_len=clip_len, clip_stride=stride))
    assert table.start_frame.tolist() == starts
    assert (table.end_seconds >= table.start_seconds).all()
    assert table.end_frame[-1] == len(pts)
