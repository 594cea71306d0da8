"""`feat extract --cluster dask|ray`: real schedulers and worker processes, any of which may die."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
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

ROOT = Path(__file__).resolve().parents[1]

# Ray listens on all interfaces, whatever its address; this is read as it is loaded
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))

folder = test_extract_concurrent.folder  # the fixture


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


class Servers:
    """A scheduler, and workers with a process each; all are killed at the end."""

    name: str
    hub: str  # what the workers are of, in messages

    def __init__(self, home: Path, killed: ExitStack) -> None:
        self._home, self._killed = home, killed
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.scheduler: subprocess.Popen | None = None

    def start_worker(self, hidden: Path | None = None, **environment: str) -> subprocess.Popen:
        """Start a worker; it sees an empty file system of its own at `hidden`."""
        raise NotImplementedError

    def kill(self, worker: subprocess.Popen) -> None:
        """Kill the process that extracts; another one will follow it."""
        raise NotImplementedError

    @property
    def options(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _start(
        self, command: Sequence[str], hidden: Path | None = None, **environment: str
    ) -> subprocess.Popen:
        before = []
        if hidden:
            mount = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
            before = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, str(hidden)]
        process = subprocess.Popen(
            [*before, sys.executable, "-m", *command],
            cwd=self._home,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._killed.callback(process.wait)
        self._killed.callback(process.kill)
        return process


class Dask(Servers):
    name, hub = "dask", "scheduler"

    def __init__(self, home: Path, killed: ExitStack) -> None:
        super().__init__(home, killed)
        self.address = f"tcp://{self.address}"
        command = ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", self.port]
        self.scheduler = self._start([*command, "--no-show", "--dashboard-address", ":0"])

    def start_worker(self, hidden: Path | None = None, **environment: str) -> subprocess.Popen:
        # without a nanny, so that whoever kills it kills the process that extracts
        command = ["distributed.cli.dask_worker", self.address, "--nthreads", "1", "--no-nanny"]
        return self._start([*command, "--dashboard-address", ":0"], hidden, **environment)

    def kill(self, worker: subprocess.Popen) -> None:
        self.start_worker()
        worker.kill()

    @property
    def options(self) -> tuple[str, ...]:
        return "--cluster", "dask", "--scheduler", self.address


class Ray(Servers):
    """A node of one core for each worker; the first one is the head."""

    name, hub = "ray", "head"

    def start_worker(self, hidden: Path | None = None, **environment: str) -> subprocess.Popen:
        command = ["ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += ["--num-cpus=1", "--object-store-memory=100000000"]
        command += ["--node-ip-address=127.0.0.1"]
        if self.scheduler:
            return self._start([*command, f"--address={self.address}"], hidden, **environment)
        home = tempfile.mkdtemp(prefix="feat-ray-")  # sockets have short paths
        self._killed.callback(shutil.rmtree, home, ignore_errors=True)
        command += ["--head", f"--port={self.port}", f"--ray-client-server-port={free_port()}"]
        command += ["--include-dashboard=false", f"--temp-dir={home}"]
        self.scheduler = self._start(command, hidden, **environment)
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", int(self.port))):
                return self.scheduler
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill(self, worker: subprocess.Popen) -> None:
        (actor,) = [
            process
            for process in psutil.Process(worker.pid).children(recursive=True)
            if process.name().startswith("ray::_Actor")
        ]
        actor.kill()

    @property
    def options(self) -> tuple[str, ...]:
        return "--cluster", "ray", "--address", self.address


ENGINES = [
    pytest.param(
        engine, id=engine.name, marks=pytest.mark.skipif(not find_spec(library), reason=library)
    )
    for engine, library in ((Dask, "distributed"), (Ray, "ray"))
]


@pytest.fixture(params=ENGINES)
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Servers]:
    with ExitStack() as killed:
        yield request.param(tmp_path, killed)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_and_an_unfit_one_is_named(
    folder: Path,
    random_rgb_weights: Path,
    servers: Servers,
    tmp_path: Path,
) -> None:
    other = tmp_path / "ffmpeg"
    version = "s/^ffmpeg version [^ ]*/ffmpeg version 99/"
    other.write_text(f'#!/bin/sh\n"{find_ffmpeg()}" "$@" | sed "{version}"\n')
    other.chmod(0o755)
    worker = servers.start_worker()
    servers.start_worker(FEAT_FFMPEG=str(other))
    cache = f"killed-{servers.name}"
    run = start(folder, cache, random_rgb_weights, *servers.options, stderr=subprocess.PIPE)
    wait_for_shards(run, folder / cache, 1)
    servers.kill(worker)
    printed, said = run.communicate(timeout=200)
    assert run.returncode == 0, said
    report = json.loads(printed)
    assert (report["done"] + report["skipped"], report["failed"]) == (NUM_VIDEOS, [])
    assert "this worker gets no work: ffmpeg: found 99, expected the driver's" in said
    assert_as_alone(folder, cache)


@pytest.mark.slow
def test_workers_that_do_not_see_the_cache_hand_their_features_over(
    folder: Path, random_rgb_weights: Path, servers: Servers
) -> None:
    name = f"handed-{servers.name}"
    cache = folder / name
    cache.mkdir()
    if subprocess.run(["unshare", "--map-root-user", "--mount", "true"], check=False).returncode:
        pytest.skip("needs mount namespaces")
    servers.start_worker(hidden=cache)
    options = (*servers.options, "--no-thumbnails")
    report = finish(start(folder, name, random_rgb_weights, *options))
    assert report["done"] == NUM_VIDEOS
    features = set(cache.glob("shards/*.h5"))
    assert len(features) == NUM_VIDEOS
    # one that sees it, and one that is told what is there
    servers.start_worker()
    finish(start(folder, name, random_rgb_weights, *servers.options, "--thumbnails"))
    assert len(set(cache.glob("shards/*.h5")) - features) == NUM_VIDEOS
    assert_as_alone(folder, name)


@pytest.mark.slow
def test_when_the_scheduler_dies_the_same_command_goes_on(
    folder: Path,
    random_rgb_weights: Path,
    servers: Servers,
    tmp_path: Path,
) -> None:
    servers.start_worker()
    cache = f"orphan-{servers.name}"
    run = start(folder, cache, random_rgb_weights, *servers.options, stderr=subprocess.PIPE)
    wait_for_shards(run, folder / cache, 1)
    servers.scheduler.kill()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 1
    assert said.splitlines()[-1] == (
        f"error: {servers.address}: the {servers.hub} is gone; what is finished is kept: with "
        f"another {servers.hub} the same command goes on"
    )
    assert "Traceback" not in said
    with ExitStack() as killed:
        again = type(servers)(tmp_path, killed)
        again.start_worker()
        report = finish(start(folder, cache, random_rgb_weights, *again.options))
    assert report["skipped"] >= 1
    assert report["done"] + report["skipped"] == NUM_VIDEOS
    assert_as_alone(folder, cache)


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_and_leaves_no_claim(
    folder: Path,
    random_rgb_weights: Path,
    servers: Servers,
) -> None:
    servers.start_worker()
    cache = f"stopped-{servers.name}"
    run = start(folder, cache, random_rgb_weights, *servers.options, stderr=subprocess.PIPE)
    wait_for_shards(run, folder / cache, 1)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 130
    assert said.strip().endswith("what is finished is kept; the same command goes on")
    assert "Traceback" not in said
    deadline = time.monotonic() + 30
    while list((folder / cache).glob("claims/*.claim")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    left = FeatureCache(folder / cache)
    assert sum(bool(left.feature_streams(video)) for video in left.videos()) < NUM_VIDEOS
    extract(folder, cache, random_rgb_weights)
    assert_as_alone(folder, cache)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cluster", "dask"], "error: --cluster dask needs --scheduler"),
        (["--cluster", "ray"], "error: --cluster ray needs --address"),
        (["--cluster", "slurm"], "error: --cluster slurm needs --nodes"),
        (["--scheduler", "tcp://host:1"], "error: --scheduler is an option of --cluster dask"),
        (
            ["--cluster", "dask", "--scheduler", "x", "--address", "auto"],
            "error: --address is an option of --cluster ray",
        ),
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


@pytest.mark.parametrize(
    ("engine", "option", "library"),
    [("dask", "--scheduler", "distributed"), ("ray", "--address", "ray")],
)
def test_without_the_extra_it_is_named(
    tmp_path: Path,
    make_video,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    option: str,
    library: str,
) -> None:
    make_video(tmp_path / "videos" / "a.mp4", num_frames=8)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"data.clusters.{engine}", raising=False)
    options = ["--cluster", engine, option, "host:8786"]
    weights = tmp_path / "none.safetensors"
    done = CliRunner().invoke(cli, [*arguments(tmp_path, "cache", weights), *options])
    assert done.exit_code == 1
    assert done.stderr == (
        f"error: --cluster {engine}: {library} is not installed: pip install {library}\n"
    )
