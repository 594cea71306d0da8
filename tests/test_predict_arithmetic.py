"""Intervals, times and peaks of a prediction; where its pictures are put."""

import dataclasses
import re
import subprocess
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cache import ClipTable
from data.ffmpeg import find_ffmpeg
from extract.clips import clip_table
from model.measures.peaks import highest_peaks
from model.prediction.prediction import VideoPrediction, frame_edges
from model.prediction.report import prediction_json, prediction_lines, webvtt
from model.prediction.timeline import clock

# few different values, so that plateaus and ties with the threshold are common
coarse = st.integers(0, 4).map(lambda value: value / 4)
curves = arrays(np.float64, st.integers(1, 60), elements=coarse)


def prediction(
    scores: np.ndarray, *, threshold: float = 0.5, rate: float = 10.0
) -> VideoPrediction:
    return VideoPrediction(
        scores=scores,
        edges_seconds=np.arange(len(scores) + 1) / rate,
        threshold=threshold,
        threshold_means="as given",
        frame_rate=rate,
        partial="",
        seen=False,
        probabilities={"fall": 0.25, "run": 0.75},
    )


@given(curves, coarse)
def test_intervals_hold_exactly_the_frames_that_reach_the_threshold(scores, threshold) -> None:
    found = prediction(scores, threshold=threshold).intervals
    inside = [frame for span in found for frame in range(span.start_frame, span.end_frame)]
    assert inside == [frame for frame, score in enumerate(scores) if score >= threshold]
    for span, after in pairwise(found):
        assert span.end_frame < after.start_frame  # runs are whole: they never touch
    for span in found:
        assert span.peak == max(scores[span.start_frame : span.end_frame])
        assert (span.start_seconds, span.end_seconds) == pytest.approx(
            (span.start_frame / 10, span.end_frame / 10)
        )


@given(curves, coarse, st.dictionaries(st.sampled_from(["fall", "run"]),
       st.frozensets(st.booleans(), min_size=1)))  # fmt: skip
def test_no_category_contradicts_the_verdict(scores, threshold, extents) -> None:
    found = dataclasses.replace(prediction(scores, threshold=threshold), category_extents=extents)
    is_abnormal = bool(found.intervals)
    fits = {name: is_abnormal in extents.get(name, {is_abnormal}) for name in ("run", "fall")}
    likeliest_first = [name for name in ("run", "fall") if fits[name]]
    assert found.category == (likeliest_first or [""])[0]


@given(curves, coarse, st.sampled_from([0.001, 7.0, 25.0]))
def test_subtitles_have_a_cue_an_interval_whatever_the_length(scores, threshold, rate) -> None:
    found = prediction(scores, threshold=threshold, rate=rate)
    head, *cues = webvtt(found).split("\n\n")
    assert head.strip() == "WEBVTT"
    assert len(cues) == len(found.intervals)
    for cue, span in zip(cues, found.intervals, strict=True):
        times = re.fullmatch(r"(\S+) --> (\S+)\nabnormal, up to \S+: run\n?", cue)
        assert times
        for text, seconds in zip(
            times.groups(), (span.start_seconds, span.end_seconds), strict=True
        ):
            hours, minutes, rest = text.split(":")
            assert len(hours) >= 2
            assert int(minutes) < 60
            assert int(hours) * 3600 + int(minutes) * 60 + float(rest) == pytest.approx(
                seconds, abs=0.0011
            )


def test_ffmpeg_reads_the_subtitles(tmp_path) -> None:
    scores = np.zeros(4000)
    scores[3601:3700] = 0.9
    named = {"a & b --> <c>": 1.0}
    found = dataclasses.replace(prediction(scores, rate=1.0), probabilities=named)
    (tmp_path / "v.vtt").write_text(webvtt(found))
    command = [find_ffmpeg(), "-v", "error", "-i", tmp_path / "v.vtt", "-f", "srt", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    number, times, text = done.stdout.strip().splitlines()
    assert (number, times) == ("1", "01:00:01,000 --> 01:01:40,000")
    assert text == "abnormal, up to 0.900: a & b --> <c>"


@given(
    st.lists(st.floats(0, 0.5), min_size=1, max_size=80),
    st.integers(8, 20),
    st.data(),
)
def test_frames_of_any_rate_start_when_their_clips_do(gaps, clip_len, data) -> None:
    stride = data.draw(st.integers(1, clip_len))
    times = np.cumsum(gaps)
    clips = clip_table(times, clip_len=clip_len, clip_stride=stride, frame_rate=25.0)
    edges = frame_edges(clips, len(times))
    assert len(edges) == len(times) + 1
    assert (np.diff(edges) >= 0).all()
    np.testing.assert_allclose(edges[clips.start_frame], times[clips.start_frame])
    np.testing.assert_allclose(edges[-1], clips.end_seconds[-1])
    exact = frame_edges(clips, len(times), times)
    assert (exact[:-1] == times).all()
    assert exact[-1] == edges[-1]


@given(st.integers(1, 100), st.floats(1, 60), st.floats(0, 5), st.integers(8, 20))
def test_frames_of_constant_rate_are_exact(num_frames, rate, start, clip_len) -> None:
    times = start + np.arange(num_frames) / rate
    clips = clip_table(times, clip_len=clip_len, clip_stride=clip_len, frame_rate=rate)
    expected = start + np.arange(num_frames + 1) / rate
    np.testing.assert_allclose(frame_edges(clips, num_frames), expected, rtol=1e-9)


def test_times_that_run_backwards_do_not_make_negative_intervals() -> None:
    clips = ClipTable(
        start_frame=np.array([0, 8, 16]),
        end_frame=np.array([8, 16, 20]),
        start_seconds=np.array([0.0, 2.0, 1.0]),
        end_seconds=np.array([2.0, 2.0, 1.5]),
        clip_len=8,
    )
    edges = frame_edges(clips, 20)
    assert edges[4] == 1.0
    assert edges[8:].tolist() == [2.0] * 13


@given(curves, st.integers(1, 5), st.integers(1, 20))
def test_peaks_are_maxima_apart_from_each_other(scores, max_peaks, distance) -> None:
    peaks = highest_peaks(scores, max_peaks=max_peaks, min_distance=distance)
    assert 1 <= len(peaks) <= max_peaks
    assert peaks == sorted(peaks)
    assert max(scores[peaks]) == max(scores)
    assert all(b - a >= distance for a, b in pairwise(peaks))
    for peak in peaks:  # going either way, the first other score is a lower one
        for side in (scores[:peak][::-1], scores[peak + 1 :]):
            others = side[side != scores[peak]]
            assert not len(others) or others[0] < scores[peak]


def test_peaks_by_hand() -> None:
    scores = np.array([0.1, 0.9, 0.9, 0.9, 0.2, 0.5, 0.2, 0.2, 0.7])
    assert highest_peaks(scores, max_peaks=3) == [2, 5, 8]
    assert highest_peaks(scores, max_peaks=2) == [2, 8]
    assert highest_peaks(scores, max_peaks=3, min_distance=4) == [2, 8]
    assert highest_peaks(np.full(7, 0.3), max_peaks=3) == [3]


def test_report_names_interval_peak_and_category() -> None:
    scores = np.array([0.1, 0.5, 0.8, 0.2])
    made = prediction(scores)
    text = "\n".join(prediction_lines("a.mp4", made))
    assert "a.mp4: 4 frames, 0.40 s" in text
    assert "abnormal  1:3  0.10 s to 0.30 s, up to 0.800" in text
    assert "peak      0.800 at frame 2, 0.20 s" in text
    assert "category  run (0.75)" in text
    found = prediction_json(made)
    assert found["intervals"] == [
        {"start_frame": 1, "end_frame": 3, "start_seconds": 0.1, "end_seconds": 0.3, "peak": 0.8}
    ]
    assert found["peak"] == {"score": 0.8, "frame": 2, "seconds": 0.2}
    assert (found["category"], found["probabilities"]["fall"]) == ("run", 0.25)
    assert "no frame reaches 0.9" in "\n".join(
        prediction_lines("a.mp4", prediction(scores, threshold=0.9))
    )


def test_a_model_without_categories_names_none() -> None:
    made = dataclasses.replace(prediction(np.array([0.1, 0.5])), probabilities={}, partial="cut")
    assert prediction_json(made)["category"] == ""
    lines = prediction_lines("a.mp4", made)
    assert not any("category" in line for line in lines)
    assert lines[-1] == "  partial   cut"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (7.239, "7.24 s"), (59.96, "1:00.0"), (67.2, "1:07.2"), (7267.25, "2:01:07.2")],
)
def test_clock(seconds, text) -> None:
    assert clock(seconds) == text
