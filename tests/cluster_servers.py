"""Schedulers and workers of Dask and of Ray on this machine, any of which a test may kill."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Ray listens on all interfaces, whatever its address; this is read as it is loaded
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


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
