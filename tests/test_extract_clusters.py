"""`feat extract --cluster dask|ray`: real schedulers and worker processes, any of which may die."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import test_extract_concurrent
from click.testing import CliRunner
from cluster_servers import ENGINES, Servers
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

folder = test_extract_concurrent.folder  # the fixture


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
@pytest.mark.parametrize("servers", ENGINES[:1], indirect=True)  # the same on every engine
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
    deadline = time.monotonic() + 120
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
