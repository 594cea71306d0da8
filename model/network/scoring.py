"""Scores of clips from the network: every window once, overlapping ones averaged."""

import numpy as np
import torch
from numpy.typing import NDArray

from model.features.load import FeatureSet
from model.features.standardize import NetworkInputs
from model.features.windows import average_windows, make_windows
from model.measures.scores import ClipScores
from model.network.multitask import AnomalyNetwork

BATCH = 512


def score_clips(
    network: AnomalyNetwork, inputs: NetworkInputs, data: FeatureSet, categories: tuple[str, ...]
) -> ClipScores:
    """Return m scores of every clip and the category probabilities of every window.

    Args:
        network: left in evaluation mode.
        inputs: `data`'s features on the network's device.
        data: whose clips and videos they are.
        categories: the classes that the network was trained on.
    """
    windows = make_windows(data.first_clip, network.config.num_clips)
    scores, probabilities = predict_windows(network, inputs, windows.rows, windows.mask)
    return ClipScores(
        slots=average_windows(scores, windows, len(data.features)),
        categories=categories,
        windows=probabilities,
        video=windows.video,
    )


@torch.inference_mode()
def predict_windows(
    network: AnomalyNetwork,
    inputs: NetworkInputs,
    rows: NDArray[np.int64],
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores (W, K, m), by the output's activation, and class probabilities (W, C).

    Args:
        network: left in evaluation mode.
        inputs: features of clips, on the network's device.
        rows: (W, K) which of them form each window.
        mask: (W, K) False where a window was padded.
    """
    network.eval()
    row, real = (torch.from_numpy(array).to(inputs.device) for array in (rows, mask))
    scores, probabilities = [], []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        predicted = network(inputs.pick(row[part]), real[part])
        values = predicted.scores
        linear = network.config.score_activation == "linear"
        scores.append(values if linear else values.sigmoid())
        if predicted.categories is not None:
            probabilities.append(predicted.categories.softmax(dim=1))
    shares = torch.cat(probabilities) if probabilities else torch.zeros(len(rows), 0)
    return torch.cat(scores).double().cpu().numpy(), shares.double().cpu().numpy()
