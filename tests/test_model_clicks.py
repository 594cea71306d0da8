"""Clicks: their loss against a plain loop, who sees them, what they teach, where they come from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from model_cache import add_video, label, make_cache

from cache import FeatureCache
from data.datasets.clicks import read_clicks, with_clicks
from data.datasets.dataset_labels import DatasetLabels
from data.errors import LabelsError
from data.labels import VideoLabel, read_labels
from data.splits.protocols import apply_protocol
from feat import cli
from model.evaluation.evaluate import run_evaluation
from model.features.load import load_features
from model.methods.gather import gather
from model.methods.registry import choose_method
from model.methods.weak.clicks import ClickLoss
from model.runs.train import run_training

pytestmark = pytest.mark.usefixtures("one_thread")


def by_loops(scores, frames, clicks, lengths, is_abnormal, *, width, mined):
    losses = []
    for s, f, g, n, abnormal in zip(scores, frames, clicks, lengths, is_abnormal, strict=True):
        if abnormal and not g:
            continue
        target = np.zeros(len(s))
        for click in g:
            target = np.maximum(target, np.exp(-(((f - click) / (width * n)) ** 2) / 2))
            if mined:
                place = int(np.argmin(np.abs(f - click)))
                for step in (1, -1):
                    at = place
                    while 0 <= at < len(s) and s[at] >= 0.9 * s[place]:
                        target[at] = 1.0
                        at += step
        losses += [
            -(t * np.log(p) + (1 - t) * np.log(1 - p)) for t, p in zip(target, s, strict=True)
        ]
    return float(np.mean(losses))


@pytest.mark.parametrize("mined", [False, True])
def test_loss_of_clicks(tmp_path, mined):
    rows = [label("a", "train", "@20;@130"), label("b", "train", "?"), label("g", "train")]
    rows.append(label("z", "train", "@0"))
    cache = make_cache(tmp_path / "features", rows, streams={"rgb": 4})
    data = load_features(cache, rows, streams=["rgb"])
    method = choose_method("deepmil").changed(
        {"click_warmup": 0 if mined else 1, "click_weight": 2.0, "click_width": 0.2}
    )
    loss = ClickLoss(method, data)
    frames = loss.middle_frames(np.arange(len(data.features)).reshape(4, -1))
    assert frames[0, :2].tolist() == [7.5, 23.5]
    # a plateau around the first click, with a dip behind it
    scores = torch.rand(frames.shape, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.1
    scores[0, :4] = torch.tensor([0.88, 0.9, 0.85, 0.3])
    expected = by_loops(
        scores.double().numpy(), frames, [x.clicks for x in rows], data.num_frames,
        [x.is_abnormal for x in rows], width=0.2, mined=mined,
    )  # fmt: skip
    assert float(loss(scores, np.arange(4), frames)) == pytest.approx(2 * expected, rel=1e-5)
    mask = torch.ones(scores.shape, dtype=torch.bool)
    mask[:, -3:] = False  # padding changes nothing, whatever it holds
    method = replace(method, click_warmup=0 if mined else 9)
    cut = ClickLoss(method, data)(scores, np.arange(4), frames, mask)
    plain = ClickLoss(method, data)(scores[:, :-3], np.arange(4), frames[:, :-3])
    assert float(cut) == pytest.approx(float(plain), rel=1e-6)


def test_no_clicks_no_loss(tmp_path):
    rows = [label("a", "train", "?"), label("g", "train")]
    data = load_features(make_cache(tmp_path / "f", rows), rows, streams=["rgb"])
    scores = torch.full((2, 10), 0.5)
    frames = np.zeros((2, 10), np.float32)
    for method in (choose_method("deepmil"), choose_method("deepmil", assignments=["clicks=off"])):
        assert float(ClickLoss(method, data)(scores, np.arange(2), frames)) == 0
    clicked = replace(data, labels=(label("a", "train", "@3"), rows[1]))
    assert float(ClickLoss(choose_method("deepmil"), clicked)(scores, np.arange(2), frames)) > 0
    off = choose_method("deepmil", assignments=["clicks=off"])
    assert float(ClickLoss(off, clicked)(scores, np.arange(2), frames)) == 0


def test_clicks_of_videos_without_a_frame_count_are_left_out(tmp_path, caplog):
    rows = [label("a", "train", "@20"), label("b", "train", "@130"), label("g", "train")]
    data = load_features(make_cache(tmp_path / "f", rows), rows, streams=["rgb"])
    uncounted = replace(data, num_frames=np.array([0, 160, 0]))
    loss = ClickLoss(choose_method("deepmil"), uncounted)
    assert (
        "clicks in 1 videos that were imported without a frame count are left out: a; import "
        "them again with --frames"
    ) in caplog.text
    scores = torch.full((1, 10), 0.5)
    frames = loss.middle_frames(np.arange(10))[None]
    assert float(loss(scores, np.array([0]), frames)) == 0
    assert float(loss(scores, np.array([1]), frames)) > 0


def test_weak_methods_see_clicks_and_no_other_does(tmp_path):
    rows = [label("a", "train", "@20"), label("b", "train", "16:32"), label("g", "train")]
    weak = apply_protocol(rows, "weakly")
    assert [(row.extent, row.clicks) for row in weak] == [
        ("clicks", (20,)), ("unknown", ()), ("normal", ()),
    ]  # fmt: skip
    cache = make_cache(tmp_path / "features", rows)
    _, material = gather(choose_method("logistic"), cache, rows)
    assert [row.video for row in material.train.labels] == ["b", "g"]


@pytest.mark.parametrize(
    "name",
    ["ar-net", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deepmil", "pel4vad"))],
)
def test_clicks_teach_where_the_event_is(name, tmp_path):
    """What marks an event is also in half of the time around it: only clicks tell them apart."""
    rng = np.random.default_rng(0)
    cache, rows = FeatureCache.create(tmp_path / "features"), []
    for index in range(24):
        split, start = ("train", "test")[index >= 12], 16 * int(rng.integers(4, 8))
        marked = f"{start}:{start + 48}" if split == "test" else f"@{start + 24}"
        rows += [label(f"b{index}", split, marked), label(f"g{index}", split)]
        features = np.abs(rng.normal(0, 1, (12, 64)))
        clips = slice(start // 16, start // 16 + 3)
        features[:, :8] += 2.0  # all of an abnormal video looks abnormal
        features[clips, :8] -= 1.0
        features[clips, 8:16] += 1.0
        add_video(cache, f"b{index}", {"rgb": features}, 192)
        add_video(cache, f"g{index}", {"rgb": np.abs(rng.normal(0, 1, (12, 64)))}, 192)
    quick = {
        "deepmil": {
            "steps": 120, "bags": 6, "click_weight": 10.0, "dropout": 0.0, "num_segments": 12,
        },
        "ar-net": {"steps": 60, "learning_rate": 0.005},
        "pel4vad": {"steps": 30, "learning_rate": 0.004},
    }  # fmt: skip
    found = {}
    for clicks in ("on", "off"):
        method = choose_method(name, assignments=[f"clicks={clicks}", "click_width=0.15"])
        method = method.changed(quick[name])
        run = run_training(cache, rows, method, seed=0, runs=tmp_path / clicks).run
        found[clicks] = run_evaluation(run, cache, rows, pictures=False).metrics.values
    assert found["on"]["auc_abnormal"] > 0.9
    assert found["on"]["auc_abnormal"] > found["off"]["auc_abnormal"] + 0.1


@pytest.mark.realdata
def test_real_clicks_become_labels(shared_data, tmp_path):
    root = shared_data / "ucf_crime"
    out = tmp_path / "labels.csv"
    args = ["data", "ucf-crime", "--root", str(root), "--partial", "--out", str(out), "--weak"]
    clicks = root / "ucf_glance_annotations.csv"
    assert CliRunner().invoke(cli, [*args, "--clicks", str(clicks)]).exit_code == 0
    rows = read_labels(out)
    clicked = [row for row in rows if row.clicks]
    assert len(clicked) == 810  # all abnormal training videos
    abuse = next(row for row in clicked if row.video.endswith("Abuse001_x264.mp4"))
    assert abuse.clicks == (299, 1047, 1836, 2339)
    assert not any(row.clicks for row in rows if row.split == "test")


@pytest.mark.parametrize("place", ["train/{}.mp4", "train/{}", "train/{}/img"])
def test_clicks_find_a_video_with_dots_in_its_name(tmp_path, place):
    name = "Bad.Boys.1995__#01-11-55_label_B2-0-0"
    path = tmp_path / "clicks.csv"
    path.write_text(f"video-id,glance\n{name},9\n")
    row = VideoLabel(video=place.format(name), split="train", extent="unknown")
    clicked = with_clicks(DatasetLabels(labels=[row]), path)
    assert clicked.problems == ()
    assert clicked.labels[0].clicks == (9,)


def test_a_click_beyond_the_end_is_told_with_file_and_video(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_text("video-id,glance\nx,9\n")
    row = VideoLabel(video="a/x.mp4", split="train", extent="all", num_frames=9)
    told = r"clicks\.csv: a/x\.mp4: anomaly '@9' goes to frame 10, but frames is 9; mend"
    with pytest.raises(LabelsError, match=told):
        with_clicks(DatasetLabels(labels=[row]), path)


def test_damaged_files_of_clicks_are_one_line(tmp_path):
    path = tmp_path / "clicks.csv"
    for text, told in [
        ("", "clicks.csv:1: columns '', expected video-id,glance"),
        ("a,b\n", "clicks.csv:1: columns 'a,b', expected"),
        (
            "video-id,glance\nx,1\nx,-2\n",
            "clicks.csv:3: 'x,-2', expected a video's name and",
        ),
        ("video-id,glance\nx\n", "clicks.csv:2: 'x', expected"),
        ("video-id,glance\nx," + "9" * 5000, "clicks.csv:2: 'x,99"),
    ]:
        path.write_text(text)
        with pytest.raises(LabelsError, match=told):
            read_clicks(path)
    path.write_bytes(b"video-id,glance\n\xff\xfe,1\n")
    with pytest.raises(LabelsError, match="not a readable CSV"):
        read_clicks(path)
    path.write_text("video-id,glance\nx,7\nx,3\nx,7\n")
    assert read_clicks(path) == {"x": (3, 7)}
