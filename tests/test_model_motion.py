"""The flow's statistics as features, and training anew on what was held out to select."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from model_cache import clip_table, demo_rows, make_cache, stream_config

from cache import FeatureCache, FeatureRecord, SourceRecord
from cache.records import FLOW_STATS
from data.errors import ModelError
from model.evaluation.evaluate import run_evaluation
from model.features.load import MOTION_DIM, load_features
from model.methods.convlstm import ConvLSTMMethod
from model.runs.checkpoint import load_checkpoint
from model.runs.train import run_training

METHOD = ConvLSTMMethod(
    hidden=4,
    head_widths=(16,),
    readout="each",
    skip=True,
    motion=True,
    steps=30,
    eval_every=10,
    learning_rate=2e-2,
    batch_size=16,
    patience=0,
)
SHORT = replace(METHOD, steps=8, eval_every=4)

pytestmark = pytest.mark.usefixtures("one_thread")


def write_flow(cache: FeatureCache, *, with_stats: bool) -> None:
    """Flow features that are noise; only the statistics know which clips are abnormal."""
    rng = np.random.default_rng(0)
    clips = clip_table(160)
    for number, row in enumerate(demo_rows()):
        labels = row.frame_labels(160).reshape(-1, 16).mean(axis=1)
        stats = np.zeros((len(clips), len(FLOW_STATS)), np.float32)
        stats[:] = (0.5 + 3.0 * labels)[:, None] + rng.normal(0, 0.05, stats.shape)
        source = SourceRecord(
            name=row.video,
            kind="file",
            size=1,
            sha256=f"{number:064x}",
            num_frames=160,
            frame_rate=10.0,
            width=64,
            height=48,
        )
        record = FeatureRecord(
            stream="flow",
            config=stream_config("flow"),
            source=source,
            features=rng.normal(0, 1, (len(clips), 16)).astype(np.float32),
            clips=clips,
            flow_stats=stats if with_stats else None,
        )
        cache.write([record])


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    cache = FeatureCache.create(tmp_path_factory.mktemp("motion") / "features")
    write_flow(cache, with_stats=True)
    return cache


@pytest.mark.slow
def test_motion_shows_what_the_features_do_not(cache: FeatureCache, tmp_path: Path) -> None:
    aucs = {}
    for motion in (True, False):
        method = replace(METHOD, motion=motion)
        report = run_training(cache, demo_rows(), method, runs=tmp_path)
        metrics = run_evaluation(report.run, cache, demo_rows(), pictures=False).metrics
        aucs[motion] = metrics.values["auc"]
    assert aucs[True] > 0.95
    assert aucs[False] < 0.75


def test_motion_columns_are_logarithms_of_the_statistics(cache: FeatureCache) -> None:
    rows = demo_rows()[:1]
    data = load_features(cache, rows, streams=["flow"], motion=True)
    entry = cache.find(rows[0].video, "flow")
    stats = cache.read_record(entry.key).flow_stats
    assert stats is not None
    assert data.features.shape[1] == 16 + MOTION_DIM
    for column, name in ((16, "mean_abs_x"), (-1, "max_cell_magnitude")):
        expected = stats[:, FLOW_STATS.index(name)] + 1e-3
        np.testing.assert_allclose(np.exp(data.features[:, column]), expected, rtol=1e-5)


def test_cache_without_statistics_trains_without_motion(tmp_path: Path) -> None:
    bare = FeatureCache.create(tmp_path / "features")
    write_flow(bare, with_stats=False)
    report = run_training(bare, demo_rows(), METHOD, runs=tmp_path)
    assert not load_checkpoint(report.run).info.method.motion
    with pytest.raises(ModelError, match="come without mean_abs_x"):
        load_features(bare, demo_rows()[:1], streams=["flow"], motion=True)


def test_refit_trains_on_the_videos_that_selected(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "features", demo_rows())
    report = run_training(cache, demo_rows(), replace(SHORT, refit=True), runs=tmp_path)
    found = report.to_dict()
    assert (found["num_train_videos"], found["num_val_videos"]) == (8, 2)
    info = load_checkpoint(report.run).info
    assert (len(info.train_videos), len(info.val_videos)) == (8, 0)
    evaluation = run_evaluation(report.run, cache, demo_rows(), pictures=False)
    assert "8 training videos, 2 of them held out to select" in evaluation.protocol
    # the same number of steps on all videos from the start gives the same network
    direct = replace(SHORT, val_fraction=0.0, steps=info.result["best_step"])
    again = run_training(cache, demo_rows(), direct, runs=tmp_path)
    one, two = (load_checkpoint(r.run).parameters for r in (report, again))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_videos_that_the_labels_name_val_are_never_trained_on(tmp_path: Path) -> None:
    rows = [
        replace(row, split="val") if row.video in ("bad/3.mp4", "good/3.mp4") else row
        for row in demo_rows()
    ]
    cache = make_cache(tmp_path / "features", rows)
    report = run_training(cache, rows, replace(SHORT, refit=True), runs=tmp_path)
    info = load_checkpoint(report.run).info
    assert set(info.val_videos) == {"bad/3.mp4", "good/3.mp4"}
    assert not set(info.val_videos) & set(info.train_videos)
