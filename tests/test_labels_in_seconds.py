"""Labels in seconds, from a video whose frame rate varies to the frames that a model learns."""

import subprocess
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from cache_samples import altered, make_clips, make_record
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_extract_backbones import COLOUR, CPU

from cache import ClipTable, FeatureCache
from cache.exchange.merge import merge_caches
from cache.upkeep.compact import compact_cache
from cache.upkeep.verify import verify_cache
from data.errors import LabelsError
from data.ffmpeg import find_ffmpeg
from data.labels import read_labels
from extract.backbones import BACKBONES
from extract.config import ExtractConfig
from extract.decode.config import DecodeConfig
from extract.run.runner import run_extraction
from feat import cli
from model.features.aligned import check_labels

TINT = replace(COLOUR, stream="tint")  # a name of its own: workers keep networks by name
HEADER = "video,split,category,anomaly\n"
# The first second has ten frames, then one frame a second, as a camera that waits for motion.
TIMES_MS = [*range(0, 1000, 100), *range(1000, 31000, 1000)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos")
    count = len(TIMES_MS)
    for name, times in (("even.mp4", None), ("uneven.mkv", TIMES_MS)):
        command = [find_ffmpeg(), "-v", "error", "-f", "lavfi", "-i"]
        command += [f"testsrc2=size=64x48:rate=10:duration={count / 10}"]
        if times:
            terms = "+".join(f"eq(N\\,{i})*{ms}" for i, ms in enumerate(times))
            command += ["-vf", f"settb=1/1000,setpts={terms}", "-fps_mode", "passthrough"]
            command += ["-enc_time_base", "1:1000"]
        subprocess.run([*command, str(root / name)], check=True)
    text = "even.mp4,train,,1s:2s\nuneven.mkv,test,,0:00:00.5-0:00:02\n"
    (root / "labels.csv").write_text(HEADER + text)
    return root


@pytest.fixture(scope="module")
def caches(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureCache]:
    """Caches of the videos as they are, and resampled to 5 frames a second."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, TINT.stream, TINT)  # type: ignore[misc]
        for name, fps in (("whole", None), ("resampled", 5.0)):
            config = ExtractConfig(streams=("tint",), decode=DecodeConfig(fps=fps))
            path = tmp_path_factory.mktemp(name) / "features"
            report = run_extraction(videos, path, config, resources=CPU)
            assert (report.done, report.failed) == (2, [])
            made[name] = FeatureCache(path)
    return made


def seconds_of(cache: FeatureCache, video: str) -> np.ndarray | None:
    return cache.read_frame_seconds(cache.find(video, "tint").key)


def frames_of(cache: FeatureCache) -> dict[str, tuple]:
    labels = check_labels(cache, read_labels(cache.labels_path), allow_misaligned=False)
    return {label.video: label.intervals for label in labels}


def test_seconds_become_the_frames_that_a_player_shows_then(caches) -> None:
    # uneven: frames 5 to 9 appear from 0.5 to 0.9 s, frame 10 at 1 s, frame 11 at 2 s
    assert frames_of(caches["whole"]) == {"even.mp4": ((10, 20),), "uneven.mkv": ((5, 11),)}
    # resampled every 0.2 s; ffmpeg's fps filter rounds, so that frame 3 is that of 0.5 to 0.7 s
    assert frames_of(caches["resampled"]) == {"even.mp4": ((5, 10),), "uneven.mkv": ((3, 10),)}


def test_feat_data_check_and_stats_understand_seconds(caches) -> None:
    path = str(caches["whole"].path)
    checked = CliRunner().invoke(cli, ["data", "check", "--cache", path])
    assert checked.stdout.splitlines()[-1].startswith("2 of 2 videos aligned, 0 errors")
    table = CliRunner().invoke(cli, ["data", "stats", "--cache", path, "--format", "csv"]).stdout
    assert "test,1,0,1,40,6" in table  # abnormal frames of the uneven one
    alone = ["data", "stats", "--labels", f"{path}/labels.csv", "--format", "csv"]
    assert "test,1,0,1,unknown,unknown" in CliRunner().invoke(cli, alone).stdout


def test_only_uneven_times_are_stored_and_any_hdf5_reader_finds_them(caches) -> None:
    cache = caches["whole"]
    seconds = seconds_of(cache, "uneven.mkv")
    assert seconds is not None
    np.testing.assert_array_equal(np.rint(seconds * 1000), TIMES_MS)
    np.testing.assert_allclose(seconds_of(cache, "even.mp4"), np.arange(40) / 10)
    for video, layout in (("even.mp4", 1), ("uneven.mkv", 2)):
        entry = cache.find(video, "tint")
        with h5py.File(cache.shards_dir / entry.shard) as shard:
            assert shard.attrs["layout"] == layout
            assert ("frame_seconds" in shard[entry.key]) == (layout == 2)
            if layout == 2:
                np.testing.assert_array_equal(shard[entry.key]["frame_seconds"], seconds)


def test_times_survive_whatever_copies_records(caches, tmp_path: Path) -> None:
    target = FeatureCache.create(tmp_path / "merged")
    merge_caches([caches["whole"]], target)
    compact_cache(target)
    assert len(target.shards()) == 2  # of features, and of thumbnails
    assert verify_cache(target).problems == []
    np.testing.assert_array_equal(
        seconds_of(target, "uneven.mkv"), seconds_of(caches["whole"], "uneven.mkv")
    )


def test_labels_stay_in_seconds_where_they_are_copied(caches, videos: Path) -> None:
    for cache in caches.values():
        assert [label.anomaly for label in read_labels(cache.labels_path)] == [
            label.anomaly for label in read_labels(videos / "labels.csv")
        ]


def test_uneven_video_without_stored_times_is_refused_not_guessed(tmp_path: Path) -> None:
    """As an earlier build extracted it: only the clips' first frames have times."""
    cache = FeatureCache.create(tmp_path / "old")
    plain = make_record("v.mkv", num_frames=40)
    clips = make_clips(40).to_array()
    clips["start_seconds"][1:] = 7.0, 23.0
    clips["end_seconds"] = 7.0, 23.0, 31.0
    cache.write([altered(plain, clips=ClipTable.from_array(clips, 16))])
    (tmp_path / "labels.csv").write_text(HEADER + "v.mkv,train,,1s:2s\n")
    labels = read_labels(tmp_path / "labels.csv")
    for allowed in (False, True):
        with pytest.raises(
            LabelsError, match=r"v.mkv: anomaly '1s:2s' is in seconds, but"
        ) as error:
            check_labels(cache, labels, allow_misaligned=allowed)
        assert "--allow-misaligned" not in str(error.value)  # it would not help


def test_seconds_that_end_after_the_labelled_frames_are_cut_if_that_is_allowed(caches) -> None:
    cache = caches["whole"]
    (even,) = (x for x in read_labels(cache.labels_path) if x.video == "even.mp4")
    for labelled, allowed, end in ((19, True, 19), (39, False, 20), (39, True, 20)):
        rows = [replace(even, num_frames=labelled)]  # of 40, the anomaly being in 10:20
        (label,) = check_labels(cache, rows, allow_misaligned=allowed)
        assert label.intervals == ((10, end),)
    rows = [replace(even, num_frames=10)]
    for allowed in (False, True):
        with pytest.raises(LabelsError, match="lies wholly after the last of its 10") as error:
            check_labels(cache, rows, allow_misaligned=allowed)
        assert "--allow-misaligned" not in str(error.value)


def test_frames_that_all_appear_at_once_have_lost_their_times(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    clips = make_clips(40).to_array()
    clips["start_seconds"] = clips["end_seconds"] = 0.0
    for video, seconds in (("a", None), ("b", np.zeros(40))):
        record = make_record(video, num_frames=40)
        table = ClipTable.from_array(clips, 16)
        cache.write([altered(record, clips=table, frame_seconds=seconds)])
        assert cache.read_frame_seconds(record.key) is None
    one = make_record("c", num_frames=1)
    cache.write([one])
    np.testing.assert_array_equal(cache.read_frame_seconds(one.key), [0.0])


def test_imported_features_have_times_if_their_rate_is_known(tmp_path: Path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    (tmp_path / "labels.csv").write_text(HEADER + "v,train,,1s:2s\n")
    for dim, options in ((4, ["--fps", "16"]), (5, [])):
        np.save(tmp_path / "v.npy", np.ones((4, dim), np.float32))
        command = ["cache", "import", str(tmp_path / "v.npy"), "--cache", str(cache.path)]
        command += ["--stream", f"of{dim}", "--origin", "a test", *options]
        assert CliRunner().invoke(cli, command).exit_code == 0
    labels = read_labels(tmp_path / "labels.csv")
    (label,) = check_labels(cache, labels, allow_misaligned=False, streams=["of4"])
    assert label.intervals == ((16, 32),)
    with pytest.raises(LabelsError, match="import it with --fps"):
        check_labels(cache, labels, allow_misaligned=False, streams=["of5"])


@given(
    st.integers(1, 200),
    st.sampled_from([10.0, 23.976, 25.0, 30000 / 1001, 120.0]),
    st.integers(1, 32),
    st.integers(1, 32),
    st.sampled_from([0.0, 0.08, 3600.0]),
)
def test_clips_tell_the_times_of_a_constant_rate(num_frames, rate, clip_len, stride, first) -> None:
    start = np.arange(0, num_frames, stride)
    end = np.minimum(start + clip_len, num_frames)
    clips = ClipTable(
        start_frame=start,
        end_frame=end,
        start_seconds=first + start / rate,
        end_seconds=first + end / rate,
        clip_len=clip_len,
    )
    times = clips.frame_seconds(num_frames, rate)
    np.testing.assert_allclose(times, first + np.arange(num_frames) / rate, rtol=0, atol=1e-6)
    assert clips.frame_seconds(num_frames, 0.0) is None


def test_labels_in_seconds_become_frames_of_a_rate_that_is_given(tmp_path: Path) -> None:
    source, target = tmp_path / "a.csv", tmp_path / "b.csv"
    source.write_text(HEADER + "a.mp4,test,,1.5s:3s\nb.mp4,test,,all\nc.mp4,test,,2:4\n")
    command = ["data", "convert", str(source), str(target)]
    assert CliRunner().invoke(cli, [*command, "--fps", "10"]).exit_code == 0
    assert [label.anomaly for label in read_labels(target)] == ["15:30", "all", "2:4"]
    refused = CliRunner().invoke(cli, [*command, "--to", "ucf"])
    assert refused.exit_code == 1
    assert "a.mp4: anomaly '1.5s:3s' is in seconds, expected frames here" in refused.stderr


@pytest.mark.parametrize(
    ("row", "fps", "said"),
    [
        ("1.5s:3s,100,10", "25", "100 frames at 25 a second are 4 s, but the label is for 10 s"),
        ("1.5s:3s,100,2", "10", "100 frames at 10 a second are 10 s, but the label is for 3 s"),
        ("1.5s:9s,100,", "25", "100 frames at 25 a second are 4 s, but the label is for 9 s"),
        ("1.5s:3s,100,4", "25", ""),
        ("1.5s:4.5s,100,", "25", ""),  # a player rounds up
        ("1.5s:3s,,4", "25", ""),
    ],
)
def test_a_rate_that_is_not_the_videos_is_refused(tmp_path: Path, row, fps, said) -> None:
    source, target = tmp_path / "a.csv", tmp_path / "b.csv"
    source.write_text(f"{HEADER.strip()},frames,seconds\na.mp4,test,,{row}\n")
    done = CliRunner().invoke(cli, ["data", "convert", str(source), str(target), "--fps", fps])
    assert done.exit_code == bool(said)
    assert said in done.stderr
    assert target.exists() != bool(said)
