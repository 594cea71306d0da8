"""The page of an evaluation in a real browser: it counts as Python does, and can be worked with."""

import base64
import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cache_samples import join_bytes
from click.testing import CliRunner
from model_cache import add_video, demo_rows, label, make_cache, stream_config
from pages import HOSTILE, SIZES, Opened, axe_violations, check_layout, made_results
from PIL import Image

from cache import FeatureCache, FeatureRecord
from data.intervals import intervals_from_frames
from feat import cli
from model.evaluation import pages as pages_module
from model.evaluation.comparison import EvaluatedRun, write_comparison
from model.evaluation.evaluate import run_evaluation
from model.evaluation.report import format_measure, page_data, write_report
from model.evaluation.results import read_results
from model.evaluation.why import _moments, explain_videos, remarks
from model.measures.budget import AlarmRule, fit_threshold
from model.measures.detection import count_alarms
from model.measures.metrics import VideoResult
from model.measures.table import measure_all
from model.methods.registry import choose_method
from model.runs.threshold import StoredThreshold
from model.runs.train import run_training
from model.runs.trained import load_run


def write_page(folder: Path, results: list[VideoResult], **how) -> Path:
    found = {**measure_all(results, ("fall", "run")).to_dict(), "protocol": "by hand"}
    return write_report(folder, results, found, title="made: test videos", settings={}, **how)


@pytest.fixture(scope="module")
def results() -> list[VideoResult]:
    return made_results()


@pytest.fixture(scope="module")
def written(results, tmp_path_factory, make_video) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make_video(folder / "my videos" / "a" / "9.mp4", num_frames=160)  # 16 s
    (folder / "my videos" / "missed.mp4").write_bytes(b"no video at all")
    (folder / "eval").mkdir()
    return write_page(folder / "eval", results, videos=folder / "my videos")


# --- without a browser --------------------------------------------------------------------------


def test_a_stored_score_reaches_the_thresholds_that_the_score_reaches(results):
    data = page_data(results, [""] * len(results))
    points = np.frombuffer(base64.b64decode(data["points"]), np.uint8)
    scores = np.concatenate([result.scores for result in results])
    assert data["stride"] == 1
    assert data["thresholds"][data["start"]] == 0.5
    for index, threshold in enumerate(data["thresholds"]):
        np.testing.assert_array_equal(points >= index, (scores >= threshold) | (index == 0))
    labels = np.concatenate([r.labels for r in results if r.labels is not None])
    known = np.concatenate([r.scores for r in results if r.labels is not None])
    above = np.cumsum(data["positives"][::-1])[::-1]
    assert above.tolist() == [(known[labels == 1] >= t).sum() for t in data["thresholds"]]
    below = np.cumsum(data["negatives"][::-1])[::-1]
    assert below.tolist() == [(known[labels == 0] >= t).sum() for t in data["thresholds"]]


def test_low_scores_get_thresholds_of_their_own():
    scores = np.random.default_rng(0).uniform(0.001, 0.02, 4000)
    found = page_data([VideoResult(video="a", scores=scores, labels=None)], [""])["thresholds"]
    assert sum(0.001 < threshold < 0.02 for threshold in found) > 100
    assert len(found) <= 256


@pytest.mark.slow
def test_pages_of_a_thousand_videos_stay_small(tmp_path, monkeypatch):
    """A hundred videos with a tenth of the points: what a page holds beside points is little.

    15 of the 20 MB that a thousand videos may take are left for pictures.
    """
    assert pages_module.MAX_POINTS * 4 / 3 + 1000 * 3000 < 10e6
    monkeypatch.setattr(pages_module, "MAX_POINTS", pages_module.MAX_POINTS // 10)
    labels = np.zeros(5000, np.uint8)
    labels[500:900] = 1
    curve = np.random.default_rng(0).random(500).repeat(10)  # alarms that last a little
    results = [
        VideoResult(video=f"camera/{i}.mp4", scores=curve, labels=labels, frame_rate=25.0)
        for i in range(100)
    ]
    found = {**measure_all(results[:2], ()).to_dict(), "protocol": "by hand"}
    runs = [EvaluatedRun(path=Path(n), name=n, protocol="", results=results) for n in "ab"]
    for page in (
        write_report(tmp_path, results, found, title="", settings={}),
        write_comparison(runs, out=tmp_path / "comparison.html"),
    ):
        assert page.stat().st_size < 1e6
        (card,) = re.findall(r'<li class="card".*?</li>', page.read_text(), re.DOTALL)[7:8]
        assert card.count("</") < 14  # a browser lays out all cards, drawn or not


def test_the_page_says_what_is_given_and_runs_none_of_it(written):
    page = written.read_text(encoding="utf-8")
    assert len(re.findall("<script", page)) == 2
    assert "<b>run" not in page
    assert "&lt;script&gt;hacked=1&lt;/script&gt;" in page
    assert "b/\\u003cscript\\u003ehacked=1\\u003c/script\\u003e" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_a_name_that_turns_the_reading_order_is_shown_as_what_it_is(tmp_path):
    result = VideoResult(video="a\u202egpj.mp4", scores=np.zeros(4), labels=np.zeros(4, np.uint8))
    page = write_page(tmp_path, [result]).read_text(encoding="utf-8")
    assert "\u202e" not in page
    assert "<bdi>a\\u202egpj.mp4</bdi>" in page


def test_one_kind_of_frame_and_no_category_give_reasons(tmp_path):
    normal = [VideoResult(video="a", scores=np.zeros(4), labels=np.zeros(4, np.uint8))]
    page = write_page(tmp_path, normal).read_text(encoding="utf-8")
    assert page.count("no abnormal frame") > 2
    assert "no normal frame of a video whose frame rate is known" in page


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    cache = make_cache(folder / "features", demo_rows())
    return run_training(cache, demo_rows(), choose_method("logistic"), runs=folder / "runs").run


def report(*arguments) -> "object":
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


@pytest.mark.slow
def test_feat_report_writes_the_page_of_feat_eval_again(run):
    refused = report(run)
    assert refused.exit_code == 1
    assert f"run `feat eval --run {run} --split test`" in refused.stderr
    page = run_evaluation(run, make_cache_again(run), demo_rows()).report
    first = page.read_text()
    page.unlink()
    done = report("--runs", run.parent)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(page)
    assert page.read_text() == first
    videos = run.parent.parent / "videos"
    (videos / "bad").mkdir(parents=True)
    (videos / "bad" / "4.mp4").write_text("bad/4.mp4")  # the content that the cache has it from
    (videos / "bad" / "5.mp4").write_text("another recording")
    told = report(run, "--videos", videos)
    assert told.exit_code == 0
    assert told.stderr.count("\n") == 1
    assert (
        f"1 files in {videos} cannot be read or are not the videos that were evaluated, and are "
        f"left out of the page in {page.parent}: bad/5.mp4"
    ) in told.stderr
    links = re.findall('"link": "([^"]+)"', page.read_text())
    assert [os.path.normpath(page.parent / link) for link in links] == [f"{videos}/bad/4.mp4"]
    (videos.parent / "deep" / "er").mkdir(parents=True)
    (videos.parent / "deep" / "er" / "linked").symlink_to(run.parent)
    linked = videos.parent / "deep" / "er" / "linked" / run.name
    assert report(linked, "--videos", videos).exit_code == 0
    (link,) = re.findall('"link": "([^"]+)"', page.read_text())
    assert os.path.normpath(linked / "eval" / link) == f"{videos}/bad/4.mp4"
    (page.parent / "scores.npz").write_bytes(b"PK nothing")
    damaged = report(run)
    assert damaged.exit_code == 1
    assert damaged.stderr.count("\n") == 1
    assert "its results cannot be read" in damaged.stderr


def make_cache_again(run: Path):
    from cache import FeatureCache

    return FeatureCache(run.parent.parent / "features")


# --- in Chromium --------------------------------------------------------------------------------


@pytest.fixture
def opened(browser, written):
    opened = Opened(browser, written)
    yield opened
    opened.page.close()
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.endswith(".mp4")] == [written.as_uri()]


def expected_totals(results: list[VideoResult], threshold: float) -> str:
    found = count_alarms(results, threshold)
    timed = [r.frame_rate > 0 for r in results]
    rate = found.false_alarms[timed].sum() / found.normal_hours.sum()
    alarms, missed, events = found.false_alarms.sum(), found.missed.sum(), found.num_events.sum()
    return (
        f"{alarms:.0f} false alarm{'' if alarms == 1 else 's'}, {rate:.{1 if rate < 100 else 0}f} "
        f"an hour; {missed:.0f} of {events:.0f} labelled events missed"
    )


def test_the_page_counts_as_python_does(opened, results):
    thresholds = opened.page.evaluate("thresholds")
    assert len(thresholds) > 150
    for index in range(1, len(thresholds), 7):
        threshold = thresholds[index]
        total, judged = opened.page.evaluate(
            f"[judgeAll({index}), videos.map(({{judged}}) => judged)]"
        )
        found = count_alarms(results, threshold)
        assert [video["falseAlarms"] for video in judged] == found.false_alarms.tolist()
        assert [len(video["missed"]) for video in judged] == found.missed.tolist()
        assert total["hours"] == pytest.approx(found.normal_hours.sum(), rel=1e-12)
        assert total["events"] == found.num_events.sum()
        for result, video in zip(results, judged, strict=True):
            alarms = [(alarm["start"], alarm["end"]) for alarm in video["alarms"]]
            assert alarms == list(intervals_from_frames(result.scores >= threshold))
            if result.labels is not None:
                wrong = ((result.scores >= threshold) != result.labels).mean()
                assert video["wrong"] == pytest.approx(wrong)


@pytest.mark.slow
def test_the_page_starts_at_the_threshold_that_was_fitted(browser, results, tmp_path):
    """One that no score has and that is no round number; its figures are Python's there."""
    threshold = 0.43217
    stored = StoredThreshold(
        rule=AlarmRule(per_hour=50.0),
        fitted=fit_threshold([np.full(25 * 600, threshold - 1e-9)], [25.0], 50.0),
        num_videos=1,
    )
    stored = replace(stored, fitted=replace(stored.fitted, threshold=threshold))
    measures = measure_all(results, ("fall", "run"), threshold=threshold).to_dict()
    found = {**measures, "protocol": "by hand", "threshold": stored.to_dict()}
    opened = Opened(browser, write_report(tmp_path, results, found, title="made", settings={}))
    page = opened.page
    assert page.evaluate("thresholds[level]") == threshold
    assert page.inner_text("#totals") == expected_totals(results, threshold)
    assert page.inner_text("#totals") != expected_totals(results, 0.5)
    hourly = page.inner_text("#figure-far_per_hour strong")
    assert hourly == format_measure("far_per_hour", measures["far_per_hour_fitted"])
    interval = page.inner_text("#figure-far_per_hour .interval")
    opened.set(3)
    assert page.inner_text("#figure-far_per_hour .interval") != interval
    page.click("#reset")
    assert page.inner_text("#figure-far_per_hour .interval") == interval
    assert opened.complaints == []
    page.close()


@pytest.mark.slow
def test_many_frames_share_points_and_no_event_is_lost(browser, results, tmp_path, monkeypatch):
    """With three frames to a point the counts are those of the points, laid on frames again."""
    monkeypatch.setattr(pages_module, "MAX_POINTS", 3000)
    opened = Opened(browser, write_page(tmp_path, results))
    stride = opened.page.evaluate("stride")
    assert stride == 3
    coarse = [
        replace(
            r,
            scores=np.repeat(
                [r.scores[i : i + stride].max() for i in range(0, len(r.scores), stride)], stride
            )[: len(r.scores)],
        )
        for r in results
    ]
    for level in (20, 90, 150):
        threshold = opened.page.evaluate(f"thresholds[{level}]")
        total = opened.page.evaluate(f"judgeAll({level})")
        found = count_alarms(coarse, threshold)
        assert total["falseAlarms"] == found.false_alarms.sum()
        assert (
            total["missed"] == found.missed.sum() <= count_alarms(results, threshold).missed.sum()
        )
    opened.page.close()


@pytest.mark.slow
def test_the_slider_moves_all_that_depends_on_it(opened, results):
    page = opened.page
    assert page.inner_text("#threshold-value") == "0.5"
    assert page.inner_text("#totals") == expected_totals(results, 0.5)
    assert page.inner_text("#figure-far_per_hour .interval").startswith("95%: ")
    dot = page.get_attribute("#roc .dot", "cx")
    page.focus("#threshold")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    threshold = page.evaluate("thresholds[level]")
    assert 0.3 < threshold < 0.5
    assert page.inner_text("#threshold-value") == page.get_attribute("#threshold", "aria-valuetext")
    assert float(page.inner_text("#threshold-value")) == threshold
    assert page.inner_text("#totals") == expected_totals(results, threshold)
    hourly = page.inner_text("#figure-far_per_hour strong")
    assert f", {hourly} an hour" in expected_totals(results, threshold)
    assert page.inner_text("#figure-far_per_hour .interval") == f"at {threshold}"
    assert page.get_attribute("#roc .dot", "cx") != dot
    assert f"At {threshold}: " in page.inner_text("#pr")
    card = page.locator(".card", has=page.get_by_text("a/10.mp4", exact=True))
    bars = card.locator("g rect")
    assert bars.count() == len(intervals_from_frames(results[0].scores >= threshold)) > 2
    page.click("#reset")
    assert page.inner_text("#totals") == expected_totals(results, 0.5)
    assert page.inner_text("#figure-far_per_hour .interval").startswith("95%: ")
    assert bars.count() == len(intervals_from_frames(results[0].scores >= 0.5))


@pytest.mark.slow
def test_each_card_says_what_went_wrong_and_when(opened, results):
    page = opened.page

    def said(video: str, part: str) -> str:
        return (
            page.locator(".card", has=page.get_by_text(video, exact=True))
            .locator(part)
            .text_content()
        )

    assert said("weak.mp4", ".verdict") == "frames not labelled"
    assert said("missed.mp4", ".verdict") == "2 of 2 events missed"
    assert said("missed.mp4", ".alarms") == "No alarm"
    assert said("one.mp4", ".verdict") == "quiet"
    false_alarms = int(count_alarms([results[1]]).false_alarms[0])
    assert said("a/9.mp4", ".verdict") == f"{false_alarms} false alarms"
    first, *_ = intervals_from_frames(results[1].scores >= 0.5)
    start, end = (f"{frame / 25:.2f} s" for frame in first)
    assert said("a/9.mp4", ".alarms").startswith(f"Alarms: {start} to {end} (false); ")
    opened.set(int(np.searchsorted(page.evaluate("thresholds"), 0.05)))  # both events exceed it
    assert said("missed.mp4", ".verdict") != "2 of 2 events missed"
    assert "missed" not in said("missed.mp4", ".verdict")


@pytest.mark.slow
def test_the_roc_and_precision_are_those_at_the_threshold(opened, results):
    known = [r for r in results if r.labels is not None]
    labels = np.concatenate([r.labels for r in known])
    scores = np.concatenate([r.scores for r in known])
    hits, alarms = (scores[labels == 1] >= 0.5).mean(), (scores[labels == 0] >= 0.5).mean()
    assert f"{hits:.1%}".replace("%", " %") in opened.page.inner_text("#roc")
    assert f"{alarms:.1%}".replace("%", " %") in opened.page.inner_text("#roc")
    precision = labels[scores >= 0.5].mean()
    assert f"{precision:.1%}".replace("%", " %") in opened.page.inner_text("#pr")
    assert float(opened.page.get_attribute("#roc .dot", "cx")) == pytest.approx(100 * alarms)


@pytest.mark.slow
def test_the_worst_video_comes_first_and_the_order_can_be_chosen(opened, results):
    found = count_alarms(results)
    mistakes = dict(zip([r.video for r in results], found.false_alarms + found.missed, strict=True))
    order = [mistakes[name] for name in opened.names()]
    assert order == sorted(order, reverse=True)
    assert order[0] > order[-1]
    opened.page.select_option("#sort", "name")
    assert opened.names()[:2] == ["a/9.mp4", "a/10.mp4"]  # as people count
    opened.page.select_option("#sort", "missed")
    assert opened.names()[0] == "missed.mp4"
    opened.page.select_option("#sort", "falseAlarms")
    assert opened.names()[0] == results[int(found.false_alarms.argmax())].video


@pytest.mark.slow
def test_videos_can_be_chosen_by_mistake_category_and_name(opened, results):
    page, found = opened.page, count_alarms(results)
    page.select_option("#show", "falseAlarms")
    assert set(opened.names()) == {
        r.video for r, n in zip(results, found.false_alarms, strict=True) if n
    }
    page.select_option("#show", "missed")
    assert set(opened.names()) == {r.video for r, n in zip(results, found.missed, strict=True) if n}
    page.select_option("#show", "wrong")
    assert opened.names() == [HOSTILE]
    page.select_option("#show", "")
    page.select_option("#category", "fall")
    assert set(opened.names()) == {"a/10.mp4", "no rate.mp4"}
    page.fill("#name", "10")
    assert opened.names() == ["a/10.mp4"]
    assert page.inner_text("#shown") == "1 of 8 videos"


@pytest.mark.slow
def test_arrow_keys_and_the_pointer_read_a_curve(opened, results):
    page = opened.page
    page.select_option("#sort", "name")
    plot = page.get_by_role("slider", name="Score of a/10.mp4")
    plot.focus()
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    score = results[0].scores[3]
    said = plot.get_attribute("aria-valuetext")
    assert said.startswith("frame 3, 0.12 s: ")
    assert float(said.split(": ")[1]) == pytest.approx(score, abs=0.011)
    assert plot.get_attribute("aria-valuenow") == "3"
    page.keyboard.press("End")
    assert plot.get_attribute("aria-valuetext").startswith("frame 899, 35.96 s: ")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 3, box["y"] + 20)
    card = page.locator(".card").nth(1)
    assert re.match(r"frame (299|300|301), 1[12]\.\d\d s: ", card.locator(".read").inner_text())
    no_rate = page.get_by_role("slider", name="Score of no rate.mp4")
    no_rate.focus()
    page.keyboard.press("Home")
    assert re.fullmatch(r"frame 0: 0\.\d\d", no_rate.get_attribute("aria-valuetext"))


@pytest.mark.slow
def test_a_click_plays_the_video_there(opened):
    page = opened.page
    plot = page.get_by_role("slider", name="Score of a/9.mp4")
    assert opened.requests == [opened.requests[0]]
    box = plot.bounding_box()
    plot.click(position={"x": box["width"] / 2, "y": 30})  # frame 200 of 400, 8 s
    seconds = 0.0
    while seconds < 8:  # not wait_for_function: it needs eval, which the page forbids
        page.wait_for_timeout(100)
        seconds = page.evaluate("document.querySelector('video').currentTime")
    assert seconds < 12
    quiet = page.get_by_role("slider", name="Score of a/10.mp4")  # its file is not at hand
    quiet.click()
    assert page.locator("video").count() == 1
    damaged = page.get_by_role("slider", name="Score of missed.mp4")
    damaged.focus()
    page.keyboard.press("Enter")
    page.get_by_text("The browser cannot play this video here").wait_for()


def test_what_names_hold_is_text(opened):
    assert opened.page.evaluate("window.hacked") is None
    assert HOSTILE in opened.names()
    assert opened.page.locator(".card b").count() == 0


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_page_fits_a_phone_and_the_dark(browser, written, width, scheme):
    opened = Opened(browser, written, width=width, scheme=scheme)
    check_layout(opened, "report", width, scheme)
    assert axe_violations(opened) == []
    opened.page.close()
    assert opened.complaints == []


@pytest.mark.parametrize("others", [0, 2])
def test_a_video_without_frames_has_a_card_without_a_curve(browser, results, tmp_path, others):
    """The last one, too, behind whose points there are none; and a page of such videos alone."""
    none = VideoResult(
        video="zz.mp4", scores=np.zeros(0), labels=None, category="fall", predicted="run",
        probabilities=np.full(2, 0.5),
    )  # fmt: skip
    shown = [*results[:others], none, replace(none, video="zzz.mp4", predicted="fall")]
    opened = Opened(browser, write_page(tmp_path, shown), ready=".card .verdict span")
    page = opened.page
    assert page.locator(".plot").count() == others
    assert page.get_by_text("frames not counted").count() == 2
    page.select_option("#show", "wrong")
    assert "zz.mp4" in opened.names()
    opened.set(3)
    page.close()
    assert opened.complaints == []


@pytest.mark.slow
def test_everything_can_be_reached_by_keyboard(opened):
    page = opened.page
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(
            "(document.activeElement.id || document.activeElement.className"
            " || document.activeElement.tagName)"
        ))  # fmt: skip
    assert {"threshold", "reset", "SUMMARY", "sort", "show", "category", "name"} <= reached
    assert {"plot", "plot playable"} <= reached


# --- why: pictures, nearest training clips, what is far from them --------------------------------

FOREIGN = "elsewhere/<i>far</i>.mp4"


def add_thumbnails(cache: FeatureCache, video: str, kind: str = "WEBP") -> list[bytes]:
    """Write a picture of one colour for each clip of a cached video, and return them."""
    entry = cache.find(video, "rgb")
    clips = cache.read_clips(entry.key)
    pictures = []
    for clip in range(len(clips)):
        file = io.BytesIO()
        Image.new("RGB", (64, 48), (20 * clip, len(video) % 256, 90)).save(file, kind)
        pictures.append(file.getvalue())
    features, bounds = join_bytes(pictures)
    config = stream_config("thumbnails")
    cache.write(
        [
            FeatureRecord(
                stream="thumbnails", config=config, source=entry.source, kind="images",
                features=features, bounds=bounds, clips=clips,
            )
        ]
    )  # fmt: skip
    return pictures


class Explained:
    """An evaluated run whose cache has pictures of all videos but one, and a foreign video."""

    def __init__(self, folder: Path, files: dict[str, Path]) -> None:
        rows = [*demo_rows(), label(FOREIGN, "test")]
        self.cache = make_cache(folder / "features", demo_rows(), files=files)
        odd = {s: np.random.default_rng(2).normal(4, 0.3, (10, 32)) for s in ("rgb", "flow")}
        add_video(self.cache, FOREIGN, odd, 160)
        self.pictures = {
            row.video: add_thumbnails(self.cache, row.video, kind)
            for row, kind in zip(rows, ["WEBP", "JPEG"] * 7, strict=False)
            if row.video != "good/5.mp4"
        }
        self.run = run_training(
            self.cache, rows, choose_method("logistic"), out=folder / "runs" / "r"
        ).run
        self.rows = rows
        self.page = run_evaluation(self.run, self.cache, self.rows).report
        self.why = json.loads((self.page.parent / "why.json").read_text())

    def card(self, video: str) -> dict:
        names = [result.video for result in read_results(self.page.parent)]
        return self.why["cards"][names.index(video)]

    def image(self, number: int) -> bytes:
        return base64.b64decode(self.why["images"][number].split(",")[1])


@pytest.fixture(scope="module")
def explained(tmp_path_factory, make_video) -> Explained:
    folder = tmp_path_factory.mktemp("why")
    film = make_video(folder / "videos" / "bad" / "4.mp4", num_frames=160)
    explained = Explained(folder, {"bad/4.mp4": film})
    assert report(explained.run, "--videos", folder / "videos").exit_code == 0
    return explained


@pytest.mark.slow
def test_pictures_are_those_of_the_peak_and_of_the_worst_errors(explained):
    results = {result.video: result for result in read_results(explained.page.parent)}
    for video, pictures in explained.pictures.items():
        if video not in results:
            continue
        result, card = results[video], explained.card(video)
        assert 1 <= len(card["pictures"]) <= 3
        frames = [one["frame"] for one in card["pictures"]]
        assert len({frame // 16 for frame in frames}) == len(frames)
        assert frames == sorted(frames)
        for one in card["pictures"]:
            assert explained.image(one["image"]) == pictures[one["frame"] // 16]
        assert max(result.scores[frames]) == result.scores.max()
    assert explained.card("good/5.mp4")["pictures"] == []


def test_the_worst_errors_are_among_the_moments():
    scores = np.full(100, 0.2)
    scores[10:20], scores[40:50], scores[70:80] = 0.9, 0.7, 0.8
    labels = np.zeros(100, np.uint8)
    labels[10:20] = labels[30:35] = 1
    scores[32] = 0.1
    found = _moments(VideoResult(video="a", scores=scores, labels=labels))
    assert found[0][1] == "peak, labelled abnormal"
    assert found[1:3] == [
        (70, "highest of the frames labelled normal"),
        (32, "lowest of the frames labelled abnormal"),
    ]
    weak = _moments(VideoResult(video="a", scores=scores, labels=None))
    assert {what for _, what in weak} == {"peak"}
    assert 10 <= weak[0][0] < 20
    right = _moments(VideoResult(video="a", scores=labels * 0.9, labels=labels))
    assert {what for _, what in right} <= {"peak, labelled abnormal", "peak, labelled normal"}


@pytest.mark.slow
def test_the_page_names_what_is_far_and_the_nearest_training_clips(explained):
    assert [bool(card["far"]) for card in explained.why["cards"]] == [
        result.video == FOREIGN for result in read_results(explained.page.parent)
    ]
    trained_on = {row.video for row in demo_rows() if row.split == "train"}
    for card in explained.why["cards"]:
        assert len({one["video"] for one in card["neighbours"]} & trained_on) == 3
        distances = [one["distance"] for one in card["neighbours"]]
        assert distances == sorted(distances)
        for one in card["neighbours"]:
            assert (
                explained.image(one["image"])
                == explained.pictures[one["video"]][one["frame"] // 16]
            )
            assert one["seconds"] == one["frame"] / 25
    bad = explained.card("bad/4.mp4")["neighbours"]
    assert [one["label"] for one in bad] == ["abnormal"] * 3
    assert [one["label"] for one in explained.card("good/4.mp4")["neighbours"]] == ["normal"] * 3


def test_few_pictures_are_those_of_the_worst_videos_and_the_page_says_so(explained, monkeypatch):
    monkeypatch.setattr("model.evaluation.why.PAGE_BYTES", 900)
    results = read_results(explained.page.parent)
    results[2] = replace(results[2], scores=np.zeros(160))
    results[3] = replace(results[3], scores=np.linspace(0.6, 1, 160))  # one long false alarm
    trained = load_run(explained.run)
    wanted = [row for row in explained.rows if row.split == "test"]
    wanted.sort(key=lambda row: row.video)
    data = trained.load_features(explained.cache, wanted)
    why = explain_videos(results, data, explained.cache, trained.reference)
    assert 0 < sum(map(len, why["images"])) <= 900
    assert why["cards"][3]["pictures"]
    assert why["is_full"]
    assert "The page has room for pictures of the" in remarks(why)[1]


def test_what_is_no_small_picture_is_left_out(explained, tmp_path):
    cache = make_cache(tmp_path / "features", demo_rows())
    entry = cache.find("bad/4.mp4", "rgb")
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    features, bounds = join_bytes([svg, b"\xff\xd8\xff" + bytes(70_000)] * 5)
    cache.write(
        [
            FeatureRecord(
                stream="thumbnails", config=stream_config("thumbnails"), source=entry.source,
                kind="images", features=features, bounds=bounds, clips=cache.read_clips(entry.key),
            )
        ]
    )  # fmt: skip
    run = tmp_path / "r"
    shutil.copytree(explained.run, run)
    page = run_evaluation(run, cache, demo_rows()).report
    why = json.loads((page.parent / "why.json").read_text())
    assert why["images"] == []


def test_a_run_without_a_reference_shows_pictures_and_no_neighbours(explained, tmp_path):
    run = tmp_path / "r"
    shutil.copytree(explained.run, run)
    (run / "reference.safetensors").unlink()
    page = run_evaluation(run, explained.cache, explained.rows).report
    why = json.loads((page.parent / "why.json").read_text())
    assert all(card["neighbours"] == [] and card["far"] is None for card in why["cards"])
    assert why["images"]
    run_evaluation(run, explained.cache, explained.rows, pictures=False)
    assert not (page.parent / "why.json").exists()
    assert report(run).exit_code == 0
    assert "Nearest" not in page.read_text().split("<script>")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_a_card_shows_why(browser, explained, width, scheme):
    opened = Opened(browser, explained.page, scheme=scheme)
    page = opened.page
    page.set_viewport_size({"width": width, "height": 900})
    page.select_option("#sort", "name")
    card = page.locator(".card", has=page.get_by_text("bad/4.mp4", exact=True).first).first
    card.scroll_into_view_if_needed()
    card.locator(".pictures img").first.wait_for()
    told = explained.card("bad/4.mp4")
    buttons = card.get_by_role("button")
    assert buttons.count() == len(told["pictures"])
    (result,) = [r for r in read_results(explained.page.parent) if r.video == "bad/4.mp4"]
    for button, one in zip(buttons.all(), told["pictures"], strict=True):
        what, score, time = re.fullmatch(
            r"(.+): score (.+) at (.+) s", button.locator("img").get_attribute("alt")
        ).groups()
        assert (what, time) == (one["what"], f"{one['frame'] / 25:.2f}")
        assert float(score) == pytest.approx(result.scores[one["frame"]], abs=0.011)
    assert page.evaluate(
        "[...document.querySelectorAll('.pictures img')].every((one) => one.naturalWidth === 64)"
    )
    near = card.locator(".near li")
    assert near.count() == 3
    first = told["neighbours"][0]
    assert near.first.text_content() == (
        f"{first['video']} {first['seconds']:.2f} s, {first['label']}, "
        f"distance {first['distance']:.2f}"
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in card.locator("button, img, li").all():
        edges = box.bounding_box()
        assert edges["x"] + edges["width"] <= width
    if folder := os.environ.get("FEAT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"why-{width}-{scheme}.png", full_page=True)
    page.close()
    assert opened.complaints == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [
        explained.page.as_uri()
    ]


@pytest.mark.slow
def test_a_picture_moves_the_reading_point_and_plays_the_video_there(browser, explained):
    opened = Opened(browser, explained.page)
    page = opened.page
    card = page.locator(".card", has=page.get_by_role("slider", name="Score of bad/4.mp4"))
    card.scroll_into_view_if_needed()
    card.get_by_role("button").last.focus()
    page.keyboard.press("Enter")
    card.locator("video").wait_for()
    frame, seconds = explained.card("bad/4.mp4")["pictures"][-1]["frame"], 0.0
    while seconds < frame / 25:
        page.wait_for_timeout(50)
        seconds = page.evaluate("document.querySelector('video').currentTime")
    quiet = page.locator(".card", has=page.get_by_role("slider", name="Score of good/4.mp4"))
    quiet.get_by_role("button").last.click()
    frame = explained.card("good/4.mp4")["pictures"][-1]["frame"]
    assert quiet.locator(".plot").get_attribute("aria-valuenow") == str(frame)
    assert quiet.locator(".read").text_content().startswith(f"frame {frame}, {frame / 25:.2f} s: ")
    assert page.locator("video").count() == 1  # its file is not at hand
    page.close()
    assert opened.complaints == []


@pytest.mark.slow
def test_far_videos_are_marked_and_can_be_chosen(browser, explained):
    opened = Opened(browser, explained.page)
    page = opened.page
    assert page.get_by_text("1 of 5 videos are far from the training videos").count() == 1
    page.select_option("#show", "far")
    assert opened.names() == [FOREIGN]
    card = page.locator(".card:not([hidden])")
    assert card.locator(".tag.far").text_content() == "far from the training videos"
    card.locator(".why.bad").wait_for()
    assert "100% of its clips are farther than" in card.locator(".why.bad").text_content()
    assert page.locator(".card i").count() == 0
    page.close()
    assert opened.complaints == []


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation_in_what_tells_why(browser, explained, scheme):
    opened = Opened(browser, explained.page, scheme=scheme)
    opened.page.locator(".near").first.wait_for()
    assert axe_violations(opened) == []
    opened.page.close()
