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

A third argument is a number of values to reduce each feature to, by the singular vectors of the
official training videos (not centred, so that lengths and angles stay as they can): with 4,096
values a step of RTFM takes 27 s of a core. They are turned by a random rotation, which leaves
lengths and angles and gives every value about the same deviation: methods that standardise each
value would else raise the last, least vectors to the height of the first.
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy.stats import ortho_group
from sklearn.decomposition import TruncatedSVD

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


def make_cache(source: Path, out: Path, values: int = 0) -> FeatureCache:
    marked = source / "videos.jsonl"
    labels = prepare_ucf_crime(source, train_intervals=marked, train_frames="unknown").labels
    cache = FeatureCache.create(out / "features")
    arrays, origin = source / "c3d_fc6_32segments_fp16.npz", ORIGIN
    if values:
        train = {Path(label.video).stem for label in labels if label.split == "train"}
        arrays = reduced(arrays, train, values, out / f"c3d-{values}.npz")
        origin += f", reduced to {values} values by the training videos"
    import_features(
        [arrays],
        cache,
        ImportConfig(stream=STREAM, origin=origin, layout="segments"),
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


def reduced(path: Path, train: set[str], values: int, out: Path) -> Path:
    """Write the arrays with fewer values a row, by the singular vectors of the videos `train`."""
    with np.load(path) as held:
        arrays = {name: held[name].astype(np.float32) for name in held.files}
    rows = np.concatenate([array for name, array in arrays.items() if name in train])
    svd = TruncatedSVD(values, random_state=0).fit(rows)
    turned = svd.components_.T @ ortho_group(values, seed=0).rvs()
    kept = {name: array @ turned.astype(np.float32) for name, array in arrays.items()}
    share = sum(np.square(kept[name]).sum() for name in train & kept.keys()) / np.square(rows).sum()
    print(f"{values} values keep {share:.3f} of the squared length of {len(rows)} training rows")
    np.savez(out, **kept)
    return out


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
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python -m bench.ucf_crime FOLDER_OF_UCF_CRIME OUT [VALUES]")
    print(make_cache(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])).path)
