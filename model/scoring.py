"""Scores of whole videos from a network: every window once, overlapping ones averaged."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.features import FeatureSet
from model.metrics import VideoResult
from model.network import AnomalyNetwork
from model.smoothing import smooth_scores
from model.windows import average_windows, make_windows, slot_bounds, spread_on_frames

BATCH = 512


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """A network's answer for V videos."""

    frames: list[NDArray[np.float64]]
    """(T,) in [0, 1] for each video."""
    categories: NDArray[np.float64]
    """(V, C): mean over the video's windows of the class probabilities; C may be 0."""
    votes: NDArray[np.int64]
    """(V, C): windows of the video for which each class is the likeliest."""


def score_videos(
    network: AnomalyNetwork,
    inputs: torch.Tensor,
    data: FeatureSet,
    *,
    smoothing: float | None = None,
) -> VideoScores:
    """Return a score for every frame and the category probabilities of every video.

    Args:
        network: left in evaluation mode.
        inputs: (N, D) float32 on the network's device: `data`'s features, standardised if the
            network was trained so.
        data: whose clips and videos they are.
        smoothing: standard deviation, in clips, of the Gaussian over each video's frame scores;
            default: the network's own.
    """
    config = network.config
    windows = make_windows(data.first_clip, config.num_clips)
    window_scores, probabilities = predict_windows(network, inputs, windows.rows, windows.mask)
    slots = average_windows(window_scores, windows, len(data.features))
    # A linear output may leave [0, 1]; clamped after averaging, so that windows can make up for
    # each other.
    slots = slots.clip(0.0, 1.0)
    bounds = slot_bounds(
        data.start_frame, data.end_frame, clip_len=data.clip_len, slots=config.clip_slots
    )
    frames = [
        spread_on_frames(slots[data.rows(v)], bounds[data.rows(v)], int(data.num_frames[v]))
        for v in range(len(data.labels))
    ]
    frames = smooth_scores(frames, data, config.smoothing if smoothing is None else smoothing)
    means, votes = _by_video(probabilities, windows.video, len(data.labels))
    return VideoScores(frames=frames, categories=means, votes=votes)


@torch.inference_mode()
def predict_windows(
    network: AnomalyNetwork,
    inputs: torch.Tensor,
    rows: NDArray[np.int64],
    mask: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the scores (W, K, m), by the output's activation, and class probabilities (W, C).

    Args:
        network: left in evaluation mode.
        inputs: (N, D) float32 on the network's device.
        rows: (W, K) which of them form each window.
        mask: (W, K) False where a window was padded.
    """
    network.eval()
    row, real = (torch.from_numpy(array).to(inputs.device) for array in (rows, mask))
    scores, probabilities = [], []
    for first in range(0, len(rows), BATCH):
        part = slice(first, first + BATCH)
        predicted = network(inputs[row[part]], real[part])
        values = predicted.scores
        linear = network.config.score_activation == "linear"
        scores.append(values if linear else values.sigmoid())
        if predicted.categories is not None:
            probabilities.append(predicted.categories.softmax(dim=1))
    shares = torch.cat(probabilities) if probabilities else torch.zeros(len(rows), 0)
    return torch.cat(scores).double().cpu().numpy(), shares.double().cpu().numpy()


def video_results(
    scores: VideoScores, data: FeatureSet, categories: tuple[str, ...]
) -> list[VideoResult]:
    """Return the scores beside the truth.

    Raises:
        LabelsError: a label goes beyond a video's last frame.
    """
    results = []
    for index, label in enumerate(data.labels):
        probabilities = scores.categories[index]
        results.append(
            VideoResult(
                video=label.video,
                scores=scores.frames[index],
                labels=None if label.is_weak else label.frame_labels(int(data.num_frames[index])),
                category=label.category,
                predicted=categories[int(probabilities.argmax())] if categories else "",
                probabilities=probabilities,
                window_votes=scores.votes[index],
                frame_rate=float(data.frame_rate[index]),
            )
        )
    return results


def _by_video(
    probabilities: NDArray[np.float64], video: NDArray[np.int64], num_videos: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the means of the windows' probabilities and their votes, each (V, C)."""
    total = np.zeros((num_videos, probabilities.shape[1]))
    votes = np.zeros(total.shape, dtype=np.int64)
    np.add.at(total, video, probabilities)
    if probabilities.shape[1]:
        np.add.at(votes, (video, probabilities.argmax(axis=1)), 1)
    return total / np.bincount(video, minlength=num_videos)[:, None], votes
