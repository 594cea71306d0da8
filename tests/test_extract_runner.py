"""`feat extract` from video files to shards: real ffmpeg, real flow, a real (untrained) network."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from cache import FeatureCache, config_digest
from data.ffmpeg import find_ffmpeg
from data.videos import find_videos
from extract.config import FLOW_VERSION
from extract.decode.config import DecodeConfig
from extract.decode.open import open_video
from extract.weights.resolve import resolve_weights
from feat import cli

NUM_FRAMES = {"a.mp4": 10, "sub/b.mp4": 1}
SIZE = 64
SHORT_CLIPS = ("--clip-len", "9")  # take little more than half the time of those of 16 frames


def extract(videos: Path, cache: Path, weights: Path, *options: str) -> Result:
    arguments = ["--videos", videos, "--cache", cache, "--rgb-weights", weights, *options]
    command = ["extract", "--flow-weights", "crossmodal", *SHORT_CLIPS, "--json"]
    return CliRunner().invoke(cli, [*command, *map(str, arguments)])


def summary(result: Result) -> dict:
    return json.loads(result.stdout)


@pytest.fixture(scope="module", autouse=True)
def _small_frames() -> Iterator[None]:
    """Of 64 instead of 224 pixels: where features go is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DecodeConfig.__init__.__kwdefaults__, "size", SIZE)
        yield


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, make_video) -> Path:
    root = tmp_path_factory.mktemp("videos")
    for name, num_frames in NUM_FRAMES.items():
        make_video(root / name, num_frames=num_frames)
    frames = root / "frames"
    frames.mkdir()
    for index in range(3):
        Image.new("RGB", (60, 40), (40 * index, 90, 120)).save(frames / f"{index}.png")
    (root / "labels.csv").write_text(
        "video,split,category,anomaly\na.mp4,train,,5:9\nsub/b.mp4,test,,\nframes,train,,\n"
    )
    return root


@pytest.fixture(scope="module")
def extracted(
    videos: Path, tmp_path_factory: pytest.TempPathFactory, random_rgb_weights: Path
) -> tuple[Path, dict]:
    cache = tmp_path_factory.mktemp("extracted") / "cache"
    result = extract(videos, cache, random_rgb_weights)
    assert result.exit_code == 0, result.output
    return cache, summary(result)


def test_summary_counts_what_was_done(extracted: tuple[Path, dict]) -> None:
    _, report = extracted
    assert report["done"] == 3
    assert report["skipped"] == 0
    assert report["partial"] == []
    assert report["failed"] == []
    assert report["frames"] == 10 + 1 + 3
    assert report["clips"] == 2 + 1 + 1
    assert report["seconds"] > 0
    assert report["cache"] == str(extracted[0])


def test_cache_holds_clips_frames_and_how_they_were_made(extracted: tuple[Path, dict]) -> None:
    cache = FeatureCache(extracted[0])
    assert cache.videos() == ["a.mp4", "frames", "sub/b.mp4"]
    rgb, flow = cache.find("a.mp4", "rgb"), cache.find("a.mp4", "flow")
    assert rgb.feature_shape == flow.feature_shape == (2, 1024)
    assert (rgb.source.num_frames, rgb.source.width, rgb.source.height) == (10, 64, 48)
    clips = cache.read_clips(rgb.key)
    assert clips.start_frame.tolist() == [0, 9]
    assert clips.end_frame.tolist() == [9, 10]
    np.testing.assert_allclose(clips.start_seconds, [0, 0.9])
    assert flow.config["weights"]["kind"] == "crossmodal"
    assert flow.config["weights"]["digest"] == "crossmodal:" + rgb.config["weights"]["digest"]
    assert "flow" not in rgb.config
    assert cache.labels_path.read_text().startswith("video,split")


@pytest.mark.parametrize("size", [SIZE, pytest.param(224, marks=pytest.mark.slow)])
def test_features_are_the_networks_answer_to_the_decoded_frames(
    size: int,
    videos: Path,
    random_rgb_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the other network of this repository, written apart, and OpenCV's flow."""
    from bench.reference import extract as reference_extract
    from bench.reference import load_networks

    monkeypatch.setattr("bench.reference.CLIP_LEN", 9)
    monkeypatch.setitem(DecodeConfig.__init__.__kwdefaults__, "size", size)
    (tmp_path / "videos").mkdir()
    shutil.copy(videos / "a.mp4", tmp_path / "videos")
    result = extract(tmp_path / "videos", tmp_path / "cache", random_rgb_weights)
    assert result.exit_code == 0, result.output
    source = next(each for each in find_videos(videos) if each.video_id == "a.mp4")
    with open_video(source, DecodeConfig()) as stream:
        frames, _ = stream.read(99)
    expected = reference_extract(list(frames), load_networks(random_rgb_weights))
    cache = FeatureCache(tmp_path / "cache")
    np.testing.assert_allclose(cache.read("a.mp4", "rgb"), expected["rgb"], rtol=1e-3, atol=1e-5)
    assert min(cosines(cache.read("a.mp4", "flow"), expected["flow"])) > 0.999


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.sum(a * b, axis=1) / norms


def test_second_run_does_nothing(
    extracted: tuple[Path, dict], videos: Path, random_rgb_weights: Path
) -> None:
    cache, _ = extracted
    before = sorted((cache / "shards").iterdir())
    report = summary(extract(videos, cache, random_rgb_weights))
    assert (report["done"], report["skipped"]) == (0, 3)
    assert sorted((cache / "shards").iterdir()) == before


def test_an_extraction_that_cannot_begin_leaves_no_cache(
    videos: Path, tmp_path: Path, random_rgb_weights: Path
) -> None:
    (tmp_path / "videos").mkdir()  # without labels, which the cache would keep
    shutil.copy(videos / "a.mp4", tmp_path / "videos")
    cuda = ("--device", "cuda:77")
    refused = extract(tmp_path / "videos", tmp_path / "cache", random_rgb_weights, *cuda)
    assert refused.exit_code == 1
    assert not (tmp_path / "cache").exists()


def test_renamed_and_copied_videos_cost_nothing(
    extracted: tuple[Path, dict], videos: Path, tmp_path: Path, random_rgb_weights: Path
) -> None:
    shutil.copytree(extracted[0], tmp_path / "cache")
    (tmp_path / "videos").mkdir()
    shutil.copy(videos / "a.mp4", tmp_path / "videos" / "renamed.mp4")
    shutil.copy(videos / "a.mp4", tmp_path / "videos" / "twin.mp4")
    report = summary(extract(tmp_path / "videos", tmp_path / "cache", random_rgb_weights))
    assert (report["done"], report["skipped"]) == (0, 2)
    (tmp_path / "videos" / "renamed.mp4").rename(tmp_path / "videos" / "again.mp4")
    again = extract(tmp_path / "videos", tmp_path / "cache", random_rgb_weights)
    assert "names that the cache keeps of renamed videos: 1 (" in again.stderr
    assert "renamed.mp4 is twin.mp4" in again.stderr or "renamed.mp4 is again" in again.stderr
    assert "a.mp4 is" not in again.stderr  # which is another folder's
    cache = FeatureCache(tmp_path / "cache")
    np.testing.assert_array_equal(cache.read("renamed.mp4", "rgb"), cache.read("a.mp4", "rgb"))


def test_a_changed_video_is_extracted_anew_under_its_name_and_said(
    tmp_path: Path, random_rgb_weights: Path, make_video
) -> None:
    for num_frames in (4, 5):
        make_video(tmp_path / "videos" / "a.mp4", num_frames=num_frames)
        result = extract(
            tmp_path / "videos", tmp_path / "cache", random_rgb_weights, "--streams", "rgb"
        )
        assert (summary(result)["done"], summary(result)["frames"]) == (1, num_frames)
        assert ("a.mp4: changed since it was extracted" in result.stderr) == (num_frames == 5)
    assert FeatureCache(tmp_path / "cache").find("a.mp4", "rgb").source.num_frames == 5


def test_adding_the_flow_stream_keeps_rgb(
    tmp_path: Path, random_rgb_weights: Path, make_video
) -> None:
    make_video(tmp_path / "videos" / "v.mp4", num_frames=4)
    options = (tmp_path / "videos", tmp_path / "cache", random_rgb_weights)
    assert summary(extract(*options, "--streams", "rgb"))["done"] == 1
    first = FeatureCache(tmp_path / "cache").find("v.mp4", "rgb")
    report = summary(extract(*options))
    assert report["done"] == 1
    cache = FeatureCache(tmp_path / "cache")
    assert cache.find("v.mp4", "rgb").shard == first.shard
    assert cache.find("v.mp4", "flow").shard != first.shard


def test_second_configuration_is_refused_unless_allowed(
    extracted: tuple[Path, dict],
    videos: Path,
    tmp_path: Path,
    random_rgb_weights: Path,
) -> None:
    shutil.copytree(extracted[0], tmp_path / "cache")
    options = (videos, tmp_path / "cache", random_rgb_weights, "--resize", "crop")
    refused = extract(*options, "--streams", "rgb")
    assert refused.exit_code == 1
    assert "decode.resize: crop here, squash in the cache" in refused.stderr
    assert "--allow-mixed" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert summary(extract(*options, "--streams", "rgb", "--allow-mixed"))["done"] == 3


def test_features_of_an_older_version_stay_and_are_made_anew_and_it_is_said(
    tmp_path: Path, random_rgb_weights: Path, make_video, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "videos" / "v.mp4", num_frames=2)
    options = (tmp_path / "videos", tmp_path / "cache", random_rgb_weights)
    with monkeypatch.context() as patch:
        patch.setattr("extract.config.FLOW_VERSION", FLOW_VERSION - 1)
        assert "made anew" not in extract(*options).stderr
    cache = FeatureCache(tmp_path / "cache")
    old, rgb = cache.find("v.mp4", "flow"), cache.find("v.mp4", "rgb")
    result = extract(*options)
    assert summary(result)["done"] == 1
    assert (
        f"flow: made anew, for flow.version: {FLOW_VERSION} here, {FLOW_VERSION - 1} in the cache"
        in result.stderr
    )
    assert f"feat cache rm --config {config_digest(old.config)[:8]}" in result.stderr
    cache = FeatureCache(tmp_path / "cache")
    assert cache.find("v.mp4", "rgb") == rgb
    assert cache.find("v.mp4", "flow").config["flow"]["version"] == FLOW_VERSION
    assert cache.find("v.mp4", "flow", old.config) == old


def test_bad_videos_are_named_and_the_others_done(
    tmp_path: Path, random_rgb_weights: Path, make_video
) -> None:
    videos = tmp_path / "videos"
    make_video(videos / "good.mp4", num_frames=2)
    make_video(videos / "cut.avi", num_frames=30, codec="mjpeg")
    data = (videos / "cut.avi").read_bytes()
    (videos / "cut.avi").write_bytes(data[: len(data) // 2])
    (videos / "text.mp4").write_text("not a video")
    (videos / "empty.mkv").touch()
    result = extract(videos, tmp_path / "cache", random_rgb_weights, "--streams", "rgb")
    assert result.exit_code == 1
    report = summary(result)
    assert {each["video"] for each in report["failed"]} == {"text.mp4", "empty.mkv"}
    assert all(each["error"] for each in report["failed"])
    assert FeatureCache(tmp_path / "cache").find("good.mp4", "rgb").source.num_frames == 2
    again = summary(extract(videos, tmp_path / "cache", random_rgb_weights, "--streams", "rgb"))
    assert again["done"] == 0
    assert again["partial"] == report["partial"]


def test_bad_labels_are_refused_before_any_work(
    tmp_path: Path, random_rgb_weights: Path, make_video
) -> None:
    make_video(tmp_path / "videos" / "v.mp4", num_frames=2)
    labels = tmp_path / "videos" / "labels.csv"
    labels.write_text("video,split,category,anomaly\nv.mp4,trian,,\n")
    result = extract(tmp_path / "videos", tmp_path / "cache", random_rgb_weights)
    assert result.exit_code == 1
    assert f"{labels}:2" in result.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_two_workers_give_the_same_features_and_run_nothing_of_the_current_folder(
    extracted: tuple[Path, dict], videos: Path, tmp_path: Path, random_rgb_weights: Path
) -> None:
    for module in ("json", "pickle", "joblib", "numpy", "data", "extract"):
        code = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)"
        (tmp_path / f"{module}.py").write_text(code)
    script = tmp_path / "bin" / "feat"  # as the installed command: its own folder is on the path
    script.parent.mkdir()
    script.write_text(
        "from extract.decode.config import DecodeConfig\nfrom feat import main\n"
        f"DecodeConfig.__init__.__kwdefaults__['size'] = {SIZE}\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    command = [sys.executable, str(script), "extract", "--videos", str(videos), "--cache", "cache"]
    command += ["--rgb-weights", str(random_rgb_weights), "--flow-weights", "crossmodal"]
    command += ["--device", "cpu", "--workers", "2", "--threads", "2", *SHORT_CLIPS, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert not (tmp_path / "ran").exists(), done.stderr
    report = json.loads(done.stdout)
    assert (report["done"], report["failed"]) == (3, [])
    ours, theirs = FeatureCache(tmp_path / "cache"), FeatureCache(extracted[0])
    for video in ours.videos():
        for stream in ("rgb", "flow"):
            np.testing.assert_allclose(
                ours.read(video, stream), theirs.read(video, stream), rtol=1e-4, atol=1e-6
            )


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_video_alone(
    extracted: tuple[Path, dict], videos: Path, tmp_path: Path, random_rgb_weights: Path,
    make_video, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As the kernel kills what takes too much memory; here the decoder of one video does."""
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    for name in ("1.mp4", "3.mp4"):  # their features are there under another name
        shutil.copy(videos / "a.mp4", folder / name)
    make_video(folder / "2.mp4", num_frames=20)
    real = find_ffmpeg()
    killer = tmp_path / "ffmpeg"
    killer.write_text(f'#!/bin/sh\n[ "$1" = -version ] || kill -9 $PPID\nexec "{real}" "$@"\n')
    killer.chmod(0o755)
    monkeypatch.setenv("FEAT_FFMPEG", str(killer))
    cache = tmp_path / "cache"
    shutil.copytree(extracted[0], cache)
    result = extract(folder, cache, random_rgb_weights, "--workers", "2", "--streams", "rgb")
    assert result.exit_code == 1
    report = summary(result)
    (failed,) = report["failed"]
    assert failed["video"] == "2.mp4"
    assert "its worker process was killed, most likely for want of memory" in failed["error"]
    assert "--workers" in failed["error"]
    assert (report["done"], report["skipped"]) == (0, len(NUM_FRAMES) + 3)
    monkeypatch.delenv("FEAT_FFMPEG")
    again = summary(extract(folder, cache, random_rgb_weights, "--streams", "rgb"))
    assert (again["done"], again["failed"]) == (1, [])


def test_damaged_weights_fail_once_before_the_first_video(
    videos: Path, tmp_path: Path, random_rgb_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEAT_WEIGHTS", str(tmp_path / "weights"))
    checkpoint = tmp_path / "mine.pt"
    torch.save(load_file(random_rgb_weights), checkpoint)
    found = resolve_weights("rgb", rgb=str(checkpoint))
    content = bytearray(found.path.read_bytes())
    content[-12345] ^= 1
    found.path.write_bytes(content)
    result = extract(videos, tmp_path / "cache", checkpoint)
    assert result.exit_code == 1
    assert result.stderr.count("damaged on disk") == 1
    assert "a.mp4" not in result.output
    for path in ("/etc/passwd", videos / "a.mp4"):
        result = extract(videos, tmp_path / "cache", Path(path))
        assert result.exit_code == 1
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error")]
        assert line.startswith(f"error: {path}: damaged, or not a checkpoint")


@pytest.mark.slow
def test_killed_run_goes_on_from_its_checkpoint(
    tmp_path: Path, random_rgb_weights: Path, make_video, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "videos" / "long.mp4", num_frames=16 * 12)
    script = "import extract.run.worker as w, feat; w.CHECKPOINT_SECONDS = 0.0; feat.main()"
    arguments = ["--videos", "videos", "--flow-weights", "crossmodal"]
    command = [sys.executable, "-c", script, "extract", *arguments]
    command += ["--rgb-weights", str(random_rgb_weights), "--json", "--cache"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([*command, "killed"], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("killed/partial/*/*.block"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("killed/shards/*.h5"))
    resumed = subprocess.run(
        [*command, "killed"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert json.loads(resumed.stdout)["clips"] == 12
    subprocess.run([*command, "whole"], cwd=tmp_path, check=True, capture_output=True)
    killed, whole = FeatureCache(tmp_path / "killed"), FeatureCache(tmp_path / "whole")
    for stream in ("rgb", "flow"):
        np.testing.assert_array_equal(
            killed.read("long.mp4", stream), whole.read("long.mp4", stream)
        )
    pictures = [one.read_images(one.find("long.mp4", "thumbnails").key) for one in (killed, whole)]
    assert len(pictures[0]) == 12
    assert pictures[0] == pictures[1]
    assert not list(tmp_path.glob("killed/partial/*/*.block"))
