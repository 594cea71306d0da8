"""Window and slot arithmetic, by hand and by counting frame by frame."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.features.windows import (
    BalancedBatches,
    average_windows,
    make_windows,
    slot_bounds,
    slot_targets,
    spread_on_frames,
)


def first_clips(counts: list[int]) -> np.ndarray:
    return np.cumsum([0, *counts])


def test_every_start_is_a_window_and_a_short_video_is_padded_with_its_last_clip():
    windows = make_windows(first_clips([7, 3]), 5)
    assert windows.rows.tolist() == [
        [0, 1, 2, 3, 4],
        [1, 2, 3, 4, 5],
        [2, 3, 4, 5, 6],
        [7, 8, 9, 9, 9],
    ]
    assert windows.mask.tolist() == [[True] * 5] * 3 + [[True] * 3 + [False] * 2]
    assert windows.video.tolist() == [0, 0, 0, 1]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 7))
def test_windows_never_leave_their_video_and_cover_every_clip(counts, num_clips):
    first = first_clips(counts)
    windows = make_windows(first, num_clips)
    assert len(windows) == sum(max(count - num_clips + 1, 1) for count in counts)
    for rows, mask, video in zip(windows.rows, windows.mask, windows.video, strict=True):
        assert first[video] <= rows.min() <= rows.max() < first[video + 1]
        assert np.array_equal(rows[mask], np.arange(rows[0], rows[0] + mask.sum()))
    assert set(windows.rows[windows.mask].tolist()) == set(range(sum(counts)))


def test_a_video_without_clips_is_refused():
    with pytest.raises(ValueError, match="at least one clip"):
        make_windows(np.array([0, 3, 3]), 5)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.sampled_from([0, 8, 16]),
    st.integers(1, 20),
)
def test_slot_of_a_frame_is_the_floor_of_its_place(lengths, clip_len, slots):
    if clip_len:
        lengths = [min(length, clip_len) for length in lengths]
    start = np.cumsum([0, *lengths[:-1]])
    end = start + lengths
    bounds = slot_bounds(start, end, clip_len=clip_len, slots=slots)
    for index, (first, last) in enumerate(zip(start, end, strict=True)):
        nominal = clip_len or last - first
        for frame in range(first, last):
            slot = math.floor((frame - first) * slots / nominal)
            assert bounds[index, slot] <= frame < bounds[index, slot + 1]
        assert bounds[index, 0] == first
        assert bounds[index, -1] == last  # no frame beyond the real ones


def test_slots_beyond_a_padded_tail_are_masked():
    # 21 frames: a whole clip and a tail of 5, abnormal from frame 18
    bounds = slot_bounds(np.array([0, 16]), np.array([16, 21]), clip_len=16, slots=16)
    labels = np.zeros(21, np.uint8)
    labels[18:] = 1
    targets, mask = slot_targets(labels, bounds)
    assert mask.tolist() == [[True] * 16, [True] * 5 + [False] * 11]
    assert targets[0].sum() == 0.0
    assert targets[1].tolist() == [0, 0, 1, 1, 1] + [0] * 11


def test_a_slot_of_many_frames_gets_the_share_that_is_abnormal():
    bounds = slot_bounds(np.array([0]), np.array([8]), clip_len=0, slots=2)
    targets, mask = slot_targets(np.array([0, 0, 0, 1, 1, 1, 1, 1], np.uint8), bounds)
    assert mask.all()
    assert targets.tolist() == [[0.25, 1.0]]


def test_clips_overlapping_in_time_are_averaged_and_gaps_take_the_nearest():
    bounds = slot_bounds(np.array([0, 2, 8]), np.array([4, 6, 10]), clip_len=4, slots=2)
    scores = np.array([[0.0, 0.2], [0.4, 0.6], [1.0, 9.9]])
    found = spread_on_frames(scores, bounds, 11)
    expected = [0.0, 0.0, 0.3, 0.3, 0.6, 0.6, 0.6, 1.0, 1.0, 1.0, 1.0]
    # frames 2-3 lie in both clips; 6 is nearest to 5, 7 to 8, and 10 comes after the last
    np.testing.assert_allclose(found, expected)


def test_a_frame_between_two_clips_takes_the_score_of_the_earlier():
    bounds = slot_bounds(np.array([0, 5, 8]), np.array([2, 7, 10]), clip_len=2, slots=1)
    found = spread_on_frames(np.array([[0.25], [0.75], [0.5]]), bounds, 10)
    # frame 3 is two frames from 1 and from 5, frame 7 one from 6 and from 8
    assert found.tolist() == [0.25, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75, 0.75, 0.5, 0.5]


def test_overlapping_windows_are_averaged_without_their_padding():
    windows = make_windows(first_clips([3, 1]), 2)  # 0 1, 1 2, 3 (3)
    scores = np.array([[[0.0], [0.2]], [[0.6], [1.0]], [[0.5], [77.0]]])
    found = average_windows(scores, windows, 4)
    np.testing.assert_allclose(found, [[0.0], [0.4], [1.0], [0.5]])


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=4),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_scores_return_to_the_frames_they_were_made_for(lengths, num_clips, random):
    """Each window's slot answers with the label of its frame: every frame gets its own label."""
    clips, first, frame_labels = [], [0], []
    for length in lengths:
        starts = np.arange(0, length, 16)
        clips.append((starts, np.minimum(starts + 16, length)))
        first.append(first[-1] + len(starts))
        frame_labels.append(np.array([random.random() < 0.3 for _ in range(length)], np.uint8))
    windows = make_windows(np.array(first), num_clips)
    bounds = [slot_bounds(start, end, clip_len=16, slots=16) for start, end in clips]
    targets = np.concatenate(
        [slot_targets(truth, b)[0] for truth, b in zip(frame_labels, bounds, strict=True)]
    )
    slots = average_windows(targets[windows.rows].astype(np.float64), windows, first[-1])
    for video, truth in enumerate(frame_labels):
        rows = slice(first[video], first[video + 1])
        found = spread_on_frames(slots[rows], bounds[video], len(truth))
        assert np.array_equal(found, truth)


def test_half_of_each_batch_is_abnormal_and_all_windows_have_their_turn():
    is_abnormal = np.arange(100) < 7
    batches = BalancedBatches(is_abnormal, batch_size=10, seed=3)
    drawn = [batches.batch(step) for step in range(40)]
    assert all(is_abnormal[batch].sum() == 5 for batch in drawn)
    counts = np.bincount(np.concatenate(drawn), minlength=100)
    assert counts[:7].min() >= 28  # 200 draws of 7
    assert counts[:7].max() <= 29
    assert counts[7:].min() >= 2  # 200 draws of 93
    assert counts[7:].max() <= 3


def test_a_batch_depends_on_the_seed_and_its_step_alone():
    is_abnormal = np.arange(30) % 3 == 0
    one, two = (BalancedBatches(is_abnormal, batch_size=8, seed=5) for _ in range(2))
    for step in range(5):
        one.batch(step)
    assert one.batch(9).tolist() == two.batch(9).tolist()
    assert one.batch(2).tolist() == two.batch(2).tolist()  # also backwards
    other = BalancedBatches(is_abnormal, batch_size=8, seed=6)
    assert other.batch(9).tolist() != two.batch(9).tolist()


@pytest.mark.parametrize("kind", [True, False])
def test_batches_of_one_kind_where_there_is_only_one(kind):
    batches = BalancedBatches(np.full(4, kind), batch_size=6, seed=0)
    assert sorted(set(batches.batch(0).tolist())) == [0, 1, 2, 3]
