"""Makes the cache of the UCF-Crime experiment from C3D features that somebody else extracted.

    python -m bench.ucf_crime ../shared/data/ucf_crime work/ucf
    feat compare --cache work/ucf/features --out work/ucf/comparison --seeds 5

It is `feat data ucf-crime --weak --train-intervals` and `feat cache import --layout segments`, and
then labels.csv reduced to the videos that have features. Frame labels of an abnormal video whose
frame count nobody knows cannot be laid on its segments: it becomes a weak one (`?`).

`clicks.csv` beside the cache is the same with the published clicks in the place of intervals.
`folds/<seed>-<fold>.csv` beside the cache are for the categories: the abnormal videos with known
frames, those of the official test part too, divided into three parts, each tested once; all others
train.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cache import FeatureCache
from cache.exchange.foreign import ImportConfig
from cache.exchange.importing import import_features, read_frame_counts
from data.datasets.clicks import with_clicks
from data.datasets.dataset_labels import DatasetLabels
from data.datasets.ucf_crime import prepare_ucf_crime
from data.labels import VideoLabel, write_labels
from data.splits.divide import k_fold

STREAM = "c3d"
ORIGIN = "C3D fc6, 32 segments a video, third party"
FRAME_RATE = 30.0  # of all videos of UCF-Crime: Sultani et al. 2018, section 5.1
FOLDS = 3
SEEDS = 2


def make_cache(source: Path, out: Path) -> FeatureCache:
    marked = source / "videos.jsonl"
    labels = prepare_ucf_crime(source, train_intervals=marked, train_frames="unknown").labels
    cache = FeatureCache.create(out / "features")
    import_features(
        [source / "c3d_fc6_32segments_fp16.npz"],
        cache,
        ImportConfig(stream=STREAM, origin=ORIGIN, layout="segments"),
        frames=read_frame_counts(marked),
        names=[label.video for label in labels],
        frame_rate=FRAME_RATE,
    )
    held = set(cache.videos())
    kept = [label for label in labels if label.video in held]
    counted = {label.video: cache.find(label.video, STREAM).source.num_frames for label in kept}
    kept = [
        replace(label, extent="unknown", intervals=())
        if label.is_abnormal and not counted[label.video]
        else label
        for label in kept
    ]
    write_labels(cache.labels_path, kept)
    write_labels(out / "clicks.csv", clicked(kept, source / "ucf_glance_annotations.csv", counted))
    write_folds(kept, out / "folds")
    kinds = Counter((label.split, label.is_abnormal, label.is_weak) for label in kept)
    for (split, abnormal, weak), count in sorted(kinds.items()):
        kind = f"abnormal, {'frames unknown' if weak else 'frames known'}" if abnormal else "normal"
        print(f"{split}: {count} {kind}")
    return cache


def clicked(labels: list[VideoLabel], path: Path, counted: dict[str, int]) -> list[VideoLabel]:
    """Return the labels with clicks; none where nobody knows how many frames a video has."""
    weak = [
        replace(label, extent="unknown", intervals=())
        if label.is_abnormal and label.split == "train"
        else label
        for label in labels
    ]
    rows = with_clicks(DatasetLabels(labels=weak), path).labels
    return [
        old if new.clicks and not counted[new.video] else new
        for old, new in zip(weak, rows, strict=True)
    ]


def write_folds(labels: list[VideoLabel], folder: Path) -> None:
    """Write the labels of each fold; videos that are normal or weak are in no test part."""
    folder.mkdir(exist_ok=True)
    divided = [label for label in labels if label.is_abnormal and not label.is_weak]
    for seed in range(SEEDS):
        for fold in range(FOLDS):
            part = k_fold(divided, folds=FOLDS, fold=fold, seed=seed)
            split_of = {label.video: label.split for label in part}
            rows = [replace(x, split=split_of.get(x.video, "train")) for x in labels]
            write_labels(folder / f"{seed}-{fold}.csv", rows)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bench.ucf_crime FOLDER_OF_UCF_CRIME OUT")
    print(make_cache(Path(sys.argv[1]), Path(sys.argv[2])).path)
