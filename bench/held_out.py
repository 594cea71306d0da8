"""How well do weakly supervised runs tell the videos held out of their training?

    python -m bench.held_out features comparison/off/deepmil comparison/on/deepmil

Each folder is a method's in one of `feat compare`, its runs trained with `held_out`. The number is
the AUC of whole videos by their highest score, after the last step; the test videos have no part
in it, so that a method may be chosen by it.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from cache import FeatureCache
from data.labels import read_labels
from model.evaluation.snapshots import video_auc
from model.features.aligned import check_labels, videos_without_frames
from model.measures.scores import video_results
from model.runs.folder import LABELS_NAME
from model.runs.trained import load_run


def held_out_auc(run: Path, cache: FeatureCache) -> float:
    """Return the AUC of the held out videos of a run."""
    trained = load_run(run)
    held = set(trained.info.val_videos)
    rows = [
        replace(row, split="val") for row in read_labels(run / LABELS_NAME) if row.video in held
    ]
    uncounted = set(videos_without_frames(cache, rows))
    rows = check_labels(
        cache, [row for row in rows if row.video not in uncounted], allow_misaligned=True
    )
    data = trained.load_features(cache, rows)
    auc = video_auc(video_results(trained.score(data), data), rows)
    assert auc is not None, f"{run}: its held out videos are of one kind"
    return auc


def main(cache: FeatureCache, folders: list[Path]) -> None:
    """Print a table."""
    print("| runs | seeds | AUC of held out videos | ± over seeds |\n|---|---:|---:|---:|")
    for folder in folders:
        found = [held_out_auc(run, cache) for run in sorted(folder.glob("seed-*"))]
        spread = f"{np.std(found, ddof=1):.3f}" if len(found) > 1 else ""
        print(f"| {folder} | {len(found)} | {np.mean(found):.3f} | {spread} |", flush=True)


if __name__ == "__main__":
    main(FeatureCache(Path(sys.argv[1])), [Path(name) for name in sys.argv[2:]])
