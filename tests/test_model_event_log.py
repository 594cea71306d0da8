"""TensorBoard's log, read back with TensorBoard: what is in it, and what a kill leaves of it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from marks import quick_first
from model_cache import KilledError, demo_rows, make_cache
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from cache import FeatureCache
from data.errors import ModelError
from model.methods.convlstm import ConvLSTMMethod
from model.methods.gather import DataOptions
from model.runs.train import resume_training, run_training

METHOD = ConvLSTMMethod(
    hidden=4,
    head_widths=(16, 8),
    readout="each",
    steps=24,
    eval_every=4,
    learning_rate=1e-2,
    batch_size=8,
)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


@pytest.fixture(scope="module")
def whole(cache, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run_training(cache, demo_rows(), METHOD, out=out).run


def read(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    return events.Reload()


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = read(run)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_losses_and_measures_lie_at_their_steps(whole):
    found = scalars(whole)
    assert set(found) == {
        *(f"train/{name}" for name in ("loss", "category_loss", "score_loss")),
        *(f"val/{n}" for n in ("loss", "category_loss", "score_loss", "auc", "ap", "accuracy")),
    }
    rows = metrics(whole)
    assert [row["step"] for row in rows] == [4, 8, 12, 16, 20, 24]
    for tag, name in (("train/loss", "loss"), ("val/auc", "val_auc")):
        assert found[tag] == [(row["step"], pytest.approx(row[name])) for row in rows]


def test_settings_are_there_once(whole):
    summaries = [
        value
        for path in (whole / "tensorboard").iterdir()
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "_hparams_/session_start_info"
    ]
    assert len(summaries) == 1
    data = HParamsPluginData.FromString(summaries[0].metadata.plugin_data.content)
    settings = data.session_start_info.hparams
    assert settings["learning_rate"].number_value == 0.01
    assert settings["head_widths"].string_value == "16 8"
    assert settings["refit"].bool_value is False
    assert settings["method"].string_value == "convlstm"
    assert settings["streams"].string_value == "rgb + flow"


def test_the_selected_network_has_its_curve(whole):
    events = read(whole)
    (curve,) = events.Tensors("val/frames")
    best = max(metrics(whole), key=lambda row: -row["val_score_loss"])
    assert curve.step == best["step"]
    assert {event.step for event in events.Histograms("val/score_abnormal")} == {best["step"]}


@pytest.mark.parametrize("saved", quick_first([True, False]))
def test_a_killed_training_leaves_no_step_twice_and_none_out(cache, whole, tmp_path, saved):
    out = tmp_path / "run"

    def die(row):
        if row["step"] == 16:
            raise KilledError

    with pytest.raises(KilledError):
        run_training(
            cache, demo_rows(), METHOD, out=out, save_seconds=0 if saved else 1e9, on_row=die
        )
    assert [step for step, _ in scalars(out)["train/loss"]] == [4, 8, 12, 16]
    (log,) = (out / "tensorboard").iterdir()
    log.write_bytes(log.read_bytes()[:-7])  # a record the kill cut short
    resume_training(cache, out, options=DataOptions())
    assert scalars(out) == scalars(whole)
    raw = [
        event.step
        for path in (out / "tensorboard").iterdir()
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if value.tag == "train/loss"
    ]
    assert raw == [4, 8, 12, 16, 20, 24]  # even for a reader that knows nothing of purging


def test_a_training_without_validation_is_logged_too(cache, tmp_path):
    method = replace(METHOD, val_fraction=0.0, steps=8)
    run = run_training(cache, demo_rows(), method, runs=tmp_path).run
    assert set(scalars(run)) == {"train/loss", "train/category_loss", "train/score_loss"}


def leave_free(disk: Path, size: int) -> None:
    """Fill a disk but for so many bytes."""
    (disk / "full").unlink(missing_ok=True)
    (disk / "full").write_bytes(bytes(shutil.disk_usage(disk).free - size))


def test_a_full_disk_is_told_with_the_file_and_the_training_goes_on(
    cache, small_disk, caplog, capfd
):
    """As it becomes full in `metrics.jsonl`, and behind TensorBoard's log in the checkpoint."""
    leave_free(small_disk, 3 * 4096)
    with pytest.raises(ModelError, match=r"metrics\.jsonl: cannot be written: No space.*make room"):
        run_training(cache, demo_rows(), METHOD, out=small_disk / "one")
    leave_free(small_disk, 8 * 4096)
    run = small_disk / "two"
    with pytest.raises(ModelError, match=r"(model|resume)\.safetensors: cannot be written: No sp"):
        run_training(cache, demo_rows(), METHOD, out=run)
    assert caplog.text.count("the disk is full; steps are left out of this log") == 1
    assert "Traceback" not in capfd.readouterr().err
    (small_disk / "full").unlink()
    resume_training(cache, run, options=DataOptions())
    assert [step for step, _ in scalars(run)["train/loss"]] == [4, 8, 12, 16, 20, 24]


WITHOUT = """
import sys
sys.modules["tensorboard"] = None  # as where it is not installed
from feat import cli
for run in ("one", "two"):
    cli(["train", "--cache", sys.argv[1], "--out", run, *sys.argv[2:]], standalone_mode=False)
"""


@pytest.mark.slow
def test_without_tensorboard_training_says_so_once_and_goes_on(cache, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, cache.path, "--set", "steps=2", "--set", "hidden=4"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pip install tensorboard") == 1
    for run in ("one", "two"):
        assert (tmp_path / run / "metrics.jsonl").exists()
        assert not (tmp_path / run / "tensorboard").exists()
