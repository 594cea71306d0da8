"""How much higher is the mean frame AUC of one method's runs, on the same test videos?

    python -m bench.paired comparison/off/deepmil comparison/on/deepmil comparison/full/convlstm

    python -m bench.paired 'comparison/five-*/deepmil' 'comparison/five-*/convlstm'

Each argument is a method's folder in one of `feat compare`: `seed-<n>` below it. The first is
compared with each other. A draw takes one set of test videos for all methods, and of each method
as many of its seeds as it has, with replacement. With `*` in them arguments stand for the folders
of several folds: what is compared is the mean over the folds, and a draw takes videos in each.
"""

import glob
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.evaluation.results import read_results
from model.measures.metrics import VideoResult
from model.measures.ranking import rank_frames, roc_area, weighted
from model.runs.folder import EVAL_NAME

DRAWS = 2000


def drawn_aucs(
    runs: list[list[VideoResult]], weights: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return (R + 1,) the mean AUC over runs: of all videos once, then of each draw of both.

    Args:
        runs: one for each seed, each of the same V videos.
        weights: (R, V) how often each video is in each draw.
        rng: draws the seeds.
    """
    once = np.ones((1, weights.shape[1]))
    sets = np.concatenate([once, weights])
    tables = [rank_frames(run) for run in runs]
    aucs = np.stack(
        [roc_area(weighted(sets, t.positives), weighted(sets, t.negatives)) for t in tables]
    )
    seeds = rng.integers(len(runs), size=(len(runs), len(weights)))
    drawn = np.take_along_axis(aucs[:, 1:], seeds, axis=0).mean(axis=0)
    return np.concatenate([[aucs[:, 0].mean()], drawn])


def main(patterns: list[str]) -> None:
    """Print a table of all against the first."""
    rng = np.random.default_rng(0)
    weights: list[NDArray[np.float64]] = []  # of each fold
    videos: list[list[str]] = []
    print("| runs | AUC | by fold | against the first | 95 % interval |\n|---|---:|---|---:|---|")
    first: NDArray[np.float64] | None = None
    for pattern in patterns:
        folders = sorted(map(Path, glob.glob(pattern))) or sys.exit(f"{pattern}: nothing there")
        runs = [
            [read_results(run / EVAL_NAME) for run in sorted(folder.glob("seed-*"))]
            for folder in folders
        ]
        found = [[result.video for result in fold[0]] for fold in runs]
        if not videos:
            videos = found
            even = [np.full(len(names), 1 / len(names)) for names in videos]
            weights = [rng.multinomial(len(each), each, DRAWS).astype(float) for each in even]
        if found != videos:
            sys.exit(f"{pattern}: other test videos than {patterns[0]}")
        folds = np.stack([drawn_aucs(*pair, rng) for pair in zip(runs, weights, strict=True)])
        values = folds.mean(axis=0)
        first = values if first is None else first
        change = values - first
        low, high = np.nanquantile(change[1:], [0.025, 0.975])
        row = [pattern, f"{values[0]:.3f}", " ".join(f"{value:.3f}" for value in folds[:, 0])]
        print("|", " | ".join([*row, f"{change[0]:+.3f}", f"{low:+.3f} to {high:+.3f}"]), "|")


if __name__ == "__main__":
    main(sys.argv[1:])
