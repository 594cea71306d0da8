import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cache import ClipTable, FeatureCache, FeatureRecord, NameEntry, SourceRecord
from cache.commands.labels import check_command, stats_command
from cache.facts import video_facts
from data.annotation.alignment import VideoFacts
from data.errors import CacheError
from data.labels import VideoLabel, write_labels


def record(
    digest: str,
    num_frames: int,
    *,
    stream: str = "rgb",
    partial: str = "",
    fps: float | None = None,
) -> FeatureRecord:
    starts = np.arange(0, num_frames, 16)
    ends = np.minimum(starts + 16, num_frames)
    return FeatureRecord(
        stream=stream,
        config={"stream": stream, "decode": {"resize": "squash", "size": 224, "fps": fps}},
        source=SourceRecord(
            name=f"{digest[:4]}.mp4",
            kind="file",
            size=1000,
            sha256=digest,
            num_frames=num_frames,
            frame_rate=25.0,
            width=320,
            height=240,
            codec="h264",
            pix_fmt="yuv420p",
            rotation=0,
            stream_index=0,
            partial=partial,
        ),
        features=np.zeros((len(starts), 4), dtype=np.float32),
        clips=ClipTable(
            start_frame=starts,
            end_frame=ends,
            start_seconds=starts / 25,
            end_seconds=ends / 25,
            clip_len=16,
        ),
        provenance={},
    )


A, B, C = "a" * 64, "b" * 64, "c" * 64


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    cache = FeatureCache.create(tmp_path / "features")
    cache.write(
        [
            record(A, 100),
            record(A, 98, stream="flow"),
            record(B, 40, partial="cut off"),
            record(C, 60, fps=5),
        ]
    )
    digests = {"a.mp4": A, "copy/a.mp4": A, "b.mp4": B, "c.mp4": C, "gone.mp4": "d" * 64}
    cache.set_names(
        {name: NameEntry(sha256=x, size=1000, mtime_ns=1) for name, x in digests.items()}
    )
    return cache


def test_facts_are_those_of_the_shortest_stream(cache: FeatureCache) -> None:
    assert video_facts(cache) == {
        "a.mp4": VideoFacts(num_frames=98, sha256=A),
        "copy/a.mp4": VideoFacts(num_frames=98, sha256=A),
        "b.mp4": VideoFacts(num_frames=40, sha256=B, partial="cut off"),
        "c.mp4": VideoFacts(num_frames=60, sha256=C, resampled_to=5.0),
    }


LABELS = [
    VideoLabel(video="a.mp4", split="train", num_frames=98),
    VideoLabel(video="copy/a.mp4", split="test", num_frames=98),
    VideoLabel(video="b.mp4", split="train", num_frames=90),
    VideoLabel(video="c.mp4", split="train", num_frames=300),
    VideoLabel(video="gone.mp4", split="test", extent="all"),
]


def test_check_names_each_misalignment_and_exits_1(cache: FeatureCache) -> None:
    write_labels(cache.labels_path, LABELS)
    arguments = ["--cache", str(cache.path)]
    result = CliRunner().invoke(check_command, arguments)
    assert result.exit_code == 1
    assert "error (truncated): b.mp4: labels for 90 frames, 40 decoded: cut off" in result.stdout
    assert "error (resampled): c.mp4: labels for 300 frames, 60 decoded: the video" in result.stdout
    assert "error (missing): gone.mp4: no features" in result.stdout
    assert "error (leak): the same content under two names is in two splits" in result.stdout
    assert result.stdout.splitlines()[-1].startswith("2 of 5 videos aligned, 4 errors")
    plain = json.loads(CliRunner().invoke(check_command, [*arguments, "--json"]).stdout)
    assert [x["kind"] for x in plain["errors"]] == ["truncated", "resampled", "missing", "leak"]


def test_check_of_sound_labels_exits_0(cache: FeatureCache, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    write_labels(path, [LABELS[0]])
    result = CliRunner().invoke(check_command, ["--cache", str(cache.path), "--labels", str(path)])
    assert result.exit_code == 0
    assert "1 of 1 videos aligned, 0 errors" in result.stdout
    result = CliRunner().invoke(check_command, ["--cache", str(tmp_path / "absent")])
    assert isinstance(result.exception, CacheError)


def test_stats_take_decoded_frames_from_the_cache(cache: FeatureCache) -> None:
    write_labels(cache.labels_path, LABELS)
    result = CliRunner().invoke(stats_command, ["--cache", str(cache.path), "--format", "csv"])
    assert result.exit_code == 0, result.output
    assert ",296 (4 videos)," in result.stdout  # 98 + 98 + 40 + 60, not the labels' 586
