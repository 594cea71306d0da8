"""`feat runs ls`: what was trained, newest first, and what it is worth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from model_cache import demo_rows, make_cache

from cache import FeatureCache
from feat import cli
from model.evaluation.evaluate import run_evaluation
from model.experiments.compare import run_comparison
from model.experiments.folder import Terms
from model.experiments.seeds import train_seeds
from model.methods.convlstm import ConvLSTMMethod
from model.methods.gather import DataOptions
from model.methods.registry import choose_method
from model.runs.train import run_training

METHOD = ConvLSTMMethod(
    hidden=1, head_widths=(), layers=1, clip_slots=1, steps=2, eval_every=2, batch_size=8
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    path = tmp_path_factory.mktemp("demo") / "features"
    return make_cache(path, demo_rows(), streams={"rgb": 32, "flow": 32})


@pytest.fixture(scope="module")
def home(cache, tmp_path_factory) -> Path:
    """A folder of runs: one evaluated, one not, one killed, two seeds and a comparison."""
    home = tmp_path_factory.mktemp("home")
    runs = home / "runs"
    rows = demo_rows()
    rgb = DataOptions(streams=("rgb",))
    run_training(cache, rows, choose_method("knn"), out=runs / "knn", options=rgb)
    run_evaluation(runs / "knn", cache, rows, pictures=False)
    run_training(cache, rows, METHOD, out=runs / "plain", seed=7)
    train_seeds(cache, rows, METHOD, count=2, out=runs / "several")
    run_evaluation(runs / "several", cache, rows, pictures=False)
    methods = [choose_method(name) for name in ("knn", "shuffled", "position")]
    run_comparison(cache, rows, methods, seeds=1, out=runs / "compared", terms=Terms(options=rgb))
    return home


def listed(home: Path) -> dict[str, dict]:
    found = CliRunner().invoke(cli, ["runs", "ls", str(home / "runs"), "--json"])
    assert found.exit_code == 0, found.output
    return {Path(run["run"]).name: run for run in json.loads(found.stdout)["runs"]}


def measures(folder: Path) -> tuple[float, float]:
    values = json.loads((folder / "eval" / "metrics.json").read_text())
    return values["auc"], values["ap"]


def test_each_run_is_told_with_method_data_and_figures(home) -> None:
    found = listed(home)
    auc, ap = measures(home / "runs" / "knn")
    knn = found["knn"]
    assert (knn["methods"], knn["seeds"], knn["streams"]) == (["knn"], [0], ["rgb"])
    assert (knn["auc"], knn["ap"], knn["num_videos"]) == ([auc], [ap], [4])  # normal ones alone
    plain = found["plain"]
    assert (plain["methods"], plain["seeds"]) == (["convlstm"], [7])
    assert (plain["streams"], plain["num_videos"]) == (["rgb", "flow"], [8])
    assert (plain["finished"], plain["evaluated"], plain["auc"]) == (1, 0, [])


def test_seeds_and_experiments_are_one_line_each(home) -> None:
    found = listed(home)
    assert len(found) == 4
    several = found["several"]
    assert (several["runs"], several["seeds"]) == (2, [0, 1])
    assert several["auc"] == [measures(home / "runs" / "several")[0]]
    compared = found["compared"]
    assert set(compared["methods"]) == {"knn", "shuffled", "position"}
    each = [measures(run.parent) for run in (home / "runs/compared").glob("*/seed-0/eval")]
    assert sorted(compared["auc"]) == sorted(auc for auc, _ in each)
    low, high = min(auc for auc, _ in each), max(auc for auc, _ in each)
    text = CliRunner().invoke(cli, ["runs", "ls", str(home / "runs")]).stdout
    (line,) = [line for line in text.splitlines() if "compared" in line]
    assert f"{low:.4f} to {high:.4f}" in line
    (line,) = [line for line in text.splitlines() if "runs/plain" in line]
    assert line.endswith("not evaluated")


def test_the_newest_comes_first(home) -> None:
    for age, name in enumerate(["several/seed-1", "knn", "plain"]):
        stamp = 2_000_000_000 - age
        os.utime(home / "runs" / name / "model.safetensors", (stamp, stamp))
    assert list(listed(home))[:3] == ["several", "knn", "plain"]


def test_unfinished_and_damaged_runs_are_told_and_no_run_is_one_line(home, tmp_path) -> None:
    runs = tmp_path / "runs"
    for name in ("killed", "damaged"):
        (runs / name).mkdir(parents=True)
        config = (home / "runs" / "plain" / "config.json").read_text()
        (runs / name / "config.json").write_text(config)
    (runs / "damaged" / "config.json").write_text(config[:-9])
    found = CliRunner().invoke(cli, ["runs", "ls", str(runs)])
    assert found.exit_code == 0, found.output
    lines = {line.split()[0]: line for line in found.stdout.splitlines()}
    assert lines[str(runs / "killed")].endswith("0 of 1 finished")
    assert f"config.json cannot be read: feat runs verify {runs}" in lines[str(runs / "damaged")]
    (tmp_path / "none").mkdir()
    none = CliRunner().invoke(cli, ["runs", "ls", str(tmp_path / "none")])
    assert none.exit_code == 1
    assert "no run there; run `feat train`" in none.stderr


def test_listing_runs_does_not_load_torch(home) -> None:
    code = (
        "import sys; from feat import cli\n"
        "try: cli(['runs', 'ls'], prog_name='feat')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], cwd=home, env=environment, check=True)
