"""A video's frame rate and count: one rule, so `feat data check` and training say the same."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from cache_samples import make_config, make_record, sha256_of
from click.testing import CliRunner

from cache import FeatureCache
from cache.commands.labels import check_command
from cache.configs import choose_configs
from cache.exchange.foreign import ImportConfig
from cache.exchange.importing import import_features
from cache.facts import video_facts
from cache.keys import config_digest
from data.annotation.alignment import VideoFacts
from data.errors import LabelsError
from data.labels import VideoLabel, write_labels
from model.features.aligned import check_labels, videos_without_frames

VIDEO = "a/one.mp4"


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache.create(tmp_path / "features")


def resampled(stream: str = "rgb", fps: float | None = 10) -> dict:
    return make_config(stream, decode={"size": 224, "fps": fps})


def labelled(num_frames: int | None = 75, end: int = 60) -> VideoLabel:
    return VideoLabel(
        video=VIDEO,
        split="train",
        extent="intervals",
        intervals=((10, end),),
        num_frames=num_frames,
    )


def errors(cache: FeatureCache, labels: Sequence[VideoLabel]) -> list[str]:
    """Return the errors that both `feat data check` and training tell of the labels."""
    write_labels(cache.labels_path, labels)
    result = CliRunner().invoke(check_command, ["--cache", str(cache.path)])
    told = [line for line in result.stdout.splitlines() if line.startswith("error")]
    assert result.exit_code == (1 if told else 0)
    if told:
        with pytest.raises(LabelsError) as caught:
            check_labels(cache, labels, allow_misaligned=False)
        *problems, advice = str(caught.value).splitlines()
        assert problems == [line.partition("): ")[2] for line in told]
        assert "--allow-misaligned" in advice
    else:
        assert check_labels(cache, labels, allow_misaligned=False) == list(labels)
    return told


def fact(cache: FeatureCache) -> VideoFacts:
    return video_facts(cache)[VIDEO]


@pytest.mark.parametrize("rate", [25.0, 0.0, 23.7], ids=["constant", "unknown", "variable"])
def test_frames_that_were_decoded_count_at_any_rate(cache, rate) -> None:
    cache.write([make_record(VIDEO, config=resampled(fps=None), frame_rate=rate)])
    assert fact(cache) == VideoFacts(num_frames=75, sha256=sha256_of(VIDEO))
    assert errors(cache, [labelled(75)]) == []
    (line,) = errors(cache, [labelled(109)])
    assert "(truncated)" in line
    assert "labels for 109 frames, 75 decoded" in line


def test_a_resampled_video(cache) -> None:
    cache.write([make_record(VIDEO, config=resampled(fps=10), num_frames=30, frame_rate=10.0)])
    assert fact(cache) == VideoFacts(num_frames=30, sha256=sha256_of(VIDEO), resampled_to=10.0)
    (line,) = errors(cache, [labelled(75)])
    assert "(resampled)" in line
    assert "75 frames, 30 decoded: the video was resampled to 10 frames a second" in line
    assert errors(cache, [labelled(30, end=20)]) == []


def test_a_field_called_fps_elsewhere_is_no_resampling(cache) -> None:
    cache.write([make_record(VIDEO, config=make_config(camera={"fps": 10}))])
    assert fact(cache).resampled_to is None


def test_the_shortest_of_several_streams(cache) -> None:
    """The streams sort as flow, rgb: neither the first nor the last is taken as such."""
    cache.write([make_record(VIDEO, "flow", num_frames=75), make_record(VIDEO, num_frames=70)])
    assert fact(cache).num_frames == 70
    (line,) = errors(cache, [labelled(75)])
    assert "labels for 75 frames, 70 decoded" in line
    cache.write([make_record(VIDEO, "thumbnail", num_frames=60)])
    assert "60 decoded" in errors(cache, [labelled(75)])[0]
    assert video_facts(cache, streams=["rgb", "flow"])[VIDEO].num_frames == 70


def test_one_stream_of_two_that_was_resampled(cache) -> None:
    cache.write([make_record(VIDEO), make_record(VIDEO, "flow", config=resampled("flow", 10),
                                                 num_frames=30)])  # fmt: skip
    assert fact(cache).resampled_to == 10.0
    assert "(resampled)" in errors(cache, [labelled(75)])[0]


def test_a_chosen_configuration_alone_counts(cache) -> None:
    cache.write([make_record(VIDEO), make_record(VIDEO, config=resampled(), num_frames=30)])
    assert "(resampled)" in errors(cache, [labelled(75)])[0]
    start = config_digest(make_config())[:8]
    chosen = choose_configs(cache, [start])
    assert video_facts(cache, [VIDEO], configs=chosen)[VIDEO].num_frames == 75
    result = CliRunner().invoke(check_command, ["--cache", str(cache.path), "--config", start])
    assert result.exit_code == 0
    assert "1 of 1 videos aligned" in result.stdout


def imported(cache: FeatureCache, folder: Path, frames: dict[str, int]) -> None:
    np.savez(folder / "c3d.npz", **{VIDEO: np.random.default_rng(0).normal(size=(8, 16))})
    config = ImportConfig(stream="c3d", origin="test", layout="segments")
    import_features([folder / "c3d.npz"], cache, config, frames=frames)


def test_imported_without_a_frame_count(cache, tmp_path, caplog) -> None:
    imported(cache, tmp_path, {})
    assert fact(cache).num_frames == 0
    labels = [labelled(75), labelled(None)]
    for label in labels:  # nothing is known to be wrong
        assert errors(cache, [label]) == []
        assert videos_without_frames(cache, [label]) == [VIDEO]
        assert check_labels(cache, [label], allow_misaligned=True) == [label]
    result = CliRunner().invoke(check_command, ["--cache", str(cache.path)])
    assert "warning (uncounted): 1 videos were imported without a frame count" in result.stdout
    assert f"{VIDEO}; import them again with --frames" in result.stdout


def test_imported_with_a_frame_count(cache, tmp_path) -> None:
    imported(cache, tmp_path, {VIDEO: 75})
    assert errors(cache, [labelled(75)]) == []
    assert "labels for 90 frames, 75 decoded" in errors(cache, [labelled(90)])[0]


def test_another_stream_knows_what_the_imported_one_does_not(cache, tmp_path) -> None:
    cache.write([make_record(VIDEO)])
    imported(cache, tmp_path, {})  # of the same content: c3d, rgb
    assert cache.streams(VIDEO) == ["c3d", "rgb"]
    assert fact(cache).num_frames == 75
    assert videos_without_frames(cache, [labelled()]) == []
    assert "labels for 90 frames, 75 decoded" in errors(cache, [labelled(90)])[0]
