"""`feat train` and `feat eval` as a user types them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from file_modes import as_a_user
from model_cache import add_video, demo_rows, make_cache

from cache import FeatureCache
from feat import cli
from model.measures.table import HEADLINE
from model.methods.registry import METHODS
from model.runs.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


QUICK = settings("hidden=8", "learning_rate=0.02", "batch_size=24", "steps=20")
SHORTEST = (*QUICK, *settings("steps=1"))

pytestmark = pytest.mark.usefixtures("one_thread")


def feat(*arguments: str, cwd: Path) -> Result:
    before = Path.cwd()
    os.chdir(cwd)
    try:
        return CliRunner().invoke(cli, arguments)
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where a user has extracted: ./features with labels.csv in it."""
    folder = tmp_path_factory.mktemp("user")
    make_cache(folder / "features", demo_rows())
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> Result:
    return feat("train", *QUICK, cwd=folder)


def test_train_then_eval_need_no_arguments_but_the_cache(folder, trained):
    assert trained.exit_code == 0, trained.stderr
    assert "run: runs/" in trained.stdout
    assert "step 20 of at most 20: loss" in trained.stderr
    done = feat("eval", cwd=folder)
    assert done.exit_code == 0, done.stderr
    report = done.stdout.split()[-1]
    assert (folder / report).is_file()


def test_a_run_that_may_only_be_read_is_evaluated_elsewhere(folder, trained, tmp_path):
    assert feat("eval", cwd=folder).exit_code == 0
    (run,) = (path for path in (folder / "runs").iterdir() if path.name in trained.stdout)
    theirs = tmp_path / "theirs"
    shutil.copytree(run, theirs)
    shutil.rmtree(theirs / "eval")
    (theirs / "eval").write_text("in the way, as a mode is for those who are not root")
    command = ["eval", "--run", str(theirs), "--json"]
    refused = feat(*command, cwd=folder)
    assert refused.exit_code == 1
    assert refused.stderr.splitlines()[-1] == (
        f"error: {theirs}/eval: a file, expected a folder; --out FOLDER keeps the evaluation "
        "elsewhere"
    )
    before = sorted(theirs.rglob("*"))
    out = tmp_path / "new" / "mine"
    for _ in range(2):
        done = feat(*command, "--out", str(out), cwd=folder)
        assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["report"] == str(out / "report.html")
    assert sorted(theirs.rglob("*")) == before
    for name in ("scores.npz", "videos.csv", "labels.csv"):
        assert (out / name).read_bytes() == (run / "eval" / name).read_bytes()
    labels = folder / "features" / "labels.csv"
    refused = feat(*command, "--out", str(labels.parent), cwd=folder)
    assert refused.exit_code == 1
    assert "neither empty nor an evaluation" in refused.stderr


def test_a_folder_without_permission_is_told_before_anything_is_scored(folder, trained, tmp_path):
    (run,) = (path for path in (folder / "runs").iterdir() if path.name in trained.stdout)
    theirs = tmp_path / "theirs"
    shutil.copytree(run, theirs, ignore=shutil.ignore_patterns("eval"))
    theirs.chmod(0o555)
    feat_as_a_user = [*as_a_user(), sys.executable, str(ROOT / "feat.py")]
    for command, place, advice in (
        (["eval", "--run"], f"{theirs}/eval", "--out FOLDER keeps the evaluation elsewhere"),
        (["threshold"], theirs, "copy the run to a folder of your own first"),
    ):
        arguments = [*feat_as_a_user, *command, str(theirs)]
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 1
        assert done.stderr == (
            f"error: {place}: cannot be written: Permission denied; no permission: ask the owner, "
            f"or choose a folder of your own; {advice}\n"
        )
    theirs.chmod(0o755)


def test_several_seeds_are_evaluated_elsewhere(folder, tmp_path):
    trained = feat("train", "--method", "knn", "--seeds", "2", "--out", "two", cwd=folder)
    assert trained.exit_code == 0, trained.output
    before = sorted((folder / "two").rglob("*"))
    for _ in range(2):
        done = feat("eval", "--run", "two", "--out", str(tmp_path / "out"), cwd=folder)
        assert done.exit_code == 0, done.output
    assert sorted((folder / "two").rglob("*")) == before
    found = sorted(path.relative_to(tmp_path / "out") for path in tmp_path.rglob("metrics.json"))
    assert list(map(str, found)) == ["metrics.json", "seed-0/metrics.json", "seed-1/metrics.json"]


def test_the_files_of_a_run_are_those_of_the_page_about_evaluation(folder, trained, monkeypatch):
    assert feat("eval", cwd=folder).exit_code == 0
    (run,) = (path for path in (folder / "runs").iterdir() if path.name in trained.stdout)
    page = (ROOT / "docs" / "EVALUATION.md").read_text("utf-8")
    for path in (path for path in run.rglob("*") if path.is_file()):
        inner, *deeper = path.relative_to(run).parts
        named = f"{inner}/" if inner == "tensorboard" else "/".join([inner, *deeper])
        assert f"`{re.sub(r'scores/.*csv', 'scores/<video>.csv', named)}`" in page, path
    (code,) = (text for text in re.findall(r"```python\n(.*?)```", page, re.S) if "npz" in text)
    monkeypatch.chdir(run)
    exec(code, found := {})
    rows = (run / "eval" / "videos.csv").read_text("utf-8").splitlines()[1:]
    assert {name: len(part) for name, part in found["scores"].items()} == {
        row.split(",")[0]: int(row.split(",")[1]) for row in rows
    }


def test_eval_prints_the_main_figures_with_their_columns_and_all_of_them_if_asked(folder, trained):
    values = json.loads(feat("eval", "--json", cwd=folder).stdout)

    def shown(*options: str) -> list[str]:
        head, *lines = feat("eval", *options, cwd=folder).stdout.splitlines()
        assert head.split() == ["measure", "value", "95%", "interval", "what", "it", "is"]
        return lines

    lines = shown()
    low, high = values["intervals"]["auc"]
    assert lines[0].split()[:5] == [
        "auc",
        f"{values['auc']:.4f}",
        f"{low:.4f}",
        "to",
        f"{high:.4f}",
    ]
    assert lines[0].endswith("area under the ROC curve, all frames together (micro)")
    names = [line.split()[0] for line in lines[: lines.index("")]]
    assert names[:-1] == [name for name in HEADLINE if name in values]
    every = [line.split()[0] for line in shown("--all")]
    measures = list(values["intervals"])
    assert every[: len(measures)] == measures
    assert "run" in every  # the AUC of a category


def test_json_is_one_object_on_stdout(folder, trained):
    found = json.loads(feat("eval", "--json", cwd=folder).stdout)
    assert 0.9 < found["auc"] <= 1.0
    assert found["num_frames"] == 640
    again = feat("train", *SHORTEST, "--out", "mine", "--json", "--seed", "3", cwd=folder)
    report = json.loads(again.stdout)
    assert report["run"] == "mine"
    assert report["streams"] == ["rgb", "flow"]
    # two were held out to select, and trained on in the end
    assert (report["num_train_videos"], report["num_val_videos"]) == (8, 2)
    newest = json.loads(feat("eval", "--json", "--run", "mine", cwd=folder).stdout)
    assert newest["run"] == "mine"


def test_patience_ends_a_training_at_the_look_that_follows_the_best(folder):
    how = settings("steps=400", "patience=1", "hidden=1", "layers=1", "learning_rate=0.05")
    done = feat("train", *QUICK, *how, "--json", "--out", "p", cwd=folder)
    assert done.exit_code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["steps"] == report["best_step"] + 20 < 400


def test_threads_are_those_asked_for_and_recorded(folder, trained):
    before = torch.get_num_threads()
    try:
        done = feat("train", *SHORTEST, "--threads", "3", "--json", "--out", "t",
                    cwd=folder)  # fmt: skip
        assert done.exit_code == 0, done.stderr
        assert torch.get_num_threads() == 3
        assert json.loads((folder / "t" / "environment.json").read_text())["threads"] == 3
    finally:
        torch.set_num_threads(before)


def test_the_networks_shape_and_precision_are_those_asked_for(folder, trained):
    run = folder / "shaped"
    asked = settings("peepholes=false", "heads=shared", "precision=bfloat16")
    done = feat("train", *SHORTEST, *asked, "--out", str(run), cwd=folder)
    assert done.exit_code == 0, done.stderr
    config = json.loads((run / "config.json").read_text())
    shape = tuple(config["settings"][name] for name in ("peepholes", "heads", "precision"))
    assert shape == (False, "shared", "bfloat16")
    names = set(load_checkpoint(run).parameters)
    assert "network.category_output.weight" in names
    assert not [name for name in names if "peephole" in name or "category_trunk" in name]


def test_the_newest_finished_run_is_evaluated(folder, trained):
    (folder / "runs" / "99999999-unfinished").mkdir(exist_ok=True)
    assert json.loads(feat("eval", "--json", cwd=folder).stdout)["run"].endswith("-rgb-flow-s0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--cache", "nowhere"], "nowhere: no feature cache here"),
        (["train", "--labels", "none.csv"], "none.csv: no such labels file"),
        (["train", "--method", "knn", "--preset", "paper"], "knn has no preset 'paper'; it has d"),
        (["train", "--set", "step=3"], "convlstm has no setting step; did you mean steps"),
        (["train", "--set", "steps=0"], "convlstm: steps is 0, expected at least 1"),
        (["train", "--set", "steps"], "--set steps: expected name=value"),
        (["train", "--streams", "audio"], "no stream audio"),
        (["train", "--device", "cuda:9"], "no CUDA device"),
        (["train", "--device", "abacus"], "device 'abacus' is unknown"),
        (["eval", "--runs", "nowhere"], "nowhere: no finished run there; run `feat train`"),
        (
            ["eval", "--run", "nowhere"],
            "nowhere: no such run; `feat runs ls` lists those under ./runs",
        ),
        (["eval", "--cache", "nowhere"], "nowhere: no feature cache here"),
    ],
)
def test_what_the_user_can_mend_is_one_line(folder, trained, arguments, message):
    done = feat(*arguments, cwd=folder)
    assert done.exit_code == 1
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "best"], "'best' is not one of 'default', 'paper', 'released'"),
        (["--method", "deepmill"], "'deepmill' is unknown; did you mean deepmil"),
    ],
)
def test_a_word_that_no_method_knows_is_a_usage_error(folder, arguments, message):
    done = feat("train", *arguments, cwd=folder)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("method", METHODS)
def test_the_settings_of_every_method_are_listed_with_their_meaning(tmp_path, method):
    """Without a cache, and each one can be set as it stands there."""
    done = feat("train", "--method", method, "--help-settings", cwd=tmp_path)
    assert done.exit_code == 0, done.stderr
    about, head, *lines = done.stdout.splitlines()
    assert re.fullmatch(
        rf"{method} \((fully supervised|weakly supervised|unsupervised)\): [A-Z].*\.", about
    )
    assert head.startswith(f"feat train --method {method} --set name=value; presets: default")
    shown = [line.split()[0] for line in lines]
    assert "smoothing" in [text.partition("=")[0] for text in shown]
    for line, text in zip(lines, shown, strict=True):
        assert re.fullmatch(r"  +\S.*\S \([^()]+\)", line[len(text) :]), line
    again = feat("train", "--method", method, *settings(*shown), "--help-settings", cwd=tmp_path)
    assert again.stdout == done.stdout


def test_the_settings_listed_are_those_of_the_preset_and_the_changes_asked_for(tmp_path):
    def listed(*arguments: str) -> set[str]:
        done = feat("train", *arguments, "--help-settings", cwd=tmp_path)
        assert done.exit_code == 0, done.stderr
        return {line.split()[0] for line in done.stdout.splitlines()[1:]}

    assert {"hidden=32", "standardize=True", "head_widths=256"} <= listed()
    paper = listed("--preset", "paper")
    assert {"hidden=128", "standardize=False", "head_widths=2048,1024,512"} <= paper
    changed = listed("--preset", "paper", *settings("hidden=7"))
    assert changed - paper == {"hidden=7"}
    assert not list(tmp_path.iterdir())


def test_a_cache_without_labels_says_where_they_come_from(tmp_path):
    make_cache(tmp_path / "features", demo_rows()).labels_path.unlink()
    done = feat("train", cwd=tmp_path)
    assert done.exit_code == 1
    assert "labels.csv beside the videos and run `feat extract`, or name one" in done.stderr


def test_a_cache_that_moved_is_named_with_the_way_out(tmp_path):
    make_cache(tmp_path / "features", demo_rows())
    assert feat("train", *SHORTEST, cwd=tmp_path).exit_code == 0
    (tmp_path / "features").rename(tmp_path / "elsewhere")
    done = feat("eval", cwd=tmp_path)
    assert done.exit_code == 1
    assert "name its cache with --cache" in done.stderr
    assert feat("eval", "--cache", "elsewhere", cwd=tmp_path).exit_code == 0


@pytest.mark.slow
def test_stage_two_runs_as_a_program_without_ffmpeg_or_videos(folder, trained):
    """The cache and the run are all it needs; nothing of stage 1 is imported."""
    code = (
        "import sys; from feat import cli\n"
        "try: cli(['eval', '--json'], prog_name='feat')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'ffmpeg', 'cv2', 'extract.pipeline', 'extract.i3d'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["num_frames"] == 640


def test_what_is_missing_is_told_before_anything_heavy_is_loaded(tmp_path) -> None:
    expected = {
        "train": "features: no feature cache here",
        "train --cache mine": "mine/labels.csv: the cache holds no labels",
        "train --cache mine --labels no.csv": "no.csv: no such labels file",
        "compare --cache mine": "mine/labels.csv: the cache holds no labels",
        "ablate --cache mine --labels no.csv": "no.csv: no such labels file",
        "eval": "runs: no finished run there",
        "eval --run x --labels no.csv": "no.csv: no such labels file",
        "predict x.mp4": "runs: no finished run there",
    }
    FeatureCache.create(tmp_path / "mine")
    code = (
        "import sys; from feat import cli\n"
        f"for words in {list(expected)}:\n"
        "    try: cli(words.split(), prog_name='feat')\n"
        "    except SystemExit as end: assert end.code == 1, words\n"
        "    assert 'torch' not in sys.modules, 'PyTorch was loaded'"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for line, message in zip(done.stderr.splitlines(), expected.values(), strict=True):
        assert line.startswith(f"error: {message}")


def test_a_name_that_fits_no_video_comes_with_the_nearest(tmp_path) -> None:
    cache = FeatureCache.create(tmp_path / "features")
    for name in ("street/a.mp4", "street/b.mp4"):
        add_video(cache, name, {"rgb": np.zeros((3, 4), np.float32)}, 48)
    labels = tmp_path / "l.csv"
    labels.write_text("video,split,category,anomaly\na.mp4,train,,\nstreet/b.mp4,test,,0:9\n")
    done = CliRunner().invoke(
        cli, ["train", "--cache", str(cache.path), "--labels", str(labels), "--method", "knn"]
    )
    assert done.exit_code == 1
    assert "not in the cache: a.mp4 (did you mean street/a.mp4?); run" in done.stderr
