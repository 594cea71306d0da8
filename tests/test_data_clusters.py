"""Calls on worker processes of a real Dask or Ray, some of which die or are not fit."""

import importlib
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

if not importlib.util.find_spec("dask_jobqueue"):
    pytest.skip("needs Dask: pip install -e '.[slurm]'", allow_module_level=True)

import dask
from cluster_calls import (
    prepare,
    prepare_deadly,
    prepare_failing,
    prepare_first_alone,
    prepare_meeting,
    prepare_patient,
    prepare_unfit,
)
from cluster_servers import Ray
from distributed import LocalCluster

from data.clusters.dask import DaskCluster
from data.clusters.engine import Cluster, Lost
from data.clusters.slurm import SlurmCluster
from data.errors import ConfigError, FeatError

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.filterwarnings("default")  # of Dask, about sockets of what was killed


@pytest.fixture(scope="module")
def workers() -> Iterator[LocalCluster]:
    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ray]:
    pytest.importorskip("ray")
    with ExitStack() as killed:
        servers = Ray(tmp_path_factory.mktemp("ray"), killed)
        for _ in range(2):
            servers.start_worker(PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
        yield servers


@pytest.fixture(params=["dask", pytest.param("ray", marks=pytest.mark.slow)])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Two workers of a thread each."""
    if request.param == "dask":
        return DaskCluster(request.getfixturevalue("workers").scheduler_address)
    from data.clusters.ray import RayCluster

    return RayCluster(request.getfixturevalue("ray").address)


def test_each_item_comes_back_once_with_its_result_from_several_processes(
    cluster: Cluster, tmp_path: Path
) -> None:
    found = list(cluster.run(partial(prepare_meeting, folder=tmp_path), range(30)))
    assert sorted((number, result[0]) for number, result in found) == [
        (number, number * number) for number in range(30)
    ]
    processes = {result[1] for _, result in found}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert list(cluster.run(prepare, [])) == []


def test_ctrl_c_stays_what_it_was() -> None:
    """Importing dask-jobqueue would have it end the process with exit code 0."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "import data.clusters.slurm;"
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "True\n", done.stderr


def test_a_worker_that_is_not_fit_gets_nothing_and_is_named(
    workers: LocalCluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    prepare_one = partial(prepare_first_alone, folder=tmp_path)
    with caplog.at_level("WARNING"):
        found = list(DaskCluster(workers.scheduler_address).run(prepare_one, range(9)))
    (worker,) = {result[1] for _, result in found}
    (said,) = [each.getMessage() for each in caplog.records if each.name.startswith("feat")]
    assert "this worker gets no work: ffmpeg: found 4, expected 7" in said
    assert str(worker) not in said.partition("process")[2]


def test_where_no_worker_is_fit_one_is_named(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    where = r"(tcp://)?\d+\.\d+\.\d+\.\d+"
    with pytest.raises(
        FeatError, match=rf"^no worker is fit: {where}.*: ffmpeg: found 4, expected 7"
    ):
        list(cluster.run(partial(prepare_first_alone, folder=tmp_path), range(9)))


@pytest.mark.slow
def test_workers_that_lack_the_code_say_so(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data.clusters.ray import RayCluster

    (tmp_path / "only_of_the_driver.py").write_text("def prepare(threads): raise ValueError")
    monkeypatch.syspath_prepend(tmp_path)
    here = importlib.import_module("only_of_the_driver")
    with pytest.raises(FeatError, match=r"no worker is fit: .*cannot load this feat .*only_of"):
        list(RayCluster(ray.address).run(here.prepare, range(9)))


def test_what_a_call_raises_arrives(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"^7: no room$"):
        list(cluster.run(prepare_failing, [7]))


@pytest.mark.parametrize("error", [ImportError("no torch"), OSError("no room"), ValueError("bad")])
def test_a_worker_that_cannot_be_prepared_is_told_and_not_waited_for(
    cluster: Cluster, error: Exception
) -> None:
    said = rf"^no worker is fit: .*: cannot be prepared: {type(error).__name__}: {error}$"
    with pytest.raises(FeatError, match=said):
        list(cluster.run(partial(prepare_unfit, error=error), [7]))


def test_who_stops_iterating_stops_what_is_under_way_and_the_workers_live_on(
    cluster: Cluster, tmp_path: Path
) -> None:
    run = cluster.run(partial(prepare_patient, folder=tmp_path), range(100))
    assert next(iter(run)) == (0, None)
    run.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("stopped-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(list(cluster.run(prepare, range(4)))) == 4
    assert len(list(tmp_path.glob("began-*"))) <= 2  # those that were queued never began


@pytest.mark.slow
def test_workers_may_come_later() -> None:
    with LocalCluster(0, threads_per_worker=1, dashboard_address=":0") as cluster:
        timer = threading.Timer(1.0, cluster.scale, [1])
        timer.start()
        found = list(DaskCluster(cluster.scheduler_address).run(prepare, range(3)))
        timer.join()
    assert sorted(number for number, _ in found) == [0, 1, 2]  # as they are finished


def test_a_job_of_slurm_asks_for_what_is_configured_and_starts_one_worker() -> None:
    values = {"cores": 4, "memory": "16GB", "job-extra-directives": ["--gres=gpu:1"]}
    with (
        dask.config.set({f"jobqueue.slurm.{name}": value for name, value in values.items()}),
        SlurmCluster(nodes=8, partition="gpu").jobs() as jobs,
    ):
        script = jobs.job_script()
        address = jobs.scheduler_address
    for line in ("-p gpu", "-n 1", "--cpus-per-task=4", "--mem=15G", "--gres=gpu:1"):
        assert f"#SBATCH {line}\n" in script
    assert f"distributed.cli.dask_worker {address} " in script
    assert "--nthreads 4 " in script
    assert "--nworkers" not in script
    with pytest.raises(ConfigError, match=r"jobqueue\.slurm\.cores is not set; say in"):
        SlurmCluster(nodes=8, partition=None).jobs()


@pytest.mark.slow
def test_calls_are_made_in_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is real but Slurm: what is there in its place runs a job's script at once."""
    scripts = {
        "sbatch": 'sh "$1" >/dev/null 2>&1 &\necho "Submitted batch job $!"',
        "scancel": 'kill "$1"',
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    with dask.config.set({"jobqueue.slurm.cores": 1, "jobqueue.slurm.memory": "2GB"}):
        found = dict(SlurmCluster(nodes=2, partition="gpu").run(prepare, range(5)))
    assert {number: result[0] for number, result in found.items()} == {
        number: number**2 for number in range(5)
    }


def test_no_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.clusters.dask._CONNECT_SECONDS", 1)
    with pytest.raises(FeatError, match=r"^tcp://127.0.0.1:9: no Dask scheduler answers"):
        list(DaskCluster("tcp://127.0.0.1:9").run(prepare, [1]))


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1:9", "Connection refused"),
        ("ray://127.0.0.1:9", "expected auto, or an address such as host:6379"),
        ("host", "expected auto, or an address such as host:6379"),
    ],
)
def test_no_head_is_one_line(address: str, why: str) -> None:
    pytest.importorskip("ray")
    from data.clusters.ray import RayCluster

    with pytest.raises(FeatError, match=rf"^{address}: no Ray cluster answers: .*{why}$"):
        list(RayCluster(address).run(prepare, [1]))


@pytest.mark.slow
def test_what_kills_its_worker_is_tried_three_times_again_and_costs_no_other_item(
    cluster: Cluster, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    results = dict(cluster.run(partial(prepare_deadly, log=log), range(8)))
    assert results.pop(3) == Lost(tries=4)
    assert results == {number: number for number in range(8) if number != 3}
    tried = log.read_text().split()
    assert 2 <= tried.count("3") <= 4  # a try may come when its worker is dead already
