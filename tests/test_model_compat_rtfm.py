"""RTFM's evaluation against one that works on lists, written on its own from its description."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from marks import quick_first
from model_cache import SMALLEST, add_video, label, make_cache, segment_table
from sklearn.metrics import auc, precision_recall_curve, roc_curve

from cache import FeatureCache
from data.datasets.shanghaitech import prepare_shanghaitech
from feat import cli
from model.evaluation.compat import CompatTable
from model.evaluation.evaluate import run_evaluation
from model.evaluation.results import read_results
from model.evaluation.rtfm import COLUMNS, Shortcuts, evaluated_frames
from model.experiments.seeds import train_seeds
from model.measures.metrics import VideoResult
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import choose_method
from model.runs.train import run_training

# tails of 1 to 15 frames, none, and a video shorter than a clip
LENGTHS = [64, 33, 80, 81, 170, 9, 175, 96]
SPANS = ["", "17:33", "", "40:81", "150:170", "", "3:80", ""]
COMPAT = ["--compat", "rtfm", "--json"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rows():
    return [
        label(f"{split}{place}.mp4", split, span)
        for split in ("train", "test")
        for place, span in enumerate(SPANS)
    ]


@pytest.fixture(scope="module")
def cache(rows, tmp_path_factory):
    lengths = dict(zip((row.video for row in rows), LENGTHS * 2, strict=True))
    return make_cache(tmp_path_factory.mktemp("rtfm") / "features", rows, num_frames=lengths)


def theirs(clip_scores, frame_labels):
    """Do what the published test scripts do with scores of clips and padded labels."""
    pred, gt = [], []
    for scores, labels in zip(clip_scores, frame_labels, strict=True):
        padded = list(labels)
        while len(padded) < 16 * len(scores):
            padded.append(padded[-1])
        pred.extend(scores)
        gt.extend(padded)
    pred = np.repeat(np.array(pred), 16)
    fpr, tpr, _ = roc_curve(gt, pred)
    precision, recall, _ = precision_recall_curve(gt, pred)
    return auc(fpr, tpr), auc(recall, precision), len(gt)


@pytest.fixture(scope="module")
def run(cache, rows, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return run_training(
        cache, rows, choose_method("deepmil", assignments=["steps=20"]), runs=runs
    ).run


@pytest.fixture(scope="module")
def report(run, cache, rows):
    return run_evaluation(run, cache, rows, compat="rtfm", pictures=False)


def test_all_shortcuts_together_are_their_evaluation(report, run, rows):
    tests = [row for row in rows if row.split == "test"]
    scores = [result.scores for result in read_results(run / "eval")]
    clips = [one[::16] for one in scores]  # DeepMIL has one score a clip
    labels = [row.frame_labels(len(one)) for row, one in zip(tests, scores, strict=True)]
    area, precision, count = theirs(clips, labels)
    table = report.compat
    assert table.values["rtfm"]["auc"] == pytest.approx(area, abs=1e-12)
    assert table.values["rtfm"]["ap"] == pytest.approx(precision, abs=1e-12)
    assert table.num_frames["rtfm"] == count == sum(-(-n // 16) * 16 for n in LENGTHS)

    whole = [one[: len(one) // 16 * 16] for one in labels]
    clips = [one[: len(truth) // 16] for one, truth in zip(clips, whole, strict=True)]
    area, precision, count = theirs(clips, whole)
    assert table.values["rtfm_tails"]["auc"] == pytest.approx(area, abs=1e-12)
    assert table.values["rtfm_tails"]["ap"] == pytest.approx(precision, abs=1e-12)
    assert table.num_frames["rtfm_tails"] == count == sum(n // 16 * 16 for n in LENGTHS)


def test_the_right_column_is_our_evaluation_and_each_shortcut_is_alone(report):
    values = report.compat.values
    assert tuple(values) == tuple(COLUMNS)
    for name in ("auc", "ap", "auc_abnormal", "far"):
        assert values["right"][name] == pytest.approx(report.metrics.values[name], abs=1e-12)
        assert values["repeat"][name] == pytest.approx(values["right"][name], abs=1e-12), name
    for name in ("padding", "tails", "shift"):
        assert values[name]["auc"] != values["right"]["auc"], name
    assert values["trapezoid"]["ap"] != values["right"]["ap"]
    assert {**values["trapezoid"], "ap": 0} == {**values["right"], "ap": 0}
    frames = report.compat.num_frames
    assert frames["right"] == frames["repeat"] == frames["shift"] == sum(LENGTHS)


def test_the_table_is_printed_kept_and_shown(run):
    done = CliRunner().invoke(cli, ["-q", "eval", "--run", str(run), "--compat", "rtfm"])
    assert done.exit_code == 0, done.output
    table = (run / "eval" / "rtfm.md").read_text()
    assert table in done.stdout
    page = (run / "eval" / "report.html").read_text()
    assert "<summary>Evaluation as RTFM and those after it publish it</summary>" in page
    assert ">rtfm_tails</th>" in page
    assert CliRunner().invoke(cli, ["-q", "report", str(run)]).exit_code == 0
    assert "rtfm_tails" in (run / "eval" / "report.html").read_text()
    plain = CliRunner().invoke(cli, ["-q", "eval", "--run", str(run)])
    assert "rtfm" not in plain.stdout
    assert not (run / "eval" / "rtfm.md").exists()


def test_several_seeds_show_the_means_of_their_tables(cache, rows, tmp_path):
    method = choose_method("deepmil", assignments=["steps=2"])
    folder = train_seeds(cache, rows, method, count=2, out=tmp_path / "two").run
    found = [
        json.loads(CliRunner().invoke(cli, ["-q", "eval", "--run", str(run), *COMPAT]).stdout)
        for run in (folder / "seed-0", folder / "seed-1", folder)
    ]
    one, two, both = (each["compat"]["values"] for each in found)
    assert {column: set(measures) for column, measures in both.items()} == {
        column: set(measures) for column, measures in one.items()
    }
    for column, measures in both.items():
        for name, value in measures.items():
            assert value == pytest.approx((one[column][name] + two[column][name]) / 2)
    assert one["rtfm"] != two["rtfm"]
    shown = CliRunner().invoke(cli, ["-q", "eval", "--run", str(folder), *COMPAT[:2]]).stdout
    assert "| rtfm | rtfm_tails |" in shown
    assert "Means of 2 seeds." in shown


@pytest.mark.parametrize(
    "method",
    quick_first(
        [SMALLEST, ConvLSTMMethod(hidden=4, steps=2), *map(choose_method, ("logistic", "gmm"))]
    ),
)
def test_every_method_can_be_evaluated_so(method, cache, rows, tmp_path):
    run = run_training(cache, rows, method, runs=tmp_path).run
    report = run_evaluation(run, cache, rows, compat="rtfm", pictures=False)
    values = report.compat.values
    assert values["right"]["auc"] == pytest.approx(report.metrics.values["auc"], abs=1e-12)
    assert report.compat.num_frames["rtfm"] == sum(-(-n // 16) * 16 for n in LENGTHS)
    if getattr(method, "clip_slots", 1) > 1:  # or its scores are smoothed
        assert values["repeat"]["auc"] != values["right"]["auc"]


def test_imported_segments_have_no_tail(rows, tmp_path):
    """32 segments of a video have no common length, so that there is nothing to pad or drop."""
    cache = FeatureCache.create(tmp_path / "features")
    rng = np.random.default_rng(0)
    for row in rows:
        features = rng.normal(size=(32, 8)).astype(np.float32)
        add_video(cache, row.video, {"rgb": features}, 170, clips=segment_table(170, 32))
    run = run_training(cache, rows, choose_method("logistic"), runs=tmp_path).run
    table = run_evaluation(run, cache, rows, compat="rtfm", pictures=False).compat
    assert set(table.num_frames.values()) == {8 * 170}
    for name in ("auc", "far"):
        assert table.values["rtfm"][name] == pytest.approx(table.values["right"][name])


@given(
    st.integers(1, 100),
    st.integers(1, 20),
    st.integers(1, 20),
    st.builds(Shortcuts, repeat=..., padding=..., tails=..., shift=...),
    st.integers(0, 99),
)
def test_scores_and_labels_keep_one_length(num_frames, clip_len, stride, shortcuts, seed):
    rng = np.random.default_rng(seed)
    result = VideoResult(
        video="v", scores=rng.random(num_frames), labels=rng.integers(0, 2, num_frames, np.uint8)
    )
    starts = np.arange(0, num_frames, stride)
    seen = evaluated_frames(result, starts, clip_len, shortcuts)  # checks the lengths
    if shortcuts == Shortcuts():
        assert seen == result
    if shortcuts.padding and not shortcuts.tails and stride == clip_len:
        assert len(seen.scores) == -(-num_frames // clip_len) * clip_len
    if shortcuts.tails and stride == clip_len:
        assert len(seen.scores) == num_frames // clip_len * clip_len
    if shortcuts.repeat and not shortcuts.tails:
        assert seen.scores[:stride][-1] == seen.scores[0]


def test_a_table_survives_json(report):
    found = json.loads(json.dumps(report.to_dict()))
    assert CompatTable(**found["compat"]).rows() == report.compat.rows()


@pytest.mark.realdata
def test_our_padding_gives_rtfms_labels_of_shanghaitech(shared_data):
    root = shared_data / "shanghaitech"
    by_name = {row.video: row for row in prepare_shanghaitech(root).labels}
    order = (root / "shanghai-i3d-test-10crop.list").read_text().split()
    found = []
    for line in order[:44]:  # the abnormal ones; nobody says how many frames the others have
        row = by_name[line.removesuffix("_i3d.npy")]
        truth = row.frame_labels(row.num_frames)
        result = VideoResult(video=row.video, scores=np.zeros(len(truth)), labels=truth)
        starts = np.arange(0, len(truth), 16)
        found.append(evaluated_frames(result, starts, 16, COLUMNS["rtfm"]).labels)
    expected = np.load(root / "gt-sh.npy")
    padded = np.concatenate(found)
    assert (len(order), len(padded), len(expected)) == (199, 17968, 142912)
    np.testing.assert_array_equal(padded, expected[:17968])
    assert not expected[17968:].any()
