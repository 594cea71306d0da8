"""Scores of whole videos from networks: every window once, overlapping ones averaged."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.features.load import FeatureSet
from model.features.standardize import NetworkInputs
from model.features.windows import average_windows, make_windows, slot_bounds, spread_on_frames
from model.measures.metrics import VideoResult
from model.measures.smoothing import smooth_scores
from model.network.multitask import AnomalyNetwork
from model.runs.checkpoint import Checkpoint

BATCH = 512


@dataclass(frozen=True, kw_only=True)
class VideoScores:
    """An answer for V videos and their W windows."""

    frames: list[NDArray[np.float64]]
    """(T,) in [0, 1] for each video."""
    categories: tuple[str, ...]
    """The C classes; C may be 0."""
    windows: NDArray[np.float64]
    """(W, C) class probabilities of each window."""
    video: NDArray[np.int64]
    """(W,) which video each window is of."""

    def probabilities(self) -> NDArray[np.float64]:
        """Return (V, C): the mean over the video's windows of the class probabilities."""
        total = np.zeros((len(self.frames), len(self.categories)))
        np.add.at(total, self.video, self.windows)
        return np.asarray(total / np.bincount(self.video, minlength=len(total))[:, None])

    def votes(self) -> NDArray[np.int64]:
        """Return (V, C): windows of the video for which each class is the likeliest."""
        votes = np.zeros((len(self.frames), len(self.categories)), dtype=np.int64)
        if self.categories:
            np.add.at(votes, (self.video, self.windows.argmax(axis=1)), 1)
        return votes


def score_with_all(
    checkpoints: Sequence[Checkpoint], data: FeatureSet, *, smoothing: float | None = None
) -> VideoScores:
    """Return the mean of what one or several models say, window by window and frame by frame.

    Args:
        checkpoints: of the same settings, trained on the same features: seeds of one training. A
            category that one of them does not know has no probability there.
        data: the videos.
        smoothing: as of `score_videos`.
    """
    names = categories_of(checkpoints)
    answers = [
        score_videos(one.network, one.inputs(data), data, one.info.categories, smoothing=smoothing)
        for one in checkpoints
    ]
    windows = np.zeros((len(answers[0].video), len(names)))
    for answer in answers:
        windows[:, [names.index(name) for name in answer.categories]] += answer.windows
    return VideoScores(
        frames=[np.mean(each, axis=0) for each in zip(*(a.frames for a in answers), strict=True)],
        categories=names,
        windows=windows / len(answers),
        video=answers[0].video,
    )


def categories_of(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """Return the categories that at least one model knows, each once."""
    return tuple(dict.fromkeys(name for one in checkpoints for name in one.info.categories))


def score_videos(
    network: AnomalyNetwork,
    inputs: NetworkInputs,
    data: FeatureSet,
    categories: tuple[str, ...],
    *,
    smoothing: float | None = None,
) -> VideoScores:
    """Return a score for every frame and the category probabilities of every window.

    Args:
        network: left in evaluation mode.
        inputs: `data`'s features on the network's device.
        data: whose clips and videos they are.
        categories: the classes that the network was trained on.
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
    return VideoScores(
        frames=frames, categories=categories, windows=probabilities, video=windows.video
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


def video_results(scores: VideoScores, data: FeatureSet) -> list[VideoResult]:
    """Return the scores beside the truth.

    Raises:
        LabelsError: a label goes beyond a video's last frame.
    """
    probabilities, votes = scores.probabilities(), scores.votes()
    return [
        VideoResult(
            video=label.video,
            scores=scores.frames[index],
            labels=None if label.is_weak else label.frame_labels(int(data.num_frames[index])),
            category=label.category,
            predicted=(
                scores.categories[int(probabilities[index].argmax())] if scores.categories else ""
            ),
            probabilities=probabilities[index],
            window_votes=votes[index],
            frame_rate=float(data.frame_rate[index]),
        )
        for index, label in enumerate(data.labels)
    ]
