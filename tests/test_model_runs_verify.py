"""`feat runs verify`, and run folders that a kill or another process left half made."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from model_cache import SMALLEST, KilledError, demo_rows, make_cache

from data.errors import FeatError, ModelError
from data.labels import read_labels
from feat import cli
from model.experiments.compare import run_comparison
from model.experiments.folder import Terms
from model.experiments.seeds import train_seeds
from model.methods.gather import DataOptions
from model.methods.registry import choose_method
from model.runs.folder import working_in
from model.runs.train import resume_training, run_training

pytestmark = pytest.mark.usefixtures("one_thread")


def die(row):
    raise KilledError


def kill(rgb_cache, out: Path) -> Path:
    with pytest.raises(KilledError):
        run_training(rgb_cache, demo_rows(), SMALLEST, out=out, save_seconds=0, on_row=die)
    return out


def verify(*folders: Path):
    return CliRunner().invoke(cli, ["runs", "verify", *map(str, folders)])


def test_sound_and_unfinished_runs_are_listed_wherever_they_lie(rgb_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_training(rgb_cache, demo_rows(), SMALLEST, out=Path("runs/one"))
    train_seeds(rgb_cache, demo_rows(), SMALLEST, count=2, out=Path("runs/several"))
    kill(rgb_cache, Path("runs/two"))
    found = verify()
    assert found.exit_code == 0, found.output
    assert found.stdout.splitlines() == [
        "runs/one: sound",
        "runs/several/seed-0: sound",
        "runs/several/seed-1: sound",
        "runs/two: not finished; go on with `feat train --resume runs/two`",
    ]
    check = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd="runs/one")
    assert check.returncode == 0
    for command in (["threshold"], ["report"], ["eval", "--run"]):
        for folder, message in (
            ("runs/two", "not finished; go on with `feat train --resume runs/two`"),
            ("runs", "holds runs and is none; name one of them, such as runs/one"),
        ):
            refused = CliRunner().invoke(cli, [*command, folder])
            assert refused.exit_code == 1
            assert f"error: {folder}: {message}" in refused.stderr
    Path("none").mkdir()
    empty = verify(Path("none"))
    assert empty.exit_code == 1
    assert "none: no run there" in empty.stderr


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", "config.json", "environment.json", "labels.csv", "metrics.jsonl"),
        "reference.safetensors",
    ],
)
def test_one_changed_byte_of_any_file_is_told_in_one_line(rgb_cache, tmp_path, name):
    run = run_training(rgb_cache, demo_rows(), SMALLEST, out=tmp_path / "run").run
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content)
    found = verify(run)
    assert found.exit_code == 1
    (line,) = found.stdout.splitlines()
    assert line.startswith(f"{run}: damaged: {run / name}: ")
    assert f"remove the folder {run} and train again" in line
    (run / name).unlink()
    assert verify(run).exit_code == 1


def test_a_run_of_an_earlier_build_has_no_reference_and_is_sound(rgb_cache, tmp_path):
    run = run_training(rgb_cache, demo_rows(), choose_method("knn"), out=tmp_path / "run").run
    sums = run / "SHA256SUMS"
    sums.write_text("".join(sums.read_text().splitlines(keepends=True)[:-1]))
    (run / "reference.safetensors").unlink()
    assert verify(run).stdout == f"{run}: sound\n"


@pytest.mark.parametrize("text", ["", "x", "../../etc/passwd", "ab  ../labels.csv", "\0\xff\n"])
def test_a_list_of_digests_that_feat_did_not_write_is_told(rgb_cache, tmp_path, text):
    run = run_training(rgb_cache, demo_rows(), choose_method("knn"), out=tmp_path / "run").run
    (run / "SHA256SUMS").write_text(text, encoding="latin1")
    found = verify(run)
    assert found.exit_code == 1, found.output
    assert f"{run / 'SHA256SUMS'}: not as `feat train` wrote it" in found.stdout


@pytest.mark.parametrize("name", ["resume.safetensors", "config.json"])
def test_a_killed_training_that_cannot_go_on_is_told(rgb_cache, tmp_path, name):
    run = tmp_path / "run"

    def die_late(row):
        if row["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        run_training(rgb_cache, demo_rows(), SMALLEST, out=run, save_seconds=0, on_row=die_late)
    (run / name).write_bytes((run / name).read_bytes()[:-20])
    found = verify(run)
    assert found.exit_code == 1
    assert f"{run}: damaged: {run}" in found.stdout
    assert len(found.stdout.splitlines()) == 1


@pytest.mark.parametrize("several", [False, True], ids=["one run", "seeds"])
def test_a_refused_training_leaves_nothing_in_the_way(rgb_cache, tmp_path, several):
    """Else its copy of the labels would be gone on with for ever."""
    method, out = choose_method("logistic"), tmp_path / "run"

    def train(rows):
        if several:
            return train_seeds(rgb_cache, rows, method, count=1, out=out)
        return run_training(rgb_cache, rows, method, out=out)

    few = [row for row in demo_rows() if not row.is_abnormal or row.video == "bad/0.mp4"]
    with pytest.raises(ModelError, match="only one training video"):
        train(few)
    assert train(demo_rows()).run == out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(FeatError):  # what is finished stays
        train(few)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_train_says_how_to_go_on_with_what_is_in_the_folder(rgb_cache, tmp_path):
    out = kill(rgb_cache, tmp_path / "run")
    with pytest.raises(ModelError, match=f"not finished; go on with it with --resume {out}"):
        run_training(rgb_cache, demo_rows(), SMALLEST, out=out)
    with (
        working_in(out, go_on=""),
        pytest.raises(ModelError, match="run: another process works there; wait for it"),
    ):
        run_training(rgb_cache, demo_rows(), SMALLEST, out=out)
    resume_training(rgb_cache, out, options=DataOptions())
    with pytest.raises(ModelError, match="the training there is finished; name a new folder"):
        run_training(rgb_cache, demo_rows(), SMALLEST, out=out)


def test_a_training_killed_while_it_was_set_up_is_begun_by_the_same_command(rgb_cache, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    for name in (".tmp-environment.json", "environment.json"):
        (out / name).write_text("{")
        run_training(rgb_cache, demo_rows(), choose_method("knn"), out=out)
        assert verify(out).exit_code == 0
        for path in out.iterdir():
            path.unlink()
    (out / "labels.csv").write_text("mine")
    with pytest.raises(ModelError, match=r"neither empty nor a run \(found labels.csv\)"):
        run_training(rgb_cache, demo_rows(), SMALLEST, out=out)
    assert (out / "labels.csv").read_text() == "mine"


def test_two_trainings_do_not_work_in_one_folder(rgb_cache, tmp_path):
    out = kill(rgb_cache, tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from model.runs.folder import working_in\n"
        "with working_in(Path(sys.argv[1]), go_on=''): print('in', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=Path(__file__).parents[1]) as other:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(ModelError, match="another process works there"):
            resume_training(rgb_cache, out, options=DataOptions())
    with working_in(out, go_on=""):
        pass


def test_labels_edited_in_mid_training_do_not_change_the_run(tmp_path, caplog):
    cache = make_cache(tmp_path / "features", demo_rows(), streams={"rgb": 32})
    whole = run_training(cache, demo_rows(), SMALLEST, out=tmp_path / "whole")
    out = kill(cache, tmp_path / "run")
    cache.labels_path.write_text("video,split\n")
    with caplog.at_level(logging.INFO):
        report = resume_training(cache, out, options=DataOptions())
    assert f"{out}: goes on with its own copy of the labels" in caplog.text
    assert report.info.labels_sha256 == whole.info.labels_sha256
    assert read_labels(out / "labels.csv") == read_labels(tmp_path / "whole" / "labels.csv")


def compare(rgb_cache, out: Path):
    methods = [choose_method("position")]
    return run_comparison(
        rgb_cache, demo_rows(), methods, seeds=1, out=out, terms=Terms(device="cpu")
    )


def test_an_experiment_killed_while_it_was_set_up_is_begun_by_the_same_command(rgb_cache, tmp_path):
    """Between its first and its second file, before the first, and in a folder of a split."""
    for name in ("compare.json", ".tmp-compare.json", "one/.tmp-ablation.json"):
        path = tmp_path / name.replace("/", "-") / name
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"features": {}, "methods": {}}))
        out = tmp_path / name.replace("/", "-")
        assert len(compare(rgb_cache, out).rows) == 1
        assert read_labels(out / "labels.csv") == demo_rows()


def test_a_damaged_run_of_a_comparison_names_the_folder_to_remove(rgb_cache, tmp_path):
    out = tmp_path / "c"
    compare(rgb_cache, out)
    run = out / "position" / "seed-0"
    whole = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(whole[:-3])
    (run / "done.json").unlink()
    with pytest.raises(ModelError, match=f"remove the folder {run} and run the same"):
        compare(rgb_cache, out)
