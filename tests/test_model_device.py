"""Which device `auto` takes."""

import json

import pytest
import torch
from model_cache import demo_rows, make_cache

from bench.bench_train import make_data
from data.errors import ModelError
from model.device import GPU_START_SECONDS, resolve_device
from model.methods.base import Material
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import choose_method
from model.runs.train import run_training

TINY = {"hidden": 4, "head_widths": [16], "batch_size": 8, "steps": 8, "eval_every": 4}


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(train=make_data(videos=4, clips=32, dim=256), val=None)


def seconds(material: Material, method: str, preset: str = "default", **changes) -> float:
    chosen = choose_method(method, preset).changed(changes)
    return chosen.suited_to(clip_len=16, has_motion=False).cpu_seconds(material)


def test_seconds_grow_with_steps_windows_and_weights(material):
    one = seconds(material, "convlstm", "paper", steps=100)
    assert seconds(material, "convlstm", "paper", steps=200) == 2 * one
    assert seconds(material, "convlstm", "paper", steps=100, batch_size=120) > one
    assert seconds(material, "convlstm", "paper", steps=100, hidden=256) > one
    both = Material(train=material.train, val=None, whole=lambda: material)
    assert seconds(both, "convlstm") == 2 * seconds(material, "convlstm")  # it fits again
    assert seconds(material, "ar-net", steps=40) == 2 * seconds(material, "ar-net", steps=20)


@pytest.mark.parametrize("method", ["knn", "gmm", "logistic", "autoencoder"])
def test_what_computes_elsewhere_starts_no_gpu(material, method):
    assert seconds(material, method) == 0.0
    assert resolve_device("auto", cpu_seconds=0.0) == "cpu"


def test_long_trainings_pay_for_a_gpu_and_short_ones_do_not(material):
    for preset in ("paper", "released"):
        assert seconds(material, "convlstm", preset) > GPU_START_SECONDS
    assert seconds(material, "convlstm", **TINY) < GPU_START_SECONDS


def test_names_are_taken_literally():
    assert resolve_device("cpu", cpu_seconds=1e18) == "cpu"
    with pytest.raises(ModelError, match="device 'gpu0' is unknown"):
        resolve_device("gpu0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_auto_is_the_cpu():
    assert resolve_device("auto") == resolve_device("auto", cpu_seconds=1e18) == "cpu"
    with pytest.raises(ModelError, match="no CUDA device; use --device cpu"):
        resolve_device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_training_takes_what_is_faster_for_it_and_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    cache = make_cache(tmp_path / "features", demo_rows())
    tiny = ConvLSTMMethod(**TINY)
    long = tiny.changed({"steps": 10**9, "patience": 1})  # which stops early
    for method, device in ((tiny, "cpu"), (long, "cuda")):
        run = run_training(cache, demo_rows(), method, out=tmp_path / device).run
        assert json.loads((run / "environment.json").read_text())["device"] == device
        assert f"device auto: {device}, for a training of about" in caplog.text
