"""`feat compare --choose`: the method to take, by folds of the training videos."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from model_cache import demo_rows, make_cache
from sklearn.metrics import roc_auc_score

from cache import FeatureCache
from data.errors import ModelError
from data.labels import VideoLabel, read_labels, write_labels
from feat import cli
from model.evaluation.results import read_results
from model.experiments.choose import Choice, choose_by_folds
from model.experiments.folder import Terms
from model.methods.registry import choose_method

FEW: dict[str, dict[str, Any]] = {"deepmil": {"steps": 5}}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


def choose(
    cache: FeatureCache,
    out: Path,
    rows: list[VideoLabel] | None = None,
    names: tuple[str, ...] = ("knn", "logistic"),
    folds: int = 2,
    done: list[tuple[str, str, int]] | None = None,
) -> Choice:
    return choose_by_folds(
        cache,
        rows or demo_rows(),
        [replace(choose_method(name), **FEW.get(name, {})) for name in names],
        folds=folds,
        seeds=1,
        out=out,
        terms=Terms(device="cpu"),
        on_run=lambda *run: done.append(run[:3]) if done is not None else None,
    )


def test_every_training_video_is_tested_once_and_no_test_video_is_seen(
    cache: FeatureCache, tmp_path: Path
) -> None:
    found = choose(cache, tmp_path)
    tested = []
    for fold in range(2):
        rows = read_labels(tmp_path / f"fold-{fold}" / "labels.csv")
        assert {row.video for row in rows} == {
            row.video for row in demo_rows() if row.split == "train"
        }
        tested += [row.video for row in rows if row.split == "test"]
    assert sorted(tested) == sorted(row.video for row in demo_rows() if row.split == "train")
    for one in found.candidates:
        each = []
        for fold in range(2):
            results = read_results(tmp_path / f"fold-{fold}" / one.method / "seed-0" / "eval")
            truth = np.concatenate([result.labels for result in results])
            each.append(roc_auc_score(truth, np.concatenate([one.scores for one in results])))
        assert one.aucs == pytest.approx(each)
        assert one.auc
        assert one.auc.mean == pytest.approx(np.mean(each))
    means = [one.auc.mean for one in found.candidates if one.auc]
    assert means == sorted(means, reverse=True)
    assert found.taken == found.candidates[0].method
    # what the labels say of test videos changes nothing
    others = [
        replace(row, extent="normal", intervals=()) if row.split == "test" else row
        for row in demo_rows()
    ]
    done: list[tuple[str, str, int]] = []
    again = choose(cache, tmp_path, rows=others, done=done)
    assert again.to_dict() == found.to_dict()
    assert {run[:2] for run in done} == {
        (f"fold {f}", m) for f in (0, 1) for m in ("knn", "logistic")
    }
    assert found.num_videos == 8


def test_a_control_is_never_taken(cache: FeatureCache, tmp_path: Path) -> None:
    found = choose(cache, tmp_path, names=("position", "knn"))
    assert {one.method for one in found.candidates} == {"position", "knn"}
    assert found.taken == "knn"
    assert found.to_markdown().endswith("Take knn:\nfeat train --method knn")


def test_scenes_stay_together_and_weak_videos_are_trained_on_only(
    cache: FeatureCache, tmp_path: Path
) -> None:
    rows = [
        replace(row, scene=row.video[-5])  # bad/0 and good/0 are of one scene
        if row.split == "train"
        else row
        for row in demo_rows()
    ]
    rows[3] = replace(rows[3], extent="unknown", intervals=())
    choose(cache, tmp_path, rows=rows, names=("deepmil",))
    was_trained_on = []
    for fold in range(2):
        held = read_labels(tmp_path / f"fold-{fold}" / "labels.csv")
        scenes = [{row.scene for row in held if row.split == split} for split in ("train", "test")]
        assert not scenes[0] & scenes[1]
        weak = [row.split for row in held if row.video == rows[3].video]
        was_trained_on.append(weak == ["train"])
        assert was_trained_on[-1] or not weak  # the other video of its scene is tested
    assert sorted(was_trained_on) == [False, True]


def test_what_cannot_be_told_apart_is_refused(cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"fold \d of 5 has (ab)?normal videos only"):
        choose(cache, tmp_path / "a", folds=5)
    with pytest.raises(ModelError, match="position, shuffled: controls that nobody would take"):
        choose(cache, tmp_path / "a", names=("position", "shuffled"))
    weak = [replace(x, extent="unknown", intervals=()) if x.is_abnormal else x for x in demo_rows()]
    with pytest.raises(ModelError, match="no abnormal training video has known frames"):
        choose(cache, tmp_path / "b", rows=weak)
    assert not list(tmp_path.iterdir())


def test_the_command_goes_on_and_says_what_to_type(cache: FeatureCache, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    write_labels(labels, demo_rows())
    command = ["compare", "--cache", cache.path, "--labels", labels, "--out", tmp_path / "choice"]
    command += ["--choose", 2, "--seeds", 1, "--methods", "knn,logistic", "--device", "cpu"]
    first = CliRunner().invoke(cli, list(map(str, command)))
    assert first.exit_code == 0, first.output
    assert "8 training videos, each tested in one of 2 folds; those of the test" in first.stdout
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("choice/*/*/*/*.safetensors")}
    second = CliRunner().invoke(cli, [*map(str, command), "--json"])
    found = json.loads(second.stdout)
    told = f"Take {found['taken']}:\nfeat train --method {found['taken']} --labels {labels} "
    assert f"{told}--cache {cache.path}\n" in first.stdout
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert [len(one["auc_of_folds"]) for one in found["candidates"]] == [2, 2]
    refused = CliRunner().invoke(cli, [*map(str, command), "--csv", str(tmp_path / "t.csv")])
    assert refused.exit_code == 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "compare.json").write_text("{}")
    command[6] = tmp_path / "other"
    refused = CliRunner().invoke(cli, list(map(str, command)))
    assert "neither empty nor a choice (found compare.json)" in refused.stderr
