"""Real `feat extract` processes that fill one cache at the same time, one of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from cache import FeatureCache
from cache.upkeep.verify import verify_cache
from feat import cli

NUM_VIDEOS = 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_video, random_rgb_weights: Path) -> Path:
    """Videos of two clips each, and the cache `alone` that one process made of them."""
    folder = tmp_path_factory.mktemp("concurrent")
    for number in range(NUM_VIDEOS):
        # of different lengths, or ffmpeg draws the same file each time
        make_video(folder / "videos" / f"{number}.mp4", num_frames=10 + number)
    assert extract(folder, "alone", random_rgb_weights)["done"] == NUM_VIDEOS
    return folder


def arguments(folder: Path, cache: str, weights: Path) -> list[str]:
    options = ["--videos", str(folder / "videos"), "--cache", str(folder / cache), "--json"]
    options += ["--clip-len", "8", "--streams", "rgb", "--rgb-weights", str(weights)]
    return ["-q", "extract", *options, "--threads", "1"]


def extract(folder: Path, cache: str, weights: Path) -> dict:
    """Run the command to its end, in this process: it starts in a tenth of the time."""
    done = CliRunner().invoke(cli, arguments(folder, cache, weights))
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def start(
    folder: Path,
    cache: str,
    weights: Path,
    *options: str,
    stderr: int | None = None,
    command: Sequence[str] = ("-m", "feat"),
) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parents[1]
    return subprocess.Popen(
        [sys.executable, *command, *arguments(folder, cache, weights), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str]) -> dict:
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(printed)


def wait_for_shards(process: subprocess.Popen[str], cache: Path, number: int) -> None:
    """Wait for shards of features, which have layout 1; those of thumbnails have 2."""
    deadline = time.monotonic() + 300
    while sum(b" 0001 " in path.read_bytes()[:16] for path in cache.glob("shards/*.h5")) < number:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_as_alone(folder: Path, cache: str) -> None:
    ours, alone = FeatureCache(folder / cache), FeatureCache(folder / "alone")
    assert verify_cache(ours).problems == []
    assert sorted(ours.videos()) == sorted(alone.videos())
    assert len(alone.videos()) == NUM_VIDEOS
    for video in alone.videos():
        np.testing.assert_array_equal(ours.read(video, "rgb"), alone.read(video, "rgb"))
        pictures = [one.read_images(one.find(video, "thumbnails").key) for one in (ours, alone)]
        assert pictures[0] == pictures[1]


def test_two_processes_do_each_video_once(folder: Path, random_rgb_weights: Path) -> None:
    both = [start(folder, "two", random_rgb_weights) for _ in range(2)]
    reports = [finish(process) for process in both]
    assert sum(report["done"] for report in reports) == NUM_VIDEOS
    assert all(report["done"] + report["skipped"] == NUM_VIDEOS for report in reports)
    assert_as_alone(folder, "two")


def test_what_a_killed_process_left_the_other_does(folder: Path, random_rgb_weights: Path) -> None:
    killed, other = (start(folder, "killed", random_rgb_weights) for _ in range(2))
    wait_for_shards(killed, folder / "killed", 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    report = finish(other)
    assert report["done"] + report["skipped"] == NUM_VIDEOS
    assert report["failed"] == []
    assert_as_alone(folder, "killed")
    again = extract(folder, "killed", random_rgb_weights)
    assert (again["done"], again["skipped"]) == (0, NUM_VIDEOS)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)]
)
def test_an_interrupted_run_ends_at_once_and_keeps_what_is_done(
    folder: Path, random_rgb_weights: Path, number: signal.Signals, workers: int
) -> None:
    cache = f"interrupted-{number}-{workers}"
    options = ("--workers", str(workers), "--threads", str(workers))
    run = start(folder, cache, random_rgb_weights, *options, stderr=subprocess.PIPE)
    wait_for_shards(run, folder / cache, 1)
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert said.strip().endswith("what is finished is kept; the same command goes on")
    assert not list((folder / cache).glob("claims/*.claim"))
    left = FeatureCache(folder / cache)
    found = sum(bool(left.feature_streams(video)) for video in left.videos())
    assert 1 <= found < NUM_VIDEOS
    assert extract(folder, cache, random_rgb_weights)["skipped"] == found
    assert_as_alone(folder, cache)
