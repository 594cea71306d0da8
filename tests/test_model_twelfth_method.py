"""A method that nothing in the project knows: one file, one line of the registry, every command."""

import ast
import csv
import hashlib
import html
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from model_cache import clip_table, demo_rows, spiky_features

from cache import FeatureCache, FeatureRecord, SourceRecord
from data.labels import write_labels
from extract.config import ExtractConfig
from extract.weights.resolve import Weights
from feat import cli
from model.methods.registry import METHODS
from model.runs.checkpoint import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SOURCE = '''
"""Distance to the mean of the normal clips."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from model.measures.scores import ClipScores
from model.methods.base import Fitted, Material, Method
from model.features.load import FeatureSet
from model.training.session import FitSession


@dataclass(frozen=True, kw_only=True)
class Twelfth(Method):
    """Scores a clip by how far it is from the mean of some normal ones."""

    name: ClassVar = "twelfth"
    supervision: ClassVar = "unsupervised"

    share: float = 0.5
    """Share of the normal clips that the mean is taken of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_share("share")

    def fit(self, material: Material, session: FitSession) -> Fitted:
        rows = material.train.features
        count = max(2, round(self.share * len(rows)))
        some = np.random.default_rng(session.seed).permutation(len(rows))[:count]
        mean = rows[some].mean(axis=0)
        scale = float(np.linalg.norm(rows[some] - mean, axis=1).max())
        session.log({"step": 1, "scale": scale})
        return Fitted(
            parameters={"mean": mean, "scale": np.array([scale])},
            result={"clips": count, "around": "mean"},
        )

    def score(self, fitted: Fitted, data: FeatureSet, device: torch.device) -> ClipScores:
        mean = torch.from_numpy(fitted.parameters["mean"]).to(device)
        rows = torch.from_numpy(np.array(data.features)).to(device)
        distance = (rows - mean).norm(dim=1).double().cpu().numpy()
        return ClipScores(slots=distance / (distance + fitted.parameters["scale"]))
'''

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def _twelfth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "twelfth_method.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setitem(METHODS, "twelfth", "twelfth_method:Twelfth")
        yield
    sys.modules.pop("twelfth_method", None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, and in `features` what this build would extract from them."""
    home = tmp_path_factory.mktemp("user")
    weights = {
        stream: Weights(stream=stream, kind="test", name="test", digest="a" * 64, path=Path())
        for stream in ExtractConfig().streams
    }
    configs = ExtractConfig().stream_configs(weights)
    cache = FeatureCache.create(home / "features")
    rng = np.random.default_rng(0)
    for row in demo_rows():
        path = home / "videos" / row.video
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.video.encode())  # no frame of it is ever decoded
        source = SourceRecord(
            name=row.video, kind="file", size=path.stat().st_size, num_frames=160, frame_rate=25.0,
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(), width=64, height=48,
        )  # fmt: skip
        clips = clip_table(160)
        cache.write(
            [
                FeatureRecord(
                    stream=stream, config=config, source=source, clips=clips,
                    features=spiky_features(rng, row, clips, 32, 160),
                )
                for stream, config in configs.items()
            ]
        )  # fmt: skip
    write_labels(cache.labels_path, demo_rows())
    return home


@pytest.fixture(autouse=True)
def _at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def feat(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def report(*arguments: object) -> dict:
    done = feat(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def train(*arguments: object) -> dict:
    return report("train", "--method", "twelfth", "--device", "cpu", *arguments)


def frame_scores(path: str) -> list[float]:
    with Path(path).open(newline="") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


def assert_same_fit(run: str, other: str) -> None:
    one, two = (load_checkpoint(Path(folder)).parameters for folder in (run, other))
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])


def test_it_is_one_short_file() -> None:
    assert len(SOURCE.splitlines()) < 80


def test_its_settings_are_listed_set_and_checked(home: Path) -> None:
    listed = feat("train", "--method", "twelfth", "--set", "share=0.3", "--help-settings")
    assert listed.exit_code == 0, listed.stderr
    assert "share=0.3" in listed.stdout
    assert "Share of the normal clips that the mean is taken of. (number)" in listed.stdout
    assert "smoothing=0" in listed.stdout
    for assignment, message in (
        ("shar=0.3", "twelfth has no setting shar; did you mean share?"),
        ("share=much", "twelfth: share is 'much', expected number"),
        ("share=1.5", "twelfth: share is 1.5, expected at least 0 and below 1"),
        ("hidden=8", "twelfth has no setting hidden; it has smoothing, share"),
    ):
        refused = feat("train", "--method", "twelfth", "--set", assignment, "--out", "refused")
        assert refused.exit_code == 1
        assert f"error: {message}" in refused.stderr
    refused = feat("train", "--method", "twelfht", "--out", "refused")
    assert refused.exit_code == 2
    assert "'twelfht' is unknown; did you mean twelfth?" in refused.stderr
    assert not (home / "refused").exists()


def test_a_run_has_all_that_a_run_has(home: Path) -> None:
    before = torch.get_num_threads()
    try:
        found = train("--set", "share=0.25", "--seed", 3, "--threads", 2, "--out", "whole")
    finally:
        torch.set_num_threads(before)
    assert (found["method"], found["seed"], found["run"]) == ("twelfth", 3, "whole")
    assert (found["num_train_videos"], found["clips"]) == (4, 10)
    config = json.loads((home / "whole" / "config.json").read_text())
    assert config["settings"] == {"smoothing": 0.0, "share": 0.25}
    used = json.loads((home / "whole" / "environment.json").read_text())
    assert (used["device"], used["threads"]) == ("cpu", 2)
    (row,) = map(json.loads, (home / "whole" / "metrics.jsonl").read_text().splitlines())
    assert row.keys() == {"step", "scale"}
    assert list((home / "whole" / "tensorboard").iterdir())
    assert load_checkpoint(home / "whole").info.to_dict()["settings"] == config["settings"]
    shown = feat("train", "--method", "twelfth", "--device", "cpu", "--out", "shown")
    assert shown.stdout.startswith("twelfth (unsupervised) fitted to 4 videos of rgb + flow")
    assert "step 1: scale " in shown.stderr


def test_it_is_evaluated_and_predicts_the_same(home: Path) -> None:
    train("--set", "smoothing=1", "--out", "one")
    found = report("eval", "--run", "one", "--device", "cpu", "--threads", 1)
    assert found["auc"] > 0.9
    assert found["protocol"].startswith("twelfth, unsupervised (features, no labels, of 4 normal")
    assert found["protocol"].endswith("scores smoothed over 1 clips")
    page = html.unescape(Path(found["report"]).read_text())
    assert found["report"] == "one/eval/report.html"
    assert '"share": 0.5' in page
    predicted = report(
        "predict", "videos/bad/4.mp4", "videos/good/0.mp4", "videos/bad/0.mp4", "--run", "one",
        "--scores", "scores", "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    assert predicted["failed"] == []
    test, normal, abnormal = predicted["videos"]
    np.testing.assert_allclose(
        frame_scores(test["scores"]), frame_scores("one/eval/scores/bad_4.mp4.csv"), atol=1e-5
    )
    assert test["peak"]["frame"] in range(64, 112)
    assert test["category"] == ""
    seen = [each["seen_in_training"] for each in (test, normal, abnormal)]
    assert seen == [False, True, False]
    refused = feat("eval", "--run", "one", "--compat", "released")
    assert refused.exit_code == 1
    assert "which twelfth does not have; leave --compat out" in refused.stderr


def test_several_seeds_are_spread_and_averaged(home: Path) -> None:
    trained = train("--seeds", 2, "--out", "several")
    assert [row["seed"] for row in trained["seeds"]] == [0, 1]
    assert trained["spread"] == {"clips": {"mean": 20.0, "std": 0.0, "count": 2}}
    found = report("eval", "--run", "several")
    assert found["spread"]["auc"]["count"] == 2
    assert "mean of 2 seeds' models, each twelfth" in found["ensemble"]["protocol"]
    assert (home / "several" / "eval" / "report.html").is_file()
    scores = [
        frame_scores(f"several/{part}eval/scores/bad_4.mp4.csv")
        for part in ("seed-0/", "seed-1/", "")
    ]
    assert scores[0] != scores[1]
    np.testing.assert_allclose(scores[2], np.mean(scores[:2], axis=0), atol=2e-6)
    predicted = report("predict", "videos/bad/4.mp4", "--run", "several", "--scores", "mean.csv")
    assert predicted["run"] == "several"
    np.testing.assert_allclose(frame_scores("mean.csv"), scores[2], atol=1e-5)


def test_killed_trainings_go_on(home: Path) -> None:
    train("--set", "share=0.25", "--seed", 5, "--out", "unkilled")
    train("--set", "share=0.25", "--seed", 5, "--out", "killed")
    (home / "killed" / "model.safetensors").unlink()
    done = feat("train", "--resume", "killed", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("twelfth (unsupervised)")
    assert "step 1: scale " in done.stderr  # nothing of the steps of another method
    assert_same_fit("killed", "unkilled")
    assert len((home / "killed" / "metrics.jsonl").read_text().splitlines()) == 1
    again = feat("train", "--resume", "killed")
    assert again.exit_code == 1
    assert "killed: the training there is finished" in again.stderr

    train("--seeds", 2, "--out", "killed-seeds")
    train("--seed", 1, "--out", "second")
    (home / "killed-seeds" / "seed-1" / "model.safetensors").unlink()
    refused = feat("eval", "--run", "killed-seeds")
    assert "run `feat train --resume killed-seeds` first" in refused.stderr
    resumed = report("train", "--resume", "killed-seeds")
    assert [row["seed"] for row in resumed["seeds"]] == [0, 1]
    assert_same_fit("killed-seeds/seed-1", "second")


def test_it_is_compared_with_others(home: Path) -> None:
    found = report(
        "compare", "--methods", "twelfth,logistic", "--seeds", 2, "--out", "comparison",
        "--set", "twelfth.share=0.25", "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    rows = {row["method"]: row for row in found["rows"]}
    assert (rows["twelfth"]["seeds"], rows["logistic"]["seeds"]) == (2, 1)
    assert rows["twelfth"]["auc"] > 0.9
    config = json.loads((home / "comparison" / "twelfth" / "seed-1" / "config.json").read_text())
    assert config["settings"]["share"] == 0.25
    refused = feat("compare", "--methods", "twelfth", "--out", "no", "--set", "twelfth.shar=1")
    assert "twelfth has no setting shar; did you mean share?" in refused.stderr


def test_what_can_be_ablated_is_and_the_rest_says_why(home: Path) -> None:
    found = report(
        "ablate", "--method", "twelfth", "--set", "share=0.25", "--out", "ablation",
        "--device", "cpu", "--threads", 1,
    )  # fmt: skip
    reasons = {part["part"]: part["reason"] for part in found["parts"]}
    assert reasons == {
        "table4": "",
        "table5": "twelfth has no setting category_weight, score_weight",
        "figure5": "twelfth has no setting num_clips",
        "figure6": "twelfth has no setting score_weight",
        "figure7": "twelfth does not tell categories apart",
    }
    assert [line["label"] for line in found["parts"][0]["rows"]] == ["rgb", "flow", "rgb + flow"]
    assert all(line["auc"] > 0.9 for line in found["parts"][0]["rows"])
    runs = {path.parent.parent.name for path in home.glob("ablation/*/*/*/model.safetensors")}
    assert runs == {"only-rgb", "only-flow", "base"}


def test_eval_and_predict_take_the_same_newest_run_whatever_its_method(home: Path) -> None:
    quick = ("--device", "cpu", "--runs", "runs")
    newest = report("train", "--method", "deepmil", "--set", "steps=5", *quick)["run"]
    train("--runs", "runs")
    report("train", "--method", "convlstm", "--set", "steps=1", "--set", "hidden=4", *quick)
    for path in (home / "runs").glob("*/model.safetensors"):
        os.utime(path, (1e9, 1e9 + (path.parent == home / newest)))
    assert "deepmil" in newest
    assert report("eval")["run"] == newest
    assert report("predict", "videos/bad/4.mp4")["run"] == newest
    said = feat("predict", "videos/bad/4.mp4")
    assert said.exit_code == 0, said.stderr
    assert f"run: {newest}, the newest in runs" in said.stderr


def test_nothing_asks_which_method_it_is() -> None:
    """Apart from what a method's own module does; what differs is asked of the method."""
    modules = [*ROOT.glob("model/**/*.py"), *ROOT.glob("predict/*.py"), ROOT / "feat.py"]
    assert len(modules) > 50
    asking = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.MatchValue)
        for part in ast.walk(node)
        if isinstance(part, ast.Constant) and part.value in METHODS
    ]
    assert asking == []
