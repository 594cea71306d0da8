"""How far the mean feature of a video tells its category, by the number of videos to learn from.

Logistic regression on standardised means over each video's clips, the simplest thing that can be
done with the features: what it gains with more videos says how much is for want of them. Videos are
drawn anew a hundred times for each number, the categories in their shares; a fifth of all tests.

Run: python -m bench.learning_curve CACHE LABELS [--streams rgb] [--sizes 12 24 48]
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cache import FeatureCache
from data.labels import read_labels
from model.features.load import load_features

REPEATS = 100
TEST_SHARE = 0.2


def mean_features(
    cache: Path, labels: Path, streams: list[str]
) -> tuple[NDArray[np.float32], NDArray[np.str_]]:
    """Return (V, D) means over the clips of every labelled video, and the categories (V,)."""
    data = load_features(FeatureCache(cache), read_labels(labels), streams=streams)
    means = [data.features[data.rows(video)].mean(axis=0) for video in range(len(data.labels))]
    return np.stack(means), np.array([label.category or "normal" for label in data.labels])


def accuracies(
    means: NDArray[np.float32], categories: NDArray[np.str_], size: int
) -> NDArray[np.float64]:
    """Return the accuracy of each drawing of `size` videos to train on."""
    num_test = round(TEST_SHARE * len(means))
    drawings = StratifiedShuffleSplit(REPEATS, train_size=size, test_size=num_test, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return np.array(
        [
            model.fit(means[train], categories[train]).score(means[test], categories[test])
            for train, test in drawings.split(means, categories)
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--streams", nargs="+", default=["rgb"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[12, 24, 36, 48])
    options = parser.parse_args()
    means, categories = mean_features(options.cache, options.labels, options.streams)
    print(f"{len(means)} videos, {' + '.join(options.streams)}, {REPEATS} drawings\n")
    print("| videos to train on | accuracy | standard error |\n|---:|---:|---:|")
    for size in options.sizes:
        found = accuracies(means, categories, size)
        print(f"| {size} | {found.mean():.3f} | {found.std() / REPEATS**0.5:.3f} |", flush=True)


if __name__ == "__main__":
    main()
