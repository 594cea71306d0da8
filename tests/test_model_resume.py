"""A training that was killed and goes on ends where one that was not killed ends."""

import dataclasses
import json
import multiprocessing
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from marks import quick_first
from model_cache import KilledError, demo_rows, make_cache

from cache import FeatureCache
from data.errors import ModelError
from feat import cli
from model.methods.convlstm import ConvLSTMMethod
from model.methods.gather import DataOptions
from model.methods.weak.deepmil import DeepMIL
from model.network.winograd import transforms
from model.runs.checkpoint import load_checkpoint, save_checkpoint
from model.runs.folder import CHECKPOINT_NAME
from model.runs.state import STATE_NAME
from model.runs.train import resume_training, run_training
from model.runs.trained import load_run

METHOD = ConvLSTMMethod(
    hidden=4,
    head_widths=(16,),
    readout="each",
    dropout=0.3,
    steps=24,
    eval_every=4,
    learning_rate=1e-2,
    batch_size=8,
)
CHILD = """
import sys
from pathlib import Path
import torch
from cache import FeatureCache
from data.labels import read_labels
from model.runs.train import run_training
sys.path.insert(0, {tests!r})
from test_model_resume import METHOD
torch.set_num_threads(1)
cache = FeatureCache(Path(sys.argv[1]))
run_training(
    cache, read_labels(cache.labels_path), METHOD, out=Path(sys.argv[2]), save_seconds=0
)
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory):
    """The run that nobody killed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run_training(cache, demo_rows(), METHOD, out=out).run


def start(cache, out, *, die_at):
    def look(row):
        if row["step"] == die_at:
            raise KilledError

    with pytest.raises(KilledError):
        run_training(
            cache,
            demo_rows(),
            METHOD,
            out=out,
            save_seconds=0,
            on_row=look,
        )


def resume(cache, run, **how):
    return resume_training(cache, run, options=DataOptions(), **how)


def check_same(run: Path, whole: Path) -> None:
    one, two = (load_checkpoint(path) for path in (run, whole))
    assert one.parameters.keys() == two.parameters.keys()
    assert all(np.array_equal(one.parameters[n], two.parameters[n]) for n in two.parameters)
    assert one.info.to_dict() == two.info.to_dict()
    assert (run / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}


@pytest.mark.parametrize("die_at", quick_first([4, 16]))
def test_going_on_gives_the_result_of_no_kill(cache, whole, tmp_path, die_at):
    start(cache, tmp_path / "run", die_at=die_at)
    log = tmp_path / "run" / "metrics.jsonl"
    # what a loss of power leaves, and a row the kill cut short
    log.write_bytes(log.read_bytes() + b"\0\0\0\n[1]\n\xff\n" + b'{"step": 2')
    report = resume(cache, tmp_path / "run")
    assert report.info.result["steps"] == 24
    check_same(report.run, whole)


def test_it_goes_on_and_does_not_start_again(cache, tmp_path):
    start(cache, tmp_path / "run", die_at=16)
    steps = []
    resume(cache, tmp_path / "run", on_row=lambda row: steps.append(row["step"]))
    assert steps == [16, 20, 24]


def test_a_finished_run_cannot_be_resumed(cache, whole):
    with pytest.raises(ModelError, match="the training there is finished"):
        resume(cache, whole)


def test_a_damaged_state_is_refused_in_one_line(cache, tmp_path):
    start(cache, tmp_path / "run", die_at=8)
    path = tmp_path / "run" / STATE_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"resume\.safetensors: cannot go on.*remove this file"):
        resume(cache, tmp_path / "run")


@pytest.mark.parametrize(
    ("before", "after", "named"),
    [
        ("bad/1.mp4,train", "bad/1.mp4,test", r"train_videos.*labels"),
        ("80:128", "80:120", "labels"),  # the same videos, other frames
    ],
)
def test_other_labels_than_at_the_start_are_refused(cache, tmp_path, before, after, named):
    start(cache, tmp_path / "run", die_at=8)
    labels = tmp_path / "run" / "labels.csv"
    assert before in labels.read_text()
    labels.write_text(labels.read_text().replace(before, after))
    with pytest.raises(ModelError, match=f"started with other .*{named}"):
        resume(cache, tmp_path / "run")


@pytest.mark.slow
def test_sigkill_at_any_moment_changes_nothing(cache, whole, tmp_path):
    run = tmp_path / "run"
    code = CHILD.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-c", code, str(cache.path), str(run)]
    child = subprocess.Popen(command, env=environment)
    log = run / "metrics.jsonl"
    while child.poll() is None and not (log.exists() and log.read_text().count("\n") >= 2):
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert [json.loads(row)["step"] for row in log.read_text().splitlines()[:2]] == [4, 8]
    check_same(resume(cache, run).run, whole)


def test_kills_while_a_checkpoint_is_written_leave_nothing_that_the_next_does_not_remove(
    whole, tmp_path
):
    checkpoint = load_checkpoint(whole)

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # death, in the middle of the file
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        save_checkpoint(tmp_path, checkpoint)

    path = tmp_path / CHECKPOINT_NAME
    for _ in range(2):
        child = multiprocessing.get_context("fork").Process(target=save)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGXFSZ
        assert not path.exists()
        assert len(list(tmp_path.iterdir())) == 1  # what it had written; a dead one's is removed
    save_checkpoint(tmp_path, checkpoint)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["train"], "`feat train --resume {out}` goes on"),
        (["train", "--seeds", "2"], "`feat train --resume {out}` goes on"),
        (["compare", "--methods", "convlstm"], "the same command with --out {out} goes on"),
    ],
)
def test_ctrl_c_says_how_to_go_on(cache, tmp_path, monkeypatch, arguments, advice):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ConvLSTMMethod, "fit", interrupt)
    out = tmp_path / "out"
    command = [*arguments, "--cache", str(cache.path), "--out", str(out), "--preset", "default"]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 130
    last = result.stderr.strip().splitlines()[-1]
    assert (
        last == f"interrupted: what is finished is kept in {out}; {advice.format(out=out)} with it"
    )


@pytest.mark.parametrize("seeds", [(), ("--seeds", "1")])
def test_what_ctrl_c_says_goes_on_from_the_cache_of_the_run(cache, tmp_path, monkeypatch, seeds):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)  # where no ./features is
    command = ["train", "--cache", str(cache.path), "--out", "my run", "--method", "deepmil"]
    with monkeypatch.context() as patched:
        patched.setattr(DeepMIL, "fit", interrupt)
        stopped = CliRunner().invoke(cli, [*command, "--set", "steps=2", *seeds])
    _, said, _ = stopped.stderr.rsplit("`", 2)
    again = CliRunner().invoke(cli, shlex.split(said)[1:])
    assert again.exit_code == 0, again.stderr
    assert load_run(Path("my run")).checkpoints[0].info.cache == str(cache.path)


@pytest.mark.parametrize("option", [("--false-alarms", "3"), ("--set", "steps=9"), ("--seed", "1")])
def test_what_a_killed_training_has_settled_is_refused_beside_resume(tmp_path, option):
    found = CliRunner().invoke(cli, ["train", "--resume", str(tmp_path), *option])
    assert found.exit_code == 2
    assert f"{option[0]} beside --resume" in found.stderr


@pytest.mark.slow
def test_a_kill_while_the_state_is_written_leaves_nothing_in_a_finished_run(
    cache, whole, tmp_path
) -> None:
    run = tmp_path / "run"
    start(cache, run, die_at=8)
    (run / f".tmp-{STATE_NAME}").write_bytes(b"half")
    check_same(resume_training(cache, run, options=DataOptions()).run, whole)


@pytest.mark.slow
def test_a_training_killed_in_its_refit_goes_on(cache, tmp_path, monkeypatch) -> None:
    """Nothing is trained before the refit then, only scored."""
    method = dataclasses.replace(METHOD, refit=True)
    options = {"labels": demo_rows(), "method": method}
    whole = run_training(cache, **options, out=tmp_path / "whole").run
    with monkeypatch.context() as patch:
        patch.setattr(ConvLSTMMethod, "_refit", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            run_training(cache, **options, out=tmp_path / "killed", save_seconds=0)
    transforms.cache_clear()  # as in a process of its own
    run = resume_training(cache, tmp_path / "killed", options=DataOptions()).run
    for name, found in load_checkpoint(run).parameters.items():
        np.testing.assert_array_equal(found, load_checkpoint(whole).parameters[name])
