import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from data.commands.sample import sample_command
from data.errors import ConfigError, FeatError
from data.labels import read_labels
from data.sample.drawing import Person
from data.sample.events import CATEGORIES
from data.sample.videos import draw_video, make_samples, plan_video
from data.videos import find_videos
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video

TINY = (64, 48)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "clips"
    make_samples(folder, num_videos=12, seed=3, size=TINY)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def abnormal_frames(intervals) -> set[int]:
    return {frame for start, end in intervals for frame in range(start, end)}


def test_every_split_has_normal_and_abnormal_videos(samples):
    labels = read_labels(samples / "labels.csv")
    kinds = {(label.split, label.is_abnormal) for label in labels}
    assert kinds == {(split, flag) for split in ("train", "val", "test") for flag in (True, False)}


def test_every_category_is_in_train_and_test(samples):
    labels = read_labels(samples / "labels.csv")
    for split in ("train", "test"):
        assert {label.category for label in labels if label.split == split} == {"", *CATEGORIES}


def test_labels_name_the_videos_and_their_lengths(samples):
    labels = read_labels(samples / "labels.csv")
    assert [label.video for label in labels] == [v.video_id for v in find_videos(samples)]
    for label, source in list(zip(labels, find_videos(samples), strict=True))[:3]:
        with open_video(source, DecodeConfig(size=16)) as stream:
            assert stream.info.frame_rate == 25
            assert (stream.info.width, stream.info.height, stream.info.codec) == (64, 48, "h264")
            while len(stream.read(50)[0]):
                pass
            assert stream.num_frames == label.num_frames
    lengths = [label.num_frames for label in labels]
    assert 150 * 12 < sum(lengths) <= 2400
    assert any(length % 16 for length in lengths)


def test_abnormal_videos_have_normal_frames_and_differ_from_each_other(samples):
    labels = [label for label in read_labels(samples / "labels.csv") if label.is_abnormal]
    for label in labels:
        truth = label.frame_labels(label.num_frames)
        assert truth[:10].sum() == 0
        assert 20 < truth.sum() < len(truth) - 20
    assert len({label.intervals for label in labels}) == len(labels)


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(samples, tmp_path):
    make_samples(tmp_path / "again", num_videos=6, seed=3, size=TINY)
    make_samples(tmp_path / "other", num_videos=6, seed=4, size=TINY)
    again, other, first = (contents(f) for f in (tmp_path / "again", tmp_path / "other", samples))
    six = (samples / "labels.csv").read_bytes().splitlines(keepends=True)[:7]
    assert again.pop("labels.csv") == b"".join(six)
    for name, content in again.items():
        assert content == first[name]
        assert content != other[name]


@pytest.mark.parametrize("seed", range(6))
def test_a_vehicle_is_in_sight_exactly_when_the_labels_say(seed):
    """The same seed without the event gives the same pixels wherever no vehicle is."""
    options = {"num_frames": 90, "size": (128, 96), "seed": seed}
    with_car, without = plan_video(category="vehicle", **options), plan_video(**options)
    differing = {
        index
        for index, pair in enumerate(zip(with_car.frames(), without.frames(), strict=True))
        if (pair[0] != pair[1]).any()
    }
    assert without.intervals == ()
    assert differing == abnormal_frames(with_car.intervals)


@pytest.mark.parametrize("seed", range(20))
def test_a_fall_lasts_from_the_first_tilt_until_upright(seed):
    video = plan_video(category="fall", num_frames=200, seed=seed, size=TINY)
    people = [track for track in video.movers if isinstance(track, Person)]
    tilted = np.any([person.tilt > 0 for person in people], axis=0)
    assert set(np.flatnonzero(tilted).tolist()) == abnormal_frames(video.intervals)


@pytest.mark.parametrize("seed", range(20))
def test_a_run_begins_with_the_first_hurry_and_ends_out_of_sight(seed):
    video = plan_video(category="run", num_frames=200, seed=seed, size=(320, 240))
    people = [track for track in video.movers if isinstance(track, Person)]
    runs = np.zeros(200, bool)
    for person in people:
        in_sight = (person.x > -person.size) & (person.x < 320 + person.size)
        hurried = (person.effort > 1) & in_sight
        runs |= hurried
        speed = np.abs(np.diff(person.x))
        if hurried.any():
            # 4.8 m/s against 1.35: no walker comes near
            assert np.median(speed[hurried[:-1]]) > 0.08 * person.size
    labelled = abnormal_frames(video.intervals)
    # half a body may still be seen outside the limits used here
    assert labelled <= set(np.flatnonzero(runs).tolist())
    assert np.flatnonzero(runs)[0] == min(labelled)
    assert runs.sum() - len(labelled) <= 40


def test_people_walk_at_a_walking_pace_otherwise():
    video = plan_video(num_frames=100, seed=1)
    assert 3 <= len(video.movers) <= 5
    for person in video.movers:
        steps = np.abs(np.diff(person.x))
        assert np.median(steps) < 0.05 * person.size
        assert (person.effort <= 1).all()


@pytest.mark.parametrize("category", [None, *CATEGORIES])
def test_small_videos_for_other_tests_are_quick_and_labelled(tmp_path, category):
    path = tmp_path / "v.mp4"
    intervals = draw_video(path, category=category, num_frames=40, size=(96, 96), seed=5)
    assert bool(intervals) == (category is not None)
    assert abnormal_frames(intervals) <= set(range(4, 40))
    with open_video(find_videos(tmp_path)[0], DecodeConfig(size=96)) as stream:
        frames, _ = stream.read(100)
    assert len(frames) == 40
    # a textured, fixed background under slight noise: neither flat nor jumping
    still = np.median(frames.astype(int), axis=0)
    assert still.std() > 15
    assert np.abs(frames[1].astype(int) - frames[0]).mean() < 8


def test_seeds_change_people_and_places():
    first, second = (next(plan_video(seed=seed, size=TINY).frames()) for seed in (1, 2))
    assert (first != second).any()
    elsewhere = next(plan_video(seed=1, scene_seed=9, size=TINY).frames())
    assert np.abs(elsewhere.astype(int) - first).mean() > 3


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"not empty \(found holiday\.mp4\)"):
        make_samples(tmp_path, num_videos=6, size=TINY)
    assert contents(tmp_path) == {"holiday.mp4": b"mine"}


@pytest.mark.slow
def test_force_replaces_samples_and_leaves_other_files(tmp_path, caplog):
    caplog.set_level("INFO", "feat")
    (tmp_path / "holiday.mp4").write_bytes(b"mine")
    for stale in ("sample_99.mp4", ".tmp-sample_01.mp4"):
        (tmp_path / stale).write_bytes(b"left over")
    arguments = [str(tmp_path), "--num-videos", "6", "--size", "48x48", "--force"]
    result = CliRunner().invoke(sample_command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "6 videos" in result.stdout
    assert "sample_06.mp4  val" in caplog.text
    names = [f"sample_{i:02}.mp4" for i in range(1, 7)]
    assert sorted(os.listdir(tmp_path)) == ["holiday.mp4", "labels.csv", *names]
    assert (tmp_path / "holiday.mp4").read_bytes() == b"mine"


def test_a_broken_ffmpeg_is_one_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("FEAT_FFMPEG", shutil.which("false") or "/bin/false")
    with pytest.raises(FeatError, match=r"v\.mp4: ffmpeg cannot write the video: exit status 1"):
        draw_video(tmp_path / "v.mp4", num_frames=40, size=TINY)
    assert os.listdir(tmp_path) == []


def test_ffmpegs_own_reason_is_given(tmp_path):
    with pytest.raises(FeatError, match="No such file or directory"):
        draw_video(tmp_path / "absent" / "v.mp4", num_frames=40, size=TINY)


@pytest.mark.parametrize(
    "bad",
    [
        {"category": "riot"},
        {"num_frames": 3},
        {"size": (64, 47)},
        {"size": (20, 20)},
    ],
)
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ConfigError, match="found"):
        plan_video(**bad)


def test_too_few_videos_or_a_bad_size_write_nothing(tmp_path):
    for options in ({"num_videos": 5}, {"size": (33, 48)}):
        with pytest.raises(ConfigError):
            make_samples(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
    result = CliRunner().invoke(sample_command, [str(tmp_path / "new"), "--size", "big"])
    assert result.exit_code == 2
    assert "expected WIDTHxHEIGHT" in result.stderr
