"""The published evaluation against a loop over videos, windows and frames written on its own."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from model_cache import demo_rows, label, make_cache
from sklearn.metrics import accuracy_score, roc_auc_score
from test_model_released import published, save

from data.errors import ModelError
from feat import cli
from model.evaluation.evaluate import run_evaluation
from model.evaluation.released import COLUMNS, NAMES, Shortcuts
from model.methods.convlstm import ConvLSTMMethod
from model.methods.registry import choose_method
from model.runs.released import import_released
from model.runs.train import run_training

CATEGORIES = ("fall", "run")
# 4 clips and less than a window; windows that fit and that do not; tails of 1 to 15 frames
LENGTHS = [64, 33, 80, 81, 160, 170, 175, 96, 240, 255]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rows():
    spans = ["", "17:33", "", "40:81", "0:60", "150:170", "", "80:96", "", "200:255"]
    return [
        label(f"v{place}.mp4", "test", span, CATEGORIES[place % 2])
        for place, span in enumerate(spans)
    ]


@pytest.fixture(scope="module")
def cache(rows, tmp_path_factory):
    lengths = {row.video: length for row, length in zip(rows, LENGTHS, strict=True)}
    return make_cache(tmp_path_factory.mktemp("compat") / "features", rows, num_frames=lengths)


@pytest.fixture(scope="module")
def theirs():
    return published(seed=3, dim=64, categories=2, hidden=16)


@pytest.fixture(scope="module")
def run(cache, rows, theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoint = save(theirs, folder / "iter_400.pkl")
    out = folder / "released"
    import_released(checkpoint, cache, out=out, categories=CATEGORIES, labels=rows)
    return out


@pytest.fixture(scope="module")
def report(run, cache, rows):
    return run_evaluation(run, cache, rows, compat="released", pictures=False)


def published_evaluation(network, cache, rows):
    """Do what the published test and evaluation do, from their description, video by video."""
    scores, labels, abnormal, truth, guess = [], [], [], [], []
    for row, length in zip(rows, LENGTHS, strict=True):
        full = length // 16  # the tail has no clip there
        features = np.concatenate([cache.read(row.video, s)[:full] for s in ("rgb", "flow")], 1)
        clips = [torch.from_numpy(clip) for clip in features]
        padded = len(clips) % 5 != 0
        while len(clips) % 5:
            clips.append(clips[-1])
        stack = [clip for first in range(len(clips) - 4) for clip in clips[first : first + 5]]
        windows = len(stack) // 5
        with torch.inference_mode():
            logits, found = network(torch.stack(stack).reshape(5, windows, -1))
        best = np.zeros(16 * len(clips))
        for first, window in enumerate(found.numpy()):
            for place, score in enumerate(window):
                best[16 * first + place] = max(best[16 * first + place], score)
        end = 80 * (len(clips) // 5 - padded)
        frames = row.frame_labels(length)
        scores.append(best[:end])
        labels.append(frames[:end])
        abnormal.append(np.full(end, bool(frames.any())))
        truth += [row.category] * windows
        guess += [CATEGORIES[place] for place in logits.argmax(1)]
    score, frame, odd = (np.concatenate(part) for part in (scores, labels, abnormal))
    return {
        "auc": roc_auc_score(frame, score),
        "auc_abnormal": roc_auc_score(frame[odd], score[odd]),
        "far": float((score[~odd] >= 0.5).mean()),
        "accuracy": accuracy_score(truth, guess),
    }, len(score)


def test_all_shortcuts_together_are_the_published_evaluation(report, theirs, cache, rows):
    expected, num_frames = published_evaluation(theirs, cache, rows)
    found = report.compat
    for name, value in expected.items():
        assert found.values["released"][name] == pytest.approx(value, abs=1e-4), name  # near ties
    assert found.num_frames["released"] == num_frames == 80 * 15


def test_without_shortcuts_it_is_our_evaluation(report):
    right = report.compat.values["right"]
    for name in ("auc", "ap", "auc_abnormal", "far"):
        assert right[name] == pytest.approx(report.metrics.values[name], abs=1e-12), name
    assert right["accuracy"] == pytest.approx(report.metrics.values["accuracy_video"])
    assert report.compat.num_frames["right"] == sum(LENGTHS)


def test_each_shortcut_changes_what_it_should(report):
    frames = report.compat.num_frames
    assert frames["tails"] == sum(length // 16 * 16 for length in LENGTHS)
    clips = [-(-length // 16) for length in LENGTHS]
    blocks = [
        length if count % 5 == 0 else count // 5 * 80
        for length, count in zip(LENGTHS, clips, strict=True)
    ]
    assert frames["last_block"] == sum(blocks)
    values = report.compat.values
    for name in NAMES:
        assert values[name] != values["right"], name
    same = {name: value for name, value in values["right"].items() if name != "accuracy"}
    assert {**values["per_window"], "accuracy": 0} == {**same, "accuracy": 0}
    assert values["per_window"]["accuracy"] == pytest.approx(
        report.metrics.values["accuracy_window"]
    )
    assert values["maximum"]["far"] >= values["right"]["far"]


def test_scrambled_windows_by_hand():
    """Seven clips, K = 5: three windows, read as five steps of three."""
    from model.evaluation.released import _lay_windows

    windows, mask = _lay_windows(np.arange(7), 5, Shortcuts(scramble=True))
    # laid out 01234 12345 23456, then read in threes: 012 341 234 523 456
    assert windows.tolist() == [[0, 3, 2, 5, 4], [1, 4, 3, 2, 5], [2, 1, 4, 3, 6]]
    assert mask.all()
    straight, _ = _lay_windows(np.arange(7), 5, Shortcuts())
    assert straight.tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [2, 3, 4, 5, 6]]
    padded, mask = _lay_windows(np.arange(3), 5, Shortcuts())
    assert padded.tolist() == [[0, 1, 2, 2, 2]]
    assert mask.tolist() == [[True, True, True, False, False]]
    assert _lay_windows(np.arange(3), 5, Shortcuts(padding=True))[1].all()


def test_the_table_is_written_shown_and_part_of_the_report(report, run, cache):
    done = CliRunner().invoke(cli, ["-q", "eval", "--run", str(run), "--compat", "released"])
    assert done.exit_code == 0, done.output
    table = (run / "eval" / "released.md").read_text()
    assert table in done.stdout
    head = table.splitlines()[0]
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["", *COLUMNS]
    page = (run / "eval" / "report.html").read_text()
    assert "<summary>Evaluation as published with LAD</summary>" in page
    plain = CliRunner().invoke(cli, ["-q", "eval", "--run", str(run)])
    assert "scramble" not in plain.stdout
    assert not (run / "eval" / "released.md").exists()


def test_methods_without_windows_are_refused(tmp_path):
    cache = make_cache(tmp_path / "features", demo_rows())
    run = run_training(cache, demo_rows(), choose_method("logistic"), runs=tmp_path).run
    with pytest.raises(ModelError, match="which logistic does not have; leave --compat out"):
        run_evaluation(run, cache, demo_rows(), compat="released")


def test_other_models_can_be_compared_too(tmp_path):
    """A linear output that reads out each step, and weak and uncategorised videos."""
    rows = [*demo_rows(), label("weak.mp4", "test", "?", "run"), label("short.mp4", "test")]
    lengths = {row.video: 160 for row in rows} | {"short.mp4": 9}
    cache = make_cache(tmp_path / "features", rows, num_frames=lengths)
    method = ConvLSTMMethod(
        hidden=4, head_widths=(8,), readout="each", score_activation="linear", steps=4, patience=0
    )
    run = run_training(cache, rows, method, runs=tmp_path).run
    report = run_evaluation(run, cache, rows, compat="released", pictures=False)
    right, released = (report.compat.values[name] for name in ("right", "released"))
    assert right["auc"] == pytest.approx(report.metrics.values["auc"], abs=1e-12)
    assert released["auc"] is not None
    assert report.compat.num_frames["tails"] == 160 * 4  # the short video has no whole clip
    assert report.compat.num_frames["right"] == 160 * 4 + 9
