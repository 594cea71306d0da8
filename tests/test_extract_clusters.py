"""`feat extract --cluster dask`: a real scheduler, real worker processes, any of which may die."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import test_extract_concurrent
from click.testing import CliRunner
from test_extract_concurrent import (
    NUM_VIDEOS,
    arguments,
    assert_as_alone,
    extract,
    finish,
    start,
    wait_for_shards,
)

from cache import FeatureCache
from data.ffmpeg import find_ffmpeg
from feat import cli

pytest.importorskip("distributed", reason="needs Dask: pip install distributed")

ROOT = Path(__file__).resolve().parents[1]

folder = test_extract_concurrent.folder  # the fixture


class Dask:
    """A scheduler, and workers with a process each; all are killed at the end."""

    def __init__(self, home: Path, killed: ExitStack) -> None:
        self._home, self._killed = home, killed
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        host, port = self.address.removeprefix("tcp://").split(":")
        self.scheduler = self._start("scheduler", "--host", host, "--port", port, "--no-show")

    def start_worker(self, hidden: Path | None = None, **environment: str) -> subprocess.Popen:
        """Start a worker; it sees an empty file system of its own at `hidden`."""
        before = []
        if hidden:
            mount = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
            before = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(hidden)]
        # without a nanny, so that whoever kills it kills the process that extracts
        options = ("--nthreads", "1", "--no-nanny")
        return self._start("worker", self.address, *options, before=before, **environment)

    def _start(
        self, what: str, *options: str, before: Sequence[str] = (), **environment: str
    ) -> subprocess.Popen:
        command = [*before, sys.executable, "-m", f"distributed.cli.dask_{what}", *options]
        process = subprocess.Popen(
            [*command, "--dashboard-address", ":0"],
            cwd=self._home,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._killed.callback(process.wait)
        self._killed.callback(process.kill)
        return process


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Dask]:
    with ExitStack() as killed:
        yield Dask(tmp_path, killed)


def cluster(dask: Dask) -> tuple[str, str, str, str]:
    return "--cluster", "dask", "--scheduler", dask.address


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_an_unfit_one_is_named(
    folder: Path,
    random_rgb_weights: Path,
    dask: Dask,
    tmp_path: Path,
) -> None:
    other = tmp_path / "ffmpeg"
    version = "s/^ffmpeg version [^ ]*/ffmpeg version 99/"
    other.write_text(f'#!/bin/sh\n"{find_ffmpeg()}" "$@" | sed "{version}"\n')
    other.chmod(0o755)
    workers = [dask.start_worker(), dask.start_worker()]
    dask.start_worker(FEAT_FFMPEG=str(other))
    run = start(folder, "dask", random_rgb_weights, *cluster(dask), stderr=subprocess.PIPE)
    wait_for_shards(run, folder / "dask", 1)
    workers[0].kill()
    printed, said = run.communicate(timeout=200)
    assert run.returncode == 0, said
    report = json.loads(printed)
    assert (report["done"] + report["skipped"], report["failed"]) == (NUM_VIDEOS, [])
    assert "this worker gets no work: ffmpeg: found 99, expected the driver's" in said
    assert_as_alone(folder, "dask")


@pytest.mark.slow
def test_workers_that_do_not_see_the_cache_hand_their_features_over(
    folder: Path, random_rgb_weights: Path, dask: Dask
) -> None:
    cache = folder / "handed"
    cache.mkdir()
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("needs mount namespaces")
    dask.start_worker(hidden=cache)
    options = (*cluster(dask), "--no-thumbnails")
    report = finish(start(folder, "handed", random_rgb_weights, *options))
    assert report["done"] == NUM_VIDEOS
    features = set(cache.glob("shards/*.h5"))
    assert len(features) == NUM_VIDEOS
    # one that sees it, and one that is told what is there
    dask.start_worker()
    finish(start(folder, "handed", random_rgb_weights, *cluster(dask), "--thumbnails"))
    assert len(set(cache.glob("shards/*.h5")) - features) == NUM_VIDEOS
    assert_as_alone(folder, "handed")


@pytest.mark.slow
def test_when_the_scheduler_dies_the_same_command_goes_on(
    folder: Path,
    random_rgb_weights: Path,
    dask: Dask,
    tmp_path: Path,
) -> None:
    dask.start_worker()
    run = start(folder, "orphan", random_rgb_weights, *cluster(dask), stderr=subprocess.PIPE)
    wait_for_shards(run, folder / "orphan", 1)
    dask.scheduler.kill()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert said.splitlines()[-1] == (
        f"error: {dask.address}: the scheduler is gone; what is finished is kept: with another "
        "scheduler the same command goes on"
    )
    assert "Traceback" not in said
    with ExitStack() as killed:
        again = Dask(tmp_path, killed)
        again.start_worker()
        report = finish(start(folder, "orphan", random_rgb_weights, *cluster(again)))
    assert report["skipped"] >= 1
    assert report["done"] + report["skipped"] == NUM_VIDEOS
    assert_as_alone(folder, "orphan")


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_leaves_no_claim(
    folder: Path,
    random_rgb_weights: Path,
    dask: Dask,
) -> None:
    dask.start_worker()
    run = start(folder, "stopped", random_rgb_weights, *cluster(dask), stderr=subprocess.PIPE)
    wait_for_shards(run, folder / "stopped", 1)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.strip().endswith("what is finished is kept; the same command goes on")
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while list((folder / "stopped").glob("claims/*.claim")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    left = FeatureCache(folder / "stopped")
    assert sum(bool(left.feature_streams(video)) for video in left.videos()) < NUM_VIDEOS
    extract(folder, "stopped", random_rgb_weights)
    assert_as_alone(folder, "stopped")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cluster", "dask"], "error: --cluster dask needs --scheduler"),
        (["--cluster", "slurm"], "error: --cluster slurm needs --nodes"),
        (["--scheduler", "tcp://host:1"], "error: --scheduler is an option of --cluster dask"),
        (
            ["--cluster", "dask", "--scheduler", "x", "--nodes", "2"],
            "error: --nodes is an option of --cluster slurm",
        ),
        (["--cluster", "dask", "--scheduler", "x", "--workers", "2"], "--workers is for this"),
        (["--cluster", "dask", "--scheduler", "x", "--precision", "auto"], "--precision auto is"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(
    tmp_path: Path, make_video, options: list[str], said: str
) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=8)
    weights = tmp_path / "none.safetensors"
    done = CliRunner().invoke(cli, [*arguments(tmp_path, "cache", weights), *options])
    assert done.exit_code in (1, 2)
    assert said in done.stderr
    assert not (tmp_path / "cache").exists()


def test_without_the_extra_it_is_named(
    tmp_path: Path, make_video, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=8)
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.delitem(sys.modules, "data.clusters.dask", raising=False)
    options = ["--cluster", "dask", "--scheduler", "tcp://host:8786"]
    weights = tmp_path / "none.safetensors"
    done = CliRunner().invoke(cli, [*arguments(tmp_path, "cache", weights), *options])
    assert done.exit_code == 1
    assert done.stderr == (
        "error: --cluster dask: distributed is not installed: pip install distributed\n"
    )
