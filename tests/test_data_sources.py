"""The source of labels on its way from a dataset's file into a report."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from model_cache import SMALLEST, demo_rows, make_cache

from cache.labels import LabelsFrom, add_labels
from data.labels import read_labels
from feat import cli
from model.evaluation.evaluate import run_evaluation
from model.runs.checkpoint import load_checkpoint
from model.runs.train import run_training

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_dataset_writes_file_and_digest(tmp_path):
    for part, count in (("Train", 2), ("Test", 1)):
        for clip in range(count):
            folder = tmp_path / part / f"{part}00{clip + 1}"
            folder.mkdir(parents=True)
            (folder / "001.tif").write_bytes(folder.name.encode())  # no copies
    text = b"TestVideoFile{end+1}.gt_frame = [1:1];\n"
    (tmp_path / "Test/UCSDped2.m").write_bytes(text)
    out = tmp_path / "labels.csv"
    arguments = ["data", "ped2", "--root", str(tmp_path), "--out", str(out), "--partial"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    expected = f"ped2 UCSDped2.m {hashlib.sha256(text).hexdigest()[:12]}"
    assert {row.source for row in read_labels(out)} == {expected}
    split = tmp_path / "new.csv"
    arguments = ["data", "split", "--labels", str(out), "--out", str(split)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert {row.source for row in read_labels(split)} == {expected}


def test_labels_of_several_files_have_one_digest(tmp_path):
    """That of the lines `sha256sum` prints for them, by name, with one blank."""
    (tmp_path / "test_frame_mask").mkdir()
    masks = {f"01_000{n}": np.arange(20) // 10 * (n - 1) for n in (2, 1)}
    for name, mask in masks.items():
        np.save(tmp_path / "test_frame_mask" / f"{name}.npy", mask.astype(np.int8))
    out = tmp_path / "labels.csv"
    arguments = ["data", "shanghaitech", "--root", str(tmp_path), "--split", "one-class"]
    arguments += ["--out", str(out), "--partial"]
    said = []
    for _ in range(2):
        done = CliRunner().invoke(cli, arguments)
        assert done.exit_code == 0, done.output
        said.append({row.source for row in read_labels(out)})
        (tmp_path / "test_frame_mask/01_0001.npy").write_bytes(
            (tmp_path / "test_frame_mask/01_0002.npy").read_bytes()
        )
    names = sorted((tmp_path / "test_frame_mask").iterdir())
    lines = "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}\n" for path in names
    )
    assert said[1] == {f"shanghaitech 2 files {hashlib.sha256(lines.encode()).hexdigest()[:12]}"}
    assert said[0] != said[1]


def test_a_run_and_its_report_tell_the_sources(tmp_path):
    rows = demo_rows()
    cache = make_cache(tmp_path / "features", rows)
    text = (tmp_path / "features/labels.csv").read_text().splitlines()
    assert "source" not in text[0]  # labels of old have none
    sourced = [f"{line},Ann & Bob 2024" for line in text[1:]]
    (tmp_path / "labels.csv").write_text("\n".join([f"{text[0]},source", *sourced]) + "\n")
    labels = read_labels(tmp_path / "labels.csv")
    run = run_training(cache, labels, SMALLEST, runs=tmp_path / "runs").run
    seen = {"intervals of Ann & Bob 2024": 4, "video labels of Ann & Bob 2024": 4}
    assert load_checkpoint(run).info.label_sources == seen
    assert json.loads((run / "config.json").read_text())["label_sources"] == seen
    report = run_evaluation(run, cache, rows)
    unknown = {"intervals of unknown source": 2, "video labels of unknown source": 2}
    metrics = json.loads((run / "eval/metrics.json").read_text())
    assert metrics["label_sources"] == {"seen": seen, "test": unknown}
    assert (
        "seen videos: 4 with intervals and 4 with video labels of Ann & Bob 2024;"
        in report.protocol
    )
    assert (
        "test videos: 2 with intervals and 2 with video labels of unknown source" in report.protocol
    )
    page = (run / "eval/report.html").read_text()
    assert "4 with intervals and 4 with video labels of Ann &amp; Bob 2024" in page
    assert "2 with intervals and 2 with video labels of unknown source" in page


def test_a_source_is_added_to_a_cache_and_contradicts_nothing(tmp_path):
    rows = demo_rows()
    cache = make_cache(tmp_path / "features", rows)
    ann = LabelsFrom("ann.csv", [replace(row, source="Ann") for row in rows])
    assert add_labels(cache, ann) == len(rows)
    assert {row.source for row in read_labels(cache.labels_path)} == {"Ann"}
    bob = LabelsFrom("bob.csv", [replace(row, source="Bob") for row in rows])
    assert add_labels(cache, bob) == 0
    assert add_labels(cache, LabelsFrom("old.csv", rows)) == 0
    assert {row.source for row in read_labels(cache.labels_path)} == {"Ann"}
