"""Makes the cache of the UCF-Crime experiment from C3D features that somebody else extracted.

    python -m bench.ucf_crime ../shared/data/ucf_crime work/ucf
    feat compare --cache work/ucf/features --out work/ucf/comparison --seeds 5

It is `feat data ucf-crime --weak --train-intervals` and `feat cache import --layout segments`, and
then labels.csv reduced to the videos that have features. Frame labels of an abnormal video whose
frame count nobody knows cannot be laid on its segments: it becomes a weak one (`?`).
"""

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cache import FeatureCache
from cache.importing import ImportConfig, import_features, read_frame_counts
from data.labels import write_labels
from data.ucf_crime import prepare_ucf_crime

STREAM = "c3d"
ORIGIN = "C3D fc6, 32 segments a video, third party"


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
    kinds = Counter((label.split, label.is_abnormal, label.is_weak) for label in kept)
    for (split, abnormal, weak), count in sorted(kinds.items()):
        kind = f"abnormal, {'frames unknown' if weak else 'frames known'}" if abnormal else "normal"
        print(f"{split}: {count} {kind}")
    return cache


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m bench.ucf_crime FOLDER_OF_UCF_CRIME OUT")
    print(make_cache(Path(sys.argv[1]), Path(sys.argv[2])).path)
