"""The page of several runs: measured on what they have in common, and worked with in a browser."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from model_cache import demo_rows, make_cache
from pages import HOSTILE, SIZES, Opened, axe_violations, check_layout, made_results
from sklearn.metrics import roc_auc_score

from data.errors import ModelError
from feat import cli
from model.evaluation.comparison import (
    EvaluatedRun,
    common_results,
    comparison_data,
    write_comparison,
)
from model.evaluation.evaluate import run_evaluation
from model.measures.bootstrap import bootstrap_intervals, paired_intervals
from model.measures.metrics import VideoResult
from model.methods.registry import choose_method
from model.runs.train import run_training


def as_run(name: str, results: list[VideoResult]) -> EvaluatedRun:
    return EvaluatedRun(path=Path(name), name=name, protocol=f"{name} by hand", results=results)


def made_runs() -> list[EvaluatedRun]:
    """A run, one that is worse on long.mp4 and better on missed.mp4, and one that knows less."""
    first = made_results()
    changed = {
        "long.mp4": lambda result: replace(result, scores=1 - result.scores),
        "missed.mp4": lambda result: replace(result, scores=result.labels * 0.9),
        "one.mp4": lambda result: replace(result, scores=result.scores * 0 + 0.9),
    }
    second = [changed.get(result.video, lambda same: same)(result) for result in first]
    return [as_run("first", first), as_run("<b>second", second), as_run("third", first[:-1])]


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_video) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    make_video(folder / "clips" / "a" / "9.mp4", num_frames=160)
    out = folder / "comparison.html"
    return write_comparison(made_runs()[:2], out=out, videos=folder / "clips")


# --- without a browser --------------------------------------------------------------------------


def random_runs(num_videos: int) -> list[list[VideoResult]]:
    """Two runs that find the same videos hard, the second a little better."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.array([0, 1], np.uint8), 30)
    first, second = [], []
    for video in range(num_videos):
        hard, noise = rng.normal(), rng.normal(size=60)
        scores = 1 / (1 + np.exp(-(noise + hard * (1 - 2 * labels) + labels)))
        better = np.clip(scores + 0.05 * labels + 0.01 * rng.random(60), 0, 1)
        first.append(VideoResult(video=str(video), scores=scores, labels=labels))
        second.append(VideoResult(video=str(video), scores=better, labels=labels))
    return [first, second]


def test_paired_intervals_are_those_of_differences_between_the_same_draws():
    """Against scikit-learn on each draw, drawn again here from the seed."""
    runs = random_runs(12)
    found = paired_intervals(runs, measures=("auc",), num_resamples=60)
    draws = np.random.default_rng((0, 6)).integers(12, size=(60, 12))
    aucs = np.array([[auc_of([run[v] for v in draw]) for run in runs] for draw in draws])
    low, high = np.quantile(aucs[:, 1] - aucs[:, 0], [0.025, 0.975])
    _, difference = found[1]
    assert difference["auc"].low == pytest.approx(low, abs=1e-9)
    assert difference["auc"].high == pytest.approx(high, abs=1e-9)
    own, nothing = found[0]
    assert own == bootstrap_intervals(runs[:1], measures=("auc",), num_resamples=60)
    assert (nothing["auc"].low, nothing["auc"].high) == (0, 0)
    # hard videos are hard for both: the difference is known far better than either
    assert difference["auc"].high - difference["auc"].low < (own["auc"].high - own["auc"].low) / 5


def auc_of(results: list[VideoResult]) -> float:
    labels, scores = (
        np.concatenate([getattr(r, name) for r in results]) for name in ("labels", "scores")
    )
    return roc_auc_score(labels, scores)


def test_paired_intervals_refuse_other_videos():
    first, second = random_runs(3)
    with pytest.raises(ValueError, match="not of the same videos"):
        paired_intervals([first, second[::-1]], measures=("auc",))


def test_runs_are_compared_on_the_videos_and_labels_of_the_first():
    first, _, third = made_runs()
    results, notes = common_results([first, third])
    assert [r.video for r in results[0]] == [r.video for r in third.results]
    assert notes == ["Only what all have evaluated counts: 7 videos (first: 8, third: 7)."]
    longer, *rest = third.results
    longer = replace(longer, scores=np.zeros(901), labels=None)
    rest[0] = replace(rest[0], labels=np.ones(400, np.uint8), category="other", sha256="a")
    # in another order, too
    known = [replace(result, sha256="b") for result in first.results]
    first = as_run("first", known)
    results, notes = common_results([first, as_run("other", [*rest[::-1], longer])])
    assert "a/10.mp4" not in [r.video for r in results[0]]
    assert [r.video for r in results[0]] == [r.video for r in results[1]]
    assert results[1][0].labels is first.results[1].labels
    assert results[1][0].category == ""
    assert notes[1] == (
        "Left out because the runs have scored different numbers of frames: 1 video."
    )
    assert notes[2].startswith("The labels of 1 video differ between the runs; here those of first")
    assert notes[3:] == ["The contents of 1 video differ between the runs."]
    with pytest.raises(ModelError, match="no video with the same frames was evaluated by all"):
        common_results([first, as_run("foreign", [replace(rest[0], video="x.mp4")])])


def test_a_video_has_the_auc_and_the_wrong_frames_of_each_run():
    runs = made_runs()[:2]
    data = comparison_data(["a", "b"], [run.results for run in runs], [""] * 8)
    video = next(video for video in data["videos"] if video["name"] == "long.mp4")
    own, other = (next(r for r in run.results if r.video == "long.mp4") for run in runs)
    assert video["auc"] == pytest.approx([auc_of([own]), auc_of([other])])
    assert video["wrong"][0] == pytest.approx(((own.scores >= 0.5) != own.labels).mean())
    weak = next(video for video in data["videos"] if video["name"] == "weak.mp4")
    assert weak["auc"] == weak["wrong"] == [None, None]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("user")
    cache = make_cache(folder / "features", demo_rows())
    runs = []
    for name in ("logistic", "position"):
        runs.append(run_training(cache, demo_rows(), choose_method(name), runs=folder / "runs").run)
        run_evaluation(runs[-1], cache, demo_rows(), pictures=False)
    return runs


def report(*arguments) -> "object":
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


@pytest.mark.slow
def test_feat_report_compares_several_runs(evaluated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = report(*evaluated)
    assert done.exit_code == 0, done.output
    own = [str(run / "eval" / "report.html") for run in evaluated]
    assert done.stdout.split() == ["comparison.html", *own]
    page = Path("comparison.html").read_text(encoding="utf-8")
    for run in evaluated:
        found = json.loads((run / "eval" / "metrics.json").read_text())
        for name in ("auc", "ap"):
            assert f"<strong>{found[name]:.3f}</strong>" in page
            low, high = found["intervals"][name]
            assert f">{low:.3f} to {high:.3f}<" in page
        assert found["protocol"] in page
    assert len(re.findall('<a href="[^"]*/eval/report.html">its report</a>', page)) == 2
    assert report(*evaluated, "--out", tmp_path / "other.html").stdout.split()[0] == str(
        tmp_path / "other.html"
    )
    once = report(evaluated[0], evaluated[0])
    assert once.stdout.split() == own[:1]


def test_what_cannot_be_compared_is_said_in_a_line_before_anything_is_written(
    evaluated, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "not evaluated"
    shutil.copytree(evaluated[1], other)
    shutil.rmtree(other / "eval")
    (evaluated[0] / "eval" / "report.html").unlink(missing_ok=True)
    for refused, words in {
        report(evaluated[0], other): f"{other}: its test videos are not evaluated yet; run `feat",
        report(evaluated[0], tmp_path): f"{tmp_path}",
    }.items():
        assert refused.exit_code == 1
        assert refused.stderr.count("\n") == 1
        assert words in refused.stderr
    assert not Path("comparison.html").exists()
    assert not (evaluated[0] / "eval" / "report.html").exists()
    mine = Path("labels.csv")
    mine.write_text("video,split,category,anomaly\n")
    refused = report(*evaluated, "--out", mine)
    assert refused.exit_code == 1
    assert "labels.csv: is there and is not a web page; name another file" in refused.stderr
    assert mine.read_text() == "video,split,category,anomaly\n"
    single = report(evaluated[0], "--out", "x.html")
    assert single.exit_code == 2
    assert "name two or more" in single.stderr


# --- in Chromium --------------------------------------------------------------------------------


@pytest.fixture
def opened(browser, written):
    opened = Opened(browser, written)
    yield opened
    opened.page.close()
    assert opened.complaints == []
    assert opened.requests == [written.as_uri()]


def test_the_curves_of_all_runs_lie_over_each_other(opened):
    page = opened.page
    for box in ("#roc", "#pr"):
        assert page.locator(f"{box} path.curve").count() == 2
        assert opened.texts(f"{box} .key") == ["first", "<b>second"]
    card = page.locator(".card", has=page.get_by_text("long.mp4", exact=True))
    card.scroll_into_view_if_needed()
    card.locator("path.curve").first.wait_for(state="attached")
    paths = [node.get_attribute("d") for node in card.locator("path.curve").all()]
    assert len(set(paths)) == 2
    assert card.locator("rect.event").count() == 2
    assert card.locator(".to").text_content() == "6:40.0"
    own, other = (made_runs()[k].results[6] for k in (0, 1))
    aucs = [auc_of([own]), auc_of([other])]
    assert [row.split("\t")[0] for row in card.locator("tbody th").all_text_contents()] == [
        "first", "<b>second",
    ]  # fmt: skip
    first, second = card.locator("tbody td:nth-child(2)").all_text_contents()
    assert first == f"{aucs[0]:.3f}"
    assert second == f"{aucs[1]:.3f} ({aucs[1] - aucs[0]:+.3f})"


@pytest.mark.slow
def test_the_largest_difference_comes_first_and_the_order_can_be_chosen(opened):
    page = opened.page
    # gains: one.mp4 -1 (its only frame is an alarm), long.mp4 about -0.9, missed.mp4 0.75
    assert opened.names()[:3] == ["one.mp4", "long.mp4", "missed.mp4"]
    assert opened.texts(".card .verdict")[0] == "wrong frames +100.0 %"
    page.select_option("#sort", "better")
    assert opened.names()[0] == "missed.mp4"
    page.select_option("#sort", "worse")
    assert opened.names()[0] == "one.mp4"
    page.select_option("#sort", "name")
    assert opened.names()[:2] == ["a/9.mp4", "a/10.mp4"]
    said = dict(zip(opened.texts(".card h3"), opened.texts(".card .verdict"), strict=True))
    assert said["weak.mp4"] == "frames not labelled"
    assert said["a/9.mp4"] == "no difference"
    assert said[HOSTILE] == "no difference"


@pytest.mark.slow
def test_videos_can_be_chosen_by_which_run_is_better(opened):
    page = opened.page
    page.select_option("#show", "better")
    assert opened.names() == ["missed.mp4"]
    page.select_option("#show", "worse")
    assert opened.names() == ["one.mp4", "long.mp4"]
    page.select_option("#show", "normal")
    assert set(opened.names()) == {"a/9.mp4", "one.mp4"}
    page.select_option("#show", "")
    page.select_option("#category", "fall")
    page.fill("#name", "10")
    assert opened.names() == ["a/10.mp4"]
    assert page.inner_text("#shown") == "1 of 8 videos"


@pytest.mark.slow
def test_arrow_keys_read_all_runs_at_one_time(opened):
    page = opened.page
    plot = page.get_by_role("slider", name="Score of missed.mp4")
    plot.focus()
    page.keyboard.press("Home")
    for _ in range(25):
        page.keyboard.press("ArrowRight")
    said = plot.get_attribute("aria-valuetext")
    assert said == "frame 25, 1.00 s: first 0.02, <b>second 0.90"


@pytest.mark.slow
def test_everything_can_be_reached_by_keyboard_and_names_are_text(opened):
    page = opened.page
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(
            "document.activeElement.id || document.activeElement.className"
            " || document.activeElement.tagName"
        ))  # fmt: skip
    assert {"SUMMARY", "sort", "show", "category", "name", "plot", "plot playable"} <= reached
    assert page.evaluate("window.hacked") is None
    assert page.locator("main b:not(figcaption b)").count() == 0


@pytest.mark.slow
def test_more_runs_than_colours_are_told_apart_by_dashes(browser, tmp_path):
    results = made_results()[:2]
    runs = [as_run(f"run {k}", results) for k in range(8)]
    opened = Opened(browser, write_comparison(runs, out=tmp_path / "many.html"), ready="#roc svg")
    curves = opened.page.locator("#roc path.curve").all()
    assert len({curve.get_attribute("class") for curve in curves}) == 8
    assert opened.page.locator("#figure-auc tbody tr").count() == 8
    opened.page.close()
    assert opened.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_fits_a_phone_and_the_dark(browser, written, width, scheme):
    opened = Opened(browser, written, width=width, scheme=scheme, ready="#roc svg")
    check_layout(opened, "comparison", width, scheme)
    assert axe_violations(opened) == []
    opened.page.close()
    assert opened.complaints == []
