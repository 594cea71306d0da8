"""Progress of an extraction where there is no terminal, and what it is told of a long video."""

import logging
from pathlib import Path

import pytest

import extract.run.progress
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from extract.run.progress import ExtractProgress
from extract.run.report import VideoOutcome


def test_expected_frames_come_from_the_container(tmp_path: Path, make_video) -> None:
    path = make_video(tmp_path / "a.mp4", num_frames=30)
    source = VideoSource(video_id="a.mp4", path=path, kind="file")
    with open_video(source, DecodeConfig()) as stream:
        assert stream.info.expected_frames == 30
    with open_video(source, DecodeConfig(fps=5.0)) as stream:
        assert stream.info.expected_frames == 15


def test_a_long_video_says_how_far_it_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="feat")
    with ExtractProgress(num_videos=1, num_bytes=100) as progress:
        progress.underway("a.mp4", num_frames=16, expected_frames=64, num_bytes=100)
        assert not caplog.messages  # a short one needs no line
        monkeypatch.setattr(extract.run.progress, "LINE_SECONDS", 0.0)
        progress.underway("a.mp4", num_frames=32, expected_frames=64, num_bytes=100)
        progress.underway("b.mp4", num_frames=32, expected_frames=0, num_bytes=100)
        result = VideoOutcome(video_id="a.mp4", status="done", num_clips=4, num_frames=64)
        progress.finish(result, num_bytes=100)
        progress.underway("c.mp4", num_frames=16, expected_frames=0, num_bytes=100)
        progress.underway("d.mp4", num_frames=16, expected_frames=0, num_bytes=100)
    assert caplog.messages == [
        "a.mp4: 32 frames so far (50%)",
        "b.mp4: 32 frames so far",
        "[1/1] a.mp4: 4 clips, 64 frames, 0.0 s",
        "c.mp4: 16 frames so far",
        "3 videos under way, 128 frames so far in all",
    ]
