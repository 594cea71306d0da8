"""`feat ablate`: what is trained, what is kept, the tables, the pictures, what cannot be run."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from model_cache import demo_rows, make_cache
from PIL import Image

from cache import FeatureCache
from data.errors import ConfigError, ModelError
from data.labels import write_labels
from feat import cli
from model.experiments.ablate import run_ablation
from model.experiments.ablate_plan import Part, Variant, plan_parts
from model.experiments.ablate_table import FinishedPart, Run
from model.experiments.folder import Terms
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import choose_method

SMALL = ConvLSTMMethod(
    hidden=4, head_widths=(16,), readout="each", steps=2, eval_every=2, learning_rate=1e-2,
    batch_size=16,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


def swapped():
    """The same videos, with others to test on."""
    turn = {"0": "test", "1": "test", "4": "train", "5": "train"}
    return [replace(row, split=turn.get(row.video[-5], row.split)) for row in demo_rows()]


def ablate(cache, out, what, *, splits=None, method=SMALL, done=None, **how):
    return run_ablation(
        cache, splits or {"one": demo_rows()}, out=out, method=method, terms=Terms(device="cpu"),
        what=what,
        on_run=lambda *run: done.append(run[:3]) if done is not None else None, **how,
    )  # fmt: skip


def checkpoints(out: Path) -> dict[str, int]:
    return {
        path.parent.relative_to(out).as_posix(): path.stat().st_mtime_ns
        for path in out.glob("*/*/*/model.safetensors")
    }


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def settings(out: Path, variant: str) -> dict:
    return json.loads((out / "one" / variant / "seed-0" / "config.json").read_text())


@pytest.fixture(scope="module")
def everything(cache, tmp_path_factory):
    """All parts on two splits."""
    out = tmp_path_factory.mktemp("ablations") / "all"
    done = []
    parts = ablate(
        cache, out, ["figure7", "figure6", "figure5", "table5", "table4"],
        splits={"one": demo_rows(), "two": swapped()},
        k_values=[2, 5], score_weights=[1.0], done=done,
    )  # fmt: skip
    return out, {part.part.name: part for part in parts}, done


def test_each_part_changes_one_thing_and_the_base_is_trained_once(everything):
    out, parts, done = everything
    assert list(parts) == ["table4", "table5", "figure5", "figure6", "figure7"]
    variants = ["only-rgb", "only-flow", "base", "only-score-loss", "only-category-loss", "k-2"]
    assert done == [(v, s, 0) for v in [*variants, "lambda2-1"] for s in ("one", "two")]
    base = settings(out, "base")
    assert [stream["name"] for stream in base["streams"]] == ["rgb", "flow"]
    assert [stream["name"] for stream in settings(out, "only-flow")["streams"]] == ["flow"]
    for variant, changed in (
        ("only-score-loss", {"category_weight": 0.0}),
        ("only-category-loss", {"score_weight": 0.0}),
        ("k-2", {"num_clips": 2}),
        ("lambda2-1", {"score_weight": 1.0}),
    ):
        assert settings(out, variant)["settings"] == {**base["settings"], **changed}


def test_the_numbers_are_those_of_the_evaluations(everything):
    out, parts, _ = everything

    def auc(split, variant):
        run = out / split / variant / "seed-0"
        return json.loads((run / "eval" / "metrics.json").read_text())["auc"]

    line = next(line for line in parts["table4"].lines if line.variant == "only-rgb")
    own = [auc(split, "only-rgb") for split in ("one", "two")]
    base = [auc(split, "base") for split in ("one", "two")]
    assert line.auc.mean == pytest.approx(np.mean(own))
    assert line.auc.std == pytest.approx(np.std(own, ddof=1))
    assert line.difference.mean == pytest.approx(np.mean(own) - np.mean(base))
    assert line.difference.std == pytest.approx(np.std(np.subtract(own, base), ddof=1))
    rows = table(out / "table4.csv")
    assert [row["label"] for row in rows] == ["rgb", "flow", "rgb + flow"]
    assert float(rows[0]["auc"]) == pytest.approx(np.mean(own))
    assert rows[2]["difference"] == ""
    runs = table(out / "runs.csv")
    assert len(runs) == 14
    assert [float(r["auc"]) for r in runs if r["variant"] == "only-rgb"] == pytest.approx(own)


def test_tables_say_what_they_are_made_of(everything):
    out, parts, _ = everything
    lines = (out / "table5.md").read_text().splitlines()
    assert lines[0] == "## Table 5: the loss functions"
    assert lines[2] == "| loss | AUC | against the base | category accuracy |"
    assert lines[4].startswith("| scores only | ")
    assert lines[6].startswith("| **both** | ")
    assert len({line.count("|") for line in lines[2:7]}) == 1
    assert "n = 2 (2 splits x 1 seed)" in lines[-1]
    assert "standard deviation over the splits." in lines[-1]
    assert "  " not in lines[-1]
    json.dumps([part.to_dict() for part in parts.values()])


def test_the_confusion_matrix_counts_each_test_video_once_a_run(everything):
    out, parts, _ = everything
    found = parts["figure7"]
    assert found.categories == ("fall", "run")
    assert found.counts.sum() == 4  # two abnormal test videos in each of two splits
    predicted = [
        (row["category"], row["predicted"])
        for split in ("one", "two")
        for row in table(out / split / "base/seed-0/eval/videos.csv")
        if row["category"]
    ]
    rows = table(out / "figure7.csv")
    for row in rows:
        for name in ("fall", "run"):
            assert int(row[name]) == predicted.count((row["true"], name))


def test_each_figure_is_a_picture_and_tables_have_none(everything):
    out, _, _ = everything
    assert {path.name for path in out.glob("*.png")} == {f"figure{n}.png" for n in (5, 6, 7)}
    with Image.open(out / "figure6.png") as picture:
        assert picture.size == (920, 340)  # AUC and accuracy beside each other
        assert len(np.unique(np.asarray(picture))) > 10


@pytest.mark.slow
def test_going_on_trains_only_what_is_missing(cache, tmp_path):
    out = tmp_path / "a"
    first = ablate(cache, out, ["figure5"], k_values=[5])
    before = checkpoints(out)
    assert set(before) == {"one/base/seed-0"}
    assert ablate(cache, out, ["figure5"], k_values=[5])[0].to_dict() == first[0].to_dict()
    done = []
    ablate(cache, out, ["figure5"], k_values=[3], seeds=2, done=done)
    after = checkpoints(out)
    assert {name: after[name] for name in before} == before
    assert set(after) == {
        f"one/{variant}/seed-{seed}" for variant in ("base", "k-3") for seed in (0, 1)
    }
    assert len(done) == 4
    run = out / "one" / "k-3" / "seed-1"
    (run / "done.json").unlink()  # killed while it evaluated
    (run / "eval" / "metrics.json").unlink()
    ablate(cache, out, ["figure5"], k_values=[3], seeds=2)
    assert checkpoints(out) == after
    assert (run / "eval" / "metrics.json").is_file()
    (run / "done.json").unlink()
    (run / "model.safetensors").unlink()  # killed while it trained
    ablate(cache, out, ["figure5"], k_values=[3], seeds=2)
    again = checkpoints(out)
    assert {name for name in after if again[name] != after[name]} == {"one/k-3/seed-1"}


def test_other_terms_are_refused(cache, tmp_path):
    out = tmp_path / "a"
    ablate(cache, out, ["figure7"])
    with pytest.raises(ConfigError, match="an ablation with other settings of base"):
        ablate(cache, out, ["figure7"], method=replace(SMALL, steps=9))
    with pytest.raises(ConfigError, match="an ablation with other settings of base"):
        ablate(cache, out, ["table4"], method=choose_method("knn"))
    with pytest.raises(ConfigError, match="ablation with other labels"):
        ablate(cache, out, ["figure7"], splits={"one": swapped()})
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(ModelError, match="photos: neither empty nor an ablation"):
        ablate(cache, tmp_path / "photos", ["figure7"])
    with pytest.raises(ConfigError, match="num_clips is 0"):
        ablate(cache, tmp_path / "b", ["figure5"], k_values=[0])


def test_two_processes_do_not_work_in_one_folder(cache, tmp_path):
    def second(*run):
        ablate(cache, tmp_path / "a", ["figure7"])

    with pytest.raises(ModelError, match="a: another process works there"):
        run_ablation(
            cache, {"one": demo_rows()}, out=tmp_path / "a", method=SMALL,
            terms=Terms(device="cpu"), what=["figure7"], on_run=second,
        )  # fmt: skip
    assert ablate(cache, tmp_path / "a", ["figure7"])[0].reason == ""


def test_a_part_that_cannot_be_run_says_why_and_the_others_are_run(tmp_path):
    rows = [replace(row, category="") for row in demo_rows()]
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 16})
    parts = ablate(
        cache, tmp_path / "a", ["table4", "table5", "figure5", "figure6", "figure7"],
        splits={"one": rows}, k_values=[2],
    )  # fmt: skip
    reasons = {part.part.name: part.reason for part in parts}
    assert reasons["table4"] == "there is one stream only, rgb"
    assert reasons["table5"] == reasons["figure7"] == "the training videos have no category"
    assert reasons["figure6"].startswith("the training videos have no category: lambda2 would")
    assert reasons["figure5"] == ""
    assert {path.name for path in (tmp_path / "a").glob("*.md")} == {f"{n}.md" for n in reasons}
    assert {path.name for path in (tmp_path / "a").glob("*.png")} == {"figure5.png"}
    assert "Not run: there is one stream only" in (tmp_path / "a" / "table4.md").read_text()


def test_categories_in_training_only_leave_no_matrix(cache, tmp_path):
    rows = [row if row.split == "train" else replace(row, category="") for row in demo_rows()]
    (part,) = ablate(cache, tmp_path / "a", ["figure7"], splits={"one": rows})
    assert part.reason == "no test video has a category"
    assert not list((tmp_path / "a").glob("figure7.[cp]*"))


def test_the_bases_own_value_is_always_among_a_figures():
    parts = plan_parts(
        ["figure5", "figure6"], SMALL, ["rgb"], 2, k_values=[8, 2], score_weights=[0.5, 10]
    )
    assert [(v.label, v.name) for v in parts[0].variants] == [
        ("2", "k-2"), ("5", "base"), ("8", "k-8"),
    ]  # fmt: skip
    assert [(v.label, v.name) for v in parts[1].variants] == [
        ("0.5", "lambda2-0.5"), ("10", "base"),
    ]  # fmt: skip


def summary(aucs: dict[str, list[list[float | None]]]):
    """Return the lines of variants whose AUC by split and seed is given."""
    part = Part(
        name="figure5", title="", column="K",
        variants=tuple(
            Variant(name=name, label=name, method=SMALL, streams=("rgb",)) for name in aucs
        ),
    )  # fmt: skip
    runs = {
        name: [
            Run(variant=name, split=str(s), seed=seed, auc=auc, accuracy=None, seconds=1.0)
            for s, of_split in enumerate(splits)
            for seed, auc in enumerate(of_split)
        ]
        for name, splits in aucs.items()
    }
    return FinishedPart.of(part, runs, runs["base"])


def test_with_several_splits_the_spread_is_over_their_means():
    base, other = summary({"base": [[0.9, 0.8], [0.6, 0.7]], "k-2": [[0.8, 0.7], [0.7, 0.7]]}).lines
    assert base.auc.mean == pytest.approx(0.75)
    assert base.auc.std == pytest.approx(np.std([0.85, 0.65], ddof=1))
    assert base.difference is None
    assert other.difference.mean == pytest.approx(-0.025)
    assert other.difference.std == pytest.approx(np.std([-0.1, 0.05], ddof=1))


def test_with_one_split_the_spread_is_over_the_seeds():
    found = summary({"base": [[0.9, 0.8, 0.7]], "k-2": [[0.9, None, 0.8]]})
    assert found.lines[0].auc.std == pytest.approx(0.1)
    assert found.lines[1].auc is None
    assert "n = 3 (1 split x 3 seeds)" in found.to_markdown()
    assert "over the seeds" in found.to_markdown()
    assert "| k-2 | none | none |" in found.to_markdown()


@pytest.mark.slow
def test_the_command_takes_several_label_files(cache, tmp_path):
    files = [tmp_path / "a" / "half.csv", tmp_path / "b" / "half.csv"]
    for path, rows in zip(files, (demo_rows(), swapped()), strict=True):
        path.parent.mkdir()
        write_labels(path, rows)
    arguments = ["ablate", "--cache", str(cache.path), "--what", "figure5", "--k", "5"]
    arguments += ["--set", "steps=2", "--set", "hidden=4", "--out", str(tmp_path / "out"), "--json"]
    for path in files:
        arguments += ["--labels", str(path)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)["parts"][0]
    assert (found["num_splits"], found["num_seeds"]) == (2, 1)
    assert set(checkpoints(tmp_path / "out")) == {"half/base/seed-0", "half-2/base/seed-0"}
    assert "half-2, base, seed 0: AUC" in done.stderr
    refused = CliRunner().invoke(cli, [*arguments, "--k", "2.5"])
    assert refused.exit_code == 2
    assert "Invalid value for '--k': '2.5' is not a valid integer range" in refused.stderr
