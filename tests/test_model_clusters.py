"""`--cluster` of `feat train --seeds`, `compare` and `ablate`: real workers of a real scheduler."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from cluster_servers import ROOT, Ray
from model_cache import demo_rows, make_cache

from cache import FeatureCache
from data.clusters.open import open_cluster
from data.errors import CacheError, ConfigError, FeatError, ModelError
from feat import cli
from model.experiments.clusters import Training, Workers, _build, _Terms
from model.runs.folder import working_in

distributed = pytest.importorskip("distributed", reason="needs Dask: pip install distributed")

QUICK = [
    *("--set", "steps=12", "--set", "eval_every=4", "--set", "hidden=4", "--set", "layers=1"),
    *("--set", "batch_size=16"),
]

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("default"),  # of Dask, about sockets of what was killed
]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


@pytest.fixture(scope="module")
def workers() -> Iterator[distributed.LocalCluster]:
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


def start(command: str, cache: FeatureCache, out: Path, *options: str) -> subprocess.Popen:
    words = [command, "--cache", str(cache.path), "--out", str(out), "--threads", "1", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "feat", *words, "--device", "cpu", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def feat(command: str, cache: FeatureCache, out: Path, *options: str) -> dict:
    words = [command, "--cache", str(cache.path), "--out", str(out), "--threads", "1", "--json"]
    done = CliRunner().invoke(cli, [*words, "--device", "cpu", *options])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def on(workers: distributed.LocalCluster) -> tuple[str, str, str, str]:
    return "--cluster", "dask", "--scheduler", workers.scheduler_address


def assert_same_runs(folder: Path, other: Path) -> None:
    """What was learnt and measured is the same in both, but for where it lies."""

    def content(path: Path, home: Path) -> bytes:
        return path.read_bytes().replace(str(home).encode(), b"")

    names = ("model.safetensors", "labels.csv", "eval/metrics.json", "eval/scores.npz")
    made = {path.relative_to(folder): path for name in names for path in folder.rglob(name)}
    assert {path.name for path in made} >= {"model.safetensors", "labels.csv"}
    assert set(made) == {path.relative_to(other) for name in names for path in other.rglob(name)}
    for name, path in made.items():
        assert content(path, folder) == content(other / name, other), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", ["--seeds", "3", *QUICK]),
        ("compare", ["--methods", "logistic,knn,gmm", "--seeds", "2"]),
        ("ablate", ["--what", "table4,table5,figure7", "--seeds", "2", *QUICK]),
    ],
)
def test_runs_are_those_of_one_machine_and_none_is_made_by_the_driver(
    cache: FeatureCache,
    workers: distributed.LocalCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: list[str],
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    feat(command, cache, here, *options)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("trained by the driver")

    monkeypatch.setattr("model.runs.train.run_training", refuse)
    feat(command, cache, there, *options, *on(workers))
    assert_same_runs(here, there)
    made = {path: path.stat().st_mtime_ns for path in there.rglob("model.safetensors")}
    more = [{"2": "3", "3": "4"}.get(word, word) for word in options]  # another seed
    feat(command, cache, there, *more, *on(workers))
    after = {path: path.stat().st_mtime_ns for path in there.rglob("model.safetensors")}
    assert {path: after[path] for path in made} == made
    assert len(after) > len(made)
    assert not [path for path in there.rglob(".tmp-*") if path.is_file()]


@pytest.mark.slow
def test_a_worker_of_ray_makes_the_same_runs(cache: FeatureCache, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install ray")
    here, there = tmp_path / "here", tmp_path / "there"
    options = ("--methods", "logistic,gmm", "--seeds", "2")
    feat("compare", cache, here, *options)
    with ExitStack() as killed:
        ray = Ray(tmp_path, killed)
        ray.start_worker()
        _, said = start("compare", cache, there, *options, *ray.options).communicate(timeout=200)
    assert "Traceback" not in said
    assert_same_runs(here, there)


@pytest.mark.slow
def test_a_training_that_fails_keeps_no_other_from_being_finished(
    cache: FeatureCache, workers: distributed.LocalCluster, tmp_path: Path
) -> None:
    foreign = tmp_path / "c" / "knn" / "seed-0" / "mine.txt"
    feat("compare", cache, tmp_path / "c", "--methods", "logistic")
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    run = start(
        "compare", cache, tmp_path / "c", "--methods", "logistic,knn", "--seeds", "3", *on(workers)
    )
    _, said = run.communicate(timeout=200)
    assert run.returncode == 1
    assert said.splitlines()[-1].startswith(f"error: {foreign.parent}: neither empty nor a run")
    assert "Traceback" not in said
    done = {path.parent.name for path in (tmp_path / "c" / "knn").glob("*/done.json")}
    assert done == {"seed-1", "seed-2"}
    foreign.unlink()
    feat("compare", cache, tmp_path / "c", "--methods", "logistic,knn", "--seeds", "3")


LONG = ["--seeds", "3", "--set", "steps=4000", "--set", "eval_every=50", "--set", "hidden=4"]
LONG += ["--set", "layers=1", "--set", "batch_size=16"]


def wait_for_state(run: subprocess.Popen, out: Path) -> None:
    """Wait until two trainings are under way."""
    deadline = time.monotonic() + 200
    while len(list(out.glob("seed-*/metrics.jsonl"))) < 2:
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing(cache: FeatureCache, tmp_path: Path) -> None:
    short = [{"steps=4000": "steps=60"}.get(word, word) for word in LONG]
    with distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as workers:
        run = start("train", cache, tmp_path / "killed", *short, *on(workers))
        wait_for_state(run, tmp_path / "killed")
        os.kill(workers.workers[0].pid, signal.SIGKILL)
        _, said = run.communicate(timeout=200)
        assert run.returncode == 0, said
    feat("train", cache, tmp_path / "whole", *short)
    assert_same_runs(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_stops_trainings_and_leaves_their_folders_to_the_next_command(
    cache: FeatureCache, workers: distributed.LocalCluster, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    run = start("train", cache, out, *LONG, *on(workers))
    wait_for_state(run, out)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=200)
    assert run.returncode == 130, said
    assert "what is finished is kept" in said.splitlines()[-1]
    assert "Traceback" not in said
    deadline = time.monotonic() + 200
    for folder in [path.parent for path in out.glob("seed-*/metrics.jsonl")]:
        while True:
            try:
                with working_in(folder, go_on=""):
                    break
            except ModelError:  # its worker has not looked yet
                assert time.monotonic() < deadline
                time.sleep(0.1)
    assert not list(out.glob("seed-*/model.safetensors"))
    assert list(out.glob(".tmp-*")) == []


def terms(cache: FeatureCache, folder: Path, **changes: object) -> _Terms:
    mark = folder / "mark"
    mark.touch()
    key = next(cache.entries()).key
    fitting = _Terms(build=_build(), cache=cache.path, key=key, mark=mark, threads=1)
    return replace(fitting, **changes)


def test_a_worker_must_have_the_same_code_and_libraries_and_see_cache_and_runs(
    cache: FeatureCache, tmp_path: Path
) -> None:
    assert terms(cache, tmp_path)(4).slots == 1
    other = {**_build(), "torch": "0.1"}
    with pytest.raises(ConfigError, match=r"^torch: found .*, expected the driver's 0\.1$"):
        terms(cache, tmp_path, build=other)(4)
    with pytest.raises(ConfigError, match=r"/other: not the driver's folder: mount it"):
        terms(cache, tmp_path, mark=tmp_path / "other" / "mark")(4)
    with pytest.raises(ConfigError, match=r"features: not the driver's folder: mount it"):
        terms(cache, tmp_path, key="b" * 64)(4)
    with pytest.raises(CacheError, match=r"/nowhere: "):
        replace(terms(cache, tmp_path), cache=tmp_path / "nowhere")(4)


def test_the_modules_that_prepare_a_worker_load_no_torch() -> None:
    code = "import sys, model.experiments.clusters; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_where_no_worker_is_fit_it_is_one_line(
    cache: FeatureCache, workers: distributed.LocalCluster, tmp_path: Path
) -> None:
    cluster = open_cluster("dask", scheduler=workers.scheduler_address)
    assert cluster
    with pytest.raises(FeatError, match=r"^no worker is fit: tcp://.*: torch: found"):
        list(cluster.run(terms(cache, tmp_path, build={"torch": "0.1"}), [tmp_path]))


def test_what_is_finished_asks_no_cluster(cache: FeatureCache, tmp_path: Path) -> None:
    """The scheduler at this address does not exist."""
    cluster = open_cluster("dask", scheduler="tcp://127.0.0.1:9")
    assert cluster
    (tmp_path / "done").touch()
    Workers(cluster, 1).finish([Training(tmp_path, "done", print)], cache, tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "--cluster", "dask", "--scheduler", "x"], "is for several trainings: add --se"),
        (["compare", "--cluster", "dask"], "error: --cluster dask needs --scheduler"),
        (["ablate", "--nodes", "2"], "error: --nodes is an option of --cluster slurm"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(
    cache: FeatureCache, words: list[str], said: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, [*words, "--cache", str(cache.path), "--out", str(out)])
    assert done.exit_code in (1, 2)
    assert said in done.stderr
    assert not out.exists()
