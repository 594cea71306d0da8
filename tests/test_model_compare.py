"""`feat compare` and `feat train --method`: resumption, refusals, the table, the intervals."""

import csv
import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from model_cache import demo_rows, make_cache
from sklearn.metrics import average_precision_score, roc_auc_score

from cache import FeatureCache
from data.errors import ConfigError, ModelError
from feat import cli
from model.commands.compare import compare_command
from model.commands.eval import eval_command
from model.commands.train import train_command
from model.evaluation.results import read_results
from model.experiments.compare import run_comparison
from model.experiments.compare_table import to_markdown
from model.experiments.folder import Terms
from model.measures.bootstrap import MEASURES, bootstrap_intervals
from model.measures.metrics import VideoResult, compute_metrics
from model.methods.convlstm import ConvLSTMMethod
from model.methods.gather import DataOptions
from model.methods.registry import choose_method
from model.runs.folder import CHECKPOINT_NAME

SMALL = ConvLSTMMethod(
    hidden=4, layers=1, head_widths=(32,), readout="each", steps=20, eval_every=20,
    learning_rate=1e-2, batch_size=24,
)  # fmt: skip
TERMS = Terms(device="cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


def compare(cache, out, names, *, rows=None, seeds=2, terms=TERMS, done=None, convlstm=SMALL):
    methods = [convlstm if name == "convlstm" else choose_method(name) for name in names]
    return run_comparison(
        cache, rows or demo_rows(), methods, seeds=seeds, out=out, terms=terms,
        on_run=lambda method, seed, auc: done.append((method, seed)) if done is not None else None,
    )  # fmt: skip


def checkpoints(out: Path) -> dict[str, int]:
    return {
        path.parent.relative_to(out).as_posix(): path.stat().st_mtime_ns
        for path in out.glob("*/*/*.safetensors")
    }


def test_one_table_of_everything_asked_for(cache, tmp_path):
    done = []
    found = compare(cache, tmp_path / "c", ["knn", "logistic", "convlstm", "shuffled"], done=done)
    assert [(row.method, row.supervision, row.seeds) for row in found.rows] == [
        ("logistic", "fully", 1),  # it draws nothing
        ("convlstm", "fully", 2),
        ("shuffled", "fully", 2),
        ("knn", "unsupervised", 2),
    ]
    assert done == [
        ("logistic", 0),
        *[(m, s) for m in ("convlstm", "shuffled", "knn") for s in (0, 1)],
    ]
    assert (found.num_test_videos, found.num_test_frames) == (4, 640)
    for row in found.rows:
        per_seed = [
            json.loads((tmp_path / "c" / row.method / f"seed-{s}/eval/metrics.json").read_text())
            for s in range(row.seeds)
        ]
        assert row.values["auc"] == pytest.approx(np.mean([run["auc"] for run in per_seed]))
        interval = row.intervals["auc"]
        assert interval.low <= row.values["auc"] <= interval.high
    convlstm, shuffled = found.rows[1], found.rows[2]
    assert convlstm.values["accuracy_video"] is not None
    assert shuffled.values["accuracy_video"] is None
    assert shuffled.intervals["auc"].low < 0.5 < shuffled.intervals["auc"].high
    lines = to_markdown(found).splitlines()
    assert lines[0].startswith("| method | supervision | seeds | AUC | 95% interval |")
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert "4 test videos, 640 frames; features rgb + flow" in lines[-1]
    for column in ("false alarms", "false alarms an hour"):
        assert (f"| {column} |" in lines[0]) == (f"; {column}: " in lines[-1]), column


def test_going_on_trains_only_what_is_missing(cache, tmp_path):
    out = tmp_path / "c"
    first = compare(cache, out, ["knn", "position"])
    before = checkpoints(out)
    assert set(before) == {"knn/seed-0", "knn/seed-1", "position/seed-0"}
    again = compare(cache, out, ["knn", "position"])
    assert checkpoints(out) == before
    assert again.to_dict() == first.to_dict()
    compare(cache, out, ["knn", "gmm"], seeds=3)
    after = checkpoints(out)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"knn/seed-2", "gmm/seed-0", "gmm/seed-1", "gmm/seed-2"}


@pytest.mark.parametrize(
    "left", ["nothing but a folder", "half a training", "a checkpoint", "an evaluation"]
)
def test_an_interrupted_run_is_done_again(cache, tmp_path, left):
    out = tmp_path / "c"
    first = compare(cache, out, ["knn"])
    run = out / "knn" / "seed-1"
    (run / "done.json").unlink()
    if left != "an evaluation":
        (run / "eval" / "metrics.json").unlink()
    if left == "half a training":
        (run / CHECKPOINT_NAME).unlink()
    if left == "nothing but a folder":
        shutil.rmtree(run)
        run.mkdir()
    kept = (out / "knn" / "seed-0" / CHECKPOINT_NAME).stat().st_mtime_ns
    again = compare(cache, out, ["knn"])
    assert (out / "knn" / "seed-0" / CHECKPOINT_NAME).stat().st_mtime_ns == kept
    assert again.rows[0].values == first.rows[0].values
    assert again.rows[0].intervals == first.rows[0].intervals


def test_other_terms_are_refused(cache, tmp_path):
    out = tmp_path / "c"
    compare(cache, out, ["position", "convlstm"], seeds=1)
    moved = [replace(demo_rows()[0], intervals=((0, 16),)), *demo_rows()[1:]]
    with pytest.raises(ConfigError, match="a comparison with other labels"):
        compare(cache, out, ["position"], rows=moved)
    with pytest.raises(ConfigError, match="a comparison with other features"):
        compare(cache, out, ["position"], terms=Terms(options=DataOptions(streams=("rgb",))))
    longer = replace(SMALL, steps=21)
    with pytest.raises(ConfigError, match="a comparison with other settings of convlstm"):
        compare(cache, out, ["convlstm"], convlstm=longer)
    compare(cache, out, ["position"], convlstm=longer)
    with pytest.raises(ConfigError, match="method 'svm' is unknown"):
        compare(cache, out, ["svm"])


def test_a_folder_of_something_else_is_left_alone(cache, tmp_path):
    (tmp_path / "photos" / "knn" / "seed-0").mkdir(parents=True)
    (tmp_path / "photos" / "knn" / "seed-0" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ModelError, match="neither empty nor a comparison"):
        compare(cache, tmp_path / "photos", ["knn"])
    assert (tmp_path / "photos" / "knn" / "seed-0" / "cat.jpg").read_bytes() == b"cat"


def test_damaged_results_are_named(cache, tmp_path):
    out = tmp_path / "c"
    compare(cache, out, ["position"])
    scores = out / "position" / "seed-0" / "eval" / "scores.npz"
    scores.write_bytes(scores.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"position/seed-0: its results cannot be read"):
        compare(cache, out, ["position"])


# --- intervals --------------------------------------------------------------------------------


def random_results(rng: np.random.Generator, num_videos: int) -> list[VideoResult]:
    results = []
    for index in range(num_videos):
        length = int(rng.integers(1, 30))
        labels = (rng.random(length) < rng.choice([0.0, 0.4, 1.0])).astype(np.uint8)
        scores = rng.integers(0, 6, length) / 6  # many ties
        results.append(VideoResult(video=f"v{index}", scores=scores, labels=labels))
    return results


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_measures_of_a_drawn_set_are_those_of_the_repeated_videos(seed, num_videos):
    from model.measures.bootstrap import _Table

    rng = np.random.default_rng(seed)
    results = random_results(rng, num_videos)
    weights = rng.integers(0, 4, num_videos)
    found = dict(zip(MEASURES, _Table.of(results).measure(weights, MEASURES), strict=True))
    drawn = [results[video] for video in np.repeat(np.arange(num_videos), weights)]
    labels = np.concatenate([np.zeros(0, np.uint8), *[r.labels for r in drawn]])
    scores = np.concatenate([np.zeros(0), *[r.scores for r in drawn]])
    if len(np.unique(labels)) == 2:
        assert found["auc"] == pytest.approx(roc_auc_score(labels, scores))
        assert found["ap"] == pytest.approx(average_precision_score(labels, scores))
    else:
        assert np.isnan(found["auc"])
    expected = compute_metrics(drawn, ()).values
    for name in ("auc_abnormal", "auc_macro", "far"):
        if expected[name] is None:
            assert np.isnan(found[name])
        else:
            assert found[name] == pytest.approx(expected[name])


@pytest.mark.slow
def test_an_interval_is_as_wide_as_other_test_sets_would_differ():
    """Against the spread over 150 fresh test sets from the same source."""
    rng = np.random.default_rng(0)

    def draw(count: int) -> list[VideoResult]:
        results = []
        for index in range(count):
            labels = np.repeat(np.array([0, index % 2], np.uint8), 20)
            scores = rng.normal(labels * 1.0 + rng.normal(0, 1), 0.3)
            results.append(
                VideoResult(video=str(index), scores=1 / (1 + np.exp(-scores)), labels=labels)
            )
        return results

    aucs = []
    for _ in range(150):
        fresh = draw(40)
        aucs.append(
            roc_auc_score(
                *(np.concatenate([getattr(v, n) for v in fresh]) for n in ("labels", "scores"))
            )
        )
    widths = []
    for _ in range(5):
        interval = bootstrap_intervals([draw(40)], measures=("auc",), num_resamples=200)["auc"]
        widths.append(interval.high - interval.low)
    expected = np.subtract(*np.quantile(aucs, [0.975, 0.025]))
    assert 0.7 * expected < np.mean(widths) < 1.4 * expected


def test_seeds_that_differ_widen_the_interval():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array([0, 1], np.uint8), 20)
    runs = [
        [
            VideoResult(video=str(v), scores=rng.random(40) / 2 + labels * shift, labels=labels)
            for v in range(10)
        ]
        for shift in (0.0, 0.5)
    ]
    both = bootstrap_intervals(runs, measures=("auc",))["auc"]
    one = bootstrap_intervals(runs[:1], measures=("auc",))["auc"]
    assert both.high - both.low > 3 * (one.high - one.low)
    assert both.high == 1.0


def test_undefined_measures_have_no_interval():
    results = [VideoResult(video="v", scores=np.ones(5), labels=np.zeros(5, np.uint8))]
    weak = [VideoResult(video="v", scores=np.ones(5), labels=None)]
    assert bootstrap_intervals([results], measures=("auc", "far"))["auc"] is None
    assert bootstrap_intervals([results], measures=("auc", "far"))["far"].low == 1.0
    assert set(bootstrap_intervals([weak]).values()) == {None}
    with pytest.raises(ValueError, match="not of the same videos"):
        bootstrap_intervals([results, [replace(results[0], video="w")]])


# --- as a user types them ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    make_cache(folder / "features", demo_rows())
    return folder


def feat(command, *arguments: str, cwd: Path):
    before = Path.cwd()
    os.chdir(cwd)
    try:
        return CliRunner().invoke(command, arguments)
    finally:
        os.chdir(before)


def test_compare_prints_a_table_and_writes_its_digits(folder, caplog):
    caplog.set_level("INFO", "feat")
    arguments = ["--methods", "position,knn", "--seeds", "2", "--csv", "table.csv"]
    done = feat(compare_command, *arguments, cwd=folder)
    assert done.exit_code == 0, done.output
    assert "| position | fully | 1 |" in done.stdout
    assert "knn, seed 1: AUC " in caplog.text
    again = feat(compare_command, *arguments, "--json", cwd=folder)
    rows = json.loads(again.stdout)["rows"]
    with (folder / "table.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [float(row["auc"]) for row in written] == [row["auc"] for row in rows]
    assert [row["supervision"] for row in rows] == ["fully", "unsupervised"]


def test_compare_looks_at_its_table_before_it_trains(folder):
    labels = (folder / "features" / "labels.csv").read_bytes()
    (folder / "file").write_text("")
    for name, words in {
        "features/labels.csv": "is read here and would be written over; name another file",
        "file/x.csv": "file: a file, expected a folder; name another place to write",
    }.items():
        refused = feat(
            cli, "compare", "--methods", "position", "--csv", name, "--out", "no", cwd=folder
        )
        assert refused.exit_code == 1
        assert words in refused.stderr
        assert not (folder / "no").exists()
    assert (folder / "features" / "labels.csv").read_bytes() == labels


def test_compare_prints_the_table_that_it_cannot_write(folder, monkeypatch):
    def refuse(path, comparison):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("model.experiments.compare_plot.draw_comparison", refuse)
    failed = feat(cli, "compare", "--methods", "position", "--out", "full", cwd=folder)
    assert failed.exit_code == 1
    assert "No space left on device" in failed.stderr
    assert "| position | fully | 1 |" in failed.stdout


def test_train_a_method_then_eval_needs_no_more_arguments(folder):
    done = feat(train_command, "--method", "knn", "--json", cwd=folder)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["method"], report["supervision"], report["num_train_videos"]) == (
        "knn", "unsupervised", 4,
    )  # fmt: skip
    found = json.loads(feat(eval_command, "--json", cwd=folder).stdout)
    assert found["run"] == report["run"]
    assert found["protocol"].startswith("knn, unsupervised (features, no labels, of 4 normal")
    assert (folder / found["report"]).is_file()
    scores = read_results(folder / report["run"] / "eval")
    assert compute_metrics(scores, ()).values["auc"] == pytest.approx(found["auc"])
    shown = feat(train_command, "--method", "position", cwd=folder).stdout
    assert shown.startswith("position (fully supervised) fitted to 8 videos of rgb + flow")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "hidden=8"], "knn has no setting hidden; it has smoothing, num_components,"),
        (["--set", "num_neighbors=8"], "no setting num_neighbors; did you mean num_neighbours"),
        (["--preset", "paper"], "knn has no preset 'paper'; it has default"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(folder, arguments, message):
    done = feat(cli, "train", "--method", "knn", "--out", "refused", *arguments, cwd=folder)
    assert done.exit_code == 1
    assert message in done.stderr
    assert not (folder / "refused").exists()
