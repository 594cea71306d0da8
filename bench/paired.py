"""How much higher is the mean frame AUC of one method's runs, on the same test videos?

    python -m bench.paired comparison/off/deepmil comparison/on/deepmil comparison/full/convlstm

Each argument is a method's folder in one of `feat compare`: `seed-<n>` below it. The first is
compared with each other. A draw takes one set of test videos for all methods, and of each method
as many of its seeds as it has, with replacement.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.evaluation.results import read_results
from model.measures.metrics import VideoResult
from model.measures.ranking import PairWins, rank_frames
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
    tables = [PairWins.of(rank_frames(run)) for run in runs]
    aucs = np.stack([table.auc(w := np.concatenate([once, weights]), w) for table in tables])
    seeds = rng.integers(len(runs), size=(len(runs), len(weights)))
    drawn = np.take_along_axis(aucs[:, 1:], seeds, axis=0).mean(axis=0)
    return np.concatenate([[aucs[:, 0].mean()], drawn])


def main(folders: list[Path]) -> None:
    """Print a table of all against the first."""
    rng = np.random.default_rng(0)
    aucs: list[NDArray[np.float64]] = []
    names: list[str] = []
    for folder in folders:
        runs = [read_results(run / EVAL_NAME) for run in sorted(folder.glob("seed-*"))]
        found = [result.video for result in runs[0]]
        names = names or found
        if found != names:
            sys.exit(f"{folder}: other test videos than {folders[0]}")
        if not aucs:
            draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), DRAWS)
        aucs.append(drawn_aucs(runs, draws.astype(float), rng))
    print("| runs | AUC | against the first | 95 % interval |\n|---|---:|---:|---|")
    for folder, values in zip(folders, aucs, strict=True):
        change = values - aucs[0]
        low, high = np.nanquantile(change[1:], [0.025, 0.975])
        print(f"| {folder} | {values[0]:.3f} | {change[0]:+.3f} | {low:+.3f} to {high:+.3f} |")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
