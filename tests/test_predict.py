"""`feat predict`: videos to scores, with a run that was trained on real features."""

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import predict.scoring
from cache import FeatureCache
from data.ffmpeg import find_ffmpeg
from data.videos import content_sha256, find_videos
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from feat import cli

LABELS = """video,split,category,anomaly
a.mp4,train,fall,0:9
b.mp4,train,run,2:8
t.mp4,test,,0:5
"""
SETTINGS = ("steps=1", "hidden=4", "learning_rate=1e-5", "val_fraction=0")
QUICK = [part for setting in SETTINGS for part in ("--set", setting)]


def feat(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def report(result: Result) -> dict:
    assert result.stdout, result.output
    return json.loads(result.stdout)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _own_weights_folder_and_small_frames(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DecodeConfig.__init__.__kwdefaults__, "size", 64)
        patch.setenv("FEAT_WEIGHTS", str(tmp_path_factory.mktemp("weights-folder")))
        yield


class Trained:
    """A run folder that was moved after training, and what is left of the place it was made in."""

    def __init__(self, home: Path, rgb_weights: Path) -> None:
        options = ["--rgb-weights", rgb_weights, "--flow-weights", "crossmodal"]
        options += ["--clip-len", "9"]  # little more than half the work of 16
        features = home / "features"
        self.videos = home / "videos"
        self.made = feat("extract", "--videos", self.videos, "--cache", features, *options)
        assert self.made.exit_code == 0, self.made.output
        torch.set_num_threads(1)  # the extraction has set its own
        trained = feat("train", "--cache", features, "--out", home / "first", *QUICK)
        assert trained.exit_code == 0, trained.output
        evaluated = feat("eval", "--run", home / "first")
        assert evaluated.exit_code == 0, evaluated.output
        self.eval_scores = rows(home / "first" / "eval" / "scores" / "t.mp4.csv")
        self.training_cache = home / "kept-apart"
        features.rename(self.training_cache)
        self.run = home / "elsewhere" / "run"
        shutil.copytree(home / "first", self.run)
        shutil.rmtree(home / "first")


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, make_video, random_rgb_weights: Path
) -> Trained:
    home = tmp_path_factory.mktemp("user")
    for name, num_frames in (("a", 10), ("b", 8), ("t", 11)):
        make_video(home / "videos" / f"{name}.mp4", num_frames=num_frames)
    (home / "videos" / "labels.csv").write_text(LABELS)
    return Trained(home, random_rgb_weights)


@pytest.fixture(scope="module")
def predicted(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The first prediction of t.mp4 with the moved run, into a cache of its own."""
    home = tmp_path_factory.mktemp("predicted")
    result = feat(
        *("predict", trained.videos / "t.mp4", "--run", trained.run, "--keep", home / "features"),
        *("--scores", home / "t.csv", "--plot", home / "plots", "--json"),
    )
    assert result.exit_code == 0, result.output
    return home, report(result)


def test_a_moved_run_without_its_cache_scores_as_evaluation_did(trained, predicted) -> None:
    home, found = predicted
    scores = [float(row["score"]) for row in rows(home / "t.csv")]
    expected = [float(row["score"]) for row in trained.eval_scores]
    np.testing.assert_allclose(scores, expected, atol=2e-4)
    (video,) = found["videos"]
    assert video["video"] == str(trained.videos / "t.mp4")
    assert video["num_frames"] == 11
    assert video["peak"]["score"] == pytest.approx(max(scores), abs=1e-6)
    assert scores[video["peak"]["frame"]] == max(scores)
    # both categories are of abnormal videos
    assert video["category"] in (("fall", "run") if video["intervals"] else ("",))
    assert sum(video["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert not video["seen_in_training"]
    assert found["failed"] == []


def test_frame_scores_have_the_seconds_of_the_video(predicted) -> None:
    home, _ = predicted
    found = rows(home / "t.csv")
    assert [int(row["frame"]) for row in found] == list(range(11))
    seconds = [float(row["seconds"]) for row in found]
    np.testing.assert_allclose(seconds, np.arange(11) / 10, atol=1e-6)  # drawn at 10 a second


def test_the_picture_is_written_beside_the_scores(predicted) -> None:
    home, found = predicted
    path = Path(found["videos"][0]["plot"])
    assert path.parent == home / "plots"
    with Image.open(path) as image:
        assert image.width == 900
        with_stills = image.height
    assert with_stills > 400
    assert path.stat().st_size < 300_000


def test_nothing_is_extracted_the_second_time_nor_are_weights_needed(
    trained, predicted, tmp_path, monkeypatch
) -> None:
    home, first = predicted
    before = {path: path.stat().st_mtime_ns for path in (home / "features/shards").iterdir()}
    assert len(before) == 1
    monkeypatch.setenv("FEAT_WEIGHTS", str(tmp_path / "none"))
    result = feat(
        *("predict", trained.videos / "t.mp4", "--run", trained.run),
        *("--keep", home / "features", "--json"),
    )
    (again,) = report(result)["videos"]
    assert again == {k: v for k, v in first["videos"][0].items() if k not in ("scores", "plot")}
    after = {path: path.stat().st_mtime_ns for path in (home / "features/shards").iterdir()}
    assert after == before


def test_intervals_are_cut_out_and_the_curve_is_put_below(trained, predicted, tmp_path) -> None:
    low = min(float(row["score"]) for row in rows(predicted[0] / "t.csv"))
    done = feat(
        *("predict", trained.videos / "t.mp4", "--run", trained.run),
        *("--keep", predicted[0] / "features", "--threshold", low + 1e-5, "--pad", "0.2"),
        *("--cut", tmp_path / "cut", "--render", tmp_path / "shown", "--json"),
    )
    assert done.exit_code == 0, done.output
    (video,) = report(done)["videos"]
    assert video["intervals"]
    assert len(video["cut"]) == len(video["intervals"])
    for span, path in zip(video["intervals"], video["cut"], strict=True):
        start, end = span["start_frame"], span["end_frame"]
        assert Path(path) == tmp_path / "cut" / f"t.mp4-{start}-{end}.mp4"
        # 11 frames, 10 a second: two more on either side
        assert _num_frames(Path(path)) == min(end + 2, 11) - max(start - 2, 0)
    assert video["render"] == str(tmp_path / "shown" / "t.mp4.mp4")
    assert _num_frames(Path(video["render"])) == 11
    normal = feat(
        *("predict", trained.videos / "t.mp4", "--run", trained.run, "--threshold", "1"),
        *("--keep", predicted[0] / "features", "--cut", tmp_path / "none", "--json"),
    )
    assert report(normal)["videos"][0]["cut"] == []


def test_outputs_take_the_place_of_nothing_else_and_are_looked_at_first(
    trained, predicted, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(trained.videos / name, name)
    shutil.copy("b.mp4", "a.mp4.mp4")  # another recording
    Path("labels.csv").write_text(LABELS)
    Path("folder").write_text("none")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    command = ["predict", "a.mp4", "--run", trained.run]
    for outputs, words in {
        ("--csv", "labels.csv"): "labels.csv: is there and is not a table with the columns video,",
        ("--csv", "a.mp4"): "a.mp4: is read here and would be written over",
        ("--scores", "labels.csv"): "labels.csv: is there and is not a table with the columns fra",
        ("--render", "."): "a.mp4.mp4: is there and is not a video that feat has written; name a",
        ("--scores", "folder"): "folder: a file, expected a folder; name another place to write",
        ("--cut", "folder/cut"): "folder: a file, expected a folder; name another place to write",
        ("--csv", "folder/all.csv"): "folder: a file, expected a folder; name another place to w",
    }.items():
        refused = feat(*command, "--keep", "features", *outputs)
        assert refused.exit_code == 1
        assert refused.stderr.splitlines()[-1].startswith(f"error: {words}")
        assert not refused.stdout
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    command = ["predict", trained.videos / "t.mp4", "--run", trained.run, "--threshold", "0"]
    command += ["--cache", trained.training_cache]
    written = ["--csv", "all.csv", "--scores", "scores", "--vtt", "vtt", "--plot", "plots"]
    for _ in range(2):
        done = feat(*command, *written, "--render", "shown", "--cut", "cut")
        assert done.exit_code == 0, done.output
    for path in (Path("shown/t.mp4.mp4"), *Path("cut").iterdir()):
        assert _num_frames(path) == 11
        read = [find_ffmpeg(), "-v", "warning", "-i", path, "-f", "null", "-"]
        assert not subprocess.run(read, capture_output=True, check=True).stderr
    (cut,) = Path("cut").iterdir()
    shutil.copy("b.mp4", cut)
    refused = feat(*command, "--cut", "cut")
    assert refused.exit_code == 1
    assert f"failed: {cut}: is there and is not a video that feat has written" in refused.stdout
    assert cut.read_bytes() == Path("b.mp4").read_bytes()


def test_results_are_printed_when_an_output_fails_at_the_end(
    trained, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    score = predict.scoring.predict_video

    def meanwhile(*arguments, **options):
        shutil.rmtree("out")
        Path("out").write_text("somebody's file")
        return score(*arguments, **options)

    monkeypatch.setattr(predict.scoring, "predict_video", meanwhile)
    command = ["predict", trained.videos / "t.mp4", "--run", trained.run]
    command += ["--cache", trained.training_cache]
    for option, name in (("--csv", "out/all.csv"), ("--scores", "out"), ("--vtt", "out")):
        Path("out").unlink(missing_ok=True)
        failed = feat(*command, option, name)
        assert failed.exit_code == 1
        assert "t.mp4: 11 frames" in failed.stdout
        assert "out/" in failed.stdout + failed.stderr
        assert "cannot be written: Not a directory" in failed.stdout + failed.stderr


def test_what_a_video_may_cost_is_that_of_an_extraction(trained, predicted, tmp_path) -> None:
    """In the extraction, and in what is written of a video whose features are there."""
    arguments = ["predict", trained.videos / "t.mp4", "--run", trained.run, "--max-pixels", "100"]
    refused = feat(*arguments, "--keep", tmp_path / "features", "--json")
    assert refused.exit_code == 1
    (failed,) = report(refused)["failed"]
    assert "more than --max-pixels 100" in failed["error"]
    there = feat(*arguments, "--keep", predicted[0] / "features", "--render", tmp_path / "shown")
    assert there.exit_code == 1
    assert "more than --max-pixels 100" in there.stdout + there.stderr
    assert not list((tmp_path / "shown").iterdir())


def _num_frames(path: Path) -> int:
    (source,) = find_videos(path)
    with open_video(source, DecodeConfig(size=16)) as video:
        return len(video.read(100)[0])


def test_text_names_intervals_peak_and_category(trained, predicted) -> None:
    options = ("--run", trained.run, "--keep", predicted[0] / "features")
    everything = feat("predict", trained.videos / "t.mp4", *options, "--threshold", "0")
    assert "abnormal  0:11  0.00 s to 1.10 s, up to " in everything.stdout
    nothing = feat("predict", trained.videos / "t.mp4", *options, "--threshold", "1")
    assert "normal    no frame reaches 1" in nothing.stdout
    assert "  category  " in nothing.stdout
    assert f"peak      {predicted[1]['videos'][0]['peak']['score']:.3f}" in nothing.stdout


def test_times_and_length_of_a_late_picture_are_those_of_a_player(trained, tmp_path) -> None:
    late = ["-f", "lavfi", "-i", "sine=d=2", "-itsoffset", "1", "-i", trained.videos / "t.mp4"]
    command = [find_ffmpeg(), "-v", "error", *late, "-c:v", "mpeg4", tmp_path / "t.ts"]
    subprocess.run(command, check=True)
    found = feat(
        *("predict", tmp_path / "t.ts", "--run", trained.run, "--keep", tmp_path / "features"),
        *("--threshold", "0", "--vtt", tmp_path),
    )
    # sound and picture differ by a hundredth where the container begins
    assert re.search(r"t\.ts: 11 frames, 2\.1[01] s\n", found.stdout), found.output
    assert re.search(r"abnormal  0:11  1\.0[01] s to 2\.1[01] s, up to ", found.stdout)
    cues = next(tmp_path.glob("*.vtt")).read_text()
    assert re.search(r"^00:00:01\.0[01]\d --> 00:00:02\.1[01]\d$", cues, re.MULTILINE)


def test_the_newest_run_and_the_usual_cache_are_the_defaults(
    trained, predicted, tmp_path, monkeypatch
) -> None:
    shutil.copytree(trained.run, tmp_path / "runs" / "mine")
    shutil.copytree(predicted[0] / "features", tmp_path / "features")
    monkeypatch.chdir(tmp_path)
    result = feat("predict", trained.videos / "t.mp4", "--json")
    assert result.exit_code == 0, result.output
    assert report(result)["run"] == "runs/mine"
    assert report(result)["cache"] == "predict-features"
    assert not Path("predict-features").exists()  # `features` had all


def test_several_seeds_answer_with_their_mean(trained, predicted, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    several = feat(
        *("train", "--cache", trained.training_cache, "--out", "runs/several", "--seeds", 2),
        *QUICK,
    )
    assert several.exit_code == 0, several.output
    found, scores = [], []
    for run in ("seed-0", "seed-1", "."):
        result = feat(
            *("predict", trained.videos / "t.mp4", "--run", tmp_path / "runs/several" / run),
            *("--keep", predicted[0] / "features", "--scores", f"{run}/t.csv", "--json"),
        )
        assert result.exit_code == 0, result.output
        found.append(report(result)["videos"][0])
        scores.append([float(row["score"]) for row in rows(Path(run) / "t.csv")])
    assert np.abs(np.subtract(*scores[:2])).max() > 1e-3  # or the mean would show nothing
    np.testing.assert_allclose(scores[2], np.mean(scores[:2], axis=0), atol=2e-6)
    for name, share in found[2]["probabilities"].items():
        mean = np.mean([each["probabilities"][name] for each in found[:2]])
        assert share == pytest.approx(mean, abs=1e-5)
    result = feat(
        "predict", trained.videos / "t.mp4", "--keep", predicted[0] / "features", "--json"
    )
    assert report(result)["run"] == "runs/several"  # the newest, though each seed is one too


def test_same_named_videos_of_two_folders_are_told_apart(
    trained, tmp_path, make_video, monkeypatch
) -> None:
    """Also from the video of that name that the cache was trained from."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained.training_cache, "features")
    before = sorted(Path("features").rglob("*"))
    make_video(tmp_path / "x" / "a.mp4", num_frames=3)
    make_video(tmp_path / "y" / "a.mp4", num_frames=5)
    stamp = (tmp_path / "x" / "a.mp4").stat()
    os.utime(tmp_path / "y" / "a.mp4", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    result = feat(
        *("predict", "x", tmp_path / "y/a.mp4", "x/a.mp4", "--run", trained.run),
        *("--scores", "scores", "--json"),
    )
    assert result.exit_code == 0, result.output
    videos = report(result)["videos"]
    assert [(each["video"], each["num_frames"]) for each in videos] == [
        ("x/a.mp4", 3),
        (str(tmp_path / "y/a.mp4"), 5),
    ]
    assert [len(rows(Path(each["scores"]))) for each in videos] == [3, 5]
    for each in videos:
        assert each["sha256"] == content_sha256(find_videos(Path(each["video"]))[0])
    assert sorted(Path("features").rglob("*")) == before
    assert FeatureCache("features").find("a.mp4", "rgb").source.num_frames == 10
    kept = FeatureCache("predict-features")
    assert {record.source.name for record in kept.entries()} == {"x/a.mp4", "a.mp4"}


def test_frames_and_copies_of_a_trained_video(trained, tmp_path) -> None:
    frames = tmp_path / "clips" / "frames"
    frames.mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (60, 40), (40 * index, 90, 120)).save(frames / f"{index}.png")
    shutil.copy(trained.videos / "a.mp4", tmp_path / "clips" / "renamed.mp4")
    shutil.copytree(trained.training_cache, tmp_path / "features")
    result = feat(
        *("predict", tmp_path / "clips", "--run", trained.run, "--json", "--folder-fps", "2"),
        *("--cache", tmp_path / "features", "--keep", tmp_path / "kept"),
        *("--plot", tmp_path / "plots"),
    )
    assert result.exit_code == 0, result.output
    by_name = {Path(each["video"]).name: each for each in report(result)["videos"]}
    assert by_name["frames"]["num_frames"] == 3
    assert by_name["frames"]["seconds"] == 1.5
    assert by_name["renamed.mp4"]["seen_in_training"]
    assert "renamed.mp4: the run was trained on this video" in result.stderr
    other = feat(
        *("predict", frames, "--run", trained.run, "--cache", tmp_path / "features"),
        *("--keep", tmp_path / "kept", "--folder-fps", "3"),
    )
    assert other.exit_code == 1
    assert "of these images with 2 frames a second, found 3: give --folder-fps 2" in other.output
    assert len(list((tmp_path / "plots").iterdir())) == 2


def test_bad_videos_are_named_and_the_others_scored(
    trained, predicted, tmp_path, make_video
) -> None:
    shutil.copytree(predicted[0] / "features", tmp_path / "features")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "twin.mp4").write_text("not a video")
    (tmp_path / "hollow").mkdir()
    make_video(tmp_path / "cut.avi", num_frames=6, codec="mjpeg")
    data = (tmp_path / "cut.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    bad = [tmp_path / name for name in ("text.mp4", "twin.mp4", "hollow", "gone.mp4")]
    arguments = [*bad, tmp_path / "cut.avi", trained.videos / "t.mp4", "--run", trained.run]
    result = feat("predict", *arguments, "--keep", tmp_path / "features", "--json")
    assert result.exit_code == 1
    failed = {each["video"]: each["error"] for each in report(result)["failed"]}
    assert list(failed) == [str(path) for path in bad]
    assert "no frame can be decoded" in failed[str(bad[0])]
    assert failed[str(bad[1])] == failed[str(bad[0])]
    assert "no video found" in failed[str(bad[2])]
    assert "no such folder" in failed[str(bad[3])]
    cut, whole = report(result)["videos"]
    assert cut["partial"]
    assert whole["num_frames"] == 11
    text = feat("predict", *arguments, "--keep", tmp_path / "features")
    assert text.exit_code == 1
    assert f"{bad[0]}: failed: " in text.stdout
    assert "  partial   " in text.stdout


def test_weights_that_are_gone_are_named_with_the_way_out(
    trained, tmp_path, monkeypatch, random_rgb_weights, make_video
) -> None:
    make_video(tmp_path / "v.mp4", num_frames=2)
    monkeypatch.setenv("FEAT_WEIGHTS", str(tmp_path / "none"))
    options = ("--run", trained.run, "--keep", tmp_path / "features")
    refused = feat("predict", tmp_path / "v.mp4", *options)
    assert refused.exit_code == 1
    (error,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    digest = content_sha256(find_videos(random_rgb_weights)[0])
    assert f"no rgb weights of sha256 {digest}" in error
    assert "--rgb-weights" in error
    helped = feat("predict", tmp_path / "v.mp4", *options, "--rgb-weights", random_rgb_weights)
    assert helped.exit_code == 0, helped.output


@pytest.mark.slow
def test_a_cache_of_other_features_is_only_looked_in(trained, tmp_path, make_video) -> None:
    make_video(tmp_path / "videos" / "v.mp4", num_frames=2)
    made = feat(
        *("extract", "--videos", tmp_path / "videos", "--cache", tmp_path / "features"),
        *("--streams", "rgb", "--resize", "crop", "--rgb-weights", next(_converted())),
        *("--clip-len", "9"),
    )
    assert made.exit_code == 0, made.output
    before = sorted((tmp_path / "features").rglob("*"))
    options = ("--cache", tmp_path / "features", "--keep", tmp_path / "kept")
    found = feat("predict", tmp_path / "videos" / "v.mp4", "--run", trained.run, *options)
    assert found.exit_code == 0, found.output
    assert sorted((tmp_path / "features").rglob("*")) == before
    assert len(list((tmp_path / "kept" / "shards").iterdir())) == 1


def test_a_cache_that_is_named_must_be_there(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = feat("predict", trained.videos / "t.mp4", "--run", trained.run, "--cache", "featurs")
    assert refused.exit_code == 1
    assert "featurs: no feature cache here" in refused.stderr
    assert not Path("predict-features").exists()


def _converted() -> Iterator[Path]:
    return Path(os.environ["FEAT_WEIGHTS"]).glob("rgb-*.safetensors")


def test_a_run_on_imported_features_scores_no_videos(tmp_path, make_video) -> None:
    rng = np.random.default_rng(0)
    labels = "video,split,category,anomaly\n"
    (tmp_path / "c3d").mkdir()
    for index in range(4):
        np.save(tmp_path / "c3d" / f"v{index}.npy", rng.normal(size=(4, 16)).astype(np.float32))
        labels += f"v{index}.mp4,train,,{'0:32' if index % 2 else ''}\n"
    (tmp_path / "labels.csv").write_text(labels)
    imported = feat(
        *("cache", "import", tmp_path / "c3d", "--cache", tmp_path / "theirs", "--stream", "c3d"),
        *("--origin", "a test", "--labels", tmp_path / "labels.csv", "--layout", "clips"),
    )
    assert imported.exit_code == 0, imported.output
    torch.set_num_threads(1)
    made = feat("train", "--cache", tmp_path / "theirs", "--out", tmp_path / "run", *QUICK)
    assert made.exit_code == 0, made.output
    make_video(tmp_path / "v.mp4", num_frames=2)
    options = ("--run", tmp_path / "run", "--keep", tmp_path / "features")
    refused = feat("predict", tmp_path / "v.mp4", *options)
    assert refused.exit_code == 1
    assert "error: c3d: features that were imported" in refused.stderr
    assert not (tmp_path / "features").exists()


def test_the_intervals_of_all_videos_are_one_table_and_subtitles_of_each(trained, tmp_path) -> None:
    options = ("--run", trained.run, "--cache", trained.training_cache, "--json")
    outputs = ("--csv", tmp_path / "out" / "all.csv", "--vtt", tmp_path / "vtt")
    found = report(feat("predict", trained.videos, *options, *outputs, "--threshold", "0"))
    assert len(found["videos"]) == 3
    assert found["csv"] == str(tmp_path / "out" / "all.csv")
    expected = [
        {
            "video": video["video"],
            **{name: f"{span[name]:.6f}" for name in ("start_seconds", "end_seconds")},
            **{name: str(span[name]) for name in ("start_frame", "end_frame")},
            "peak": f"{span['peak']:.6f}",
            "category": video["category"],
            "far_from_training": "",  # two training videos are too few to tell
        }
        for video in found["videos"]
        for span in video["intervals"]
    ]
    assert len(expected) == 3
    assert rows(tmp_path / "out" / "all.csv") == expected
    names = sorted(path.name for path in (tmp_path / "vtt").iterdir())
    assert names == ["a.mp4.vtt", "b.mp4.vtt", "t.mp4.vtt"]  # as the videos are called
    assert "00:00:00.000 --> 00:00:01.100" in (tmp_path / "vtt" / "t.mp4.vtt").read_text()
    none = feat("predict", trained.videos / "t.mp4", *options, *outputs, "--threshold", "1")
    assert none.exit_code == 0, none.output
    assert rows(tmp_path / "out" / "all.csv") == []
    head = (tmp_path / "out" / "all.csv").read_text().strip()
    assert head == (
        "video,start_seconds,end_seconds,start_frame,end_frame,peak,category,far_from_training"
    )
    assert (tmp_path / "vtt" / "t.mp4.vtt").read_text() == "WEBVTT\n"


def test_a_category_fits_the_verdict(trained, tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained.run, run)
    # so that one category is of normal videos alone, and one of abnormal ones
    labels = LABELS.replace("b.mp4,train,run,2:8", "b.mp4,train,run,")
    (run / "labels.csv").write_text(labels)
    video = (trained.videos / "t.mp4", "--cache", trained.training_cache)
    for threshold, category in (("0", "fall"), ("1", "run")):
        found = report(feat("predict", *video, "--run", run, "--threshold", threshold, "--json"))
        assert found["videos"][0]["category"] == category
        assert set(found["videos"][0]["probabilities"]) == {"fall", "run"}
    # both are of abnormal videos: none is left for a normal one
    text = feat("predict", *video, "--run", trained.run, "--threshold", "1").stdout
    assert "normal    no frame reaches 1" in text
    assert "category  none: no normal video that was trained on had one" in text


def test_one_file_does_not_take_two_videos(trained, tmp_path) -> None:
    refused = feat(
        *("predict", trained.videos / "a.mp4", trained.videos / "b.mp4", "--run", trained.run),
        *("--keep", tmp_path / "features", "--scores", tmp_path / "all.csv"),
    )
    assert refused.exit_code == 2
    assert "2 videos need a folder" in refused.stderr
    assert not (tmp_path / "features").exists()


def test_no_run_is_one_line(tmp_path, trained) -> None:
    refused = feat("predict", trained.videos / "a.mp4", "--runs", tmp_path)
    assert refused.exit_code == 1
    assert "run `feat train` or name one with --run" in refused.stderr
