"""The flow's statistics as features, and training anew on what was held out to select."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_cache import clip_table, demo_rows, make_cache, stream_config

from cache import FeatureCache, FeatureRecord, SourceRecord
from cache.records import FLOW_STATS
from data.errors import ModelError
from model.config import ModelConfig, TrainConfig
from model.evaluation.evaluate import run_evaluation
from model.features.load import MOTION_DIM, load_features
from model.runs.checkpoint import CHECKPOINT_NAME, load_checkpoint
from model.training.train import run_training

MODEL = ModelConfig(hidden=4, head_widths=(16,), readout="each", skip=True, motion=True)
TRAIN = TrainConfig(max_steps=30, eval_every=10, learning_rate=2e-2, batch_size=16, patience=0)

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


def test_motion_shows_what_the_features_do_not(cache: FeatureCache, tmp_path: Path) -> None:
    aucs = {}
    for motion in (True, False):
        report = run_training(
            cache,
            demo_rows(),
            model=replace(MODEL, motion=motion),
            train=TRAIN,
            runs=tmp_path,
        )
        metrics = run_evaluation(report.run, cache, demo_rows()).metrics
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
    report = run_training(bare, demo_rows(), model=MODEL, train=TRAIN, runs=tmp_path)
    assert not load_checkpoint(report.run / CHECKPOINT_NAME).info.model.motion
    with pytest.raises(ModelError, match="lacks"):
        load_features(bare, demo_rows()[:1], streams=["flow"], motion=True)


def test_refit_trains_on_the_videos_that_selected(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "features", demo_rows())
    train = replace(TRAIN, refit=True)
    report = run_training(cache, demo_rows(), model=MODEL, train=train, runs=tmp_path)
    assert (report.num_train_videos, report.num_val_videos) == (8, 2)
    info = load_checkpoint(report.run / CHECKPOINT_NAME).info
    assert (len(info.train_videos), len(info.val_videos)) == (8, 0)
    evaluation = run_evaluation(report.run, cache, demo_rows())
    assert "8 training videos, 2 of them held out to select" in evaluation.protocol
    # the same number of steps on all videos from the start gives the same network
    direct = replace(TRAIN, val_fraction=0.0, max_steps=report.best_step)
    again = run_training(cache, demo_rows(), model=MODEL, train=direct, runs=tmp_path)
    one, two = (load_checkpoint(r.run / CHECKPOINT_NAME).network for r in (report, again))
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_videos_that_the_labels_name_val_are_never_trained_on(tmp_path: Path) -> None:
    rows = [
        replace(row, split="val") if row.video in ("bad/3.mp4", "good/3.mp4") else row
        for row in demo_rows()
    ]
    cache = make_cache(tmp_path / "features", rows)
    report = run_training(cache, rows, model=MODEL, train=replace(TRAIN, refit=True), runs=tmp_path)
    info = load_checkpoint(report.run / CHECKPOINT_NAME).info
    assert set(info.val_videos) == {"bad/3.mp4", "good/3.mp4"}
    assert not set(info.val_videos) & set(info.train_videos)
