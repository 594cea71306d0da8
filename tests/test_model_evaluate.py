"""Evaluation: every frame once and in its place, what is written, what is refused."""

import base64
import csv
import hashlib
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import quick_first
from model_cache import add_video, clip_table, demo_rows, label, make_cache
from safetensors.numpy import save_file

from cache import FeatureCache, NameEntry
from data.errors import ConfigError, ModelError
from data.labels import write_labels
from model.evaluation.evaluate import run_evaluation
from model.measures.scores import video_results
from model.methods.convlstm import ConvLSTMMethod
from model.methods.gather import DataOptions
from model.runs.checkpoint import KIND, load_checkpoint
from model.runs.file_names import file_names
from model.runs.folder import CHECKPOINT_NAME
from model.runs.tensor_file import read_arrays, write_arrays
from model.runs.train import run_training
from model.runs.trained import load_run

SMALL = ConvLSTMMethod(
    hidden=8, head_widths=(32,), readout="each", steps=40, eval_every=20, learning_rate=2e-2,
    batch_size=16, patience=0,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("demo") / "features", demo_rows())


@pytest.fixture(scope="module")
def run(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return run_training(cache, demo_rows(), SMALL, runs=folder).run


@pytest.fixture(scope="module")
def report(run, cache):
    return run_evaluation(run, cache, demo_rows())


def evaluate_videos(run, cache, rows):
    trained = load_run(run)
    data = trained.load_features(cache, rows)
    return video_results(trained.score(data), data)


def train_and_score(tmp_path, rows, num_frames, **changes):
    cache = make_cache(tmp_path / "features", rows, num_frames=num_frames)
    run = run_training(cache, rows, replace(SMALL, **changes), runs=tmp_path / "runs").run
    tests = [row for row in rows if row.split == "test"]
    return {result.video: result for result in evaluate_videos(run, cache, tests)}


@pytest.mark.parametrize("readout", quick_first(["last", "each"]))
def test_a_spike_in_the_features_is_a_spike_at_the_same_frames(tmp_path, readout):
    """One abnormal clip in a long test video: any shift of windows or slots moves the peak."""
    spans = ["0:16", "48:64", "128:144", "64:96", "144:160", "32:48"]
    rows = [label(f"bad{i}.mp4", "train", span) for i, span in enumerate(spans)]
    rows += [label(f"good{i}.mp4", "train") for i in range(6)]
    places = [0, 7, 18, 24]  # the first, two in the middle, the last clip
    rows += [label(f"spike{p}.mp4", "test", f"{16 * p}:{16 * p + 16}") for p in places]
    lengths = {row.video: 400 if row.split == "test" else 160 for row in rows}
    found = train_and_score(tmp_path, rows, lengths, readout=readout)
    for place in places:
        scores = found[f"spike{place}.mp4"].scores.reshape(25, 16).mean(axis=1)
        others = np.delete(scores, place)
        assert scores.argmax() == place
        assert scores[place] > 3 * others.mean()


@pytest.mark.slow
def test_labels_within_a_clip_are_learnt_at_their_own_frames(tmp_path):
    """Every abnormal clip is so in its second half only: the scores must say the same."""
    rows = [label(f"bad{i}.mp4", "train", f"{16 * i + 8}:{16 * i + 16}") for i in range(10)]
    rows += [label(f"good{i}.mp4", "train") for i in range(6)]
    rows.append(label("probe.mp4", "test", "88:96"))
    scores = train_and_score(tmp_path, rows, 160)["probe.mp4"].scores
    assert scores[88:96].min() > 2 * scores[80:88].max()
    assert scores[88:96].min() > 2 * scores[:80].max()


def test_videos_of_every_length_get_a_score_for_every_frame(tmp_path):
    lengths = [1, 5, 16, 17, 79, 80, 81, 250]
    rows = demo_rows()[:3] + demo_rows()[6:9]
    rows += [label(f"t{length}.mp4", "test") for length in lengths]
    num_frames = {row.video: 160 for row in rows} | {f"t{n}.mp4": n for n in lengths}
    found = train_and_score(tmp_path, rows, num_frames)
    for length in lengths:
        scores = found[f"t{length}.mp4"].scores
        assert scores.shape == (length,)
        assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.slow
def test_short_videos_can_be_trained_on(tmp_path):
    rows = [label(f"bad{i}.mp4", "train", "16:32") for i in range(4)]
    rows += [label(f"good{i}.mp4", "train") for i in range(4)]
    rows.append(label("probe.mp4", "test", "16:32"))
    scores = train_and_score(tmp_path, rows, 37)["probe.mp4"].scores  # 3 clips of 5, a tail of 5
    assert scores[16:32].min() > scores[32:].max()
    assert scores[16:32].min() > scores[:16].max()


def test_scores_do_not_depend_on_the_other_videos(run, cache):
    rows = [row for row in demo_rows() if row.split == "test"]
    together = evaluate_videos(run, cache, rows)
    for row, expected in zip(rows, together, strict=True):
        alone = evaluate_videos(run, cache, [row])[0]
        np.testing.assert_allclose(alone.scores, expected.scores, atol=1e-6)


@pytest.mark.slow
def test_linear_scores_are_clamped(tmp_path):
    rows = demo_rows()
    found = train_and_score(tmp_path, rows, 160, score_activation="linear")
    scores = np.concatenate([result.scores for result in found.values()])
    assert scores.min() >= 0.0
    assert scores.max() <= 1.0


def test_scores_of_videos_that_are_no_longer_evaluated_are_removed(run, cache, tmp_path):
    own = shutil.copytree(run, tmp_path / "run")
    rows = demo_rows()
    run_evaluation(own, cache, rows, pictures=False)
    folder = own / "eval" / "scores"
    (folder / "mine.csv").write_text("video,remark\n")
    assert len(list(folder.iterdir())) == 5
    tests = [row for row in rows if row.split == "test"]
    run_evaluation(own, cache, [*tests[:1], *tests[-1:]], pictures=False)
    expected = ["bad_4.mp4.csv", "good_5.mp4.csv", "mine.csv"]
    assert sorted(path.name for path in folder.iterdir()) == expected


def test_a_test_video_that_was_exchanged_since_the_last_evaluation_is_said(run, tmp_path, caplog):
    rows = demo_rows()
    own = shutil.copytree(run, tmp_path / "run")
    cache = make_cache(tmp_path / "features", rows)
    run_evaluation(own, cache, rows, pictures=False)
    run_evaluation(own, cache, rows, pictures=False)
    assert "another content" not in caplog.text
    features = {"rgb": np.ones((10, 32)), "flow": np.ones((10, 32))}
    add_video(cache, "good/5.mp4", features, 160, content="another recording")
    content = hashlib.sha256(b"another recording").hexdigest()
    cache.set_names({"good/5.mp4": NameEntry(sha256=content, size=1000, mtime_ns=0)})
    run_evaluation(own, cache, rows, pictures=False)
    assert (
        "1 test videos have another content than in the evaluation before, under the same names: "
        "good/5.mp4; "
    ) in caplog.text
    (own / "eval" / "videos.csv").write_text("nothing\n")  # as of a build that kept no contents
    caplog.clear()
    run_evaluation(own, cache, rows, pictures=False)
    assert "another content" not in caplog.text


def test_report_holds_the_measures_asked_for(report, run, cache):
    values = report.to_dict()
    assert {"auc", "ap", "auc_abnormal", "far", "accuracy_video"} <= values.keys()
    assert values["auc"] > 0.95
    assert values["num_videos"] == 4
    assert values["num_frames"] == 640
    assert values["run"] == str(run)
    assert values["cache"] == str(cache.path)
    assert "fully supervised" in values["protocol"]
    assert values["intervals"]["auc"][0] <= values["auc"] <= values["intervals"]["auc"][1]
    assert {row["category"] for row in values["categories"]} == {"fall", "run"}
    assert json.loads((run / "eval" / "metrics.json").read_text()) == values


def test_scores_are_written_for_each_video(report, run):
    folder = run / "eval"
    stored = np.load(folder / "scores.npz")
    assert stored["videos"].tolist() == ["bad/4.mp4", "bad/5.mp4", "good/4.mp4", "good/5.mp4"]
    assert stored["num_frames"].tolist() == [160] * 4
    assert np.flatnonzero(stored["labels"]).tolist() == [*range(64, 112), *range(208, 256)]
    with (folder / "videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["abnormal"] for row in rows] == ["48", "48", "0", "0"]
    with (folder / rows[0]["scores"]).open() as file:
        frames = list(csv.DictReader(file))
    np.testing.assert_allclose(
        [float(frame["score"]) for frame in frames], stored["scores"][:160], atol=1e-6
    )
    assert [frame["label"] for frame in frames] == ["0"] * 64 + ["1"] * 48 + ["0"] * 48


def test_report_page_is_self_contained(report, run):
    page = report.report.read_text()
    assert not re.search(r"(src|href)=['\"]?(http|file|/|\.)", page)
    assert len(re.findall('<li class="card"', page)) == 4
    scores = np.load(run / "eval" / "scores.npz")["scores"]
    points = base64.b64decode(re.search('"points": "([^"]+)"', page)[1])
    assert len(points) == len(scores) == 640
    found = re.search(r'<table class="confusion">.*?</table>', page, re.DOTALL)[0]
    assert len(re.findall('scope="row"', found)) == 2  # fall and run


def test_names_in_the_page_are_escaped(tmp_path):
    rows = demo_rows()[:2] + demo_rows()[6:8] + [label("<script>alert(1)&$x$.mp4", "test")]
    cache = make_cache(tmp_path / "features", rows)
    run = run_training(cache, rows, replace(SMALL, steps=1), runs=tmp_path).run
    page = run_evaluation(run, cache, rows).report.read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&amp;$x$.mp4" in page


def test_one_kind_of_frame_gives_none(tmp_path):
    rows = [row for row in demo_rows() if row.split == "train" or row.video.startswith("good")]
    rows = [replace(row, category="") for row in rows]
    cache = make_cache(tmp_path / "features", rows)
    run = run_training(cache, rows, replace(SMALL, steps=1), runs=tmp_path).run
    found = run_evaluation(run, cache, rows).to_dict()
    assert found["auc"] is None
    assert found["reasons"]["auc"] == "no abnormal frame"
    assert "none: no abnormal frame" in (run / "eval" / "report.html").read_text()


def test_other_splits_are_kept_apart_and_named(run, cache, report):
    found = run_evaluation(run, cache, demo_rows(), split="train")
    assert found.report.parent.name == "eval-train"
    assert "NOT a test result" in found.protocol
    assert "NOT" not in report.protocol


def test_the_protocol_names_supervision_and_split(run, cache, report):
    trained_with = hashlib.sha256((run / "labels.csv").read_bytes()).hexdigest()
    assert report.supervision == "fully"
    assert report.labels_sha256 == trained_with
    assert report.protocol.endswith(f"split of labels.csv {trained_with[:12]} (8 train, 4 test)")
    assert report.protocol in (run / "eval" / "report.html").read_text()
    fewer = [row for row in demo_rows() if row.video != "good/5.mp4"]
    found = run_evaluation(run, cache, fewer, pictures=False)
    digest = hashlib.sha256((run / "eval" / "labels.csv").read_bytes()).hexdigest()
    assert f"labels.csv {digest[:12]} (8 train, 3 test), which are not those" in found.protocol
    assert found.to_dict()["labels_sha256"] == digest != trained_with


def test_a_test_video_that_was_trained_on_is_refused(run, cache):
    rows = [replace(row, split="test") for row in demo_rows()]
    with pytest.raises(ModelError, match="8 test videos were used to train this run"):
        run_evaluation(run, cache, rows)


def test_a_trained_video_under_another_name_is_refused(run, tmp_path):
    cache = make_cache(tmp_path / "features", demo_rows())
    content = cache.names()["bad/0.mp4"]
    cache.set_names({"bad/0.mp4": content, "innocent.mp4": content})
    with pytest.raises(ModelError, match=r"used to train this run: innocent\.mp4"):
        run_evaluation(run, cache, [label("innocent.mp4", "test", "32:64")])


def test_features_of_another_configuration_are_refused_with_the_difference(run, tmp_path):
    other = FeatureCache.create(tmp_path / "features")
    features = {name: np.zeros((10, 32)) for name in ("rgb", "flow")}
    changed = {"weights": {"digest": "b" * 64}}
    add_video(other, "new.mp4", features, 160, config=changed)
    with pytest.raises(ConfigError, match=r"other rgb features.*weights\.digest: a+ here, b+ in"):
        run_evaluation(run, other, [label("new.mp4", "test")])


def test_a_cache_without_the_stream_is_refused_with_the_next_step(run, tmp_path):
    other = make_cache(tmp_path / "features", demo_rows(), streams={"rgb": 32})
    with pytest.raises(
        ConfigError, match=r"needs the stream flow.*feat extract --streams rgb,flow"
    ):
        run_evaluation(run, other, demo_rows())


def test_a_missing_test_video_is_named(run, cache):
    rows = [*demo_rows(), label("gone.mp4", "test")]
    with pytest.raises(ModelError, match=r"1 of 5 labelled videos.*gone\.mp4"):
        run_evaluation(run, cache, rows)
    found = run_evaluation(run, cache, rows, options=DataOptions(skip_missing=True))
    assert found.metrics.counts["num_videos"] == 4
    for skip in (False, True):
        with pytest.raises(ModelError, match=r"1 of 1 labelled videos are not in the cache: gone"):
            run_evaluation(run, cache, rows[-1:], options=DataOptions(skip_missing=skip))


def test_no_video_in_the_split(run, cache):
    with pytest.raises(ModelError, match="no video with split 'val'"):
        run_evaluation(run, cache, demo_rows(), split="val")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncate", "it is damaged"),
        ("garbage", "it is damaged"),
        ("other", "it is no feat checkpoint"),
        ("description", "hidden is 'many', expected whole number"),
        ("format", "format 1, this build reads 2"),
    ],
)
def test_a_damaged_checkpoint_is_refused_in_one_line(run, tmp_path, damage, message):
    path = tmp_path / CHECKPOINT_NAME
    whole = (run / CHECKPOINT_NAME).read_bytes()
    described, arrays = read_arrays(run / CHECKPOINT_NAME, KIND)
    if damage == "truncate":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "garbage":
        path.write_bytes(b"\x80\x04pickle")
    elif damage == "other":
        save_file(arrays, path)
    elif damage == "description":
        described["settings"]["hidden"] = "many"
        write_arrays(path, KIND, described, arrays)
    else:
        write_arrays(path, KIND, {**described, "format": 1}, arrays)
    expected = f"not a checkpoint this build can read: .*{message}"
    with pytest.raises(ModelError, match=expected) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_parameters_of_another_shape_are_refused_in_one_line(run, cache, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    described, arrays = read_arrays(run / CHECKPOINT_NAME, KIND)
    described["settings"]["hidden"] = 10**6  # asks for terabytes, if it were believed
    write_arrays(tmp_path / "run" / CHECKPOINT_NAME, KIND, described, arrays)
    with pytest.raises(ModelError, match="its parameters do not fit convlstm: ") as caught:
        run_evaluation(tmp_path / "run", cache, demo_rows())
    assert "\n" not in str(caught.value)


def test_a_checkpoint_gives_the_same_scores_as_the_network_it_was_saved_from(run, cache, report):
    tests = [row for row in demo_rows() if row.split == "test"]
    once, twice = (evaluate_videos(run, cache, tests) for _ in range(2))
    stored = np.load(run / "eval" / "scores.npz")["scores"]
    scores = np.concatenate([result.scores for result in once])
    np.testing.assert_allclose(scores, stored, atol=1e-6)
    assert all(np.array_equal(a.scores, b.scores) for a, b in zip(once, twice, strict=True))


def test_file_names_are_readable_and_all_different():
    videos = [
        "a/b.mp4",
        "a_b.mp4",
        "A/b.mp4",
        "..",
        "x" * 300,
        "é/ü.mp4",
        "e\u0301/u\u0308.mp4",
        "門.mp4",
        "हिन्दी 1",
    ]
    names = file_names(videos)
    assert names[:4] == ["a_b.mp4", "a_b.mp4-2", "A_b.mp4-3", "video"]
    assert names[5:] == ["é_ü.mp4", "é_ü.mp4-2", "門.mp4", "हिन्दी_1"]


def test_file_names_have_room_on_any_file_system():
    names = file_names(["門" * 300, "門" * 300 + "a", "x" * 300])
    assert names == ["門" * 50, "門" * 50 + "-2", "x" * 150]


@settings(max_examples=30)
@given(st.lists(st.text(), max_size=5))
def test_file_names_are_safe(tmp_path_factory: pytest.TempPathFactory, videos: list[str]):
    folder = tmp_path_factory.mktemp("names")
    names = file_names(videos)
    for name in names:
        (folder / f"{name}.scores.json").touch()
    assert len(list(folder.iterdir())) == len(videos)
    assert len({name.casefold() for name in names}) == len(videos)
    assert not any(set(name) & set('<>:"/\\|?*\0\n') or name.startswith(".") for name in names)


@pytest.mark.slow
def test_weak_test_videos_count_for_the_category_alone(tmp_path):
    rows = [*demo_rows(), label("weak.mp4", "test", "?", "run")]
    cache = make_cache(tmp_path / "features", rows)
    run = run_training(cache, rows, SMALL, runs=tmp_path).run
    report = run_evaluation(run, cache, rows)
    found = report.metrics.counts
    assert found["num_weak_videos"] == 1
    assert "frame-level on 4 of the 5 test videos, 1 whose abnormal frames" in report.protocol
    assert found["num_category_videos"] == 3


def test_overlapping_clips_are_scored_frame_by_frame(tmp_path):
    rows = demo_rows()
    cache = FeatureCache.create(tmp_path / "features")
    rng = np.random.default_rng(0)
    for row in rows:
        clips = clip_table(160, stride=8)
        truth = row.frame_labels(160)
        features = rng.normal(0.0, 0.3, (len(clips), 32))
        spans = zip(clips.start_frame, clips.end_frame, strict=True)
        features[:, :8] += 3.0 * np.array([[truth[a:b].mean()] for a, b in spans])
        add_video(cache, row.video, {"rgb": features}, 160, clips=clips)
    write_labels(cache.labels_path, rows)
    run = run_training(cache, rows, SMALL, runs=tmp_path).run
    found = run_evaluation(run, cache, rows).metrics
    assert found.counts["num_frames"] == 640
    assert found.values["auc"] > 0.95
